package hypercall

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"

	"github.com/govtx/vtx/internal/names"
)

// An MSR is the number of a synthetic MSR, to be given to RDMSR and WRMSR in ECX.
type MSR uint32

// An msrRow is what the table has about one MSR.
type msrRow struct {
	msr  MSR
	name string
	also string
	from witness
}

func (m MSR) row() *msrRow {
	if r := find(msrTable[:], m, func(r *msrRow) MSR { return r.msr }); r != nil {
		return r
	}
	return &noMSR
}

// noMSR is the row of numbers that are not in the table.
var noMSR msrRow

// Known reports whether the MSR is in the table.
func (m MSR) Known() bool { return m.row().name != "" }

// Aliases returns other names of the MSR.
func (m MSR) Aliases() []string { return aliases(m.row().also) }

// Sources returns the names of the sources that have the MSR.
func (m MSR) Sources() []string { return m.row().from.list() }

// String returns the MSR's name, such as HV_X64_MSR_VP_INDEX, and MSR(0x...) if there
// is none.
func (m MSR) String() string {
	if name := m.row().name; name != "" {
		return name
	}
	return "MSR(0x" + strconv.FormatUint(uint64(m), 16) + ")"
}

// MSRs returns the synthetic MSRs, in ascending order.
func MSRs() iter.Seq[MSR] {
	return func(yield func(MSR) bool) {
		for i := range msrTable {
			if !yield(msrTable[i].msr) {
				return
			}
		}
	}
}

// msrNames has the MSRs' names, squeezed, with and without HV_X64_MSR_.
var msrNames = sync.OnceValue(func() map[string]MSR {
	all := make(map[string]MSR, 4*len(msrTable))
	for i := range msrTable {
		r := &msrTable[i]
		for _, name := range append([]string{r.name}, aliases(r.also)...) {
			all[names.Squeeze(name)] = r.msr
			all[names.Squeeze(strings.TrimPrefix(name, "HV_X64_MSR_"))] = r.msr
		}
	}
	return all
})

// ParseMSR reads the name of a synthetic MSR, with or without HV_X64_MSR_ before it,
// without regard to case, blanks, hyphens and underscores; what String prints for
// others; or a number of 32 bits.
func ParseMSR(s string) (MSR, error) {
	s = strings.TrimSpace(s)
	if m, ok := msrNames()[names.Squeeze(s)]; ok {
		return m, nil
	}
	n, err := parseNumber(s, "MSR(", 32)
	if err != nil {
		return 0, fmt.Errorf("hypercall: no synthetic MSR is named %.80q: use a name as in the TLFS (HV_X64_MSR_VP_INDEX, vp index), or a number of 32 bits", s)
	}
	return MSR(n), nil
}

// MarshalText returns what String does.
func (m MSR) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what ParseMSR does.
func (m *MSR) UnmarshalText(text []byte) error { return unmarshal(m, ParseMSR, text) }
