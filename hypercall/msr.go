package hypercall

import (
	"iter"
	"sync"
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

func (r *msrRow) key() MSR { return r.msr }

func (m MSR) row() *msrRow {
	if r := find(msrTable[:], m, (*msrRow).key); r != nil {
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
	return nameOf(m.row().name, "MSR", uint64(m))
}

// MSRs returns the synthetic MSRs, in ascending order.
func MSRs() iter.Seq[MSR] { return keys(msrTable[:], (*msrRow).key) }

// msrNames has the MSRs' names, squeezed, with and without HV_X64_MSR_.
var msrNames = sync.OnceValue(func() map[string]MSR {
	return squeezed(msrTable[:], "HV_X64_MSR_", func(r *msrRow) (MSR, string, string) { return r.msr, r.name, r.also })
})

// ParseMSR reads the name of a synthetic MSR, with or without HV_X64_MSR_ before it,
// without regard to case, blanks, hyphens and underscores; what String prints for
// others; or a number of 32 bits.
func ParseMSR(s string) (MSR, error) {
	return parseName(s, msrNames(), "MSR", 32, "synthetic MSR",
		"a name as in the TLFS (HV_X64_MSR_VP_INDEX, vp index), or a number of 32 bits")
}

// MarshalText returns what String does.
func (m MSR) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what ParseMSR does.
func (m *MSR) UnmarshalText(text []byte) error { return unmarshal(m, ParseMSR, text) }
