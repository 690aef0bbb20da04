package hypercall

import (
	"iter"
	"strconv"
	"sync"
)

// A Status is how a hypercall ended (TLFS, data type HV_STATUS). It is an error, even
// [StatusSuccess]; [Result.Err] gives nil for that one.
type Status uint16

// A statusRow is what the table has about one status.
type statusRow struct {
	status  Status
	name    string
	meaning string
	also    string
	from    witness
}

func (r *statusRow) key() Status { return r.status }

func (s Status) row() *statusRow {
	if r := find(statusTable[:], s, (*statusRow).key); r != nil {
		return r
	}
	return &noStatus
}

// noStatus is the row of numbers that are not in the table.
var noStatus = statusRow{meaning: "not a status that is known"}

// Known reports whether the status is in the table.
func (s Status) Known() bool { return s.row().name != "" }

// Meaning returns what the status says, in words.
func (s Status) Meaning() string { return s.row().meaning }

// Aliases returns other names of the status.
func (s Status) Aliases() []string { return aliases(s.row().also) }

// Sources returns the names of the sources that have the status.
func (s Status) Sources() []string { return s.row().from.list() }

// String returns the name, such as HV_STATUS_INVALID_PARAMETER, and Status(0x...) if
// there is none.
func (s Status) String() string {
	return nameOf(s.row().name, "Status", uint64(s))
}

// Error returns the name, the number and the meaning.
func (s Status) Error() string {
	return "hypercall: " + s.String() + " (0x" + strconv.FormatUint(uint64(s), 16) + "): " + s.Meaning()
}

// Statuses returns the statuses that are known, in ascending order.
func Statuses() iter.Seq[Status] { return keys(statusTable[:], (*statusRow).key) }

// statusNames has the statuses' names, squeezed, with and without HV_STATUS_.
var statusNames = sync.OnceValue(func() map[string]Status {
	return squeezed(statusTable[:], "HV_STATUS_", func(r *statusRow) (Status, string, string) { return r.status, r.name, r.also })
})

// ParseStatus reads the name of a status, with or without HV_STATUS_ before it, without
// regard to case, blanks, hyphens and underscores; what String prints for others; or a
// number of 16 bits.
func ParseStatus(text string) (Status, error) {
	return parseName(text, statusNames(), "Status", 16, "status",
		"a name as in the TLFS (HV_STATUS_INVALID_PARAMETER, invalid parameter), or a number from 0 to 0xffff")
}

// MarshalText returns what String does.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what ParseStatus does.
func (s *Status) UnmarshalText(text []byte) error { return unmarshal(s, ParseStatus, text) }
