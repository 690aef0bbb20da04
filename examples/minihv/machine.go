package main

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
)

// A vmxProcessor is what checkVMX asks and tells the processor.
type vmxProcessor interface {
	vmcs.MSRReader
	vmcs.CPUIDReader
	WriteMSR(msr uint32, value uint64)
}

// native is the processor that the program runs on.
type native struct{ vmcs.Processor }

func (native) WriteMSR(msr uint32, value uint64) { asm.WRMSR(msr, value) }

// checkVMX says what a processor's VMX can do, or what is missing to run the
// hypervisor. If the firmware has left VMX open it is turned on.
func checkVMX(p vmxProcessor) (*vmcs.Capabilities, error) {
	caps, err := vmcs.ReadCapabilities(p, p)
	if errors.Is(err, vmcs.ErrNoVMX) {
		return nil, fmt.Errorf("%w: choose a CPU model that has it", err)
	}
	if err != nil {
		return nil, err
	}
	if !caps.FeatureControl.Locked() {
		p.WriteMSR(vmcs.MSRFeatureControl, uint64(caps.FeatureControl)|5) // locked, outside SMX
		v, err := p.ReadMSR(vmcs.MSRFeatureControl)
		if err != nil {
			return nil, err
		}
		caps.FeatureControl = vmcs.FeatureControl(v)
	}
	if err := caps.CanVMXON(); err != nil {
		return nil, err
	}
	if t := caps.Basic.MemoryType(); t != 6 {
		return nil, fmt.Errorf("VMCS regions need memory type %d, not write-back (IA32_VMX_BASIC is %#x)", t, uint64(caps.Basic))
	}
	if !vmcs.Supports(caps, vmcs.SecondaryEnableEPT) {
		return nil, errors.New("this processor has no EPT: choose a CPU model that has it")
	}
	mode := ept.NewMode(caps)
	if err := mode.Validate(); err != nil {
		return nil, err
	}
	return caps, nil
}

// newRegion allocates a VMXON or VMCS region.
func newRegion(caps *vmcs.Capabilities) (ring0.Pages, error) {
	p, err := ring0.AllocPages(1)
	if err != nil {
		return p, err
	}
	region, err := vmcs.RegionOf(p.Bytes())
	if err != nil {
		return p, err
	}
	return p, region.Init(caps.Basic.Revision(), false)
}

// enterVMX turns VMX operation on; the function it returns turns it off.
func enterVMX(caps *vmcs.Capabilities) (leave func(), err error) {
	region, err := newRegion(caps)
	if err != nil {
		return nil, err
	}
	cr0, cr4 := asm.ReadCR0(), asm.ReadCR4()
	asm.WriteCR0(caps.FixedCR0(cr0, false))
	asm.WriteCR4(caps.FixedCR4(cr4))
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
