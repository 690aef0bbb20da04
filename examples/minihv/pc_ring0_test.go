package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/bootproto"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// Where the levels of a PC that tests make have their code and data.
const (
	pcCode0   = 0x30000
	pcCode1   = 0x40000
	pcPage    = 0x50000 // hypercall page of VTL0
	pcMessage = 0x51000 // message page of VTL1
	pcData    = 0x52000
	pcHidden  = 0x500000 // a page that VTL1 hides
)

var (
	turnOff = []byte{0x66, 0xba, 0x04, 0xb0, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef} // mov dx, 0xb004; mov ax, 0x2000; out dx, ax
	stop    = []byte{0xe6, bootproto.PortE9}                                     // out 0xe9, al

	errStopped = errors.New("VTL1 has stopped")
)

// stopper is VTL1's only device.
type stopper struct{}

func (stopper) In(uint16, int) (uint32, error) { return 0, nil }
func (stopper) Out(uint16, int, uint32) error  { return errStopped }

// pcRig makes a PC whose levels run code of the test's in 64-bit mode, with memory mapped to
// itself. VTL1 has a place for messages, and hides a page. When VTL0 ends with turnOff the run
// ends with errPowerOff, and with errStopped when VTL1 does with stop; it can go on then.
func pcRig(t *testing.T, code0, code1 []byte) *vm {
	t.Helper()
	caps := startVMX(t)
	pc, err := newPC(caps, minMemory)
	require.NoError(t, err)
	t.Cleanup(pc.free)
	pc.secure = vmexit.NewPorts().Set(bootproto.PortE9, bootproto.PortE9, stopper{})
	pc.secureIO = pc.secure.Handler()
	ram := pc.ram.Bytes()
	context0 := bootContext(ram)
	context0.RIP = pcCode0
	context1 := context0
	context1.RIP, context1.RSP = pcCode1, pcCode1+pageSize
	clear(ram[pcCode0:pcHidden])
	copy(ram[pcCode0:], code0)
	copy(ram[pcCode1:], code1)
	m, err := newVM(caps, pc.guestMemory, pc, &context0)
	require.NoError(t, err)
	t.Cleanup(m.free)

	p := &m.processors[0]
	p.levels[0].guestOSID = 1
	for i := range m.domains {
		require.NoError(t, m.domains[i].place(m.domains[i].code, pcPage>>pageShift, true))
	}
	require.Zero(t, uint16(m.partition.EnablePartitionVTL(0, &hypercall.EnablePartitionVtlInput{PartitionID: hypercall.PartitionSelf, TargetVTL: 1}, &p.effects)))
	require.Zero(t, uint16(m.partition.EnableVPVTL(0, &hypercall.EnableVpVtlInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: 1, Context: context1}, &p.effects)))
	p.carryOut(&p.exit)
	l := &p.levels[1]
	l.control, l.sint[0] = hypercall.SControlMSREnable, hypercall.SINTMSRPolling
	require.NoError(t, m.domains[1].place(l.message, pcMessage>>pageShift, true))
	return m
}

// stopped runs the machine until VTL1 has stopped, and has it go on behind that.
func (m *vm) stopped(t *testing.T) {
	t.Helper()
	require.ErrorIs(t, m.run(), errStopped)
	m.processors[0].current.RIP += uint64(len(stop))
}

// hide has VTL1, which has stopped, take all rights to a page from VTL0.
func (m *vm) hide(t *testing.T, gpa uint64) {
	t.Helper()
	p := &m.processors[0]
	p.effects.Reset()
	config := hypercall.VsmPartitionConfigEnableVtlProtection.WithDefaultVtlProtectionMask(hypercall.MapAccess)
	require.Zero(t, uint16(m.partition.SetRegister(0, self(0), hypercall.RegisterVsmPartitionConfig, vtl.Value{Low: uint64(config)}, &p.effects)))
	in := hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, TargetVTL: hypercall.TargetVTL(0)}
	done, s := m.partition.ModifyProtection(0, &in, []uint64{gpa >> pageShift}, &p.effects)
	require.Equal(t, hypercall.StatusSuccess, s)
	require.Equal(t, 1, done)
	p.carryOut(&p.exit)
}

// guardTimer has VTL1, which has stopped, be told when VTL0 reads a port of the 8254.
func (m *vm) guardTimer(t *testing.T) {
	t.Helper()
	p := &m.processors[0]
	p.effects.Reset()
	require.Equal(t, hypercall.StatusSuccess, m.partition.InstallIntercept(0, &hypercall.InstallInterceptInput{
		PartitionID: hypercall.PartitionSelf, AccessMask: hypercall.InterceptAccessRead,
		Type: hypercall.InterceptIoPortRange, Parameters: hypercall.IoPortParameters(0x40, 0x43),
	}, &p.effects))
	p.carryOut(&p.exit)
}

// message returns what is in the slot of SINT0 of VTL1, and empties it.
func (m *vm) message() (kind hypercall.MessageType, gpa uint64) {
	b := m.processors[0].levels[1].message.Bytes()
	kind = hypercall.MessageType(binary.LittleEndian.Uint32(b))
	binary.LittleEndian.PutUint32(b, 0)
	return kind, binary.LittleEndian.Uint64(b[16+56:])
}

// entering runs the machine until an exit for a reason has been handled, and returns what the
// next entry delivers.
func (m *vm) entering(t *testing.T, reason vmexit.Basic) (info vmcs.InterruptionInfo) {
	t.Helper()
	m.watch(func(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
		return func(x *vmexit.Exit) vmexit.Outcome {
			o := below(x)
			if b == reason && o != vmexit.Stop {
				info = vmcs.InterruptionInfo(x.Read(vmcs.EntryInterruptionInformation))
				return x.Fail(errStopped)
			}
			return o
		}
	})
	require.ErrorIs(t, m.run(), errStopped)
	return info
}

// Instructions that the hypervisor carries out get no memory that VTL1 hides: VTL1 is told, as of
// an access by VTL0 itself.
func TestRefusedOperands(t *testing.T) {
	bts := []byte{0x48, 0x0f, 0xba, 0xee, 39} // bts rsi, 39: entry 1 of the PML4, which names the hidden page
	for _, tt := range []struct {
		name string
		code []byte
	}{
		{"OUTS", []byte{0xbe, 0, 0, 0x50, 0, 0xba, 0x64, 0, 0, 0, 0x6e}},                                       // mov esi, 0x500000; mov edx, 0x64; outsb
		{"INS", []byte{0xbf, 0, 0, 0x50, 0, 0xba, 0x64, 0, 0, 0, 0x6c}},                                        // mov edi, 0x500000; mov edx, 0x64; insb
		{"REP OUTS", []byte{0xbe, 0xfe, 0xff, 0x4f, 0, 0xb9, 4, 0, 0, 0, 0xba, 0x00, 0x8a, 0, 0, 0xf3, 0x6e}},  // mov esi, 0x4ffffe; mov ecx, 4; mov edx, 0x8a00; rep outsb
		{"page tables", append(append([]byte{0xbe, 0, 0, 0, 0}, bts...), 0xba, 0x64, 0, 0, 0, 0x6e)},           // mov esi, 0; bts; mov edx, 0x64; outsb
		{"from a register page", []byte{0xbe, 0, 0, 0xc0, 0xfe, 0xbf, 0, 0, 0x50, 0, 0xa5}},                    // mov esi, 0xfec00000; mov edi, 0x500000; movsd
		{"to a register page", []byte{0xbe, 0, 0, 0x50, 0, 0xbf, 0, 0, 0xc0, 0xfe, 0xa5}},                      // mov esi, 0x500000; mov edi, 0xfec00000; movsd
		{"the instruction itself", []byte{0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0x8b, 4, 0x25, 0, 0, 0x50, 0x0}}, // mov rax, 0; mov eax, [0x500000]
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := pcRig(t, code(vtlCall, tt.code, turnOff), code(stop, vtlReturn, stop))
			binary.LittleEndian.PutUint64(m.memory.ram.Bytes()[lowTables+8:], pcHidden|7)
			m.stopped(t)
			m.hide(t, pcHidden)
			m.stopped(t)
			kind, gpa := m.message()
			require.Equal(t, hypercall.MessageGpaIntercept, kind)
			require.Equal(t, uint64(pcHidden), gpa&^(pageSize-1))
		})
	}
}

// Ports that are passed through exit once VTL1 wants to know of them, and those that it does not
// still work.
func TestGuardedPorts(t *testing.T) {
	read := []byte{0xe4, 0x61, 0xe4, 0x40} // in al, 0x61; in al, 0x40
	m := pcRig(t, code(vtlCall, read, vtlCall, read, turnOff), code(stop, vtlReturn, stop, vtlReturn, stop))
	exits := map[uint16]int{}
	m.watch(func(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
		return func(x *vmexit.Exit) vmexit.Outcome {
			if b == vmexit.IOInstruction {
				exits[vmexit.IOQualification(x.Qualification()).Port()]++
			}
			return below(x)
		}
	})
	m.stopped(t)
	m.stopped(t) // VTL0 has read both
	require.Zero(t, exits[0x61]+exits[0x40])
	m.guardTimer(t)
	m.stopped(t)
	require.Equal(t, 1, exits[0x40])
	require.Zero(t, exits[0x61])
	kind, _ := m.message()
	require.Equal(t, hypercall.MessageIoPortIntercept, kind)
}

// VTL1 has nothing to wake it when it halts: that is an error, and not the end of the run.
func TestSecureHalt(t *testing.T) {
	m := pcRig(t, code(vtlCall, turnOff), halt)
	require.ErrorIs(t, m.run(), errHalted)
}

// Parameters of hypercalls are in RAM: not in registers of devices, on the display, or in the
// machine's first page.
func TestParametersInDevices(t *testing.T) {
	for _, gpa := range []uint64{0, 0xa0000, 0xb8000, 0xf0000, 0xfec00000, 0xfee00000, 0xfed00000, 0xe0000000, 1 << 38} {
		t.Run(fmt.Sprintf("%#x", gpa), func(t *testing.T) {
			m := pcRig(t, code(vmcallCode, turnOff), nil)
			l := m.processors[0].current
			l.Regs[asm.RCX] = uint64(hypercall.Input(hypercall.CodeGetVpRegisters).WithReps(1))
			l.Regs[asm.RDX], l.Regs[asm.R8] = gpa, pcData
			require.Equal(t, vmcs.VectorGP, m.entering(t, vmexit.VMCALL).Vector())
		})
	}
}

// In real-address mode there are no hypercalls.
func TestRealModeCall(t *testing.T) {
	m := pcRig(t, nil, nil)
	context := realContext(realBase >> 4)
	p := &m.processors[0]
	require.NoError(t, m.begin(&p.levels[0], &context))
	copy(m.memory.ram.Bytes()[hookAt+hookBegin:], vmcallCode)
	require.Equal(t, vmcs.VectorUD, m.entering(t, vmexit.VMCALL).Vector())
}

// Overlay pages can lie over anything, and what is beneath comes back as it was: registers are
// not passed through after it.
func TestOverlayOverDevices(t *testing.T) {
	m := pcRig(t, nil, nil)
	d := &m.domains[0]
	for _, gpa := range []uint64{0, 0xb8000, 0xc0000, 0xfee00000, 0xfec00000, 0xe0000000, pcHidden} {
		hpa, access, ok := d.behind(gpa >> pageShift)
		o := m.processors[0].levels[0].assist
		require.NoError(t, d.place(o, gpa>>pageShift, true))
		got, fault := d.view.Translate(gpa, 0)
		require.NoError(t, fault.Err())
		require.Equal(t, o.Phys(), got)
		require.NoError(t, d.place(o, 0, false))
		got, fault = d.view.Translate(gpa, 0)
		require.Equal(t, ok && access != 0, fault.Err() == nil, "%#x", gpa)
		if fault.Err() == nil {
			require.Equal(t, hpa, got)
		}
	}
}

// An NMI that has arrived elsewhere is VTL0's, once, when it can take it.
func TestForwardNMI(t *testing.T) {
	m := pcRig(t, turnOff, nil)
	require.ErrorIs(t, m.run(), errPowerOff)
	p := &m.processors[0]
	entry := func() vmcs.InterruptionInfo {
		v := vmcs.InterruptionInfo(p.exit.Read(vmcs.EntryInterruptionInformation))
		p.exit.Write(vmcs.EntryInterruptionInformation, 0)
		return v
	}
	p.forwardNMI(&p.exit)
	require.False(t, entry().Valid())
	nmis = 2
	p.current.Interruptibility = vmcs.BlockingByNMI
	p.forwardNMI(&p.exit)
	require.False(t, entry().Valid())
	p.current.Interruptibility = 0
	p.forwardNMI(&p.exit)
	require.Equal(t, vmcs.EventNMI, entry().Type())
	p.forwardNMI(&p.exit)
	require.False(t, entry().Valid())
}

// The time-stamp counter is one for both levels, whichever writes it.
func TestSharedTSC(t *testing.T) {
	read := []byte{0x0f, 0x31}                                                                             // rdtsc
	write := []byte{0xb9, 0x10, 0, 0, 0, 0xba, 0x34, 0x12, 0, 0, 0xb8, 0, 0, 0, 0, 0x0f, 0x30, 0x31, 0xd2} // ecx = 0x10; edx = 0x1234; eax = 0; wrmsr; xor edx, edx
	m := pcRig(t, code(write, vtlCall, turnOff), code(read, stop))
	m.stopped(t)
	require.Equal(t, uint64(0x1234), m.processors[0].current.Regs[asm.RDX])
}

// Whatever registers INT 15h is called with, the guest gets its answer or CF, in memory that it
// has.
func TestFirmwareHostile(t *testing.T) {
	m := pcRig(t, nil, nil)
	p := &m.processors[0]
	ram := m.memory.ram.Bytes()
	list := m.pc.memoryMap(false, true)
	hook(ram, realBase>>4)
	context := realContext(realBase >> 4)
	context.RIP = 0
	const smap = 0x534d4150
	for _, tt := range []struct {
		name               string
		ax, bx, cx, dx, di uint64
		es, ss             uint64
		good               bool
	}{
		{"E820", 0xe820, 0, 20, smap, 0, pcData, pcData, true},
		{"E820, the last", 0xe820, uint64(len(list) - 1), 24, smap, 0x10, pcData, pcData, true},
		{"E820, behind the last", 0xe820, uint64(len(list)), 20, smap, 0, pcData, pcData, false},
		{"E820, far behind", 0xe820, 0xffffffff, 20, smap, 0, pcData, pcData, false},
		{"E820, a small buffer", 0xe820, 0, 19, smap, 0, pcData, pcData, false},
		{"E820, no SMAP", 0xe820, 0, 20, 0, 0, pcData, pcData, false},
		{"E820, round the end of a segment", 0xe820, 0, 20, smap, 0xfff8, pcData, pcData, true},
		{"E820, behind 1 MiB", 0xe820, 0, 20, smap, 0xffe0, 0xffff0, pcData, true},
		{"E820, to the firmware", 0xe820, 0, 20, smap, 0, 0xf0000, pcData, false},
		{"E820, to the display", 0xe820, 0, 20, smap, 0, 0xb8000, pcData, false},
		{"E820, to registers", 0xe820, 0, 20, smap, 0, 0xfee00000, pcData, false},
		{"E820, to nowhere", 0xe820, 0, 20, smap, 0, 0xfffff000, pcData, false},
		{"E801", 0xe801, 0xffffffff, 0xffffffff, 0xffffffff, 0, pcData, pcData, true},
		{"88", 0x88ff, 0, 0, 0, 0, pcData, pcData, true},
		{"the stack is nowhere", 0xe801, 0, 0, 0, 0, pcData, 0xfffff000, false},
	} {
		m.active = nil // no VMCS is current
		require.NoError(t, m.begin(&p.levels[0], &context))
		l := p.current
		for r, v := range map[int]uint64{asm.RAX: tt.ax, asm.RBX: tt.bx, asm.RCX: tt.cx, asm.RDX: tt.dx, asm.RDI: 0xabcd<<16 | tt.di} {
			l.Regs[r] = v
		}
		require.NoError(t, m.with(l, func() error {
			w := vmcs.Current{}
			return errors.Join(w.Write(vmcs.GuestESBase, tt.es), w.Write(vmcs.GuestSSBase, tt.ss), w.Write(vmcs.GuestRSP, 0xfffa))
		}))
		const flags = pcData + 0xfffe
		ram[flags] = 0x54
		l.InstructionLength = 3
		m.active = p
		require.NoError(t, load(l))
		require.Equal(t, vmexit.Hold, p.firmware(&p.exit), tt.name)
		require.NoError(t, p.exit.Err())
		require.Equal(t, uint64(3), l.RIP, tt.name)
		if tt.ss == pcData {
			require.Equal(t, tt.good, ram[flags]&1 == 0, tt.name)
		}
	}
}
