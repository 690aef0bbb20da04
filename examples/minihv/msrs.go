package main

import (
	"errors"
	"math/bits"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// MSRs (SDM Vol. 4, table 2-2).
const (
	msrAPICBase    = 0x1b
	msrTSC         = 0x10
	msrSysenterCS  = 0x174
	msrSysenterESP = 0x175
	msrSysenterEIP = 0x176
	msrMiscEnable  = 0x1a0
	msrPAT         = 0x277
	msrEFER        = 0xc0000080
	msrSTAR        = 0xc0000081
	msrLSTAR       = 0xc0000082
	msrCSTAR       = 0xc0000083
	msrFMASK       = 0xc0000084
	msrFSBase      = 0xc0000100
	msrGSBase      = 0xc0000101

	msrKernelGSBase = 0xc0000102
	msrTSCAux       = 0xc0000103
)

// resetPAT is IA32_PAT after reset (SDM Vol. 3A 12.12.4).
const resetPAT = 0x0007040600070406

// switched are the MSRs of SYSCALL and SWAPGS. No VMCS has a field for them, the host and
// each level have their own, and instructions use them without a VM exit: every VM entry loads
// the level's values from an area in memory, every VM exit stores them there and loads the
// host's.
var switched = [...]uint32{msrKernelGSBase, msrSTAR, msrLSTAR, msrCSTAR, msrFMASK}

// An msrAreas has these areas, in one page.
type msrAreas struct {
	ring0.Pages
	guest, host vmcs.MSRArea
}

// init makes areas in which the level's values are 0, and the host's as they are now.
func (a *msrAreas) init() (err error) {
	if a.Pages, err = ring0.AllocPages(1); err != nil {
		return err
	}
	half := a.Bytes()[:pageSize/2]
	if a.guest, err = vmcs.MSRAreaOf(half, 0); err != nil {
		return err
	}
	if a.host, err = vmcs.MSRAreaOf(a.Bytes()[pageSize/2:], 0); err != nil {
		return err
	}
	for _, n := range switched {
		err = errors.Join(err, a.guest.Set(n, 0), a.host.Set(n, asm.RDMSR(n)))
	}
	return err
}

// set puts the areas into a VMCS, with the host's values as they are now.
func (a *msrAreas) set(m *vmcs.Image) {
	for _, n := range switched {
		_ = a.host.Set(n, asm.RDMSR(n)) // is there
	}
	m.Set(vmcs.EntryMSRLoadAddress, a.Phys())
	m.Set(vmcs.EntryMSRLoadCount, uint64(a.guest.Count()))
	m.Set(vmcs.ExitMSRStoreAddress, a.Phys())
	m.Set(vmcs.ExitMSRStoreCount, uint64(a.guest.Count()))
	m.Set(vmcs.ExitMSRLoadAddress, a.Phys()+pageSize/2)
	m.Set(vmcs.ExitMSRLoadCount, uint64(a.host.Count()))
}

// write sets the level's value of an MSR, if the MSR can have it: VM entry would refuse
// others.
func (a *msrAreas) write(msr uint32, v uint64) bool {
	switch msr {
	case msrLSTAR, msrCSTAR, msrKernelGSBase:
		if s := int64(v) >> 47; s != 0 && s != -1 {
			return false // not canonical
		}
	case msrFMASK:
		if bits.Len64(v) > 32 {
			return false
		}
	}
	return a.guest.Set(msr, v) == nil
}

// switchedMSR is the rule for such an MSR, when an access to it exits all the same.
var switchedMSR = vmexit.MSRRule{
	Read: func(x *vmexit.Exit, msr uint32) (uint64, bool) { return processorOf(x).current.msrs.guest.Get(msr) },
	Write: func(x *vmexit.Exit, msr uint32, v uint64) bool {
		return processorOf(x).current.msrs.write(msr, v)
	},
}

// switchedRegisters are the names that hypercalls have for them.
var switchedRegisters = map[hypercall.Register]uint32{
	hypercall.RegisterKernelGSBase: msrKernelGSBase, hypercall.RegisterSTAR: msrSTAR, hypercall.RegisterLSTAR: msrLSTAR,
	hypercall.RegisterCSTAR: msrCSTAR, hypercall.RegisterSFMASK: msrFMASK,
}
