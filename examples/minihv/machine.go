package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
)

// A capabilities value is what this processor's VMX can do, as far as this
// hypervisor asks.
type capabilities struct {
	basic, feature, eptCap uint64
}

// checkVMX says whether a processor can run the hypervisor, and if not, what is
// missing. Features is ECX of CPUID leaf 1.
func checkVMX(features uint32, rdmsr func(uint32) uint64, wrmsr func(uint32, uint64)) (c capabilities, err error) {
	if features>>5&1 == 0 {
		return c, errors.New("this processor has no VMX (CPUID leaf 1, ECX bit 5 is 0): choose a CPU model that has it")
	}
	const lock, outsideSMX = 1 << 0, 1 << 2
	c.feature = rdmsr(msrFeatureControl)
	if c.feature&lock == 0 {
		wrmsr(msrFeatureControl, c.feature|lock|outsideSMX)
		c.feature = rdmsr(msrFeatureControl)
	}
	if c.feature&outsideSMX == 0 {
		return c, fmt.Errorf("the firmware has locked VMX off (IA32_FEATURE_CONTROL is %#x, bit 2 is 0): enable it in the firmware's setup", c.feature)
	}
	c.basic = rdmsr(msrVMXBasic)
	if t := c.basic >> 50 & 15; t != 6 {
		return c, fmt.Errorf("VMCS regions need memory type %d, not write-back (IA32_VMX_BASIC is %#x)", t, c.basic)
	}
	const secondary, enableEPT = 1 << 31, 1 << 1
	if rdmsr(msrPrimary)>>32&secondary == 0 || rdmsr(msrSecondary)>>32&enableEPT == 0 {
		return c, errors.New("this processor has no EPT: choose a CPU model that has it")
	}
	c.eptCap = rdmsr(msrEPTCap)
	const walk4, writeBack = 1 << 6, 1 << 14
	if c.eptCap&walk4 == 0 || c.eptCap&writeBack == 0 {
		return c, fmt.Errorf("EPT lacks 4-level walks or write-back tables (IA32_VMX_EPT_VPID_CAP is %#x)", c.eptCap)
	}
	return c, nil
}

// controls settles one control word: the wanted bits, and those that the
// processor insists on (SDM Vol. 3D, appendix A.2).
func (c capabilities) controls(msr, want uint32) (uint64, error) {
	if c.basic>>55&1 != 0 && msr != msrSecondary {
		msr += 0xc
	}
	v := asm.RDMSR(msr)
	must, may := uint32(v), uint32(v>>32)
	if missing := want &^ may; missing != 0 {
		return 0, fmt.Errorf("this processor lacks control bits %#x (MSR %#x is %#x)", missing, msr, v)
	}
	return uint64(want | must), nil
}

// region allocates a VMXON or VMCS region.
func (c capabilities) region() (ring0.Pages, error) {
	p, err := ring0.AllocPages(1)
	if err == nil {
		binary.LittleEndian.PutUint32(p.Bytes(), uint32(c.basic)&0x7fffffff)
	}
	return p, err
}

// enterVMX turns VMX operation on; the function it returns turns it off.
func (c capabilities) enterVMX() (leave func(), err error) {
	region, err := c.region()
	if err != nil {
		return nil, err
	}
	const vmxe = 1 << 13
	cr0, cr4 := asm.ReadCR0(), asm.ReadCR4()
	asm.WriteCR0((cr0 | asm.RDMSR(msrCR0Fixed0)) & asm.RDMSR(msrCR0Fixed1))
	asm.WriteCR4((cr4 | vmxe | asm.RDMSR(msrCR4Fixed0)) & asm.RDMSR(msrCR4Fixed1))
	restore := func() {
		asm.WriteCR4(cr4)
		asm.WriteCR0(cr0)
		region.Free()
	}
	if status := asm.VMXON(region.Phys()); status != asm.Succeed {
		restore()
		return nil, fmt.Errorf("VMXON: %v", status)
	}
	return func() {
		asm.VMXOFF()
		restore()
	}, nil
}
