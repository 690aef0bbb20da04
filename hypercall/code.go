package hypercall

//go:generate go run ./internal/gen

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/govtx/vtx/internal/names"
)

// A Code is a call code: which hypercall is meant. Those from 0x8000 up are extended
// hypercalls (TLFS, "Hypercall Interface", extended hypercall interface).
type Code uint16

// FirstExtended is the lowest code of an extended hypercall, which a partition may
// make if it has [PrivilegeEnableExtendedHypercalls].
const FirstExtended Code = 0x8000

// A Kind tells simple calls, which do one thing, from rep calls, which do it for each
// element of a list (TLFS, "Hypercall Interface", hypercall classes).
type Kind uint8

// Kinds of calls.
const (
	Unknown Kind = iota
	Simple
	Rep
)

var kindNames = [...]string{"unknown", "simple", "rep"}

// String returns unknown, simple or rep.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

// ParseKind reads what String prints.
func ParseKind(s string) (Kind, error) {
	if i := slices.Index(kindNames[:], s); i >= 0 {
		return Kind(i), nil
	}
	if digits, ok := strings.CutPrefix(s, "Kind("); ok {
		if n, err := strconv.ParseUint(strings.TrimSuffix(digits, ")"), 10, 8); err == nil {
			return Kind(n), nil
		}
	}
	return 0, fmt.Errorf("hypercall: %.80q is no kind of hypercall: write simple, rep or unknown", s)
}

// MarshalText returns what String does.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what ParseKind does.
func (k *Kind) UnmarshalText(text []byte) error { return unmarshal(k, ParseKind, text) }

// FastLimit is the most that the fast form of a call holds, input and output
// together, in bytes: RDX, R8 and XMM0 to XMM5 (TLFS, "Hypercall Interface", XMM fast
// hypercall input). FastRegisters is what RDX and R8 hold.
const (
	FastLimit     = 112
	FastRegisters = 16
)

// A Layout tells how long a call's parameters are, in bytes. Input and output lie in
// memory as a header, then, for rep calls, the elements.
type Layout struct {
	Input, InputElement   uint16 // header, without its variable part, and one element
	Output, OutputElement uint16

	Variable bool // the input header can be followed by a variable part
	SlowOnly bool // no fast form, even where the sizes would allow it

	// Privileges are those that the partition needs, for itself as the target, if
	// that is known. Calls on other partitions need other rights.
	Privileges Privileges
}

// Fast reports whether the fast form can hold the call with n elements and a variable
// header of the given size in units of 8 bytes: input, and output behind it on 16
// bytes, need to fit in [FastLimit] bytes (TLFS, "Hypercall Interface").
func (l Layout) Fast(qwords, n int) bool {
	if l.SlowOnly || qwords < 0 || qwords > MaxVariableHeader || n < 0 || n > MaxReps {
		return false
	}
	in, out := l.sizes(qwords, n)
	if out != 0 {
		in = (in + 15) &^ 15
	}
	return in+out <= FastLimit
}

// sizes returns how long the input and the output are.
func (l Layout) sizes(qwords, n int) (in, out int) {
	in = int(l.Input) + 8*qwords + n*int(l.InputElement)
	return in, int(l.Output) + n*int(l.OutputElement)
}

// A callRow is what the table has about one call.
type callRow struct {
	code   Code
	name   string
	also   string // other names, separated by blanks
	kind   Kind
	known  bool // layout is
	layout Layout
	from   witness
}

func (r *callRow) key() Code { return r.code }

func (c Code) row() *callRow {
	if r := find(callTable[:], c, (*callRow).key); r != nil {
		return r
	}
	return &noCall
}

// noCall is the row of codes that are not in the table.
var noCall callRow

// Known reports whether the code is in the table. Some in it are there only as
// reserved.
func (c Code) Known() bool { return c.row().name != "" }

// Extended reports whether the call is an extended hypercall.
func (c Code) Extended() bool { return c >= FirstExtended }

// Name returns the name of the call in the TLFS, such as HvCallVtlCall, in another
// source if the TLFS has none, and "" if no source has one.
func (c Code) Name() string { return c.row().name }

// Aliases returns what other sources call it.
func (c Code) Aliases() []string { return aliases(c.row().also) }

// Sources returns the names of the sources that have the call.
func (c Code) Sources() []string { return c.row().from.list() }

// Kind tells simple from rep calls. It is [Unknown] for those that no source
// documents.
func (c Code) Kind() Kind { return c.row().kind }

// Layout returns how long the parameters are, and whether that is known. The
// Privileges can be known without it.
func (c Code) Layout() (Layout, bool) {
	r := c.row()
	return r.layout, r.known
}

// String returns the name of the call, and Code(0x...) if it has none.
func (c Code) String() string {
	return nameOf(c.Name(), "Code", uint64(c))
}

// Codes returns the codes that are in the table, in ascending order.
func Codes() iter.Seq[Code] { return keys(callTable[:], (*callRow).key) }

// callNames has the calls' names, squeezed. A name of the TLFS goes before another
// call's alias.
var callNames = sync.OnceValue(func() map[string]Code {
	all := make(map[string]Code, 4*len(callTable))
	add := func(name string, c Code) {
		for _, key := range []string{name, strings.TrimPrefix(strings.TrimPrefix(name, "Hv"), "Call"), strings.TrimPrefix(name, "HVCALL_")} {
			if key = names.Squeeze(key); !has(all, key) {
				all[key] = c
			}
		}
	}
	for i := range callTable {
		add(callTable[i].name, callTable[i].code)
	}
	for i := range callTable {
		for _, name := range aliases(callTable[i].also) {
			add(name, callTable[i].code)
		}
	}
	return all
})

func has[V any](m map[string]V, key string) bool { _, ok := m[key]; return ok }

// ParseCode reads a call's name, as in the TLFS, in Linux or elsewhere, with or
// without HvCall before it, without regard to case, blanks, hyphens and underscores;
// what String prints for others; or a number of 16 bits.
func ParseCode(s string) (Code, error) {
	return parseName(s, callNames(), "Code", 16, "call",
		"a name as in the TLFS (HvCallGetVpRegisters, GetVpRegisters), in Linux (HVCALL_GET_VP_REGISTERS), or a number from 0 to 0xffff")
}

// parseNumber reads a number, or one behind prefix and before a parenthesis.
func parseNumber(s, prefix string, bits int) (uint64, error) {
	if inner, ok := strings.CutPrefix(s, prefix); ok {
		if s, ok = strings.CutSuffix(inner, ")"); !ok {
			return 0, strconv.ErrSyntax
		}
	}
	return strconv.ParseUint(s, 0, bits)
}

// MarshalText returns what String does.
func (c Code) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what ParseCode does.
func (c *Code) UnmarshalText(text []byte) error { return unmarshal(c, ParseCode, text) }
