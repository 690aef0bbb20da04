package ept_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// words is physical memory of a few words, 0 where there are none. Nowhere is the first
// address at which there is no memory, 0 if all addresses have some.
type words struct {
	at      map[uint64]uint64
	nowhere uint64
	reads   int
}

var errNowhere = errors.New("no memory")

func (w *words) ReadPhysical(addr uint64) (uint64, error) {
	w.reads++
	if w.nowhere != 0 && addr >= w.nowhere {
		return 0, errNowhere
	}
	return w.at[addr], nil
}

// updated is Tables whose entries can be changed.
type updated struct {
	*ept.Tables
	memory *words
	change func() // before each CompareAndSwap
}

func (u *updated) CompareAndSwap(table uint64, index int, old, new ept.Entry) (bool, error) {
	if u.change != nil {
		u.change()
	}
	at := table + 8*uint64(index)
	if u.memory.at[at] != uint64(old) {
		return false, nil
	}
	u.memory.at[at] = uint64(new)
	return true, nil
}

// everything is capabilities with all that EPT can have.
const everything = vmcs.EPTVPID(1<<0 | 1<<6 | 1<<7 | 1<<8 | 1<<14 | 1<<16 | 1<<17 | 1<<20 | 1<<21 | 1<<22 | 1<<23 | 1<<25 | 1<<26)

// chain returns tables in which the entries, from the root's down, translate address gpa.
// The tables lie at 0x1000, 0x2000 and so on, whose addresses the entries that
// reference tables get.
func chain(t require.T, mode ept.Mode, gpa uint64, entries ...ept.Entry) (*ept.Tables, *words) {
	t.Helper()
	memory := &words{at: map[uint64]uint64{}}
	level := mode.TopLevel()
	for i, e := range entries {
		if i < len(entries)-1 {
			e |= ept.Entry(0x1000 * (i + 2))
		}
		memory.at[0x1000*uint64(i+1)+8*uint64(level.Index(gpa))] = uint64(e)
		level--
	}
	p, err := ept.NewPointer(&mode, 0x1000)
	require.NoError(t, err)
	tables, err := ept.NewTables(memory, mode, p)
	require.NoError(t, err)
	return tables, memory
}

func mode(change func(m *ept.Mode)) ept.Mode {
	m := ept.Mode{Capabilities: everything, PhysicalAddressBits: 46}
	if change != nil {
		change(&m)
	}
	return m
}

const (
	all  = ept.All
	wb   = ept.Entry(6 << 3)
	page = all | wb | 0x12345000
	gpa  = 0x123456789abc
)

// q is a qualification: access, rights in bits 5:3 and the rest.
func q(access, rights uint64, rest vmexit.EPTViolationQualification) vmexit.EPTViolationQualification {
	return vmexit.EPTViolationQualification(access|rights<<3) | rest
}

// TestTranslate has an access a row, and what SDM Vol. 3C 29.3.3 and table 28-7 say of
// it.
func TestTranslate(t *testing.T) {
	plain := mode(nil)
	flags := mode(func(m *ept.Mode) { m.AccessedDirty = true })
	mbec := mode(func(m *ept.Mode) { m.ModeBasedExecute = true })
	shadow := mode(func(m *ept.Mode) { m.SupervisorShadowStack = true })
	pagingWrite := mode(func(m *ept.Mode) { m.PagingWrite = true })
	verify := mode(func(m *ept.Mode) { m.PagingWrite, m.VerifyGuestPaging = true, true })
	subPage := mode(func(m *ept.Mode) { m.SubPageWrite = true })
	ve := mode(func(m *ept.Mode) { m.ViolationVE = true })
	five := mode(func(m *ept.Mode) { m.Levels = 5 })
	basic := mode(func(m *ept.Mode) { m.Capabilities &^= 1<<22 | 1<<0 }) // no advanced information, no execute-only
	const (
		la, tr, us, rw, xd = vmexit.EPTLinearAddress, vmexit.EPTTranslation, vmexit.EPTUserAddress, vmexit.EPTWritablePage, vmexit.EPTExecuteDisable
		ss, sss            = vmexit.EPTShadowStack, vmexit.EPTSupervisorShadowStack
		r, w, x            = uint64(1), uint64(2), uint64(4)
		shadowRead         = ept.LinearRead | ept.AccessShadowStack
		shadowWrite        = ept.LinearWrite | ept.AccessShadowStack
		user               = ept.AccessUser
		setFlags           = ept.AccessWrite | ept.AccessLinear
		bare               = ept.AccessRead // no linear address
	)
	for _, test := range []struct {
		name    string
		mode    ept.Mode
		access  ept.Access
		entries []ept.Entry
		hpa     uint64                           // if there is no fault
		q       vmexit.EPTViolationQualification // of a violation
		rule    string                           // of a misconfiguration
		level   ept.Level
	}{
		{"4 KiB", plain, ept.LinearRead, []ept.Entry{all, all, all, page}, 0x12345abc, 0, "", 0},
		{"2 MiB", plain, ept.LinearRead, []ept.Entry{all, all, all | wb | ept.Large | 0x40000000}, 0x40189abc, 0, "", 0},
		{"1 GiB", plain, ept.LinearRead, []ept.Entry{all, all | wb | ept.Large | 0x40000000}, 0x40000000 + 0x16789abc, 0, "", 0},
		{"5 levels", five, ept.LinearWrite, []ept.Entry{all, all, all, all, page}, 0x12345abc, 0, "", 0},
		{"bit 7 of a PTE is ignored", plain, ept.LinearRead, []ept.Entry{all, all, all, page | ept.Large}, 0x12345abc, 0, "", 0},
		{"no right asked for", plain, ept.AccessLinear | ept.AccessTranslation, []ept.Entry{ept.Execute, all, ept.Read, page}, 0x12345abc, 0, "", 0},

		{"PML4E not present", plain, ept.LinearRead, []ept.Entry{wb}, 0, q(r, 0, la|tr|rw), "", 4},
		{"PTE not present: no rights", plain, ept.LinearWrite, []ept.Entry{all, all, all, 0x12345000}, 0, q(w, 0, la|tr|rw), "", 1},
		{"not present before misconfigured", plain, ept.LinearRead, []ept.Entry{all, 0xf8, all, ept.Write}, 0, q(r, 0, la|tr|rw), "", 3},
		{"misconfigured before not present", plain, ept.LinearRead, []ept.Entry{all, all | ept.Entry(1<<46), 0}, 0, 0, "address-width", 3},
		{"misconfigured before not allowed", plain, ept.LinearWrite, []ept.Entry{all, ept.Read, all, ept.Write}, 0, 0, "write-without-read", 1},
		{"rights of all levels", plain, ept.LinearWrite, []ept.Entry{all, ept.ReadExecute, ept.ReadWrite, page}, 0, q(w, 1, la|tr|rw), "", 1},
		{"read of execute-only", plain, ept.LinearRead, []ept.Entry{all, all, all, ept.Execute | wb}, 0, q(r, x, la|tr|rw), "", 1},
		{"fetch of execute-only", plain, ept.LinearFetch, []ept.Entry{all, all, all, ept.Execute | wb | 0x5000}, 0x5abc, 0, "", 0},
		{"execute-only without the capability", basic, ept.LinearFetch, []ept.Entry{all, all, all, ept.Execute | wb}, 0, 0, "execute-only", 1},
		{"fetch of no-execute", plain, ept.LinearFetch, []ept.Entry{all, all, ept.ReadWrite | wb | ept.Large}, 0, q(x, 3, la|tr|rw), "", 2},
		{"read-modify-write", plain, ept.LinearWrite | ept.AccessRead, []ept.Entry{all, all, all, ept.Read | wb}, 0, q(r|w, 1, la|tr|rw), "", 1},
		{"rights that no entry has all of", plain, ept.LinearRead, []ept.Entry{all, all, ept.Execute, ept.Read | wb}, 0, q(r, 0, la|tr|rw), "", 1},

		{"advanced information", plain, ept.AccessRead | ept.AccessLinear | ept.AccessTranslation | user | ept.AccessExecuteDisable, []ept.Entry{0}, 0, q(r, 0, la|tr|us|xd), "", 4},
		{"none", basic, ept.AccessRead | ept.AccessLinear | ept.AccessTranslation | user | ept.AccessExecuteDisable, []ept.Entry{0}, 0, q(r, 0, la|tr), "", 4},
		{"nor in a page walk", plain, ept.PageWalk | user | ept.AccessWritable, []ept.Entry{0}, 0, q(r, 0, la), "", 4},
		{"nor without a linear address", plain, bare | ept.AccessTranslation | user, []ept.Entry{0}, 0, q(r, 0, 0), "", 4},

		{"page walk", plain, ept.PageWalk, []ept.Entry{all, all, all, ept.Read | wb | 0x5000}, 0x5abc, 0, "", 0},
		{"page walk is a write, and a read too", flags, ept.PageWalk, []ept.Entry{all, all, all, ept.ReadExecute | wb}, 0, q(r|w, 5, la), "", 1},
		{"page walk, upper level", flags, ept.PageWalk, []ept.Entry{all, ept.Read, all, page}, 0, q(r|w, 1, la), "", 1},
		{"PDPTEs are read", flags, bare, []ept.Entry{all, all, all, ept.Read | wb | 0x5000}, 0x5abc, 0, "", 0},
		{"guest's flags", plain, setFlags, []ept.Entry{all, all, all, ept.Read | wb}, 0, q(w, 1, la), "", 1},

		{"MBEC: fetch of a supervisor's page", mbec, ept.LinearFetch, []ept.Entry{all, all, all, page}, 0x12345abc, 0, "", 0},
		{"MBEC: fetch of a user's page", mbec, ept.LinearFetch | user, []ept.Entry{all | ept.ExecuteUser, all, all, page | ept.ExecuteUser}, 0, q(x, 7, la|tr|us|rw), "", 1},
		{"MBEC: bit 6", mbec, ept.LinearWrite | user, []ept.Entry{all | ept.ExecuteUser, all | ept.ExecuteUser, ept.Read | wb | ept.Large | ept.ExecuteUser}, 0, q(w, 9, la|tr|us|rw), "", 2},
		{"MBEC: user execute alone is present", mbec, ept.LinearFetch | user, []ept.Entry{ept.ExecuteUser, ept.ExecuteUser | wb | ept.Large}, 0x16789abc, 0, "", 0},
		{"bit 10 is nothing without MBEC", plain, ept.LinearFetch | user, []ept.Entry{ept.ExecuteUser}, 0, q(x, 0, la|tr|us|rw), "", 4},

		{"shadow stack", shadow, shadowWrite, []ept.Entry{all, all, all, ept.Read | wb | ept.SupervisorShadowStack | 0x5000}, 0x5abc, 0, "", 0},
		{"shadow stack, bit 60 is 0", shadow, shadowRead, []ept.Entry{all, all, all, page}, 0, q(r, 7, la|tr|rw|ss), "", 1},
		{"shadow stack, upper level is read-only", shadow, shadowRead, []ept.Entry{all, ept.Read, all, page | ept.SupervisorShadowStack}, 0, q(r, 1, la|tr|rw|ss|sss), "", 1},
		{"shadow stack, not readable", shadow, shadowRead, []ept.Entry{all, all, all, ept.Execute | wb | ept.SupervisorShadowStack}, 0, q(r, x, la|tr|rw|ss|sss), "", 1},
		{"user shadow stack", shadow, shadowWrite | user, []ept.Entry{all, all, all, ept.Read | wb | ept.SupervisorShadowStack}, 0, q(w, 1, la|tr|us|rw|ss|sss), "", 1},
		{"bit 60 and other accesses", shadow, ept.LinearWrite, []ept.Entry{all, all, all, ept.Read | wb | ept.SupervisorShadowStack}, 0, q(w, 1, la|tr|rw|sss), "", 1},
		{"shadow stack without the control", plain, shadowWrite, []ept.Entry{all, all, all, ept.Read | wb | ept.SupervisorShadowStack}, 0, q(w, 1, la|tr|rw|ss), "", 1},

		{"paging write", pagingWrite, setFlags, []ept.Entry{all, all, all, ept.Read | wb | ept.PagingWrite | 0x5000}, 0x5abc, 0, "", 0},
		{"paging write, upper level", pagingWrite, setFlags, []ept.Entry{all, all, ept.Read | ept.PagingWrite, page}, 0, q(w, 1, la), "", 1},
		{"paging write is for paging", pagingWrite, ept.LinearWrite, []ept.Entry{all, all, all, ept.Read | wb | ept.PagingWrite}, 0, q(w, 1, la|tr|rw), "", 1},
		{"paging write, not in use", plain, setFlags, []ept.Entry{all, all, all, ept.Read | wb | ept.PagingWrite}, 0, q(w, 1, la), "", 1},

		{"unverified paging", verify, ept.LinearRead | ept.AccessUnverified, []ept.Entry{all, all, all, page | ept.VerifyGuestPaging}, 0, q(r, 7, la|tr|rw|vmexit.EPTPagingVerification), "", 1},
		{"verified paging", verify, ept.LinearRead, []ept.Entry{all, all, all, page | ept.VerifyGuestPaging}, 0x12345abc, 0, "", 0},
		{"not to be verified", verify, ept.LinearRead | ept.AccessUnverified, []ept.Entry{all, all, all, page}, 0x12345abc, 0, "", 0},
		{"verification without paging-write control", mode(func(m *ept.Mode) { m.VerifyGuestPaging = true }), ept.LinearRead | ept.AccessUnverified, []ept.Entry{all, all, all, page | ept.VerifyGuestPaging}, 0x12345abc, 0, "", 0},
		{"not allowed before unverified", verify, ept.LinearWrite | ept.AccessUnverified, []ept.Entry{all, all, all, ept.Read | wb | ept.VerifyGuestPaging}, 0, q(w, 1, la|tr|rw), "", 1},

		{"sub-page", subPage, ept.LinearWrite, []ept.Entry{all, all, ept.Read, ept.Read | wb | ept.SubPageWrite}, 0, q(w, 1, la|tr|rw), "", 1},
		{"convertible", ve, ept.LinearRead, []ept.Entry{all, all, 0}, 0, q(r, 0, la|tr|rw), "", 2},
		{"suppressed", ve, ept.LinearRead, []ept.Entry{all, all, ept.SuppressVE}, 0, q(r, 0, la|tr|rw), "", 2},
		{"NMI unblocking and asynchronous", plain, ept.LinearRead | ept.AccessNMIUnblocking | ept.AccessAsynchronous, []ept.Entry{0}, 0, q(r, 0, la|tr|rw|vmexit.EPTNMIUnblocking|vmexit.EPTAsynchronous), "", 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := chain(t, test.mode, gpa, test.entries...)
			hpa, f, err := ept.Translate(s, gpa, test.access)
			require.NoError(t, err)
			require.Equal(t, test.hpa, hpa)
			require.Equal(t, test.level, f.Level)
			switch {
			case test.rule != "":
				require.Equal(t, ept.Misconfiguration, f.Kind)
				require.Equal(t, test.rule, f.Rule.ID)
			case test.q != 0:
				require.Equal(t, ept.Violation, f.Kind)
				require.Equal(t, test.q, f.Qualification, "%v; should be %v", f.Qualification, test.q)
				require.Equal(t, uint64(gpa), f.Address)
			default:
				require.Equal(t, ept.Fault{}, f)
				require.NoError(t, f.Err())
				return
			}
			require.Equal(t, test.name == "sub-page", f.SubPage)
			require.Equal(t, test.name == "convertible", f.VE)
			var e *ept.FaultError
			require.ErrorAs(t, f.Err(), &e)
			require.Equal(t, f, e.Fault)
			require.Contains(t, e.Error(), "0x123456789abc")
		})
	}
}

// TestSubPageWrites: which violations are for the sub-page permission table
// (SDM Vol. 3C 29.3.4.1).
func TestSubPageWrites(t *testing.T) {
	m := mode(func(m *ept.Mode) { m.SubPageWrite = true })
	leaf := ept.Read | wb | ept.SubPageWrite
	for _, test := range []struct {
		access   ept.Access
		entries  []ept.Entry
		eligible bool
	}{
		{ept.LinearWrite, []ept.Entry{all, all, all, leaf}, true},
		{ept.LinearWrite | ept.AccessRead, []ept.Entry{all, all, all, leaf}, true},
		{ept.LinearWrite, []ept.Entry{all, all, all, ept.Read | wb}, false},
		{ept.LinearWrite, []ept.Entry{all, all, leaf | ept.Large}, false},
		{ept.LinearFetch, []ept.Entry{all, all, all, leaf}, false},
		{ept.LinearRead, []ept.Entry{all, all, all, leaf&^ept.Read | ept.Execute}, false},
		{ept.AccessWrite | ept.AccessLinear, []ept.Entry{all, all, all, leaf}, false},
		{ept.LinearWrite, []ept.Entry{all, all, all, 0}, false},
	} {
		s, _ := chain(t, m, gpa, test.entries...)
		_, f, err := ept.Translate(s, gpa, test.access)
		require.NoError(t, err)
		require.Equal(t, ept.Violation, f.Kind)
		require.Equal(t, test.eligible, f.SubPage, "%v of %v", test.access, test.entries)
	}
}

// TestWideAddresses: with 4 levels, an address of more than 48 bits is a violation
// (SDM Vol. 3C 29.3.2).
func TestWideAddresses(t *testing.T) {
	for _, levels := range []uint8{4, 5} {
		s, memory := chain(t, mode(func(m *ept.Mode) { m.Levels, m.ViolationVE = levels, true }), 0, all, all, all, all, page)
		_, f, err := ept.Translate(s, 1<<(12+9*levels), ept.LinearRead)
		require.NoError(t, err)
		require.Equal(t, ept.Violation, f.Kind)
		require.Equal(t, ept.Level(0), f.Level)
		require.False(t, f.VE)
		require.Zero(t, memory.reads)
		require.Contains(t, f.String(), "more bits")
	}
}

// TestTouch: the accessed flag of all entries, the dirty flag of the last for writes and
// page walks, nothing for accesses that fail (SDM Vol. 3C 29.3.5).
func TestTouch(t *testing.T) {
	for _, test := range []struct {
		flags  bool
		access ept.Access
		leaf   ept.Entry
		want   [4]ept.Entry // what is set
	}{
		{false, ept.LinearWrite, page, [4]ept.Entry{}},
		{true, ept.LinearRead, page, [4]ept.Entry{ept.Accessed, ept.Accessed, ept.Accessed, ept.Accessed}},
		{true, ept.LinearFetch, page, [4]ept.Entry{ept.Accessed, ept.Accessed, ept.Accessed, ept.Accessed}},
		{true, ept.LinearWrite, page, [4]ept.Entry{ept.Accessed, ept.Accessed, ept.Accessed, ept.Accessed | ept.Dirty}},
		{true, ept.PageWalk, page, [4]ept.Entry{ept.Accessed, ept.Accessed, ept.Accessed, ept.Accessed | ept.Dirty}},
		{true, ept.AccessRead, page, [4]ept.Entry{ept.Accessed, ept.Accessed, ept.Accessed, ept.Accessed}},
		{true, ept.LinearWrite, ept.Read | wb, [4]ept.Entry{}},
		{true, ept.LinearRead, ept.Write | wb, [4]ept.Entry{}},
	} {
		s, memory := chain(t, mode(func(m *ept.Mode) { m.AccessedDirty = test.flags }), gpa, all, all, all, test.leaf)
		before := map[uint64]uint64{}
		for at, e := range memory.at {
			before[at] = e
		}
		want, wantFault, err := ept.Translate(s, gpa, test.access)
		require.NoError(t, err)
		hpa, f, err := ept.Touch(&updated{s, memory, nil}, gpa, test.access)
		require.NoError(t, err)
		require.Equal(t, want, hpa)
		require.Equal(t, wantFault, f)
		for at, e := range memory.at {
			require.Equal(t, test.want[at>>12-1], ept.Entry(e^before[at]), "%v, entry at 0x%x", test.access, at)
		}
	}
}

// TestTouchBusy: an entry that changes is looked at again; one that never stays is given up.
func TestTouchBusy(t *testing.T) {
	s, memory := chain(t, mode(func(m *ept.Mode) { m.AccessedDirty = true }), gpa, all, all, all, page)
	last := 0x4000 + 8*uint64(ept.PTE.Index(gpa))
	n := 0
	u := &updated{s, memory, func() {
		if n++; n == 4 { // the leaf has become another
			memory.at[last] = uint64(ept.Read | wb | 0x777000)
		}
	}}
	hpa, f, err := ept.Touch(u, gpa, ept.LinearRead)
	require.NoError(t, err)
	require.Equal(t, ept.NoFault, f.Kind)
	require.Equal(t, uint64(0x777abc), hpa)
	require.Equal(t, uint64(ept.Read|wb|0x777000|ept.Accessed), memory.at[last])

	memory.at[last] = uint64(page)
	u.change = func() { memory.at[last] ^= 1 << 11 }
	_, _, err = ept.Touch(u, gpa, ept.LinearWrite)
	require.ErrorIs(t, err, ept.ErrBusy)
}

func TestNewTables(t *testing.T) {
	m := mode(nil)
	for _, p := range []ept.Pointer{0x1000 | 6 | 2<<3, 0x1000 | 3 | 3<<3, 1<<46 | 6 | 3<<3, 0x1000 | 6 | 3<<3 | 1<<8} {
		_, err := ept.NewTables(&words{}, m, p)
		require.ErrorIs(t, err, ept.ErrPointer)
	}
	s, err := ept.NewTables(&words{nowhere: 0x2000}, m, 0x1000|6|4<<3|1<<6|1<<7)
	require.NoError(t, err)
	require.Equal(t, ept.PML5E, s.Mode().TopLevel())
	require.True(t, s.Mode().AccessedDirty && s.Mode().SupervisorShadowStack)
	for _, index := range []int{-1, 512} {
		_, err := s.Entry(0x1000, index)
		require.ErrorContains(t, err, "0 to 511")
	}
	_, err = s.Entry(0x2000, 0)
	require.ErrorIs(t, err, errNowhere)
}

// TestTablesNowhere: an entry that leads out of memory is an error that tells where.
func TestTablesNowhere(t *testing.T) {
	s, memory := chain(t, mode(nil), gpa, all, all, all, page)
	memory.nowhere = 0x3000
	_, _, err := ept.Translate(s, gpa, ept.LinearRead)
	require.ErrorIs(t, err, errNowhere)
	var e *ept.TableError
	require.ErrorAs(t, err, &e)
	require.Equal(t, ept.PDE, e.Level)
	require.Equal(t, uint64(0x3000), e.Table)
	require.Equal(t, ept.Range{Start: 0x123440000000, Size: 1 << 30}, e.Range)
}

// hostile is memory in which each word is drawn from what was there to draw from: tables that
// refer to themselves and to each other, entries of all kinds.
type hostile struct {
	data  []byte
	limit uint64
	reads int
}

func (h *hostile) ReadPhysical(addr uint64) (uint64, error) {
	h.reads++
	if addr >= h.limit {
		return 0, errNowhere
	}
	n := (addr ^ addr>>12*0x9e3779b97f4a7c15>>40) % uint64(len(h.data)/8)
	return binary.LittleEndian.Uint64(h.data[8*n:]), nil
}

// checkHostile: whatever is in memory, a walk ends after at most five reads, in an address
// that an entry can have, a fault, or an error of memory.
func checkHostile(t require.T, data []byte, bits uint64, gpa uint64, a ept.Access) {
	t.Helper()
	h := &hostile{data: data, limit: 1<<(32+bits>>8&15) | bits}
	m := ept.Mode{
		Capabilities: everything, PhysicalAddressBits: uint8(36 + bits%17), ModeBasedExecute: bits>>16&1 != 0, SubPageWrite: bits>>17&1 != 0,
		ViolationVE: bits>>18&1 != 0, PagingWrite: bits>>19&1 != 0, VerifyGuestPaging: bits>>20&1 != 0,
	}
	p := ept.Pointer(0x1000 | 6 | (3+bits>>21&1)<<3 | bits>>22&3<<6)
	s, err := ept.NewTables(h, m, p)
	require.NoError(t, err)
	hpa, f, err := ept.Translate(s, gpa, a)
	require.LessOrEqual(t, h.reads, 5)
	if err != nil {
		require.ErrorIs(t, err, errNowhere)
		return
	}
	require.Less(t, hpa, uint64(1)<<52)
	require.NotEmpty(t, f.String())
	u := &readOnly{s}
	hpa2, f2, err := ept.Touch(u, gpa, a)
	if err == nil {
		require.Equal(t, hpa, hpa2)
		require.Equal(t, f, f2)
	}
}

// readOnly refuses all changes.
type readOnly struct{ *ept.Tables }

func (readOnly) CompareAndSwap(table uint64, index int, old, new ept.Entry) (bool, error) {
	return false, errNowhere
}

func drawHostile(t *rapid.T) {
	entry := rapid.Custom(func(t *rapid.T) uint64 {
		e := rapid.Uint64().Draw(t, "bits")
		switch rapid.IntRange(0, 3).Draw(t, "form") {
		case 0: // a table
			e = e&0xfffff000 | 7 | e&0x700
		case 1: // a page
			e = e&0xffe00000 | 7 | 6<<3 | e&(1<<7)
		case 2: // one bit wrong
			e = e&0xfffff000 | 7 ^ 1<<rapid.IntRange(0, 63).Draw(t, "bit")
		}
		return e
	})
	list := rapid.SliceOfN(entry, 1, 64).Draw(t, "entries")
	data := make([]byte, 0, 8*len(list))
	for _, e := range list {
		data = binary.LittleEndian.AppendUint64(data, e)
	}
	checkHostile(t, data, rapid.Uint64().Draw(t, "mode"), rapid.Uint64().Draw(t, "gpa"), ept.Access(rapid.Uint32().Draw(t, "access")))
}

func TestHostileTables(t *testing.T) { rapid.Check(t, drawHostile) }

func FuzzHostileTables(f *testing.F) {
	f.Add([]byte{7, 0x10, 0, 0, 0, 0, 0, 0}, uint64(0), uint64(0), uint32(1))                   // a table in itself
	f.Add([]byte{0xb7, 0, 0, 0, 0, 0, 0, 0}, uint64(1)<<23, uint64(1)<<40, uint32(3|1<<7|1<<8)) // pages of 1 GiB
	f.Fuzz(func(t *testing.T, data []byte, bits, gpa uint64, a uint32) {
		if len(data) < 8 {
			return
		}
		checkHostile(t, data, bits, gpa, ept.Access(a))
	})
}

func TestAccessString(t *testing.T) {
	for want, a := range map[string]ept.Access{
		"read":                              ept.LinearRead,
		"write":                             ept.LinearWrite,
		"read, page walk":                   ept.PageWalk,
		"read and write, no linear address": ept.AccessRead | ept.AccessWrite,
		"no access":                         ept.AccessLinear | ept.AccessTranslation,
		"fetch, user-mode address, execute-disable page": ept.LinearFetch | ept.AccessUser | ept.AccessExecuteDisable,
		"write, shadow stack, unverified paging":         ept.LinearWrite | ept.AccessShadowStack | ept.AccessUnverified,
	} {
		require.Equal(t, want, a.String())
	}
	require.Equal(t, "EPT violation", ept.Violation.String())
	require.Equal(t, "FaultKind(9)", ept.FaultKind(9).String())
	require.Equal(t, "no fault", ept.Fault{}.String())
}

// ExampleTranslate walks tables in a dump.
func ExampleTranslate() {
	memory := &words{at: map[uint64]uint64{0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4008: 0xabc035}}
	mode := ept.Mode{Capabilities: everything, PhysicalAddressBits: 46}
	tables, err := ept.NewTables(memory, mode, 0x101e)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, a := range []ept.Access{ept.LinearRead, ept.LinearWrite} {
		hpa, fault, err := ept.Translate(tables, 0x1234, a)
		fmt.Printf("0x%x, %v, %v\n", hpa, fault, err)
	}
	// Output:
	// 0xabc234, no fault, <nil>
	// 0x0, EPT violation at guest-physical address 0x1234: write; EPT rights R-X; translation of the linear address, writable page; EPT PTE 0xabc035, <nil>
}

// TestShadowStackBit: bit 14 of the qualification is bit 60 of the entry that maps the page,
// even if together the entries allow nothing.
func TestShadowStackBit(t *testing.T) {
	m := ept.Mode{Capabilities: allCapabilities, PhysicalAddressBits: 46, SupervisorShadowStack: true}
	for _, c := range []struct {
		pde, pte ept.Entry
		want     bool
	}{
		{ept.Read, ept.Read | ept.SupervisorShadowStack, true},
		{ept.Execute, ept.Read | ept.SupervisorShadowStack, true},
		{ept.Read, ept.Read, false},
		{ept.Read, ept.SupervisorShadowStack, false}, // not present
		{ept.SupervisorShadowStack, ept.Read, false},
	} {
		memory := &words{at: map[uint64]uint64{0x1000: 0x2000 | 1, 0x2000: 0x3000 | 1, 0x3000: 0x4000 | uint64(c.pde), 0x4000: 0x5000 | 6<<3 | uint64(c.pte)}}
		p, err := ept.NewPointer(&m, 0x1000)
		require.NoError(t, err)
		tables, err := ept.NewTables(memory, m, p)
		require.NoError(t, err)
		_, f, err := ept.Translate(tables, 0, ept.LinearWrite)
		require.NoError(t, err)
		require.Equal(t, ept.Violation, f.Kind)
		require.Equal(t, c.want, f.Qualification&vmexit.EPTSupervisorShadowStack != 0, "%+v", c)
	}
}
