package vmtest

import (
	"os"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

func TestMain(m *testing.M) { os.Exit(ring0test.Main(m)) }

const (
	reasonException = 0
	reasonCPUID     = 10
	reasonHLT       = 12
	reasonTimer     = 52
)

// TestGuests runs a guest of each kind: its code, an exception that the
// hypervisor does not take, and the handler of that.
func TestGuests(t *testing.T) {
	m := Start(t)
	for _, k := range m.Kinds() {
		m.Log(k)
		g := m.NewGuest(k,
			0x0f, 0xa2, // CPUID
			0xf4,       // HLT
			0x0f, 0x0b, // UD2
		)
		g.Regs[asm.RAX] = 7
		g.Require(reasonCPUID)
		require.Equal(t, uint64(Code), g.RIP)
		require.Equal(t, uint64(7), g.Regs[asm.RAX])
		g.Skip()
		if k.Mode == ModeVirtual8086 {
			g.Require(reasonException) // #GP: the privilege level is 3
			g.RIP++
		} else {
			g.Require(reasonHLT)
			g.Skip()
		}
		g.Set(vmcs.ExceptionBitmap, ^uint64(1<<6))
		g.Require(reasonVMCALL)
		require.Equal(t, Handler(6), g.Linear())
	}
}

// TestInjection delivers an event of each type to a guest of each kind.
func TestInjection(t *testing.T) {
	m := Start(t)
	for _, k := range m.Kinds() {
		for _, e := range events {
			if e.mtf {
				continue
			}
			g := m.NewGuest(k)
			image := new(vmcs.Image)
			image.Set(vmcs.GuestRFLAGS, g.Get(vmcs.GuestRFLAGS))
			e.inject(image, k)
			for f, v := range image.All() {
				g.Set(f, v)
			}
			g.Step()
			require.Equal(t, uint16(reasonVMCALL), g.Basic(), "%v, %s: qualification 0x%x, interruption information 0x%x", k, e.name,
				g.Get(vmcs.ExitQualification), g.Get(vmcs.ExitInterruptionInformation))
			require.Equal(t, Handler(uint8(e.vector)), g.Linear(), "%v, %s", k, e.name)
		}
	}
}

// TestRun counts the exits of a loop.
func TestRun(t *testing.T) {
	g := Start(t).NewGuest(Long,
		0x0f, 0xa2, // CPUID
		0xeb, 0xfc, // JMP to it
	)
	n := 0
	g.Run(func() bool {
		require.Equal(t, uint16(reasonCPUID), g.Basic())
		g.Skip()
		n++
		return n < 1000
	})
	require.Equal(t, 1000, n)
}

// TestStates: VM entry with each state succeeds, again and again, and the host
// is the same after it.
func TestStates(t *testing.T) {
	m := Start(t)
	states := m.States()
	require.Greater(t, len(states), 100)
	before := new(vmcs.Image)
	m.hostState(before)
	for range 2 {
		for _, s := range states {
			o := m.Launch(&s.Image)
			require.True(t, o.Entered(), "%v: %v", s, o)
		}
	}
	after := new(vmcs.Image)
	m.hostState(after)
	require.Equal(t, before, after)
}

// TestLaunchOutcomes: the three ways in which an entry fails.
func TestLaunchOutcomes(t *testing.T) {
	m := Start(t)
	good := m.States()[0].Image
	for _, c := range []struct {
		field vmcs.Field
		value uint64
		want  Outcome
	}{
		{vmcs.PinBasedControls, 0, Outcome{Status: asm.FailValid, Error: vmcs.EntryInvalidControls}},
		{vmcs.HostCSSelector, 0, Outcome{Status: asm.FailValid, Error: vmcs.EntryInvalidHostState}},
		{vmcs.GuestRFLAGS, 0, Outcome{Reason: 1<<31 | 33}},
		{vmcs.VMCSLinkPointer, 1, Outcome{Reason: 1<<31 | 33, Qualification: 4}},
		{vmcs.PreemptionTimerValue, 0, Outcome{Reason: reasonTimer}},
	} {
		image := good
		image.Set(c.field, c.value)
		require.Equal(t, c.want, m.Launch(&image), "%v", c.field)
	}
}

// TestStrangeHost: host state that the checks let pass, and that a program could
// not live with, is gone when Launch returns.
func TestStrangeHost(t *testing.T) {
	m := Start(t)
	good := m.States()[0].Image
	before := new(vmcs.Image)
	m.hostState(before)
	for _, c := range []struct {
		field vmcs.Field
		flip  uint64
	}{
		{vmcs.HostRSP, ^uint64(0)}, {vmcs.HostFSBase, 0x123456789000}, {vmcs.HostGDTRBase, 1 << 40}, {vmcs.HostIDTRBase, 1 << 40},
		{vmcs.HostTRBase, 1 << 40}, {vmcs.HostTRSelector, 0xff00}, {vmcs.HostCSSelector, 0xff00}, {vmcs.HostSSSelector, 0xff00},
		{vmcs.HostCR0, 1<<3 | 1<<2 | 1<<16 | 1<<18}, // TS, EM, WP, AM
		{vmcs.HostCR4, 1<<9 | 1<<10 | 1<<7 | 1<<2},  // OSFXSR, OSXMMEXCPT, PGE, TSD
		{vmcs.HostEFER, 1}, {vmcs.HostSysenterCS, 0xffff},
	} {
		image := good
		v, _ := image.Get(c.field)
		image.Set(c.field, v^c.flip)
		o := m.Launch(&image)
		require.True(t, o.Entered(), "%v: %v", c.field, o)
	}
	after := new(vmcs.Image)
	m.hostState(after)
	require.Equal(t, before, after)
}

// TestSafe: every state counts as safe, and what would stop the machine does not.
func TestSafe(t *testing.T) {
	m := Start(t)
	states := m.States()
	for _, s := range states {
		require.Equal(t, "", m.Unsafe(&s.Image, true), "%v", s)
	}
	good := states[0].Image
	for field, value := range map[vmcs.Field]uint64{
		vmcs.HostRIP: 0, vmcs.HostCR3: 0, vmcs.HostEFER: asm.EFERLMA | asm.EFERLME, vmcs.ExitMSRLoadCount: 1,
		vmcs.ExitMSRStoreCount: 1, vmcs.GuestActivityState: waitForSIPI, vmcs.GuestCR3: m.objects.addr(pageGood),
	} {
		image := good
		image.Set(field, value)
		require.NotEqual(t, "", m.Unsafe(&image, true), "%v", field)
	}
}

// TestReadPhysical reads the machine's memory by its address: RAM, the page that
// is not mapped, and where there is nothing.
func TestReadPhysical(t *testing.T) {
	m := Start(t)
	m.States()
	p := m.Pages(1)
	copy(p.Bytes()[8:], "abcdefgh")
	v, err := m.ReadPhysical(p.Phys() + 8)
	require.NoError(t, err)
	require.Equal(t, uint64(0x6867666564636261), v)
	v, err = m.ReadPhysical(0x10 * 4) // the BIOS has set the vector of its video service
	require.NoError(t, err)
	require.NotZero(t, v)
	v, err = m.ReadPhysical(1<<m.Caps.CPU.PhysicalAddressBits - 8)
	require.NoError(t, err)
	require.Equal(t, ^uint64(0), v)
	_, err = m.ReadPhysical(0xfee00000)
	require.Error(t, err)
}
