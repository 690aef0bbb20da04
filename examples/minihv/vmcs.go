package main

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vtl"
)

// segmentNames are the segment registers as calls name them, in the order of vmcs.Segments.
var segmentNames = [vmcs.NumSegmentRegisters]hypercall.Register{
	vmcs.ES: hypercall.RegisterES, vmcs.CS: hypercall.RegisterCS, vmcs.SS: hypercall.RegisterSS, vmcs.DS: hypercall.RegisterDS,
	vmcs.FS: hypercall.RegisterFS, vmcs.GS: hypercall.RegisterGS, vmcs.LDTR: hypercall.RegisterLDTR, vmcs.TR: hypercall.RegisterTR,
}

// toVMCS and toCall convert segment registers. Attributes are where a VMCS has access
// rights; it has another bit for a register that cannot be used.
func toVMCS(s hypercall.SegmentRegister) vmcs.Segment {
	v := vmcs.Segment{Selector: s.Selector, Limit: s.Limit, Base: s.Base, Rights: vmcs.AccessRights(s.Attributes)}
	if !s.Attributes.Present() {
		v.Rights = vmcs.RightsUnusable
	}
	return v
}

func toCall(v vmcs.Segment) hypercall.SegmentRegister {
	s := hypercall.SegmentRegister{Selector: v.Selector, Limit: v.Limit, Base: v.Base}
	if v.Rights&vmcs.RightsUnusable == 0 {
		s.Attributes = hypercall.SegmentAttributes(v.Rights)
	}
	return s
}

// image returns the fields of a VMCS for a level that begins with a context: how it runs,
// what this thread is when it comes back, and where it begins. Fields that nobody sets are 0.
func (d *domain) image(c *vtl.Context) (*vmcs.Image, error) {
	m := new(vmcs.Image)
	if err := d.setControls(m, c); err != nil {
		return nil, err
	}
	if err := setHostState(m); err != nil {
		return nil, err
	}
	if err := d.setGuestState(m, c); err != nil {
		return nil, err
	}
	m.Fill(d.caps)
	return m, nil
}

// settle settles one group of controls: the wanted bits, and those that the processor
// insists on.
func settle[C vmcs.Controls](m *vmcs.Image, caps *vmcs.Capabilities, wanted C) error {
	value, err := vmcs.Settle(caps, wanted, 0, 0)
	if err == nil {
		m.Set(wanted.ControlGroup().Field(), uint64(value))
	}
	return err
}

func (d *domain) setControls(m *vmcs.Image, c *vtl.Context) error {
	entry := vmcs.EntryLoadIA32EFER | vmcs.EntryLoadIA32PAT
	exit := vmcs.ExitHostAddressSpaceSize | vmcs.ExitSaveIA32EFER | vmcs.ExitLoadIA32EFER | vmcs.ExitSaveIA32PAT | vmcs.ExitLoadIA32PAT
	if c.EFER&asm.EFERLMA != 0 {
		entry |= vmcs.EntryIA32eModeGuest
	}
	var err error
	if d.pc != nil {
		entry |= vmcs.EntryLoadDebugControls
		exit |= vmcs.ExitSaveDebugControls | vmcs.ExitSaveVMXPreemptionTimerValue
		err = d.pc.setControls(m, d.caps, d.number)
	} else {
		err = errors.Join(
			settle(m, d.caps, vmcs.PinExternalInterruptExiting),
			settle(m, d.caps, vmcs.PrimaryHLTExiting|vmcs.PrimaryUnconditionalIOExiting|
				vmcs.PrimaryCR8LoadExiting|vmcs.PrimaryCR8StoreExiting|vmcs.PrimaryActivateSecondaryControls),
			settle(m, d.caps, vmcs.SecondaryEnableEPT))
	}
	if err := errors.Join(err, settle(m, d.caps, exit), settle(m, d.caps, entry)); err != nil {
		return err
	}
	if d.pc != nil {
		m.Set(vmcs.ExceptionBitmap, pcExceptions)
	}
	m.Set(vmcs.EPTPointer, uint64(d.view.Pointer()))
	m.Set(vmcs.VMCSLinkPointer, ^uint64(0))
	// Each write to CR0 and CR4 that changes a bit exits.
	m.Set(vmcs.CR0GuestHostMask, ^uint64(0))
	m.Set(vmcs.CR4GuestHostMask, ^uint64(0))
	return nil
}

// pcExceptions are the exceptions of a PC's guest that cause VM exits, and are given back to it:
// a guest can have the delivery of each raise it again, without end, and without an instruction
// or interrupt between.
const pcExceptions = 1<<vmcs.VectorDB | 1<<vmcs.VectorAC

// setHostState sets what every VM exit loads: this thread, as it is now. HOST_RSP
// and HOST_RIP are Enter's.
func setHostState(m *vmcs.Image) error {
	gdt, tr := asm.SGDT(), asm.STR()
	table, err := ring0.Physical(gdt.Base, int(gdt.Limit)+1)
	if err != nil {
		return err
	}
	tss, err := (&vmcs.DescriptorTables{GDT: table, IA32e: true}).Load(tr)
	if err != nil {
		return err
	}
	m.Set(vmcs.HostESSelector, uint64(asm.ReadES()))
	m.Set(vmcs.HostCSSelector, uint64(asm.ReadCS()))
	m.Set(vmcs.HostSSSelector, uint64(asm.ReadSS()))
	m.Set(vmcs.HostDSSelector, uint64(asm.ReadDS()))
	m.Set(vmcs.HostFSSelector, uint64(asm.ReadFS()))
	m.Set(vmcs.HostGSSelector, uint64(asm.ReadGS()))
	m.Set(vmcs.HostTRSelector, uint64(tr))
	m.Set(vmcs.HostCR0, asm.ReadCR0())
	m.Set(vmcs.HostCR3, asm.ReadCR3())
	m.Set(vmcs.HostCR4, asm.ReadCR4())
	m.Set(vmcs.HostFSBase, asm.RDMSR(msrFSBase))
	m.Set(vmcs.HostGSBase, asm.RDMSR(msrGSBase))
	m.Set(vmcs.HostTRBase, tss.Base)
	m.Set(vmcs.HostGDTRBase, gdt.Base)
	m.Set(vmcs.HostIDTRBase, asm.SIDT().Base)
	m.Set(vmcs.HostSysenterCS, asm.RDMSR(msrSysenterCS))
	m.Set(vmcs.HostSysenterESP, asm.RDMSR(msrSysenterESP))
	m.Set(vmcs.HostSysenterEIP, asm.RDMSR(msrSysenterEIP))
	m.Set(vmcs.HostPAT, asm.RDMSR(msrPAT))
	m.Set(vmcs.HostEFER, asm.RDMSR(msrEFER))
	return nil
}

// setGuestState sets the registers that a level begins with. RIP is Enter's.
func (d *domain) setGuestState(m *vmcs.Image, c *vtl.Context) error {
	m.Set(vmcs.GuestCR0, d.caps.FixedCR0(c.CR0, d.pc != nil))
	m.Set(vmcs.CR0ReadShadow, c.CR0)
	m.Set(vmcs.GuestCR3, c.CR3)
	m.Set(vmcs.GuestCR4, d.caps.FixedCR4(c.CR4))
	m.Set(vmcs.CR4ReadShadow, c.CR4)
	m.Set(vmcs.GuestEFER, c.EFER)
	m.Set(vmcs.GuestPAT, c.PAT)
	m.Set(vmcs.GuestRSP, c.RSP)
	m.Set(vmcs.GuestRIP, c.RIP)
	m.Set(vmcs.GuestRFLAGS, c.RFLAGS)
	m.Set(vmcs.GuestDR7, 0x400)
	m.Set(vmcs.GuestGDTRBase, c.GDTR.Base)
	m.Set(vmcs.GuestGDTRLimit, uint64(c.GDTR.Limit))
	m.Set(vmcs.GuestIDTRBase, c.IDTR.Base)
	m.Set(vmcs.GuestIDTRLimit, uint64(c.IDTR.Limit))
	return (&vmcs.Segments{
		vmcs.ES: toVMCS(c.ES), vmcs.CS: toVMCS(c.CS), vmcs.SS: toVMCS(c.SS), vmcs.DS: toVMCS(c.DS),
		vmcs.FS: toVMCS(c.FS), vmcs.GS: toVMCS(c.GS), vmcs.LDTR: toVMCS(c.LDTR), vmcs.TR: toVMCS(c.TR),
	}).Write(m)
}

// explain says which rule a failed VM entry broke, as far as software can tell.
func (l *level) explain() error {
	k := vmcs.Checker{Caps: l.caps, CurrentVMCS: l.region.Phys()}
	report := k.Check(vmcs.Current{})
	if err := report.Err(); err != nil {
		return err
	}
	return fmt.Errorf("all %d rules that could be checked hold", report.Checked)
}
