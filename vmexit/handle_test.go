package vmexit_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

var errNoMemory = errors.New("no memory there")

// double is a VM exit in memory: a VMCS, registers, debug registers and guest memory.
type double struct {
	*vmexit.Exit
	caps   *vmcs.Capabilities
	image  *vmcs.Image
	cpuid  *vmexit.CPUIDPolicy
	dr     [8]uint64
	memory [0x4000]byte
}

func (d *double) ReadPhysical(gpa uint64, p []byte) error {
	if gpa+uint64(len(p)) > uint64(len(d.memory)) || gpa >= uint64(len(d.memory)) {
		return fmt.Errorf("%w: 0x%x", errNoMemory, gpa)
	}
	copy(p, d.memory[gpa:])
	return nil
}

func (d *double) WritePhysical(gpa uint64, p []byte) error {
	if gpa+uint64(len(p)) > uint64(len(d.memory)) || gpa >= uint64(len(d.memory)) {
		return fmt.Errorf("%w: 0x%x", errNoMemory, gpa)
	}
	copy(d.memory[gpa:], p)
	return nil
}

// translate has no page at 0x3000.
func (d *double) translate(_ *vmexit.Exit, linear uint64, write bool) (uint64, uint32, bool, error) {
	if linear>>12 == 3 {
		return 0, 2, false, nil
	}
	return linear, 0, true, nil
}

func newDouble(t require.T) *double {
	recorded, err := vmcs.RecordedModel("bochs-tigerlake")
	if err != nil {
		recorded, err = vmcs.RecordedModel(vmcs.Models()[0])
	}
	require.NoError(t, err)
	caps, err := recorded.Capabilities()
	require.NoError(t, err)
	d := &double{caps: caps, image: vmcs.NewShadow(caps).Image(), cpuid: vmexit.SnapshotCPUID(recorded.CPUID()).HideVMX()}
	d.Exit = &vmexit.Exit{Guest: new(asm.Guest), VMCS: d.image}
	return d
}

// long makes the guest one in 64-bit mode, with everything of CR0 and CR4 intercepted.
func (d *double) long() *double {
	for f, v := range map[vmcs.Field]uint64{
		vmcs.GuestCR0: 0x80010031, vmcs.CR0GuestHostMask: ^uint64(0), vmcs.CR0ReadShadow: 0x80010031,
		vmcs.GuestCR4: 0x2020, vmcs.CR4GuestHostMask: ^uint64(0), vmcs.CR4ReadShadow: 0x20,
		vmcs.GuestEFER: 0xd00, vmcs.VMEntryControls: uint64(vmcs.EntryIA32eModeGuest), vmcs.GuestCSAccessRights: 0xa09b,
		vmcs.GuestSSAccessRights: 0xc093, vmcs.GuestDSAccessRights: 0xc093, vmcs.GuestESAccessRights: 0xc093, vmcs.GuestTRAccessRights: 0x8b,
		vmcs.PrimaryProcessorBasedControls:   uint64(vmcs.PrimaryActivateSecondaryControls),
		vmcs.SecondaryProcessorBasedControls: uint64(vmcs.SecondaryEnableEPT | vmcs.SecondaryUnrestrictedGuest),
		vmcs.PrimaryVMExitControls:           uint64(vmcs.ExitHostAddressSpaceSize),
		vmcs.GuestRFLAGS:                     2,
	} {
		d.image.Set(f, v)
	}
	d.Guest.RFLAGS = 2
	return d
}

// dispatcher is Defaults for the double.
func (d *double) config() vmexit.Config {
	memory := &vmexit.GuestMemory{Physical: d, Translate: d.translate}
	return vmexit.Config{
		Capabilities: d.caps, CPUID: d.cpuid, Memory: memory,
		DebugRegisters: &vmexit.DebugRegisters{
			Read:  func(_ *vmexit.Exit, n int) uint64 { return d.dr[n&7] },
			Write: func(_ *vmexit.Exit, n int, v uint64) { d.dr[n&7] = v },
		},
		TSC:       &vmexit.TSC{Now: func() uint64 { return 1000 }},
		NMI:       func(*vmexit.Exit) {},
		Interrupt: func(*vmexit.Exit, vmcs.Vector) {},
		Random:    func() (uint64, bool) { return 0x1122334455667788, true },
	}
}

// injected returns the event that is to be injected.
func (d *double) injected() vmcs.Event {
	e, err := vmcs.ReadEvent(d.image)
	if err != nil {
		return vmcs.Event{}
	}
	return e
}

// exit sets an exit up.
func (d *double) exit(reason vmexit.Basic, qualification uint64, information uint32) {
	d.Begin()
	d.Guest.Reason, d.Guest.InstructionLength = uint32(reason), 3
	d.image.Set(vmcs.ExitQualification, qualification)
	d.image.Set(vmcs.ExitInstructionInformation, uint64(information))
	d.image.Set(vmcs.EntryInterruptionInformation, 0)
}

// crWrite is a case of TestControlRegisters. Mode, if not nil, changes the 64-bit guest.
type crWrite struct {
	name  string
	mode  map[vmcs.Field]uint64
	cr    int // -1: IA32_EFER
	value uint64
	fault bool
	want  map[vmcs.Field]uint64
}

// Guests beside the 64-bit one.
var (
	compatibility = map[vmcs.Field]uint64{vmcs.GuestCSAccessRights: 0xc09b}
	pae           = map[vmcs.Field]uint64{vmcs.GuestCSAccessRights: 0xc09b, vmcs.GuestEFER: 0x800, vmcs.VMEntryControls: 0}
	unpaged       = map[vmcs.Field]uint64{vmcs.GuestCSAccessRights: 0xc09b, vmcs.GuestEFER: 0x800, vmcs.VMEntryControls: 0,
		vmcs.CR0ReadShadow: 0x31, vmcs.GuestCR0: 0x31, vmcs.CR4ReadShadow: 0, vmcs.GuestCR4: 0x2000}
	lme = map[vmcs.Field]uint64{vmcs.GuestCSAccessRights: 0xc09b, vmcs.GuestEFER: 0x900, vmcs.VMEntryControls: 0,
		vmcs.CR0ReadShadow: 0x31, vmcs.GuestCR0: 0x31}
)

func with(m map[vmcs.Field]uint64, more ...uint64) map[vmcs.Field]uint64 {
	r := map[vmcs.Field]uint64{}
	for f, v := range m {
		r[f] = v
	}
	for i := 0; i < len(more); i += 2 {
		r[vmcs.Field(more[i])] = more[i+1]
	}
	return r
}

// crWrites are the rules of MOV to CR and WRMSR, each broken and kept (SDM Vol. 2B MOV—Move
// to/from Control Registers, Vol. 3A 2.5, 4.1.2, 4.4.1, 4.10.1).
var crWrites = []crWrite{
	{"CR0 as it is", nil, 0, 0x80010031, false, nil},
	{"CR0 bits 63:32", nil, 0, 1<<32 | 0x80010031, true, nil},
	{"CR0 reserved bits below are ignored", nil, 0, 0x9fceffff &^ (1<<29 | 1<<30), false, nil},
	{"PG without PE", nil, 0, 0x80010030, true, nil},
	{"NW without CD", nil, 0, 0xa0010031, true, nil},
	{"NW and CD are the guest's to read, not the processor's", nil, 0, 0xe0010031, false, map[vmcs.Field]uint64{vmcs.GuestCR0: 0x80010031, vmcs.CR0ReadShadow: 0xe0010031}},
	{"NE stays set", nil, 0, 0x80010011, false, map[vmcs.Field]uint64{vmcs.GuestCR0: 0x80010031, vmcs.CR0ReadShadow: 0x80010011}},
	{"PG off in 64-bit mode", nil, 0, 0x10031, true, nil},
	{"PG off in compatibility mode leaves IA-32e mode", compatibility, 0, 0x10031, false, map[vmcs.Field]uint64{vmcs.GuestEFER: 0x900, vmcs.VMEntryControls: 0}},
	{"PG off with PCIDE", with(compatibility, uint64(vmcs.CR4ReadShadow), 0x20020), 0, 0x10031, true, nil},
	{"PG on with LME enters IA-32e mode", lme, 0, 0x80000031, false, map[vmcs.Field]uint64{vmcs.GuestEFER: 0xd00, vmcs.VMEntryControls: 0x200}},
	{"PG on with LME, without PAE", with(lme, uint64(vmcs.CR4ReadShadow), 0), 0, 0x80000031, true, nil},
	{"PG on with LME, CS.L", with(lme, uint64(vmcs.GuestCSAccessRights), 0xa09b), 0, 0x80000031, true, nil},
	{"PG on with LME, 16-bit TSS", with(lme, uint64(vmcs.GuestTRAccessRights), 0x83), 0, 0x80000031, true, nil},
	{"PG on, 32-bit paging", unpaged, 0, 0x80000031, false, map[vmcs.Field]uint64{vmcs.GuestCR0: 0x80000031, vmcs.VMEntryControls: 0}},
	{"PG on, PAE paging, PDPTEs", with(unpaged, uint64(vmcs.CR4ReadShadow), 0x20, uint64(vmcs.GuestCR3), 0x1000), 0, 0x80000031, false,
		map[vmcs.Field]uint64{vmcs.GuestPDPTE0: 0x2001, vmcs.GuestPDPTE1: 0x2009, vmcs.GuestPDPTE2: 0, vmcs.GuestPDPTE3: 0x1e6}},
	{"PG on, PAE paging, PDPTE with reserved bit", with(unpaged, uint64(vmcs.CR4ReadShadow), 0x20, uint64(vmcs.GuestCR3), 0x1020), 0, 0x80000031, true, nil},
	{"WP off with CET", with(nil, uint64(vmcs.CR4ReadShadow), 1<<23|0x20), 0, 0x80000031, true, nil},
	{"real-address mode", unpaged, 0, 0x30, false, map[vmcs.Field]uint64{vmcs.GuestCR0: 0x30}},

	{"CR3", nil, 3, 0x5000, false, map[vmcs.Field]uint64{vmcs.GuestCR3: 0x5000}},
	{"CR3 above the physical-address width", nil, 3, 1 << 52, true, nil},
	{"CR3 bit 63 without PCIDE", nil, 3, 1 << 63, true, nil},
	{"CR3 bit 63 with PCIDE", with(nil, uint64(vmcs.CR4ReadShadow), 0x20020), 3, 1<<63 | 0x5007, false, map[vmcs.Field]uint64{vmcs.GuestCR3: 0x5007}},
	{"CR3, PAE paging, PDPTEs", pae, 3, 0x1000, false, map[vmcs.Field]uint64{vmcs.GuestPDPTE0: 0x2001, vmcs.GuestCR3: 0x1000}},
	{"CR3, PAE paging, bad PDPTE", pae, 3, 0x1020, true, nil},
	{"CR3, PAE paging, PDPTE beyond the width", pae, 3, 0x1040, true, nil},

	{"CR4 as it is", nil, 4, 0x20, false, nil},
	{"CR4 reserved bit 15", nil, 4, 0x8020, true, nil},
	{"CR4 bits 63:32", nil, 4, 1<<33 | 0x20, true, nil},
	{"CR4.VMXE is not there", nil, 4, 0x2020, true, nil},
	{"PAE off in IA-32e mode", nil, 4, 0, true, nil},
	{"PCIDE", nil, 4, 0x20020, false, map[vmcs.Field]uint64{vmcs.GuestCR4: 0x22020, vmcs.CR4ReadShadow: 0x20020}},
	{"PCIDE outside of IA-32e mode", pae, 4, 0x20020, true, nil},
	{"PCIDE with a PCID", with(nil, uint64(vmcs.GuestCR3), 0x5001), 4, 0x20020, true, nil},
	{"PAE on without paging", unpaged, 4, 0x20, false, map[vmcs.Field]uint64{vmcs.GuestCR4: 0x2020}},
	{"PGE with PAE paging loads PDPTEs", with(pae, uint64(vmcs.GuestCR3), 0x1000), 4, 0xa0, false, map[vmcs.Field]uint64{vmcs.GuestPDPTE1: 0x2009}},
	{"PGE with PAE paging, bad PDPTE", with(pae, uint64(vmcs.GuestCR3), 0x1020), 4, 0xa0, true, nil},
	{"DE with PAE paging loads none", with(pae, uint64(vmcs.GuestCR3), 0x1020), 4, 0x28, false, nil},
	{"LA57 in IA-32e mode", nil, 4, 0x1020, true, nil},

	{"CR8", nil, 8, 15, false, nil},
	{"CR8 above 15", nil, 8, 16, true, nil},

	{"EFER.SCE", nil, -1, 0xd01, false, map[vmcs.Field]uint64{vmcs.GuestEFER: 0xd01}},
	{"EFER.LMA is kept", nil, -1, 0x900, false, map[vmcs.Field]uint64{vmcs.GuestEFER: 0xd00}},
	{"EFER.LME with paging", nil, -1, 0x800, true, nil},
	{"EFER.LME without paging", unpaged, -1, 0x100, false, map[vmcs.Field]uint64{vmcs.GuestEFER: 0x100}},
	{"EFER reserved bit", nil, -1, 0xd02, true, nil},
}

func (d *double) pdptes() {
	for i, v := range []uint64{0x2001, 0x2009, 0, 0x1e6, 0x2003, 0, 0, 0, 1<<51 | 1, 0, 0, 0} {
		binary.LittleEndian.PutUint64(d.memory[0x1000+8*i:], v)
	}
}

func TestControlRegisters(t *testing.T) {
	for _, c := range crWrites {
		d := newDouble(t).long()
		for f, v := range c.mode {
			d.image.Set(f, v)
		}
		d.pdptes()
		if c.cr < 0 {
			d.exit(vmexit.WRMSR, 0, 0)
			d.Guest.Regs[asm.RCX], d.Guest.Regs[asm.RAX] = 0xc0000080, c.value
		} else {
			d.exit(vmexit.CRAccess, uint64(c.cr)|3<<8, 0) // from RBX
			d.Guest.Regs[asm.RBX] = c.value
		}
		before := *d.image
		o := vmexit.Defaults(d.config()).Build().Dispatch(d.Exit)
		require.NoError(t, d.Err(), "%s", c.name)
		if c.fault {
			require.Equal(t, vmexit.Hold, o, "%s", c.name)
			require.Equal(t, vmcs.InjectException(vmcs.VectorGP, 0), d.injected(), "%s", c.name)
			for _, f := range []vmcs.Field{vmcs.GuestCR0, vmcs.GuestCR3, vmcs.GuestCR4, vmcs.GuestEFER, vmcs.CR0ReadShadow, vmcs.CR4ReadShadow, vmcs.VMEntryControls, vmcs.GuestPDPTE0} {
				was, _ := before.Get(f)
				is, _ := d.image.Get(f)
				require.Equal(t, was, is, "%s: %v", c.name, f)
			}
			continue
		}
		require.Equal(t, vmexit.Resume, o, "%s", c.name)
		require.False(t, d.injected().Info.Valid(), "%s", c.name)
		for f, want := range c.want {
			is, _ := d.image.Get(f)
			require.Equal(t, want, is, "%s: %v", c.name, f)
		}
	}
}

// TestControlRegistersStayValid: whatever a guest does to its control registers, the next
// VM entry does not fail for it.
func TestControlRegistersStayValid(t *testing.T) {
	ring0test.CheckOnHost(t, func(t *rapid.T) {
		d := newDouble(t).long()
		for f, v := range rapid.SampledFrom([]map[vmcs.Field]uint64{nil, compatibility, pae, unpaged, lme}).Draw(t, "mode") {
			d.image.Set(f, v)
		}
		d.pdptes()
		violated := func() map[string]bool {
			m := map[string]bool{}
			for _, v := range vmcs.Check(d.image, d.caps).Violations {
				m[v.Rule.ID] = true
			}
			return m
		}
		before := violated()
		dispatcher := vmexit.Defaults(d.config()).Build()
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			v := rapid.Custom(func(t *rapid.T) uint64 {
				v := rapid.SampledFrom([]uint64{0, 0x80010031, 0x31, 0x20, 0x1000, 0x900}).Draw(t, "base")
				for _, n := range rapid.SliceOfN(rapid.IntRange(0, 63), 0, 4).Draw(t, "bits") {
					v ^= 1 << n
				}
				return v
			}).Draw(t, "value")
			d.Guest.Regs[asm.RBX], d.Guest.Regs[asm.RAX], d.Guest.Regs[asm.RDX] = v, v&0xffffffff, v>>32
			d.Guest.Regs[asm.RCX] = 0xc0000080
			switch n := rapid.IntRange(0, 6).Draw(t, "instruction"); n {
			case 0, 1, 2, 3:
				d.exit(vmexit.CRAccess, []uint64{0, 3, 4, 8}[n]|3<<8, 0)
			case 4:
				d.exit(vmexit.CRAccess, 2<<4, 0)
			case 5:
				d.exit(vmexit.CRAccess, 3<<4|v<<16&0xffff0000, 0)
			case 6:
				d.exit(vmexit.WRMSR, 0, 0)
			}
			if o := dispatcher.Dispatch(d.Exit); o == vmexit.Stop {
				require.ErrorIs(t, d.Err(), errNoMemory) // page-directory pointers where nothing is
				return
			}
			require.NoError(t, d.Err())
			d.image.Set(vmcs.EntryInterruptionInformation, 0)
			for id := range violated() {
				require.True(t, before[id], "the VM entry would break %s", id)
			}
		}
	})
}

// TestHandlersAreTotal: no exit makes a handler panic, or do more than it can say in an
// outcome.
func TestHandlersAreTotal(t *testing.T) {
	ring0test.CheckOnHost(t, func(t *rapid.T) {
		d := newDouble(t).long()
		u := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 255), rapid.SampledFrom([]uint64{^uint64(0), 1 << 63, 0x2ff8, 0x3ff8}))
		d.exit(vmexit.Basic(rapid.Uint16Range(0, 100).Draw(t, "reason")), u.Draw(t, "qualification"), rapid.Uint32().Draw(t, "information"))
		for n := range d.Guest.Regs {
			d.Guest.Regs[n] = u.Draw(t, "register")
		}
		d.Guest.InstructionLength = rapid.Uint32().Draw(t, "length")
		d.Guest.RIP = u.Draw(t, "RIP")
		for _, f := range []vmcs.Field{
			vmcs.GuestCR0, vmcs.GuestCR4, vmcs.CR0ReadShadow, vmcs.CR4ReadShadow, vmcs.GuestEFER, vmcs.GuestCSAccessRights, vmcs.GuestSSAccessRights,
			vmcs.GuestDSLimit, vmcs.GuestESLimit, vmcs.GuestGDTRLimit, vmcs.GuestGDTRBase, vmcs.GuestDR7, vmcs.GuestRSP, vmcs.VMEntryControls,
			vmcs.ExitInterruptionInformation, vmcs.IDTVectoringInformation, vmcs.PrimaryProcessorBasedControls, vmcs.SecondaryProcessorBasedControls,
		} {
			if rapid.Bool().Draw(t, "change") {
				d.image.Set(f, u.Draw(t, "field"))
			}
		}
		config := d.config()
		config.Ports = vmexit.NewPorts()
		o := vmexit.Defaults(config).Build().Dispatch(d.Exit)
		require.True(t, o <= vmexit.Stop)
		if o == vmexit.Resume {
			d.Advance()
		}
		if o == vmexit.Stop && d.Err() != nil {
			require.NotEmpty(t, d.Err().Error())
		}
	})
}

// TestHostNMI: the host takes an NMI that nobody else does, where it can.
func TestHostNMI(t *testing.T) {
	d := newDouble(t).long()
	d.exit(vmexit.ExceptionOrNMI, 0, 0)
	d.image.Set(vmcs.ExitInterruptionInformation, uint64(vmcs.InjectNMI().Info))
	config := d.config()
	config.NMI = nil
	o := vmexit.Defaults(config).Build().Dispatch(d.Exit)
	if ring0.Active() {
		require.NoError(t, d.Err())
		require.Equal(t, vmexit.Hold, o)
		return
	}
	require.Equal(t, vmexit.Stop, o)
	require.ErrorIs(t, d.Err(), vmexit.ErrNMI)
}

// TestRaise: what becomes of an exception.
func TestRaise(t *testing.T) {
	const df = uint64(0x80000b08)
	for _, c := range []struct {
		name      string
		vectoring uint64
		cr0       uint64
		raise     func(*vmexit.Exit) vmexit.Outcome
		info      uint64
		code, cr2 uint64
		rf, stop  bool
	}{
		{"#GP", 0, 1, func(x *vmexit.Exit) vmexit.Outcome { return x.Raise(vmcs.VectorGP, 8) }, 0x80000b0d, 8, 0, true, false},
		{"#UD", 0, 1, func(x *vmexit.Exit) vmexit.Outcome { return x.Raise(vmcs.VectorUD, 8) }, 0x80000306, 0, 0, true, false},
		{"#GP in real-address mode", 0, 0, func(x *vmexit.Exit) vmexit.Outcome { return x.Raise(vmcs.VectorGP, 8) }, 0x8000030d, 0, 0, true, false},
		{"#PF", 0, 1, func(x *vmexit.Exit) vmexit.Outcome { return x.RaisePageFault(0x1234, 6) }, 0x80000b0e, 6, 0x1234, true, false},
		{"#DB", 0, 1, func(x *vmexit.Exit) vmexit.Outcome { return x.Raise(vmcs.VectorDB, 0) }, 0x80000301, 0, 0, false, false},
		{"#GP within an interrupt", 0x80000030, 1, func(x *vmexit.Exit) vmexit.Outcome { return x.Raise(vmcs.VectorGP, 8) }, 0x80000b0d, 8, 0, true, false},
		{"#GP within #PF", 0x80000b0e, 1, func(x *vmexit.Exit) vmexit.Outcome { return x.Raise(vmcs.VectorGP, 8) }, df, 0, 0, false, false},
		{"#PF within #GP", 0x80000b0d, 1, func(x *vmexit.Exit) vmexit.Outcome { return x.RaisePageFault(0x1234, 6) }, 0x80000b0e, 6, 0x1234, true, false},
		{"#PF within #PF", 0x80000b0e, 1, func(x *vmexit.Exit) vmexit.Outcome { return x.RaisePageFault(0x1234, 6) }, df, 0, 0x1234, false, false},
		{"#GP within #DF", df, 1, func(x *vmexit.Exit) vmexit.Outcome { return x.Raise(vmcs.VectorGP, 8) }, 0, 0, 0, false, true},
	} {
		d := newDouble(t).long()
		d.exit(vmexit.EPTViolation, 0, 0)
		d.image.Set(vmcs.IDTVectoringInformation, c.vectoring)
		d.image.Set(vmcs.GuestCR0, c.cr0)
		o := c.raise(d.Exit)
		if c.stop {
			require.Equal(t, vmexit.Stop, o, "%s", c.name)
			require.ErrorIs(t, d.Err(), vmexit.ErrTripleFault, "%s", c.name)
			continue
		}
		require.Equal(t, vmexit.Hold, o, "%s", c.name)
		info, _ := d.image.Get(vmcs.EntryInterruptionInformation)
		code, _ := d.image.Get(vmcs.EntryExceptionErrorCode)
		flags, _ := d.image.Get(vmcs.GuestRFLAGS)
		require.Equal(t, [4]uint64{c.info, c.code, c.cr2}, [4]uint64{info, code, d.Guest.CR2}, "%s", c.name)
		require.Equal(t, c.rf, flags>>16&1 == 1, "%s", c.name)
	}
}

// TestAdvance: RIP and what an instruction's end changes besides.
func TestAdvance(t *testing.T) {
	for _, c := range []struct {
		cs, rip, flags, blocking   uint64
		wantRIP, wantFlags, wantBS uint64
	}{
		{0xa09b, 0xfffffffe, 2, 3, 0x100000001, 2, 0},
		{0xc09b, 0xfffffffe, 2, 8, 1, 2, 0},
		{0xa09b, 0x1000, 0x10102, 0, 0x1003, 0x102, 1 << 14},
	} {
		d := newDouble(t).long()
		d.image.Set(vmcs.GuestCSAccessRights, c.cs)
		d.image.Set(vmcs.GuestDebugCtl, 0)
		d.exit(vmexit.CPUID, 0, 0)
		d.Guest.RIP, d.Guest.RFLAGS, d.Guest.Interruptibility = c.rip, c.flags, uint32(c.blocking)
		d.image.Set(vmcs.GuestRFLAGS, c.flags)
		d.image.Set(vmcs.GuestInterruptibilityState, c.blocking)
		d.Advance()
		require.NoError(t, d.Err())
		flags, _ := d.image.Get(vmcs.GuestRFLAGS)
		blocking, _ := d.image.Get(vmcs.GuestInterruptibilityState)
		bs, _ := d.image.Get(vmcs.GuestPendingDebugExceptions)
		require.Equal(t, [4]uint64{c.wantRIP, c.wantFlags, c.blocking &^ 3, c.wantBS}, [4]uint64{d.Guest.RIP, flags, blocking, bs})
	}
}

// TestCPUIDPolicy: leaves as data.
func TestCPUIDPolicy(t *testing.T) {
	d := newDouble(t).long()
	p := d.cpuid.PresentHypervisor("vtx in tests", vmexit.CPUIDRegisters{1, 2, 3, 4}).SetAPICID(func(*vmexit.Exit) uint32 { return 5 })
	h := p.Handler()
	ask := func(leaf, sub uint64) vmexit.CPUIDRegisters {
		d.exit(vmexit.CPUID, 0, 0)
		d.Guest.Regs[asm.RAX], d.Guest.Regs[asm.RCX] = leaf|0xabcd<<32, sub
		require.Equal(t, vmexit.Resume, h(d.Exit))
		r := &d.Guest.Regs
		require.Zero(t, (r[asm.RAX]|r[asm.RBX]|r[asm.RCX]|r[asm.RDX])>>32)
		return vmexit.CPUIDRegisters{uint32(r[asm.RAX]), uint32(r[asm.RBX]), uint32(r[asm.RCX]), uint32(r[asm.RDX])}
	}
	const vmx, osxsave, hypervisor = 1 << 5, 1 << 27, 1 << 31
	one := ask(1, 0)
	require.Equal(t, uint32(hypervisor), one.ECX&(vmx|osxsave|hypervisor))
	require.Equal(t, uint32(5), one.EBX>>24)
	d.image.Set(vmcs.CR4ReadShadow, 1<<18|0x20)
	require.Equal(t, uint32(hypervisor|osxsave), ask(1, 0).ECX&(vmx|osxsave|hypervisor))
	require.Equal(t, vmexit.CPUIDRegisters{0x40000001, 0x20787476, 0x74206e69, 0x73747365}, ask(0x40000000, 0))
	require.Equal(t, vmexit.CPUIDRegisters{1, 2, 3, 4}, ask(0x40000001, 9))
	highest := ask(0, 0).EAX
	for _, leaf := range []uint64{uint64(highest) + 1, 0x40000002, 0x80001000, 0xc0000000, 0xffffffff} {
		require.Equal(t, ask(uint64(highest), 1), ask(leaf, 1), "leaf 0x%x", leaf)
	}
	const syscall = 1 << 11
	require.NotZero(t, ask(0x80000001, 0).EDX&syscall)
	d.image.Set(vmcs.GuestCSAccessRights, 0xc09b)
	require.Zero(t, ask(0x80000001, 0).EDX&syscall)
	require.Equal(t, vmexit.CPUIDRegisters{}, ask(7, 77))
	p.Set(7, 3, vmexit.CPUIDRegisters{9, 9, 9, 9}).Mask(7, 3, vmexit.CPUIDRegisters{1, 0, 8, 6})
	require.Equal(t, vmexit.CPUIDRegisters{1, 0, 8, 0}, ask(7, 3))
	require.Panics(t, func() { p.Set(64, 0, vmexit.CPUIDRegisters{}) })
}

// TestMSRPolicy: rules against what the handlers and the bitmap do.
func TestMSRPolicy(t *testing.T) {
	d := newDouble(t).long()
	written := uint64(0)
	p := vmexit.NewMSRPolicy(vmexit.DenyMSR()).Set(0x8b, vmexit.IgnoreMSR(7)).Set(0x1fff, vmexit.ValueMSR(1<<40|3)).
		SetRange(0xc0000100, 0xc0000102, vmexit.AllowMSR()).
		Set(0x40000001, vmexit.MSRRule{Write: func(_ *vmexit.Exit, msr uint32, v uint64) bool { written = v; return v != 1 }})
	read := func(msr uint64) (uint64, bool) {
		d.exit(vmexit.RDMSR, 0, 0)
		d.Guest.Regs[asm.RCX] = msr | 1<<50
		o := p.RDMSR()(d.Exit)
		return d.Guest.Regs[asm.RDX]<<32 | d.Guest.Regs[asm.RAX], o == vmexit.Resume
	}
	write := func(msr, v uint64) bool {
		d.exit(vmexit.WRMSR, 0, 0)
		d.Guest.Regs[asm.RCX], d.Guest.Regs[asm.RAX], d.Guest.Regs[asm.RDX] = msr, v&0xffffffff|1<<60, v>>32
		return p.WRMSR()(d.Exit) == vmexit.Resume
	}
	v, ok := read(0x1fff)
	require.True(t, ok && v == 1<<40|3)
	require.False(t, write(0x1fff, 1))
	require.Equal(t, vmcs.InjectException(vmcs.VectorGP, 0), d.injected())
	require.True(t, write(0x8b, 1))
	v, ok = read(0x8b)
	require.True(t, ok && v == 7)
	require.True(t, write(0xc0000100, 0x7fffffffffff))
	base, _ := d.image.Get(vmcs.GuestFSBase)
	require.Equal(t, uint64(0x7fffffffffff), base)
	require.False(t, write(0xc0000100, 0x800000000000))
	require.True(t, write(0x40000001, 1<<33))
	require.Equal(t, uint64(1<<33), written)
	require.False(t, write(0x40000001, 1))
	for _, msr := range []uint64{0x2000, 0x40000000, 0x40000001, 0x80000000, 0xc0002000, 0xffffffff, 0x3a} {
		_, ok := read(msr)
		require.False(t, ok, "MSR 0x%x", msr)
	}
	var bitmap vmcs.MSRBitmap
	require.NoError(t, p.FillBitmap(&bitmap))
	for _, msr := range []uint32{0xc0000100, 0xc0000101, 0xc0000102} {
		require.Equal(t, vmcs.MSRAccess(0), bitmap.Intercepted(msr))
	}
	for _, msr := range []uint32{0, 0x8b, 0x1fff, 0xc0000103, 0x277} {
		require.Equal(t, vmcs.MSRReadWrite, bitmap.Intercepted(msr))
	}
	require.Panics(t, func() { p.Set(0x2000, vmexit.DenyMSR()) })
	require.Panics(t, func() { p.SetRange(0x1fff, 0x40000000, vmexit.DenyMSR()) })
}

// TestStringIOIsBounded: REP with any count does a bounded number of iterations, and goes
// on where it stopped.
func TestStringIOIsBounded(t *testing.T) {
	d := newDouble(t).long()
	device := new(serial)
	config := d.config()
	config.Ports = vmexit.NewPorts().Set(0x3f8, 0x3f8, device)
	config.Ports.MaxIterations = 10
	h := vmexit.Defaults(config).Build()
	const outs, rep = 1 << 4, 1 << 5
	d.exit(vmexit.IOInstruction, 0x3f8<<16|rep|outs, 2<<7|3<<15) // 64-bit addresses, DS
	d.Guest.Regs[asm.RCX], d.Guest.Regs[asm.RSI] = ^uint64(0), 0x10
	require.Equal(t, vmexit.Hold, h.Dispatch(d.Exit))
	require.Equal(t, ^uint64(0)-10, d.Guest.Regs[asm.RCX])
	require.Equal(t, uint64(0x1a), d.Guest.Regs[asm.RSI])
	require.Equal(t, uint32(10), device.n)
	require.False(t, d.injected().Info.Valid())

	// At a page that is not there the fault comes, with what is done before it kept.
	d.exit(vmexit.IOInstruction, 0x3f8<<16|rep|outs|1, 2<<7|3<<15)
	d.Guest.Regs[asm.RCX], d.Guest.Regs[asm.RSI] = 9, 0x2ffa
	require.Equal(t, vmexit.Hold, h.Dispatch(d.Exit))
	require.Equal(t, vmcs.InjectException(vmcs.VectorPF, 2), d.injected())
	require.Equal(t, [3]uint64{6, 0x3000, 0x3000}, [3]uint64{d.Guest.Regs[asm.RCX], d.Guest.Regs[asm.RSI], d.Guest.CR2})
}

// TestEvents: exits that are not instructions.
func TestEvents(t *testing.T) {
	const nmi = 1 << 3
	for _, c := range []struct {
		name    string
		reason  vmexit.Basic
		fields  map[vmcs.Field]uint64
		outcome vmexit.Outcome
		err     error
		want    map[vmcs.Field]uint64
	}{
		{"#PF is reflected", vmexit.ExceptionOrNMI, map[vmcs.Field]uint64{vmcs.ExitInterruptionInformation: 0x80000b0e, vmcs.ExitInterruptionErrorCode: 6, vmcs.ExitQualification: 0x1234},
			vmexit.Hold, nil, map[vmcs.Field]uint64{vmcs.EntryInterruptionInformation: 0x80000b0e, vmcs.EntryExceptionErrorCode: 6}},
		{"INT3 is reflected", vmexit.ExceptionOrNMI, map[vmcs.Field]uint64{vmcs.ExitInterruptionInformation: 0x80000603},
			vmexit.Hold, nil, map[vmcs.Field]uint64{vmcs.EntryInterruptionInformation: 0x80000603, vmcs.EntryInstructionLength: 3}},
		{"#DB clears GD and LBR", vmexit.ExceptionOrNMI, map[vmcs.Field]uint64{vmcs.ExitInterruptionInformation: 0x80000301, vmcs.ExitQualification: 0x4001, vmcs.GuestDR7: 0x2400, vmcs.GuestDebugCtl: 1},
			vmexit.Hold, nil, map[vmcs.Field]uint64{vmcs.EntryInterruptionInformation: 0x80000301, vmcs.GuestDR7: 0x400, vmcs.GuestDebugCtl: 0}},
		{"machine check", vmexit.ExceptionOrNMI, map[vmcs.Field]uint64{vmcs.ExitInterruptionInformation: 0x80000312}, vmexit.Stop, vmexit.ErrMachineCheck, nil},
		{"NMI", vmexit.ExceptionOrNMI, map[vmcs.Field]uint64{vmcs.ExitInterruptionInformation: 0x80000202}, vmexit.Hold, nil, map[vmcs.Field]uint64{vmcs.EntryInterruptionInformation: 0}},
		{"interrupt", vmexit.ExternalInterrupt, map[vmcs.Field]uint64{vmcs.ExitInterruptionInformation: 0x80000030}, vmexit.Hold, nil, nil},
		{"triple fault", vmexit.TripleFault, nil, vmexit.Stop, vmexit.ErrTripleFault, nil},
		{"task switch", vmexit.TaskSwitch, nil, vmexit.Stop, vmexit.ErrTaskSwitch, nil},
		{"SIPI", vmexit.SIPI, map[vmcs.Field]uint64{vmcs.ExitQualification: 0x9a, vmcs.GuestActivityState: 3}, vmexit.Hold, nil,
			map[vmcs.Field]uint64{vmcs.GuestCSSelector: 0x9a00, vmcs.GuestCSBase: 0x9a000, vmcs.GuestActivityState: 0}},
		{"interrupt window", vmexit.InterruptWindow, map[vmcs.Field]uint64{vmcs.PrimaryProcessorBasedControls: 4}, vmexit.Hold, nil, map[vmcs.Field]uint64{vmcs.PrimaryProcessorBasedControls: 0}},
		{"preemption timer", vmexit.PreemptionTimer, nil, vmexit.Stop, nil, nil},
		{"reserved reason", 35, nil, vmexit.Stop, vmexit.ErrUnhandled, nil},
		{"unknown reason", 0x1234, nil, vmexit.Stop, vmexit.ErrUnhandled, nil},
		{"VMXON", vmexit.VMXON, nil, vmexit.Hold, nil, map[vmcs.Field]uint64{vmcs.EntryInterruptionInformation: 0x80000306}},
	} {
		d := newDouble(t).long()
		d.exit(c.reason, 0, 0)
		for f, v := range c.fields {
			d.image.Set(f, v)
		}
		o := vmexit.Defaults(d.config()).Build().Dispatch(d.Exit)
		require.Equal(t, c.outcome, o, "%s: %v", c.name, d.Err())
		require.True(t, errors.Is(d.Err(), c.err), "%s: %v", c.name, d.Err())
		for f, v := range c.want {
			is, _ := d.image.Get(f)
			require.Equal(t, v, is, "%s: %v", c.name, f)
		}
	}
	// Retry delivers again what was being delivered, and blocks NMIs again.
	d := newDouble(t).long()
	d.exit(vmexit.EPTViolation, 0, 0)
	d.image.Set(vmcs.IDTVectoringInformation, 0x80000202)
	d.Guest.Interruptibility = nmi
	require.Equal(t, vmexit.Hold, d.Retry())
	require.Equal(t, vmcs.InjectNMI(), d.injected())
	require.Zero(t, d.Guest.Interruptibility)
	d.exit(vmexit.EPTViolation, 1<<12, 0)
	d.image.Set(vmcs.IDTVectoringInformation, 0)
	require.Equal(t, vmexit.Hold, d.Retry())
	require.Equal(t, uint32(nmi), d.Guest.Interruptibility)
}

// TestNMIInjection: what blocks NMIs. The window opens with blocking by STI where that
// is not among it.
func TestNMIInjection(t *testing.T) {
	const sti, movSS, nmi = vmcs.BlockingBySTI, vmcs.BlockingByMOVSS, vmcs.BlockingByNMI
	for _, tt := range []struct {
		reason          vmexit.Basic
		before, pending uint32
		ok              bool
		after           uint32
	}{
		{vmexit.PreemptionTimer, 0, 0, true, 0},
		{vmexit.PreemptionTimer, sti, 0, false, sti},
		{vmexit.PreemptionTimer, movSS, 0, false, movSS},
		{vmexit.PreemptionTimer, nmi, 0, false, nmi},
		{vmexit.PreemptionTimer, 0, 0x80000030, false, 0},
		{vmexit.NMIWindow, 0, 0, true, 0},
		{vmexit.NMIWindow, sti, 0, true, 0},
		{vmexit.NMIWindow, sti, 0x80000030, false, sti},
		{vmexit.NMIWindow, sti | nmi, 0, false, sti | nmi},
		{vmexit.NMIWindow, movSS, 0, false, movSS},
	} {
		d := newDouble(t).long()
		d.exit(tt.reason, 0, 0)
		d.Guest.Interruptibility = tt.before
		d.image.Set(vmcs.GuestInterruptibilityState, uint64(tt.before))
		d.image.Set(vmcs.EntryInterruptionInformation, uint64(tt.pending))
		require.Equal(t, tt.ok, d.NMI(), "%+v", tt)
		require.Equal(t, tt.after, d.Guest.Interruptibility, "%+v", tt)
		state, _ := d.image.Get(vmcs.GuestInterruptibilityState)
		require.Equal(t, uint64(tt.after), state, "%+v", tt)
		if tt.ok {
			require.Equal(t, vmcs.InjectNMI(), d.injected(), "%+v", tt)
		}
	}
}

// TestEntryFailureExplains: the error of a failed VM entry names the rule.
func TestEntryFailureExplains(t *testing.T) {
	d := newDouble(t).long()
	d.exit(vmexit.InvalidGuestState, 0, 0)
	d.Guest.Reason |= 1 << 31
	require.Equal(t, vmexit.Stop, vmexit.EntryFailed(d.caps)(d.Exit))
	var failure *vmexit.EntryFailure
	require.ErrorAs(t, d.Err(), &failure)
	require.NotEmpty(t, failure.Report.Violations)
	require.Contains(t, d.Err().Error(), failure.Report.First().Rule.ID)
}

// TestHandlersDoNotAllocate: the handlers of instructions, with a counter above.
func TestHandlersDoNotAllocate(t *testing.T) {
	d := newDouble(t).long()
	config := d.config()
	config.Hypercall = func(*vmexit.Exit) vmexit.Outcome { return vmexit.Resume }
	config.Ports = vmexit.NewPorts().Set(0x3f8, 0x3ff, new(serial))
	counter := new(vmexit.Counter)
	h := vmexit.Defaults(config).OverAll(counter.Layer).Build()
	for _, c := range []struct {
		reason        vmexit.Basic
		qualification uint64
		information   uint32
	}{
		{vmexit.CPUID, 0, 0}, {vmexit.VMCALL, 0, 0}, {vmexit.RDMSR, 0, 0}, {vmexit.WRMSR, 0, 0}, {vmexit.IOInstruction, 0x3f80000, 0},
		{vmexit.IOInstruction, 0x3f80000 | 1<<4, 2<<7 | 3<<15}, {vmexit.CRAccess, 0x300, 0}, {vmexit.CRAccess, 0x303, 0}, {vmexit.CRAccess, 0x304, 0},
		{vmexit.MOVDR, 0, 0}, {vmexit.RDTSC, 0, 0}, {vmexit.RDRAND, 0, 1 << 11}, {vmexit.INVLPG, 0, 0}, {vmexit.VMXON, 0, 0},
		{vmexit.ExceptionOrNMI, 0, 0}, {vmexit.GDTRIDTRAccess, 0x100, 2<<7 | 3<<15 | 1<<22 | 1<<27},
	} {
		d.exit(c.reason, c.qualification, c.information)
		d.image.Set(vmcs.ExitInterruptionInformation, 0x80000b0e)
		n := testing.AllocsPerRun(100, func() {
			d.Begin()
			h.Dispatch(d.Exit)
			d.Advance()
		})
		require.NoError(t, d.Err(), "%v", c.reason)
		require.Zero(t, n, "%v", c.reason)
	}
	require.NotZero(t, counter.Count(vmexit.CPUID))
	require.Zero(t, counter.Count(vmexit.HLT))
}

// TestTSC: the counter as the VMCS scales and offsets it (SDM Vol. 3C 26.3).
func TestTSC(t *testing.T) {
	const offsetting, scaling = uint64(vmcs.PrimaryUseTSCOffsetting), uint64(vmcs.SecondaryUseTSCScaling)
	secondary := uint64(vmcs.PrimaryActivateSecondaryControls)
	for _, c := range []struct{ now, primary, secondary, offset, multiplier, want uint64 }{
		{1000, 0, scaling, 5, 2 << 48, 1000},
		{1000, offsetting, scaling, 5, 2 << 48, 1005},
		{1000, offsetting | secondary, scaling, 5, 2 << 48, 2005},
		{1000, offsetting | secondary, scaling, ^uint64(0), 1 << 47, 499},
		{1 << 63, offsetting | secondary, scaling, 0, 3 << 47, 3 << 62},
	} {
		d := newDouble(t).long()
		tsc := &vmexit.TSC{Now: func() uint64 { return c.now }}
		for f, v := range map[vmcs.Field]uint64{vmcs.PrimaryProcessorBasedControls: c.primary, vmcs.SecondaryProcessorBasedControls: c.secondary,
			vmcs.TSCOffset: c.offset, vmcs.TSCMultiplier: c.multiplier} {
			d.image.Set(f, v)
		}
		d.exit(vmexit.RDTSC, 0, 0)
		require.Equal(t, vmexit.Resume, tsc.RDTSC(d.Exit))
		require.Equal(t, c.want, d.Guest.Regs[asm.RDX]<<32|d.Guest.Regs[asm.RAX])
		rule := tsc.MSR()
		require.Equal(t, c.primary&offsetting != 0, rule.Write(d.Exit, 0x10, 0x1234567890))
		if d.Err() == nil {
			require.Equal(t, uint64(0x1234567890), tsc.Value(d.Exit))
		}
	}
}

// TestTrace: the layer sees each exit and what was made of it.
func TestTrace(t *testing.T) {
	d := newDouble(t).long()
	var seen []string
	h := vmexit.Defaults(d.config()).OverAll(vmexit.Trace(func(x *vmexit.Exit, o vmexit.Outcome) {
		seen = append(seen, fmt.Sprint(x.Reason(), ": ", o))
	})).Build()
	for _, reason := range []vmexit.Basic{vmexit.PAUSE, vmexit.VMXON, vmexit.HLT, 0xfff0} {
		d.exit(reason, 0, 0)
		h.Dispatch(d.Exit)
	}
	require.Equal(t, []string{"PAUSE: resume", "VMXON: hold", "HLT: stop", "Basic(65520): stop"}, seen)
}

// A refuser is memory that refuses all that is beyond its end, as a Refusal.
type refuser struct{ *double }

type refused struct {
	error
	gpa uint64
}

func (r *refused) Refuse(x *vmexit.Exit) vmexit.Outcome { return x.Raise(vmcs.VectorMC, 0) }

func refuse(gpa uint64, err error) error {
	if err != nil {
		err = &refused{err, gpa}
	}
	return err
}

func (r refuser) ReadPhysical(gpa uint64, p []byte) error {
	return refuse(gpa, r.double.ReadPhysical(gpa, p))
}

func (r refuser) WritePhysical(gpa uint64, p []byte) error {
	return refuse(gpa, r.double.WritePhysical(gpa, p))
}

func (r refuser) translate(x *vmexit.Exit, linear uint64, write bool) (uint64, uint32, bool, error) {
	if linear == 0x666000 {
		return 0, 0, false, &refused{errNoMemory, linear}
	}
	return r.double.translate(x, linear, write)
}

// Memory that is not there ends the run, unless its error says what else is to be done.
func TestRefusal(t *testing.T) {
	const outs, ins = 1<<4 | 8<<16, 1<<4 | 1<<3 | 8<<16 // one byte, port 8
	const bits64 = 2 << 7                               // addresses in instruction information
	for _, tt := range []struct {
		name                  string
		reason                vmexit.Basic
		qualification, linear uint64
		information           uint32
	}{
		{"OUTS", vmexit.IOInstruction, outs, 0x5000, bits64 | 3<<15},
		{"INS", vmexit.IOInstruction, ins, 0x5000, bits64},
		{"OUTS, page tables", vmexit.IOInstruction, outs, 0x666000, bits64 | 3<<15},
		{"LGDT", vmexit.GDTRIDTRAccess, 0x5000, 0, bits64 | 3<<15 | 1<<22 | 1<<27 | 2<<28},
		{"INVPCID", vmexit.INVPCID, 0x5000, 0, bits64 | 3<<15 | 1<<22 | 1<<27},
	} {
		for _, refuses := range []bool{false, true} {
			d := newDouble(t).long()
			c := d.config()
			if refuses {
				r := refuser{d}
				c.Memory = &vmexit.GuestMemory{Physical: r, Translate: r.translate}
			}
			d.exit(tt.reason, tt.qualification, tt.information)
			d.Guest.Regs[asm.RSI], d.Guest.Regs[asm.RDI] = tt.linear, tt.linear
			o := vmexit.Defaults(c).Build().Dispatch(d.Exit)
			if refuses {
				require.Equal(t, vmexit.Hold, o, "%s: %v", tt.name, d.Err())
				require.Equal(t, vmcs.VectorMC, d.injected().Info.Vector(), tt.name)
			} else if tt.linear != 0x666000 {
				require.Equal(t, vmexit.Stop, o, tt.name)
				require.ErrorIs(t, d.Err(), errNoMemory)
			}
		}
	}
}
