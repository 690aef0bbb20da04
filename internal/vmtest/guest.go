package vmtest

import (
	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
)

// A Guest runs machine code. Between two entries its registers are in Regs and
// RIP, the rest in its VMCS.
type Guest struct {
	asm.Guest
	*Machine
	Kind   Kind
	Memory []byte // MemorySize bytes, from the guest's linear address 0
	EPT    *EPT   // nil for a kind without

	memory *memory
	vmcs   ring0.Pages
}

// NewGuest makes a guest of a kind, and its VMCS the current one. It will run
// code from address Code on, with a VMCALL behind it. Segments are flat, RSP
// is a little below StackTop, interrupts are off; HLT, every exception and what
// always exits do exit, nothing else. Set and SetControls change that.
func (m *Machine) NewGuest(k Kind, code ...byte) *Guest {
	m.Helper()
	g := &Guest{Machine: m, Kind: k, memory: newMemory(m, k, code), vmcs: m.Region()}
	g.Memory = g.memory.bytes()
	if k.EPT {
		g.EPT = m.NewEPT()
		g.EPT.mapMemory(g.memory)
	}
	m.Load(g.vmcs)
	m.Cleanup(func() { asm.VMCLEAR(g.vmcs.Phys()) })
	require.NoError(m, vmcs.Copy(vmcs.Current{}, m.image(k, g.memory, g.EPT)))
	g.RIP = Code
	return g
}

// Use makes the guest's VMCS the current one again.
func (g *Guest) Use() {
	g.Helper()
	require.Equal(g, asm.Succeed, asm.VMPTRLD(g.vmcs.Phys()))
}

// Region is the guest's VMCS region.
func (g *Guest) Region() ring0.Pages { return g.vmcs }

// Physical is the guest-physical address of one of the guest's linear
// addresses, as it was before the guest changed its page tables.
func (g *Guest) Physical(linear uint64) uint64 { return g.memory.physical(linear) }

// HostPhysical is the machine's address of the same byte.
func (g *Guest) HostPhysical(linear uint64) uint64 { return g.memory.pages.Phys() + linear }

// Get reads a field of the current VMCS.
func (g *Guest) Get(f vmcs.Field) uint64 {
	g.Helper()
	v, err := vmcs.Current{}.Read(f)
	require.NoError(g, err)
	return v
}

// Set writes a field of the current VMCS. For RIP set the guest's field RIP.
func (g *Guest) Set(f vmcs.Field, v uint64) {
	g.Helper()
	require.NoError(g, vmcs.Current{}.Write(f, v))
}

// SetControls sets control bits in the current VMCS. Bits that the processor lacks
// fail the test: ask Has first.
func SetControls[C control](g *Guest, bits C) {
	g.Helper()
	require.True(g, Has(g.Machine, bits), "this processor does not allow all of: %v", bits)
	f := controlFields[bits.ControlGroup()]
	g.Set(f, g.Get(f)|uint64(bits))
}

// ClearControls clears control bits in the current VMCS.
func ClearControls[C control](g *Guest, bits C) {
	g.Helper()
	must := g.Caps.Controls[bits.ControlGroup()].Must1
	require.Zero(g, uint64(bits)&must, "this processor insists on: %v", C(uint64(bits)&must))
	f := controlFields[bits.ControlGroup()]
	g.Set(f, g.Get(f)&^uint64(bits))
}

// Step enters the guest, and returns at its next exit. A VM entry that fails
// in any way fails the test.
func (g *Guest) Step() {
	g.Helper()
	require.NoError(g, vmcs.StatusError(g.Enter()))
	if g.Reason>>31 != 0 {
		g.Fatalf("VM entry failed: exit reason 0x%x, qualification 0x%x", g.Reason, g.Get(vmcs.ExitQualification))
	}
}

// Basic is the basic exit reason of the last exit.
func (g *Guest) Basic() uint16 { return uint16(g.Reason) }

// Skip sets RIP behind the instruction that exited.
func (g *Guest) Skip() { g.RIP += uint64(g.InstructionLength) }

// Linear is the linear address of RIP, in any mode.
func (g *Guest) Linear() uint64 { return g.Get(vmcs.GuestCSBase) + g.RIP }

// maxExits bounds Run.
const maxExits = 1 << 20

// Run enters the guest again and again while handle, called after each exit,
// returns true. Exits for external interrupts are not shown to it: the host
// has taken the interrupt by then.
func (g *Guest) Run(handle func() bool) {
	g.Helper()
	const externalInterrupt = 1
	for range maxExits {
		if g.Step(); g.Basic() != externalInterrupt && !handle() {
			return
		}
	}
	g.Fatalf("the guest did not come to its end within %d exits; it is at RIP 0x%x", maxExits, g.RIP)
}

// Require steps to an exit, which must be for the given basic reason.
func (g *Guest) Require(reason uint16) {
	g.Helper()
	g.Step()
	if g.Basic() != reason {
		g.Fatalf("exit reason %d at RIP 0x%x, qualification 0x%x, interruption information 0x%x; want reason %d",
			g.Reason, g.RIP, g.Get(vmcs.ExitQualification), g.Get(vmcs.ExitInterruptionInformation), reason)
	}
}
