package vmtest

import (
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
)

// A launcher enters arbitrary VMCS contents, host state included. A VM exit loads
// the host state of the VMCS that was tried, which may be as strange as the
// checks permit. So the code at HOST_RIP uses no stack and no selector, and
// brings the machine back in one step: it launches a second VMCS, whose host
// state is this thread's and whose guest state is bad. Its entry fails in the
// checks of guest state, and that is a VM exit which loads everything
// (SDM Vol. 3C 27.8).
//
//	Launch       VMLAUNCH the VMCS that is tried
//	  |             fails with VMfail: go on behind it
//	  |             VM exit, at once or from the guest
//	exited       VMPTRLD the second VMCS, VMLAUNCH
//	  |             VM exit: the entry has failed
//	restored     SP from memory, return to Launch's caller
//
// What code at exited needs is little: paging by the host's CR3, and that the
// launcher's memory is as readable as ever, which takes IA32_EFER.NXE.
type launcher struct {
	region ring0.Pages // of the VMCS that is tried
	host   vmcs.Image  // host state that comes back to exited
}

// An Outcome is how a VM entry ended.
type Outcome struct {
	Status        asm.Status            // of VMLAUNCH; Succeed: there was a VM exit
	Error         vmcs.InstructionError // if the status is FailValid
	Reason        uint32                // exit reason, if the status is Succeed; bit 31: the entry failed
	Qualification uint64                // exit qualification, if the status is Succeed
}

// Entered tells that the guest was entered.
func (o Outcome) Entered() bool { return o.Status == asm.Succeed && o.Reason>>31 == 0 }

// String says it in words.
func (o Outcome) String() string {
	switch {
	case o.Status == asm.FailValid:
		return fmt.Sprintf("VMfailValid, %v", o.Error.Error())
	case o.Status != asm.Succeed:
		return o.Status.String()
	case o.Entered():
		return fmt.Sprintf("entered; exit reason %d, qualification 0x%x", o.Reason, o.Qualification)
	}
	return fmt.Sprintf("entry failed, exit reason 0x%x, qualification 0x%x", o.Reason, o.Qualification)
}

// newLauncher prepares the second VMCS.
func (m *Machine) newLauncher() *launcher {
	m.Helper()
	l := &launcher{region: m.Region()}
	exited, restored := launchAddresses()
	k := Kind{Mode: ModeLong}
	image := m.image(k, newMemory(m, k, nil), nil)
	wish(m, image, vmcs.ExitLoadIA32PAT|vmcs.ExitLoadCETState|vmcs.ExitLoadPKRS|vmcs.ExitLoadIA32PerfGlobalCtrl)
	l.host = *image
	l.host.Set(vmcs.HostRIP, exited)
	image.Set(vmcs.HostRIP, restored)
	image.Set(vmcs.GuestRFLAGS, 0)

	second := m.Region()
	m.Load(second)
	require.NoError(m, vmcs.Copy(vmcs.Current{}, image))
	launchSecond = second.Phys()
	m.Cleanup(func() {
		asm.VMCLEAR(second.Phys())
		asm.VMCLEAR(l.region.Phys())
	})
	return l
}

// Launch enters the guest that image describes, by VMLAUNCH of a clear VMCS with
// these fields, and returns how that ended. What images of [Machine.Full] and
// [Machine.States] may be changed to without harm is what [Machine.Unsafe] tells.
// The VMCS stays the current one.
func (m *Machine) Launch(image *vmcs.Image) Outcome {
	m.Helper()
	m.prepare()
	m.Load(m.launcher.region)
	require.NoError(m, vmcs.Copy(vmcs.Current{}, image))
	o := Outcome{Status: asm.Status(launch())}
	switch o.Status {
	case asm.FailValid:
		v, _ := asm.VMREAD(uint32(vmcs.VMInstructionErrorNumber))
		o.Error = vmcs.InstructionError(v)
	case asm.Succeed:
		require.Equal(m, asm.Succeed, asm.VMPTRLD(m.launcher.region.Phys()))
		v, _ := asm.VMREAD(uint32(vmcs.ExitReason))
		o.Reason = uint32(v)
		o.Qualification, _ = asm.VMREAD(uint32(vmcs.ExitQualification))
	}
	return o
}

// LaunchRegion is the VMCS region that Launch uses.
func (m *Machine) LaunchRegion() ring0.Pages {
	m.Helper()
	m.prepare()
	return m.launcher.region
}
