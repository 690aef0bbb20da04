package hypercall

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"

	"github.com/govtx/vtx/internal/names"
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

func (s Status) row() *statusRow {
	if r := find(statusTable[:], s, func(r *statusRow) Status { return r.status }); r != nil {
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
	if name := s.row().name; name != "" {
		return name
	}
	return "Status(0x" + strconv.FormatUint(uint64(s), 16) + ")"
}

// Error returns the name, the number and the meaning.
func (s Status) Error() string {
	return "hypercall: " + s.String() + " (0x" + strconv.FormatUint(uint64(s), 16) + "): " + s.Meaning()
}

// Statuses returns the statuses that are known, in ascending order.
func Statuses() iter.Seq[Status] {
	return func(yield func(Status) bool) {
		for i := range statusTable {
			if !yield(statusTable[i].status) {
				return
			}
		}
	}
}

// statusNames has the statuses' names, squeezed, with and without HV_STATUS_.
var statusNames = sync.OnceValue(func() map[string]Status {
	all := make(map[string]Status, 4*len(statusTable))
	for i := range statusTable {
		r := &statusTable[i]
		for _, name := range append([]string{r.name}, aliases(r.also)...) {
			all[names.Squeeze(name)] = r.status
			all[names.Squeeze(strings.TrimPrefix(name, "HV_STATUS_"))] = r.status
		}
	}
	return all
})

// ParseStatus reads the name of a status, with or without HV_STATUS_ before it, without
// regard to case, blanks, hyphens and underscores; what String prints for others; or a
// number of 16 bits.
func ParseStatus(text string) (Status, error) {
	text = strings.TrimSpace(text)
	if s, ok := statusNames()[names.Squeeze(text)]; ok {
		return s, nil
	}
	n, err := parseNumber(text, "Status(", 16)
	if err != nil {
		return 0, fmt.Errorf("hypercall: no status is named %.80q: use a name as in the TLFS (HV_STATUS_INVALID_PARAMETER, invalid parameter), or a number from 0 to 0xffff", text)
	}
	return Status(n), nil
}

// MarshalText returns what String does.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what ParseStatus does.
func (s *Status) UnmarshalText(text []byte) error { return unmarshal(s, ParseStatus, text) }
