package hypercall

import (
	"iter"
	"strings"
	"sync"

	"github.com/govtx/vtx/internal/names"
)

// A Register is the name, a number, by which calls know a register of a virtual
// processor or partition (TLFS, data type HV_REGISTER_NAME). Numbers of x64's
// registers stand for others on ARM64.
type Register uint32

// A registerRow is what a table has about one register.
type registerRow struct {
	register Register
	name     string
	also     string
	x64      bool // on x64 only
	from     witness
}

func (r *registerRow) key() Register { return r.register }

func findRegister(table []registerRow, r Register) *registerRow {
	if row := find(table, r, (*registerRow).key); row != nil {
		return row
	}
	return &noRegister
}

// noRegister is the row of numbers that are not in a table.
var noRegister registerRow

// row returns the register's row: that of x64 before that of ARM64.
func (r Register) row() *registerRow {
	if row := findRegister(registerTable[:], r); row.name != "" {
		return row
	}
	return findRegister(arm64Table[:], r)
}

// Known reports whether any architecture has a register with this number.
func (r Register) Known() bool { return r.row().name != "" }

// X64 reports whether x64 has a register with this number.
func (r Register) X64() bool { return findRegister(registerTable[:], r).name != "" }

// ARM64Name returns the name of the register that has this number on ARM64, "" if
// none has.
func (r Register) ARM64Name() string {
	if row := findRegister(arm64Table[:], r); row.name != "" {
		return row.name
	}
	if row := findRegister(registerTable[:], r); !row.x64 {
		return row.name
	}
	return ""
}

// Aliases returns other names of the register.
func (r Register) Aliases() []string { return aliases(r.row().also) }

// Sources returns the names of the sources that have the register.
func (r Register) Sources() []string { return r.row().from.list() }

// String returns the register's name, such as HvRegisterVsmPartitionConfig or
// HvX64RegisterRip, that on ARM64 if x64 has none, and Register(0x...) if there is
// none.
func (r Register) String() string {
	return nameOf(r.row().name, "Register", uint64(r))
}

// Registers returns the registers that x64 has, in ascending order.
func Registers() iter.Seq[Register] { return keys(registerTable[:], (*registerRow).key) }

// ARM64Registers returns those that only ARM64 has, in ascending order.
func ARM64Registers() iter.Seq[Register] { return keys(arm64Table[:], (*registerRow).key) }

// registerNames has the registers' names, squeezed. A name goes before another
// register's alias or shorter name.
var registerNames = sync.OnceValue(func() map[string]Register {
	all := make(map[string]Register, 2*(len(registerTable)+len(arm64Table)))
	add := func(name string, r Register) {
		if key := names.Squeeze(name); !has(all, key) {
			all[key] = r
		}
	}
	tables := [][]registerRow{registerTable[:], arm64Table[:]}
	for _, t := range tables {
		for i := range t {
			add(t[i].name, t[i].register)
		}
	}
	for _, t := range tables {
		for i := range t {
			for _, name := range aliases(t[i].also) {
				add(name, t[i].register)
			}
			for _, prefix := range []string{"HvRegister", "HvX64Register", "HvArm64Register"} {
				if short, ok := strings.CutPrefix(t[i].name, prefix); ok {
					add(short, t[i].register)
				}
			}
		}
	}
	return all
})

// ParseRegister reads a register's name, in full or without HvRegister, HvX64Register
// or HvArm64Register before it, without regard to case, blanks, hyphens and
// underscores; what String prints for others; or a number of 32 bits.
func ParseRegister(s string) (Register, error) {
	return parseName(s, registerNames(), "Register", 32, "register",
		"a name as in the TLFS (HvX64RegisterRip, RIP, HvRegisterVsmVina), or a number of 32 bits")
}

// MarshalText returns what String does.
func (r Register) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what ParseRegister does.
func (r *Register) UnmarshalText(text []byte) error { return unmarshal(r, ParseRegister, text) }
