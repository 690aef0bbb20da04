package nested_test

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/ept/nested"
	"github.com/govtx/vtx/vmexit/emulate"
)

// none is a require.T for examples.
type none struct{}

func (none) Helper()                           {}
func (none) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// A guest with 4-level paging reads a linear address. Then the page that holds its page
// table is taken from it.
func Example() {
	s := newSetup(none{}, guests[3], ept.Mode{AccessedDirty: true})
	w := nested.Walker{EPT: s.view, Memory: s.memory, PhysicalAddressBits: 46}
	r, err := w.Translate(&s.state, linear, emulate.Read)
	for _, step := range r.Steps() {
		fmt.Printf("level %d at 0x%x: 0x%x\n", step.Level, step.GPA, step.Entry)
	}
	fmt.Printf("0x%x is guest-physical 0x%x, physical 0x%x, %v\n", r.Linear, r.GPA, r.HPA, err)

	s.view.Protect(5<<12, 4096, ept.Read, ept.All)
	_, err = w.Translate(&s.state, linear, emulate.Read)
	var fault *nested.FaultError
	if errors.As(err, &fault) {
		fmt.Printf("%v at 0x%x: %v\n", fault.Fault.Kind, fault.Fault.Address, fault.Fault.Qualification)
	}
	// Output:
	// level 4 at 0x2000: 0x3007
	// level 3 at 0x3008: 0x4007
	// level 2 at 0x4018: 0x5007
	// level 1 at 0x5028: 0x9007
	// 0x40605123 is guest-physical 0x9123, physical 0x40009123, <nil>
	// EPT violation at 0x5028: read and write; EPT rights R--; page walk
}
