package vmcs_test

import (
	"fmt"

	"github.com/govtx/vtx/vmcs"
)

// A hypervisor that wants to see writes of IA32_EFER and all accesses to the
// machine-check banks, and nothing else.
func ExampleMSRBitmap() {
	page := make([]byte, 4096) // in a hypervisor: a page frame
	m, err := vmcs.MSRBitmapOf(page)
	if err != nil {
		fmt.Println(err)
		return
	}
	m.Intercept(0xc0000080, vmcs.MSRWrite)
	m.InterceptRange(0x400, 0x427, vmcs.MSRReadWrite)
	fmt.Println(m)
	fmt.Println(m.Intercepts(0xc0000080, false), m.Intercepts(0xc0000080, true))
	fmt.Println(m.Intercepts(0x40000000, false)) // outside of both ranges
	// Output:
	// 0x400-0x427 rw, 0xc0000080 w
	// false true
	// true
}

// A page fault for a guest, as the next VM entry is to raise it.
func ExampleInjectException() {
	const write = 1 << 1
	e := vmcs.InjectException(vmcs.VectorPF, write)
	var image vmcs.Image // or vmcs.Current{}
	if err := e.Write(&image); err != nil {
		fmt.Println(err)
		return
	}
	v, _ := image.Read(vmcs.EntryInterruptionInformation)
	fmt.Printf("0x%x: %v\n", v, e)
	// Output:
	// 0x80000b0e: hardware exception #PF, error code 0x2
}

// The segment registers of a guest that starts in 64-bit mode.
func ExampleSegments() {
	all := vmcs.Segments{
		vmcs.CS:   vmcs.FlatCode64(0x08),
		vmcs.SS:   vmcs.FlatData(0x10),
		vmcs.DS:   vmcs.UnusableSegment(),
		vmcs.ES:   vmcs.UnusableSegment(),
		vmcs.FS:   vmcs.UnusableSegment(),
		vmcs.GS:   vmcs.UnusableSegment(),
		vmcs.LDTR: vmcs.UnusableSegment(),
		vmcs.TR:   vmcs.TaskState(0x18, 0x7000, 0x67),
	}
	var image vmcs.Image // or vmcs.Current{}
	if err := all.Write(&image); err != nil {
		fmt.Println(err)
		return
	}
	cs, _ := vmcs.ReadSegment(&image, vmcs.CS)
	fmt.Println(cs)
	// Output:
	// sel=0x0008, attr=0x0a09b, limit=0xffffffff, base=0x0000000000000000 (execute/read accessed, DPL 0, P, L, G)
}

// A guest that believes to have turned caching off, and has not.
func ExampleCRMask() {
	const cd = 1 << 30
	m := vmcs.CRMask{Mask: cd}
	cr0, value := uint64(0x80000031), uint64(0xc0000031)
	fmt.Println(m.MOVExits(value))
	m = m.Set(value)
	fmt.Printf("%v: the guest reads 0x%x\n", m, m.Read(cr0))
	fmt.Println(m.MOVExits(value))
	// Output:
	// true
	// mask 0x40000000, shadow 0x40000000: the guest reads 0xc0000031
	// false
}
