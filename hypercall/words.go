package hypercall

import (
	"fmt"
	"strconv"
	"strings"
)

// An Input is the hypercall input value, which the caller gives in RCX (in 32-bit
// mode in EDX:EAX) (TLFS, "Hypercall Interface", hypercall inputs).
//
//	 63 60 59      48 47 44 43      32  31  30 27 26        17  16  15       0
//	┌─────┬──────────┬─────┬──────────┬────┬─────┬────────────┬────┬──────────┐
//	│  0  │rep start │  0  │rep count │nest│  0  │var. header │fast│call code │
//	└─────┴──────────┴─────┴──────────┴────┴─────┴────────────┴────┴──────────┘
type Input uint64

// Where the parts of an Input are, and what they can hold.
const (
	InputFast     Input = 1 << 16                                   // parameters are in registers
	InputNested   Input = 1 << 31                                   // for the hypervisor below, from one that is itself a guest
	InputReserved Input = 0xf<<60 | 0xf<<44 | 0xf<<27               // bits that must be 0
	inputVariable Input = MaxVariableHeader << variableShift        // size of the variable header
	inputReps     Input = MaxReps<<countShift | MaxReps<<startShift // both numbers of a rep call

	MaxVariableHeader = 1<<10 - 1 // the longest variable header, in units of 8 bytes
	MaxReps           = 1<<12 - 1 // the highest rep count and rep start index

	variableShift = 17
	countShift    = 32
	startShift    = 48
)

// Code returns the call code, bits 15:0.
func (i Input) Code() Code { return Code(i) }

// Fast reports whether the parameters are in registers, not in memory: bit 16.
func (i Input) Fast() bool { return i&InputFast != 0 }

// VariableHeader returns the size of the variable header in units of 8 bytes, 0 to
// [MaxVariableHeader]: bits 26:17.
func (i Input) VariableHeader() int { return int(i >> variableShift & MaxVariableHeader) }

// Nested reports whether the call is for the lowest hypervisor, from one that runs
// on it as a guest: bit 31.
func (i Input) Nested() bool { return i&InputNested != 0 }

// RepCount returns the number of elements in the list of a rep call, 0 to
// [MaxReps]: bits 43:32. It counts from the list's beginning, whatever RepStart is.
func (i Input) RepCount() int { return int(i >> countShift & MaxReps) }

// RepStart returns the index of the first element that is still to be done, 0 to
// [MaxReps]: bits 59:48.
func (i Input) RepStart() int { return int(i >> startShift & MaxReps) }

// Reserved returns the bits that must be 0, in their places.
func (i Input) Reserved() uint64 { return uint64(i & InputReserved) }

// WithCode returns the word with another call code.
func (i Input) WithCode(c Code) Input { return i&^0xffff | Input(c) }

// WithFast returns the word with the fast bit set or cleared.
func (i Input) WithFast(fast bool) Input { return i.with(InputFast, fast) }

// WithNested returns the word with the nested bit set or cleared.
func (i Input) WithNested(nested bool) Input { return i.with(InputNested, nested) }

func (i Input) with(bit Input, on bool) Input {
	if on {
		return i | bit
	}
	return i &^ bit
}

// WithVariableHeader returns the word with another size of the variable header, in
// units of 8 bytes. Of a size above [MaxVariableHeader] the low 10 bits are taken.
func (i Input) WithVariableHeader(qwords int) Input {
	return i&^inputVariable | Input(qwords)&MaxVariableHeader<<variableShift
}

// WithReps returns the word with another rep count. Of one above [MaxReps] the low
// 12 bits are taken.
func (i Input) WithReps(count int) Input {
	return i&^(MaxReps<<countShift) | Input(count)&MaxReps<<countShift
}

// WithRepStart returns the word with another rep start index. Of one above
// [MaxReps] the low 12 bits are taken.
func (i Input) WithRepStart(index int) Input {
	return i&^(MaxReps<<startShift) | Input(index)&MaxReps<<startShift
}

// The words of Input's text, each before a number, in the order of the text.
var inputNumbers = [...]struct {
	name  string
	shift int
	max   uint64
}{
	{"variable header", variableShift, MaxVariableHeader}, {"reps", countShift, MaxReps}, {"start", startShift, MaxReps},
}

// String returns the name of the call and what else is not 0:
// "HvCallGetVpRegisters, fast, reps 3, start 1". The variable header is in units of
// 8 bytes; reserved bits come out as "reserved 0x...".
func (i Input) String() string {
	b := append(make([]byte, 0, 64), i.Code().String()...)
	if i.Fast() {
		b = append(b, ", fast"...)
	}
	if i.Nested() {
		b = append(b, ", nested"...)
	}
	for _, f := range inputNumbers {
		if v := uint64(i) >> f.shift & f.max; v != 0 {
			b = append(append(append(b, ", "...), f.name...), ' ')
			b = strconv.AppendUint(b, v, 10)
		}
	}
	if r := i.Reserved(); r != 0 {
		b = strconv.AppendUint(append(b, ", reserved 0x"...), r, 16)
	}
	return string(b)
}

// ParseInput reads what String prints, the parts behind the name in any order, or a
// number of 64 bits (a number below 0x10000 is both: a call code and nothing else).
func ParseInput(s string) (Input, error) {
	if n, err := strconv.ParseUint(strings.TrimSpace(s), 0, 64); err == nil {
		return Input(n), nil
	}
	name, rest, more := strings.Cut(s, ",")
	c, err := ParseCode(name)
	if err != nil {
		return 0, err
	}
	i := Input(c)
	for more {
		var part string
		part, rest, more = strings.Cut(rest, ",")
		v, ok := parseInputPart(strings.TrimSpace(part))
		if !ok || i&v != 0 {
			return 0, fmt.Errorf("hypercall: %.80q in %.80q is no part of a hypercall input word, is too large or stands there twice: write it as \"HvCallGetVpRegisters, fast, nested, variable header 2, reps 3, start 1\", or as a number", part, s)
		}
		i |= v
	}
	return i, nil
}

func parseInputPart(s string) (Input, bool) {
	switch s {
	case "fast":
		return InputFast, true
	case "nested":
		return InputNested, true
	}
	for _, f := range inputNumbers {
		if digits, ok := strings.CutPrefix(s, f.name+" "); ok {
			n, err := strconv.ParseUint(digits, 0, 12)
			return Input(n << f.shift), err == nil && n <= f.max
		}
	}
	digits, ok := strings.CutPrefix(s, "reserved ")
	n, err := strconv.ParseUint(digits, 0, 64)
	return Input(n), ok && err == nil && Input(n)&^InputReserved == 0
}

// MarshalText returns what String does.
func (i Input) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads what ParseInput does.
func (i *Input) UnmarshalText(text []byte) error { return unmarshal(i, ParseInput, text) }

// A Result is the hypercall result value, which the caller finds in RAX (in 32-bit
// mode in EDX:EAX) (TLFS, "Hypercall Interface", hypercall outputs).
//
//	 63         44 43           32 31     16 15      0
//	┌─────────────┬───────────────┬─────────┬─────────┐
//	│      0      │reps completed │    0    │ status  │
//	└─────────────┴───────────────┴─────────┴─────────┘
type Result uint64

// ResultReserved are the bits of a Result that must be 0.
const ResultReserved Result = 0xfffff<<44 | 0xffff<<16

// MakeResult returns the result with a status and a number of elements done. Of one
// above [MaxReps] the low 12 bits are taken.
func MakeResult(s Status, reps int) Result {
	return Result(s) | Result(reps)&MaxReps<<countShift
}

// Status returns the status, bits 15:0.
func (r Result) Status() Status { return Status(r) }

// Reps returns the number of elements of a rep call that are done, 0 to [MaxReps]:
// bits 43:32. It counts from the list's beginning, so it includes those before the
// rep start index.
func (r Result) Reps() int { return int(r >> countShift & MaxReps) }

// Reserved returns the bits that must be 0, in their places.
func (r Result) Reserved() uint64 { return uint64(r & ResultReserved) }

// WithStatus returns the result with another status.
func (r Result) WithStatus(s Status) Result { return r&^0xffff | Result(s) }

// WithReps returns the result with another number of elements done. Of one above
// [MaxReps] the low 12 bits are taken.
func (r Result) WithReps(n int) Result {
	return r&^(MaxReps<<countShift) | Result(n)&MaxReps<<countShift
}

// Err returns nil for StatusSuccess, and otherwise the Status.
func (r Result) Err() error {
	if s := r.Status(); s != StatusSuccess {
		return s
	}
	return nil
}

// String returns the name of the status and what else is not 0:
// "HV_STATUS_SUCCESS, reps 3".
func (r Result) String() string {
	b := append(make([]byte, 0, 64), r.Status().String()...)
	if n := r.Reps(); n != 0 {
		b = strconv.AppendInt(append(b, ", reps "...), int64(n), 10)
	}
	if v := r.Reserved(); v != 0 {
		b = strconv.AppendUint(append(b, ", reserved 0x"...), v, 16)
	}
	return string(b)
}

// ParseResult reads what String prints, or a number of 64 bits.
func ParseResult(s string) (Result, error) {
	if n, err := strconv.ParseUint(strings.TrimSpace(s), 0, 64); err == nil {
		return Result(n), nil
	}
	name, rest, more := strings.Cut(s, ",")
	status, err := ParseStatus(name)
	if err != nil {
		return 0, err
	}
	r := Result(status)
	for more {
		var part string
		part, rest, more = strings.Cut(rest, ",")
		v, ok := parseResultPart(strings.TrimSpace(part))
		if !ok || r&v != 0 {
			return 0, fmt.Errorf("hypercall: %.80q in %.80q is no part of a hypercall result, is too large or stands there twice: write it as \"HV_STATUS_SUCCESS, reps 3\", or as a number", part, s)
		}
		r |= v
	}
	return r, nil
}

func parseResultPart(s string) (Result, bool) {
	if digits, ok := strings.CutPrefix(s, "reps "); ok {
		n, err := strconv.ParseUint(digits, 0, 12)
		return Result(n << countShift), err == nil
	}
	digits, ok := strings.CutPrefix(s, "reserved ")
	n, err := strconv.ParseUint(digits, 0, 64)
	return Result(n), ok && err == nil && Result(n)&^ResultReserved == 0
}

// MarshalText returns what String does.
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what ParseResult does.
func (r *Result) UnmarshalText(text []byte) error { return unmarshal(r, ParseResult, text) }

// unmarshal stores what parse reads, and nothing if that fails.
func unmarshal[T any](to *T, parse func(string) (T, error), text []byte) error {
	v, err := parse(string(text))
	if err == nil {
		*to = v
	}
	return err
}
