package ept_test

import (
	"fmt"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/vmcs"
)

func ExampleEntry() {
	e := ept.ReadWrite | ept.WB.Entry() | ept.Large | 0x4020_0000
	m := &ept.Mode{Capabilities: capFull, PhysicalAddressBits: 39}
	fmt.Println(e)
	fmt.Println(e.Describe(m, ept.PDE))
	fmt.Printf("%#x\n", e.Address(ept.PDE))
	// Output:
	// RW- WB 0x40200000 large
	// EPT PDE: maps 2 MiB at 0x40200000, RW-, WB
	// 0x40200000
}

func ExampleParseEntry() {
	e, err := ept.ParseEntry("R-X WB 0x1000")
	fmt.Printf("%#x %v\n", uint64(e), err)
	_, err = ept.ParseEntry("R-X 0x1234")
	fmt.Println(err)
	// Output:
	// 0x1035 <nil>
	// ept: "R-X 0x1234" is no EPT entry: "0x1234": the address is one number, a multiple of 4096 below 2^52
}

// An entry that can be written and not read is wrong everywhere; one of 1 GiB is where the
// processor lacks such pages.
func ExampleMode_Misconfiguration() {
	caps, err := vmcs.Model("bochs_corei7_sandy_bridge_2600k")
	if err != nil {
		panic(err)
	}
	m := &ept.Mode{Capabilities: caps.EPTVPID, PhysicalAddressBits: caps.CPU.PhysicalAddressBits}
	fmt.Println(m.Misconfiguration(ept.Write, ept.PTE).ID)
	fmt.Println(m.Misconfiguration(ept.All|ept.Large, ept.PDPTE).ID)
	fmt.Println(m.Misconfiguration(ept.All|ept.Large, ept.PDE))
	// Output:
	// write-without-read
	// large-unsupported
	// <nil>
}

func ExampleNewPointer() {
	m := &ept.Mode{Capabilities: capFull, PhysicalAddressBits: 39, AccessedDirty: true}
	p, err := ept.NewPointer(m, 0x7f00_0000)
	fmt.Printf("%#x %v\n", uint64(p), err)
	fmt.Println(p)
	_, err = ept.NewPointer(m, 1<<40)
	fmt.Println(err)
	// Output:
	// 0x7f00005e <nil>
	// 0x7f000000 WB 4 levels, accessed and dirty flags
	// ept: VM entry refuses the EPT pointer 0x1000000005e: the address has bits beyond the physical-address width of 39 (SDM Vol. 3C 27.2.1.1, Vol. 3D A.10)
}

// What a processor that has no single-context INVEPT does instead.
func ExampleInvalidation_INVEPT() {
	p := ept.Pointer(0x101e)
	for _, caps := range []vmcs.EPTVPID{capFull, capFull &^ capSingle} {
		kind, d, ok := ept.SingleContext.INVEPT(p, caps)
		fmt.Println(kind, d, ok)
		// asm.INVEPT(uint64(kind), (*[2]uint64)(&d))
	}
	// Output:
	// single-context [4126 0] true
	// all-context [0 0] true
}

func ExampleEffectiveType() {
	const entry = ept.WB
	fmt.Println(ept.EffectiveType(entry, false, ept.WC, false))
	fmt.Println(ept.EffectiveType(entry, true, ept.WC, false)) // ignore-PAT
	fmt.Println(ept.EffectiveType(ept.UC, false, ept.WB, false))
	fmt.Println(ept.EffectiveType(entry, false, ept.WB, true)) // CR0.CD
	// Output:
	// WC
	// WB
	// UC
	// UC
}

// The registers of a machine with 3 GiB below the devices at 0xc0000000.
func ExampleMTRRs() {
	m, err := ept.ParseMTRRs(`MAXPHYADDR 36
0xfe  0x501        IA32_MTRRCAP
0x2ff 0x806        IA32_MTRR_DEF_TYPE: enabled, WB
0x200 0xc0000000   IA32_MTRR_PHYSBASE0: UC
0x201 0xfc0000800  IA32_MTRR_PHYSMASK0
0x250 0
0x258 0
0x259 0
0x268 0
0x269 0
0x26a 0
0x26b 0
0x26c 0
0x26d 0
0x26e 0
0x26f 0
`)
	if err != nil {
		panic(err)
	}
	fmt.Print(m)
	t, end := m.At(0x1000)
	fmt.Printf("%v up to %#x\n", t, end)
	// Output:
	// 0x0-0xbfffffff WB
	// 0xc0000000-0xffffffff UC
	// 0x100000000-0xfffffffff WB
	// WB up to 0xc0000000
}

func ExampleSubPages() {
	v := ept.SubPages(1<<0 | 1<<31) // the first and the last 128 bytes
	fmt.Printf("%v: %#x\n", v, uint64(v))
	fmt.Println(v.Writable(0x5078, 8), v.Writable(0x5078, 16))
	// Output:
	// 0 31: 0x4000000000000001
	// true false
}

func ExampleMode_Convertible() {
	m := &ept.Mode{Capabilities: capFull, PhysicalAddressBits: 39, ViolationVE: true}
	fmt.Println(m.Convertible(0), m.Convertible(ept.SuppressVE))
	fmt.Println(ept.VEState{ProtectedMode: true}.Raises())
	// Output:
	// true false
	// true
}
