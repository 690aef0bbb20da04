package vmexit_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"pgregory.net/rapid"
)

// setEntry changes the EPT entry of one of the guest's pages until the returned function
// is called.
func (s *shot) setEntry(linear uint64, change func(entry uint64) uint64) (restore func()) {
	entry := s.EPT.Entry(linear &^ 0xfff)
	old := binary.LittleEndian.Uint64(entry)
	binary.LittleEndian.PutUint64(entry, change(old))
	s.invept()
	return func() {
		binary.LittleEndian.PutUint64(entry, old)
		s.invept()
	}
}

// mapPage maps one of the guest's pages with other rights.
func (s *shot) mapPage(linear, rights uint64) (restore func()) {
	return s.setEntry(linear, func(entry uint64) uint64 { return entry&^7 | rights })
}

// invept makes changes of EPT tables take effect, should the processor have kept them.
func (s *shot) invept() { require.Equal(s.t, asm.Succeed, asm.INVEPT(2, &[2]uint64{})) }

// drawTarget draws the address of a byte that all guests can reach.
func (s *shot) drawTarget() uint64 { return vmtest.Data + uint64(drawBelow(s.t, "target", 0x3000)) }

// What an access to memory asks for, in the terms of EPT entries.
const (
	read   = vmtest.EPTRead
	write  = vmtest.EPTWrite
	modify = read | write
	fetch  = vmtest.EPTExecute
)

// access is an instruction that accesses a byte at target: a MOV, an ADD, or one that
// lies there.
func (s *shot) access(kind, target uint64) {
	switch kind {
	case fetch:
		s.start = target
		s.code = []byte{0x90}
	default:
		code := map[uint64]byte{read: 0x8a, write: 0x88, modify: 0x00}[kind]
		s.encode(encoding{opcode: []byte{code}, reg: s.drawRegister(), rm: s.drawAimed(target)})
	}
}

func (s *shot) drawAccess() uint64 {
	return []uint64{read, write, modify, fetch}[drawBelow(s.t, "access", 4)]
}

// eptRights: each access to pages with each combination of rights.
func (l *ledger) eptRights(t *testing.T) {
	benches := l.withEPT(nil, vmtest.ModeLong, vmtest.ModePAE, vmtest.ModePaged, vmtest.ModeProtected, vmtest.ModeReal)
	rights := []uint64{0, read, modify, read | fetch, modify | fetch}
	if l.Caps.EPTVPID&1 != 0 { // execute-only
		rights = append(rights, fetch)
	}
	seen := map[[2]uint64]int{}
	check(t, 500, func(t *rapid.T) {
		s := draw(t, benches)
		ask, target, allow := s.drawAccess(), s.drawTarget(), rights[drawBelow(t, "rights", len(rights))]
		s.access(ask, target)
		defer s.mapPage(target, allow)()
		if target&0xfff > 0xff0 && ask == fetch {
			return // the VMCALL behind it could be on another page
		}
		s.fire()
		seen[[2]uint64{ask, allow}]++
		if ask&^allow == 0 {
			require.Equal(t, vmexit.Reason(vmexit.VMCALL), s.reason, "%v", s)
			require.Equal(t, s.next(), s.RIP, "%v", s)
			return
		}
		s.exited(vmexit.EPTViolation)
		q := vmexit.EPTViolationQualification(s.qualification)
		require.Equal(t, ask&write != 0, q.Write(), "%v", s)
		require.Equal(t, ask == fetch, q.Fetch(), "%v", s)
		if ask != modify { // which may count as a read, too
			require.Equal(t, ask == read, q.Read(), "%v", s)
		}
		require.Equal(t, uint8(allow), q.Rights()&7, "%v", s)
		require.Equal(t, allow != 0, q.Present(false), "%v", s)
		require.True(t, q.LinearAddress() && q.Translation() && !q.PageWalk(), "%v", s)
		require.False(t, q.NMIUnblocking() || q.ShadowStack() || q.SupervisorShadowStack() || q.PagingVerification() || q.Asynchronous(), "%v", s)
		require.Equal(t, target, s.linear, "%v", s)
		require.Equal(t, s.Physical(target), s.physical, "%v", s)
	})
	for _, allow := range rights {
		for _, ask := range []uint64{read, write, modify, fetch} {
			if seen[[2]uint64{ask, allow}] == 0 && ring0test.Whole() {
				l.Errorf("access %d to a page with the rights %d was not drawn: draw more", ask, allow)
			}
		}
	}
}

// walkAsWrite: SDM Vol. 3C table 28-7 has bits 0 and 1 both set for an access to the
// guest's paging structures if EPT has accessed and dirty flags. Bochs'
// translate_guest_physical sets bit 1 alone.
var walkAsWrite = &deviation{
	name:     "a page walk with accessed and dirty flags for EPT counts as a write, and not as a read, too",
	possible: eptFlags,
}

// eptFlags tells whether EPT can have accessed and dirty flags.
func eptFlags(m *vmtest.Machine) bool { return m.Caps.EPTVPID>>21&1 != 0 }

// eptWalks: accesses to the guest's paging structures.
func (l *ledger) eptWalks(t *testing.T) {
	benches := l.withEPT(nil, vmtest.ModeLong, vmtest.ModePAE, vmtest.ModePaged)
	tables := map[vmtest.Mode][]uint64{
		vmtest.ModeLong:  {vmtest.TableRoot, vmtest.TablePDPT, vmtest.TablePD, vmtest.TablePT},
		vmtest.ModePAE:   {vmtest.TablePD, vmtest.TablePT},
		vmtest.ModePaged: {vmtest.TableRoot, vmtest.TablePT},
	}
	check(t, 150, func(t *rapid.T) {
		s := draw(t, benches)
		if s.mode == vmtest.ModePAE && drawBool(t, "PDPTEs") { // no linear address is about
			table := vmtest.Free + uint64(drawBelow(t, "PDPT", 0x100))*32
			r := s.drawRegister()
			s.set(r, table)
			s.encode(encoding{opcode: []byte{0x0f, 0x22}, reg: 3, rm: place{modRM: 3<<6 | byte(r)}})
			defer s.mapPage(table, 0)()
			s.fire()
			s.exited(vmexit.EPTViolation)
			q := vmexit.EPTViolationQualification(s.qualification)
			require.True(t, q.Read() && !q.Write() && !q.Fetch() && !q.LinearAddress() && !q.Translation() && !q.PageWalk(), "%v", s)
			require.Equal(t, table, s.physical&^31, "%v", s)
			return
		}
		list := tables[s.mode]
		table := list[drawBelow(t, "table", len(list))]
		entry := table
		if table == vmtest.TablePT {
			entry += s.start >> 12 * uint64(len(s.guestEntry(0)))
		}
		flags := eptFlags(l.Machine) && drawBool(t, "accessed and dirty flags")
		if flags {
			s.Set(vmcs.EPTPointer, s.EPT.Pointer()|1<<6)
		}
		s.encode(simple(0x90))
		defer s.mapPage(table, 0)()
		s.fire()
		s.exited(vmexit.EPTViolation)
		q := vmexit.EPTViolationQualification(s.qualification)
		require.Equal(t, flags, q.Write(), "%v", s)
		require.Equal(t, !walkAsWrite.hits(flags), q.Read(), "%v", s)
		require.True(t, !q.Fetch() && q.LinearAddress() && !q.Translation() && q.PageWalk(), "%v", s)
		require.Equal(t, uint8(0), q.Rights()&7, "%v", s)
		require.Equal(t, s.start, s.linear, "%v", s)
		require.Equal(t, s.Physical(entry), s.physical, "%v", s)
	})
}

// eptMisconfigurations: entries that no processor takes.
func (l *ledger) eptMisconfigurations(t *testing.T) {
	benches := l.withEPT(nil, vmtest.ModeLong, vmtest.ModePAE, vmtest.ModeProtected)
	check(t, 150, func(t *rapid.T) {
		s := draw(t, benches)
		target := s.drawTarget()
		s.access(s.drawAccess(), target)
		defer s.setEntry(target, func(entry uint64) uint64 {
			switch drawBelow(t, "fault", 4) {
			case 0:
				return entry&^7 | write
			case 1:
				return entry&^7 | write | fetch
			case 2: // memory types 2, 3 and 7
				return entry&^(7<<3) | [3]uint64{2, 3, 7}[drawBelow(t, "type", 3)]<<3
			}
			width := int(l.Caps.CPU.PhysicalAddressBits)
			return entry | 1<<(width+drawBelow(t, "bit", 52-width))
		})()
		s.fire()
		s.exited(vmexit.EPTMisconfiguration)
		require.Equal(t, s.Physical(target), s.physical, "%v", s)
	})
}

// fullLogs: the page-modification log has no room.
func (l *ledger) fullLogs(t *testing.T) {
	if !vmtest.Has(l.Machine, vmcs.SecondaryEnablePML) {
		return
	}
	page := l.Pages(1)
	benches := l.withEPT(func(b *bench) {
		vmtest.SetControls(b.Guest, vmcs.SecondaryEnablePML)
		b.Set(vmcs.EPTPointer, b.EPT.Pointer()|1<<6) // accessed and dirty flags
		b.Set(vmcs.PMLAddress, page.Phys())
	}, vmtest.ModeLong, vmtest.ModePAE, vmtest.ModeProtected)
	check(t, 100, func(t *rapid.T) {
		s := draw(t, benches)
		s.Set(vmcs.PMLIndex, uint64(512+drawBelow(t, "index", 0x10000-512)))
		s.access(write, s.drawTarget())
		s.fire()
		s.exited(vmexit.PMLFull)
		q := vmexit.PMLQualification(s.qualification)
		require.False(t, q.NMIUnblocking() || q.Asynchronous(), "%v", s)
	})
}

// subPages: writes under sub-page permissions.
func (l *ledger) subPages(t *testing.T) {
	if !vmtest.Has(l.Machine, vmcs.SecondarySubPageWritePermissionsForEPT) {
		return
	}
	tables := [4]ring0.Pages{l.Pages(1), l.Pages(1), l.Pages(1), l.Pages(1)}
	benches := l.withEPT(func(b *bench) {
		vmtest.SetControls(b.Guest, vmcs.SecondarySubPageWritePermissionsForEPT)
		b.Set(vmcs.SubPagePermissionTable, tables[0].Phys())
	}, vmtest.ModeLong, vmtest.ModePAE, vmtest.ModeProtected)
	check(t, 150, func(t *rapid.T) {
		s := draw(t, benches)
		target := s.drawTarget()
		level, miss := drawBelow(t, "level", 5), drawBool(t, "miss")
		for n := range 3 { // all addresses are in the first entry of the upper tables
			entry := tables[n+1].Phys() | 1
			switch {
			case n == level && miss:
				entry = 0
			case n == level:
				entry |= 2 << drawBelow(t, "reserved bit", 11)
			}
			binary.LittleEndian.PutUint64(tables[n].Bytes(), entry)
		}
		vector := uint64(0x5555555555555555)
		if level == 3 { // the sub-page alone may not be written
			vector &^= 1 << (2 * (target & 0xfff >> 7))
		}
		clear(tables[3].Bytes())
		binary.LittleEndian.PutUint64(tables[3].Bytes()[target>>12*8:], vector)
		s.access(write, target)
		defer s.setEntry(target, func(entry uint64) uint64 { return entry&^write | 1<<61 })()
		s.fire()
		switch level {
		case 4:
			require.Equal(t, vmexit.Reason(vmexit.VMCALL), s.reason, "%v", s)
			return
		case 3:
			s.exited(vmexit.EPTViolation)
			q := vmexit.EPTViolationQualification(s.qualification)
			require.True(t, q.Write() && q.Translation() && q.Rights()&7 == read|fetch, "%v", s)
		default:
			s.exited(vmexit.SPPEvent)
			q := vmexit.SPPQualification(s.qualification)
			require.Equal(t, miss, q.Miss(), "%v", s)
			require.False(t, q.NMIUnblocking() || q.Asynchronous(), "%v", s)
		}
		require.Equal(t, target, s.linear, "%v", s)
		require.Equal(t, s.Physical(target), s.physical, "%v", s)
	})
}

// eptpSwitching: EPTP switching that fails, and virtualization exceptions.
func (l *ledger) eptpSwitching(t *testing.T) {
	if !vmtest.Has(l.Machine, vmcs.SecondaryEnableVMFunctions|vmcs.SecondaryEPTViolationVE) || !vmtest.Has(l.Machine, vmcs.VMFuncEPTPSwitching) {
		return
	}
	list, area := l.Pages(1), l.Pages(1)
	benches := l.withEPT(func(b *bench) {
		vmtest.SetControls(b.Guest, vmcs.SecondaryEnableVMFunctions|vmcs.SecondaryEPTViolationVE)
		vmtest.SetControls(b.Guest, vmcs.VMFuncEPTPSwitching)
		b.Set(vmcs.EPTPListAddress, list.Phys())
		b.Set(vmcs.VirtualizationExceptionAddress, area.Phys())
	}, vmtest.ModeLong, vmtest.ModePAE)
	check(t, 60, func(t *rapid.T) {
		s := draw(t, benches)
		if drawBool(t, "#VE") {
			clear(area.Bytes())
			target := s.drawTarget()
			s.access(read, target)
			defer s.mapPage(target, 0)()
			s.fire()
			s.excepted(vmcs.InjectException(vmcs.VectorVE, 0))
			require.Equal(t, s.at(), s.RIP, "%v", s)
			return
		}
		// The list has no EPTP that is valid, and 512 entries.
		s.set(asm.RAX, 0)
		s.set(asm.RCX, uint64(drawBelow(t, "index", 1024)))
		s.encode(simple(0x0f, 0x01, 0xd4))
		s.fire()
		s.exited(vmexit.VMFUNC)
	})
}

// walkOfAPICPage: SDM Vol. 3C table 28-6 and 30.4.6.1 have type 15 for a guest-physical
// access. Bochs' VMX_Virtual_Apic_Read knows only linear ones.
var walkOfAPICPage = &deviation{name: "a page walk through the APIC-access page counts as a linear read"}

// apicAccesses: to the APIC-access page, by instructions, in a page walk and in event
// delivery.
func (l *ledger) apicAccesses(t *testing.T) {
	benches := l.withEPT(func(b *bench) { vmtest.SetControls(b.Guest, vmcs.SecondaryVirtualizeAPICAccesses) },
		vmtest.ModeLong, vmtest.ModePAE, vmtest.ModeProtected)
	check(t, 200, func(t *rapid.T) {
		s := draw(t, benches)
		target := s.drawTarget()
		want := vmexit.APICLinearRead
		delivered := vmcs.Event{}
		switch kind := drawBelow(t, "access", 4); {
		case kind == 0:
			s.access(read, target)
		case kind == 1:
			s.access(write, target)
			want = vmexit.APICLinearWrite
		case kind == 2 && s.mode != vmtest.ModeProtected:
			s.encode(simple(0x90))
			target = vmtest.TablePT + s.start>>12*8
			if want = vmexit.APICPhysical; walkOfAPICPage.hits(true) {
				want = vmexit.APICLinearRead
			}
		default:
			s.catches()
			delivered = s.drawEvent()
			target, want = s.gate(delivered.Info.Vector()), vmexit.APICLinearEvent
		}
		s.Set(vmcs.APICAccessAddress, s.HostPhysical(target)&^0xfff)
		s.fire()
		require.Equal(t, vmexit.Reason(vmexit.APICAccess), s.reason, "%v", s)
		require.Equal(t, s.at(), s.RIP, "%v", s)
		q := vmexit.APICAccessQualification(s.qualification)
		require.Equal(t, want, q.Type(), "%v", s)
		require.False(t, q.Asynchronous(), "%v", s)
		require.True(t, q.Type().Linear(), "%v", s)
		offset := uint64(q.Offset())
		if want == vmexit.APICLinearEvent {
			offset = offset&^7 | target&7 // the gate's words may be read in any order
			if s.mode == vmtest.ModeLong {
				offset = offset&^15 | target&15
			}
		}
		require.Equal(t, target&0xfff, offset, "%v", s)
		d, ok, err := vmexit.ReadInterrupted(vmcs.Current{})
		require.NoError(t, err)
		require.Equal(t, want == vmexit.APICLinearEvent, ok, "%v", s)
		require.Equal(t, delivered, d.Event, "%v", s)
	})
}

// Offsets of registers in the virtual-APIC page.
const (
	apicTPR  = 0x80
	apicEOI  = 0xb0
	apicSVR  = 0xf0
	apicISR  = 0x100
	apicICR  = 0x300
	apicICR2 = 0x310
)

// virtualAPIC: writes to the virtual APIC that exit behind the instruction.
func (l *ledger) virtualAPIC(t *testing.T) {
	virtual := l.Pages(1)
	prepare := func(c vmcs.SecondaryControls, pin vmcs.PinControls) []*bench {
		if !vmtest.Has(l.Machine, c) || !vmtest.Has(l.Machine, pin) {
			return nil
		}
		return l.withEPT(func(b *bench) {
			vmtest.SetControls(b.Guest, pin)
			vmtest.SetControls(b.Guest, vmcs.PrimaryUseTPRShadow)
			vmtest.SetControls(b.Guest, vmcs.SecondaryVirtualizeAPICAccesses|c)
			b.Set(vmcs.VirtualAPICAddress, virtual.Phys())
			b.Set(vmcs.APICAccessAddress, b.HostPhysical(vmtest.Data))
		}, vmtest.ModeLong, vmtest.ModePAE, vmtest.ModeProtected)
	}
	plain := prepare(0, 0)
	registers := prepare(vmcs.SecondaryAPICRegisterVirtualization, 0)
	delivery := prepare(vmcs.SecondaryVirtualInterruptDelivery, vmcs.PinExternalInterruptExiting)
	written := []uint64{0x20, 0xd0, 0xe0, 0xf0, 0x280, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3e0}
	check(t, 300, func(t *rapid.T) {
		clear(virtual.Bytes())
		put := func(offset uint64, v uint32) { binary.LittleEndian.PutUint32(virtual.Bytes()[offset:], v) }
		store := func(s *shot, offset uint64, v uint32) {
			r := vmexit.Register(asm.RDX)
			m := s.drawAimed(vmtest.Data + offset)
			for m.base == r || m.index == r {
				r++
				if r == asm.RSP {
					r++
				}
			}
			s.set(r, uint64(v))
			s.encode(encoding{opcode: []byte{0x89}, reg: r, rm: m, size: 32})
		}
		want := vmexit.VMCALL
		var s *shot
		var q uint64
		switch kind := drawBelow(t, "write", 4); {
		case kind == 0: // TPR, or CR8
			s = draw(t, plain)
			v, threshold := uint32(drawBelow(t, "TPR", 256)), drawBelow(t, "threshold", 16)
			put(apicTPR, 0xf0)
			s.Set(vmcs.TPRThreshold, uint64(threshold))
			if s.mode == vmtest.ModeLong && drawBool(t, "CR8") {
				r := vmexit.Register(drawBelow(t, "register", 16))
				s.set(r, uint64(v>>4))
				s.encode(encoding{opcode: []byte{0x0f, 0x22}, reg: 8, rm: place{modRM: 3<<6 | byte(r)&7, b: r >= 8}})
			} else {
				store(s, apicTPR, v)
			}
			if int(v>>4) < threshold {
				want = vmexit.TPRBelowThreshold
			}
		case kind == 1 && registers != nil:
			s = draw(t, registers)
			q = written[drawBelow(t, "register", len(written))]
			want = vmexit.APICWrite
			store(s, q, uint32(drawWord(t, "value")))
		case delivery == nil:
			return
		case kind == 2: // an ICR that asks for more than an IPI to itself
			s = draw(t, delivery)
			q = apicICR
			want = vmexit.APICWrite
			store(s, q, uint32(drawWord(t, "value"))&^(3<<18))
		default:
			s = draw(t, delivery)
			v := vmcs.Vector(16 + drawBelow(t, "vector", 240))
			s.Set(vmcs.GuestInterruptStatus, uint64(v)<<8)
			put(apicISR+uint64(v)/32*16, 1<<(v%32))
			if drawBool(t, "exits") {
				s.Set(vmcs.EOIExitBitmap0+vmcs.Field(2*(v/64)), 1<<(v%64))
				want, q = vmexit.VirtualizedEOI, uint64(v)
			}
			store(s, apicEOI, 0)
		}
		s.fire()
		if want == vmexit.VMCALL {
			require.Equal(t, vmexit.Reason(want), s.reason, "%v", s)
			require.Equal(t, s.next(), s.RIP, "%v", s)
			return
		}
		s.exited(want)
		switch want {
		case vmexit.APICWrite:
			require.Equal(t, uint16(q), vmexit.APICWriteQualification(s.qualification).Offset(), "%v", s)
		case vmexit.VirtualizedEOI:
			require.Equal(t, vmcs.Vector(q), vmexit.EOIQualification(s.qualification).Vector(), "%v", s)
		}
	})
}

// The processor's own local APIC, where guests that are to reach it have it, and what to
// write to the interrupt command register (SDM Vol. 3A 11.6.1).
const (
	localAPIC     = 0xfee00000
	localAPICPage = vmtest.Free

	deliverFixed = 0 << 8
	deliverNMI   = 4 << 8
	deliverINIT  = 5 << 8
	assert       = 1 << 14
)

// appendAPICStore appends a store to a register of the local APIC, in 64-bit mode.
func appendAPICStore(code []byte, offset, v uint32) []byte {
	code = append(code, 0xc7, 0x04, 0x25) // MOV DWORD PTR [disp32], imm32
	code = binary.LittleEndian.AppendUint32(code, localAPICPage+offset)
	return binary.LittleEndian.AppendUint32(code, v)
}

// ownAPIC is this processor as the destination of an IPI.
func ownAPIC() uint32 {
	_, ebx, _, _ := asm.CPUID(1, 0)
	return ebx >> 24 << 24
}

// interrupts: the guest is given the processor's own local APIC, sends itself an
// interrupt or an NMI, and exits for it.
func (l *ledger) interrupts(t *testing.T) {
	// The spurious-interrupt vector register: a spurious interrupt has no EOI.
	const enabled, spurious = 1 << 8, 0xff
	benches := l.withEPT(nil, vmtest.ModeLong)
	check(t, 30, func(t *rapid.T) {
		s := draw(t, benches)
		defer s.setEntry(localAPICPage, func(uint64) uint64 { return localAPIC | modify })() // uncacheable
		store := func(offset, v uint32) { s.code = appendAPICStore(s.code, offset, v) }
		store(apicICR2, ownAPIC())
		if drawBool(t, "NMI") {
			vmtest.SetControls(s.Guest, vmcs.PinNMIExiting)
			store(apicICR, deliverNMI|assert)
			s.fire()
			s.excepted(vmcs.InjectNMI())
			require.Equal(t, s.next(), s.RIP, "%v", s)
			require.Equal(t, vmexit.QualificationNMI, s.reason.QualificationFormat(s.event))
			require.Equal(t, "none", vmexit.NMIQualification(s.qualification).String(), "%v", s)
			s.endNMI()
			return
		}
		vmtest.SetControls(s.Guest, vmcs.PinExternalInterruptExiting)
		vmtest.SetControls(s.Guest, vmcs.ExitAcknowledgeInterruptOnExit)
		s.flags(flagIF)
		v := vmcs.Vector(32 + drawBelow(t, "vector", spurious-32))
		store(apicSVR, enabled|spurious)
		store(apicICR, deliverFixed|assert|uint32(v))
		rip := s.next()
		store(apicEOI, 0)
		store(apicSVR, spurious) // as after reset
		defer quietPIC()()
		s.fire()
		require.Equal(t, vmexit.Reason(vmexit.ExternalInterrupt), s.reason, "%v", s)
		event, ok, err := vmexit.ReadEvent(vmcs.Current{})
		require.NoError(t, err)
		require.True(t, ok, "%v", s)
		require.Equal(t, vmcs.InjectInterrupt(v), event, "%v", s)
		require.Equal(t, rip, s.RIP, "%v", s)
		s.Set(vmcs.GuestRFLAGS, 2)
		s.enter()
		require.Equal(t, vmexit.VMCALL, s.reason.Basic(), "%v", s)
		require.Equal(t, s.next(), s.RIP, "%v", s)
	})

	// One that is not acknowledged has no vector: the host's timer.
	check(t, 3, func(t *rapid.T) {
		s := draw(t, benches)
		vmtest.SetControls(s.Guest, vmcs.PinExternalInterruptExiting|vmcs.PinActivateVMXPreemptionTimer)
		s.Set(vmcs.PreemptionTimerValue, 1<<30) // should there be no interrupt
		s.flags(flagIF)
		s.code = []byte{0xeb, 0xfe} // JMP to itself
		s.fire()
		require.Equal(t, vmexit.Reason(vmexit.ExternalInterrupt), s.reason, "%v", s)
		require.False(t, s.event.Valid(), "%v", s)
		require.Equal(t, s.start, s.RIP, "%v", s)
	})
}

// quietPIC keeps the host's timer, whose interrupt would be acknowledged in place of the
// one that is waited for, until its result is called.
func quietPIC() func() {
	const mask = 0x21 // the first 8259A's interrupt mask register
	old := asm.IN8(mask)
	asm.OUT8(mask, 0xff)
	return func() { asm.OUT8(mask, old) }
}

// endNMI ends the blocking of NMIs that an exit for one leaves, by an IRET of a guest
// without NMI exiting.
func (s *shot) endNMI() {
	vmtest.ClearControls(s.Guest, vmcs.PinNMIExiting)
	sp := uint64(vmtest.StackTop - 0x80)
	for n, v := range [...]uint64{vmtest.Code, vmtest.SelectorCode64, 2, vmtest.StackTop, vmtest.SelectorData} {
		binary.LittleEndian.PutUint64(s.Memory[sp+uint64(8*n):], v)
	}
	copy(s.Memory[vmtest.Code:], []byte{0x0f, 0x01, 0xc1, 0x48, 0xcf}) // VMCALL; IRETQ
	s.Set(vmcs.GuestRSP, sp)
	s.RIP = vmtest.Code + 3
	s.enter()
	require.Equal(s.t, vmexit.VMCALL, s.reason.Basic(), "%v", s)
}

// An ending is what tests of the very end have for a testing.TB: a failure ends the
// process, and nothing is cleaned up.
type ending struct{ testing.TB }

func (ending) Helper()        {}
func (ending) Cleanup(func()) {}
func (ending) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "--- FAIL: INIT at the end\n"+format+"\n", args...)
	os.Exit(1)
}

// initAtEnd says that the test of INIT is to be run.
var initAtEnd bool

// atEnd is called when all tests are done, and returns the status of the process. Here a
// guest sends its processor an INIT, and exits for it. Bochs never clears the event: it
// stays pending in VMX operation, every VM entry exits at once, and VMXOFF resets the
// machine (event.cc, handleAsyncEvent). So nothing can come after it.
func atEnd(status int) int {
	if !initAtEnd || status != 0 {
		return status
	}
	t := ending{}
	m := vmtest.Start(t)
	code := appendAPICStore(appendAPICStore(nil, apicICR2, ownAPIC()), apicICR, deliverINIT|assert)
	g := m.NewGuest(vmtest.Long, code...)
	binary.LittleEndian.PutUint64(g.EPT.Entry(localAPICPage), localAPIC|modify)
	g.Step()
	require.Equal(t, vmexit.Reason(vmexit.INIT), vmexit.Reason(g.Reason))
	require.Equal(t, uint64(vmtest.Code+len(code)), g.RIP)
	require.Zero(t, g.Get(vmcs.ExitQualification))
	if testing.Verbose() {
		fmt.Println("covered after all tests: INIT 1")
	}
	return status
}
