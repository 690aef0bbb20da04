package emulate_test

import (
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vmexit/emulate"
)

// register is a device of four bytes.
type register [4]byte

func (r *register) Read(_ uint64, p []byte) error  { copy(p, r[:]); return nil }
func (r *register) Write(_ uint64, p []byte) error { copy(r[:], p); return nil }

// violation is an EPT violation by the given code, of a guest in protected mode without
// paging.
func violation(t *testing.T, memory pages, device emulate.Device, code ...byte) (*vmexit.Exit, *vmcs.Image, *emulate.Emulator) {
	t.Helper()
	copy(memory[0x100:], code)
	caps, err := vmcs.Model("bochs_tigerlake")
	require.NoError(t, err)
	m := new(vmcs.Image)
	m.Fill(caps)
	m.Set(vmcs.GuestCR0, 0x31)
	m.Set(vmcs.GuestRFLAGS, 2)
	m.Set(vmcs.GuestRSP, 0x800)
	flat := vmcs.FlatData(0)
	segments := vmcs.Segments{vmcs.ES: flat, vmcs.CS: vmcs.FlatCode32(0), vmcs.SS: flat, vmcs.DS: flat, vmcs.FS: flat, vmcs.GS: flat}
	require.NoError(t, segments.Write(m))
	const translation = 1<<7 | 1<<8 | 2
	m.Set(vmcs.ExitQualification, translation)
	g := &asm.Guest{RIP: 0x100, RFLAGS: 2, Reason: uint32(vmexit.EPTViolation)}
	g.Regs[asm.RBX] = 0xfed00000
	m.Set(vmcs.GuestRIP, g.RIP)
	return &vmexit.Exit{Guest: g, VMCS: m}, m, &emulate.Emulator{Walker: emulate.Walker{Memory: memory}, Device: device}
}

func TestViolations(t *testing.T) {
	var device register
	x, m, e := violation(t, make(pages, 0x1000), &device, 0x81, 0x03, 0xff, 0, 0, 0) // ADD dword [ebx], 0xff
	d := vmexit.NewBuilder().Handle(vmexit.EPTViolation, emulate.Violations(func(*vmexit.Exit) *emulate.Emulator { return e })).Build()
	require.Equal(t, vmexit.Resume, d.Dispatch(x))
	require.NoError(t, x.Err())
	require.Equal(t, register{0xff}, device)
	require.Equal(t, uint32(6), x.Guest.InstructionLength)
	flags, _ := m.Get(vmcs.GuestRFLAGS)
	require.Equal(t, uint64(2|1<<2), flags) // PF
	require.Equal(t, flags, x.Guest.RFLAGS)
	require.Equal(t, uint64(0x100), x.Guest.RIP)

	// What is not known stops the guest, and shows the bytes.
	x, _, e = violation(t, make(pages, 0x1000), &device, 0xc8, 1, 2, 3) // ENTER
	require.Equal(t, vmexit.Stop, d.Dispatch(x))
	require.ErrorIs(t, x.Err(), emulate.ErrViolation)
	require.ErrorContains(t, x.Err(), "c8 01 02 03")

	// A fault of the instruction is the guest's.
	x, m, e = violation(t, make(pages, 0x1000), &device, 0x89, 0x03) // MOV [ebx], eax
	m.Set(vmcs.GuestDSLimit, 0xfff)
	m.Set(vmcs.GuestDSAccessRights, 0x4093)
	require.Equal(t, vmexit.Hold, d.Dispatch(x))
	event, _ := m.Get(vmcs.EntryInterruptionInformation)
	require.Equal(t, vmcs.InjectException(vmcs.VectorGP, 0).Info, vmcs.InterruptionInfo(event))

	// Accesses that are not an instruction's are not emulated.
	var unhandled *vmexit.EPTError
	x, m, e = violation(t, make(pages, 0x1000), &device, 0x89, 0x03)
	m.Set(vmcs.IDTVectoringInformation, 1<<31|0x20)
	require.Equal(t, vmexit.Stop, d.Dispatch(x))
	require.ErrorAs(t, x.Err(), &unhandled)
	x, m, e = violation(t, make(pages, 0x1000), &device, 0x89, 0x03)
	m.Set(vmcs.ExitQualification, 1<<7|2)
	require.Equal(t, vmexit.Stop, d.Dispatch(x))
	require.ErrorAs(t, x.Err(), &unhandled)
}

// The operand is where the processor has found it, for that violation, that kind of access and
// that page. Where flags of entries are to be set, there is a walk.
func TestOperand(t *testing.T) {
	var device register
	memory := make(pages, 0x4000)
	x, m, e := violation(t, memory, &device, 0x89, 0x03) // MOV [ebx], eax
	h := emulate.Violations(func(*vmexit.Exit) *emulate.Emulator { return e })
	m.Set(vmcs.GuestCR0, 0x80000031)
	m.Set(vmcs.GuestCR3, 0x1000)
	copy(memory[0x1000:], []byte{0x03, 0x20}) // page directory: table at 0x2000
	copy(memory[0x2000:], []byte{0x01, 0x00}) // page 0 for the code; none for EBX
	m.Set(vmcs.GuestLinearAddress, 0x1234)
	m.Set(vmcs.GuestPhysicalAddress, 0xfed00234)
	x.Guest.Regs[asm.RBX], x.Guest.Regs[asm.RAX] = 0x1234, 0x55
	raised := func() bool {
		v, _ := m.Get(vmcs.EntryInterruptionInformation)
		m.Set(vmcs.EntryInterruptionInformation, 0)
		return vmcs.InterruptionInfo(v).Valid()
	}
	require.Equal(t, vmexit.Resume, h(x))
	require.Equal(t, register{0x55}, device)

	for name, change := range map[string]func(){
		"another page":                         func() { x.Guest.Regs[asm.RBX] = 0x2234 },
		"another access":                       func() { m.Set(vmcs.ExitQualification, 1<<7|1<<8|1) },
		"memory with accessed and dirty flags": func() { e.Memory = &updated{ram: ram{bytes: memory}} },
	} {
		before, q := x.Guest.Regs, uint64(1<<7|1<<8|2)
		m.Set(vmcs.ExitQualification, q)
		change()
		x.Begin()
		require.Equal(t, vmexit.Hold, h(x), name)
		require.True(t, raised(), name)
		x.Guest.Regs, e.Memory = before, memory
	}
	x.Begin()
	m.Set(vmcs.ExitQualification, 1<<7|1<<8|2)
	require.Equal(t, vmexit.Resume, h(x))
	var s emulate.State // another Step has nothing of it
	s.Regs = &x.Guest.Regs
	require.NoError(t, s.Read(m))
	r, err := e.Step(&s)
	require.NoError(t, err)
	require.Equal(t, emulate.Inject, r.Action)
}

// A repeated instruction holds RIP until it is done.
func TestViolationsRepeat(t *testing.T) {
	var device register
	x, _, e := violation(t, make(pages, 0x1000), &device, 0xf3, 0xaa) // REP STOSB
	e.MaxIterations = 4
	x.Guest.Regs[asm.RDI], x.Guest.Regs[asm.RCX] = 0xfed00000, 10
	h := emulate.Violations(func(*vmexit.Exit) *emulate.Emulator { return e })
	for range 2 {
		require.Equal(t, vmexit.Hold, h(x))
	}
	require.Equal(t, uint64(2), x.Guest.Regs[asm.RCX])
	require.Equal(t, vmexit.Resume, h(x))
	require.Equal(t, uint64(0), x.Guest.Regs[asm.RCX])
}

// The ready handlers reach memory through the guest's paging, or the guest has a #PF.
func TestMemoryAtLinearAddresses(t *testing.T) {
	memory := make(pages, 0x4000)
	x, m, e := violation(t, memory, nil)
	of := emulate.Of(func(*vmexit.Exit) *emulate.Emulator { return e })
	m.Set(vmcs.GuestCR0, 0x80000031)
	m.Set(vmcs.GuestCR3, 0x1000)
	copy(memory[0x1000:], []byte{0x03, 0x20}) // page directory: table at 0x2000
	copy(memory[0x2000:], []byte{0x01, 0x30}) // page 0 is at 0x3000, read-only
	translate := of.Memory(memory).Translate
	gpa, _, ok, err := translate(x, 0x123, false)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, uint64(0x3123), gpa)
	_, code, ok, err := translate(x, 0x1123, true)
	require.NoError(t, err)
	require.False(t, ok)
	require.Equal(t, uint32(2), code)
	require.Equal(t, uint64(0), x.Guest.Regs[asm.RSP]) // untouched
	m.Set(vmcs.GuestCR3, 0x100000)
	_, _, ok, err = translate(x, 0, false)
	require.False(t, ok)
	require.Error(t, err)
}
