package vmcs_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

// msrArea compares an area with a slice.
func msrArea(t *rapid.T) {
	room := rapid.IntRange(0, 6).Draw(t, "room")
	mem := make([]byte, 16*room+rapid.IntRange(0, 15).Draw(t, "rest"))
	a, err := vmcs.MSRAreaOf(mem, 0)
	require.NoError(t, err)
	require.Equal(t, room, a.Cap())
	var model []vmcs.MSREntry
	index := rapid.Custom(func(t *rapid.T) uint32 { return 0x174 + rapid.Uint32Max(7).Draw(t, "MSR") })
	find := func(i uint32) int {
		return slices.IndexFunc(model, func(e vmcs.MSREntry) bool { return e.Index == i })
	}
	t.Repeat(map[string]func(*rapid.T){
		"set": func(t *rapid.T) {
			e := vmcs.MSREntry{Index: index.Draw(t, "index"), Value: rapid.Uint64().Draw(t, "value")}
			err := a.Set(e.Index, e.Value)
			if i := find(e.Index); i >= 0 {
				require.NoError(t, err)
				model[i] = e
			} else if len(model) < room {
				require.NoError(t, err)
				model = append(model, e)
			} else {
				require.ErrorIs(t, err, vmcs.ErrMSRAreaFull)
				require.ErrorContains(t, err, hex(int(e.Index)))
			}
		},
		"remove": func(t *rapid.T) {
			i := index.Draw(t, "index")
			at := find(i)
			require.Equal(t, at >= 0, a.Remove(i))
			if at >= 0 {
				model = slices.Delete(model, at, at+1)
			}
		},
		"reset": func(t *rapid.T) {
			if rapid.IntRange(0, 9).Draw(t, "seldom") == 0 {
				a.Reset()
				model = nil
			}
		},
		"": func(t *rapid.T) {
			require.True(t, slices.Equal(model, slices.Collect(a.All())))
			require.Equal(t, len(model), int(a.Count()))
			i := index.Draw(t, "asked")
			value, ok := a.Get(i)
			at := find(i)
			require.Equal(t, at >= 0, ok)
			if ok {
				require.Equal(t, model[at].Value, value)
			}
		},
	})
	for i, e := range model {
		require.Equal(t, e, a.At(i))
		require.Equal(t, e.Index, binary.LittleEndian.Uint32(mem[16*i:]))
		require.Zero(t, binary.LittleEndian.Uint32(mem[16*i+4:]))
		require.Equal(t, e.Value, binary.LittleEndian.Uint64(mem[16*i+8:]))
	}
	back, err := vmcs.MSRAreaOf(mem, a.Count())
	require.NoError(t, err)
	require.Equal(t, a.String(), back.String())
	require.Panics(t, func() { a.At(len(model)) })
	require.Panics(t, func() { a.At(-1) })
}

func TestMSRArea(t *testing.T) { ring0test.CheckOnHost(t, msrArea) }
func FuzzMSRArea(f *testing.F) { f.Fuzz(rapid.MakeFuzz(msrArea)) }

func TestMSRAreaOf(t *testing.T) {
	mem := make([]byte, 33)
	for count, ok := range map[uint32]bool{0: true, 2: true, 3: false, ^uint32(0): false} {
		_, err := vmcs.MSRAreaOf(mem, count)
		require.Equal(t, ok, err == nil)
		if err != nil {
			require.ErrorContains(t, err, "not 33")
		}
	}
	// Of two entries for one MSR the last one counts, and both are removed.
	a, err := vmcs.MSRAreaOf(mem, 2)
	require.NoError(t, err)
	mem[8], mem[24], mem[20] = 1, 2, 9
	value, ok := a.Get(0)
	require.True(t, ok)
	require.Equal(t, uint64(2), value)
	require.Equal(t, "1: MSR 0x0 = 0x1\n2: MSR 0x0 = 0x2, reserved 0x9\n", a.String())
	require.True(t, a.Remove(0))
	require.Zero(t, a.Count())
	for range a.All() {
		t.Fatal("there is an entry")
	}
}

// TestMSRRules: each reason to refuse an entry, and values to either side of it
// (SDM Vol. 3C 27.4, 28.4).
func TestMSRRules(t *testing.T) {
	cpu := &vmcs.CPU{LinearAddressBits: 48, EFERValid: 0xd01, DebugCtlValid: 0xdfc3, PerfGlobalCtrlValid: 0x70000000f}
	any := &vmcs.CPU{}
	const none = vmcs.MSRAccepted
	for _, c := range []struct {
		entry       vmcs.MSREntry
		cpu         *vmcs.CPU
		load, store vmcs.MSRRule
	}{
		{vmcs.MSREntry{Index: 0x174, Value: 8}, nil, none, none},
		{vmcs.MSREntry{Index: 0x174, Reserved: 1}, nil, vmcs.MSRReservedBits, vmcs.MSRReservedBits},
		{vmcs.MSREntry{Index: 0x174, Reserved: 1 << 31}, nil, vmcs.MSRReservedBits, vmcs.MSRReservedBits},
		{vmcs.MSREntry{Index: 0xc0000100}, nil, vmcs.MSRSegmentBase, none},
		{vmcs.MSREntry{Index: 0xc0000101}, nil, vmcs.MSRSegmentBase, none},
		{vmcs.MSREntry{Index: 0xc0000102}, nil, none, none},
		{vmcs.MSREntry{Index: 0x7ff}, nil, none, none},
		{vmcs.MSREntry{Index: 0x800}, nil, vmcs.MSRX2APIC, vmcs.MSRX2APIC},
		{vmcs.MSREntry{Index: 0x8ff}, nil, vmcs.MSRX2APIC, vmcs.MSRX2APIC},
		{vmcs.MSREntry{Index: 0x900}, nil, none, none},
		{vmcs.MSREntry{Index: 0x9b}, nil, vmcs.MSRSMM, none},
		{vmcs.MSREntry{Index: 0x9e}, nil, vmcs.MSRReadOnly, vmcs.MSRSMM},
		{vmcs.MSREntry{Index: 0x79}, nil, vmcs.MSRMicrocode, vmcs.MSRMicrocode},
		{vmcs.MSREntry{Index: 0x8b}, nil, vmcs.MSRMicrocode, vmcs.MSRMicrocode},
		{vmcs.MSREntry{Index: 0xfe}, nil, vmcs.MSRReadOnly, none},
		{vmcs.MSREntry{Index: 0x480}, nil, vmcs.MSRReadOnly, none},
		{vmcs.MSREntry{Index: 0x493}, nil, vmcs.MSRReadOnly, none},
		{vmcs.MSREntry{Index: 0x277, Value: 0x0007040600070406}, nil, none, none},
		{vmcs.MSREntry{Index: 0x277, Value: 0x0507010600070400}, nil, none, none},
		{vmcs.MSREntry{Index: 0x277, Value: 0x02}, nil, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0x277, Value: 0x03 << 56}, nil, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0x277, Value: 0x08 << 8}, nil, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0xc0000082, Value: 0x00007fffffffffff}, cpu, none, none},
		{vmcs.MSREntry{Index: 0xc0000082, Value: 0x0000800000000000}, cpu, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0xc0000082, Value: 0xffff800000000000}, cpu, none, none},
		{vmcs.MSREntry{Index: 0xc0000082, Value: 0x0000800000000000}, any, none, none},
		{vmcs.MSREntry{Index: 0xc0000082, Value: 0x00ffffffffffffff}, nil, none, none},
		{vmcs.MSREntry{Index: 0xc0000082, Value: 0x0100000000000000}, nil, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0x175, Value: 1 << 63}, cpu, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0x176, Value: 1 << 63}, cpu, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0xc0000083, Value: 1 << 63}, cpu, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0xc0000102, Value: 1 << 63}, cpu, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0x600, Value: 1 << 63}, cpu, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0xc0000080, Value: 0xd01}, cpu, none, none},
		{vmcs.MSREntry{Index: 0xc0000080, Value: 0xd03}, cpu, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0xc0000080, Value: 0xd03}, nil, none, none},
		{vmcs.MSREntry{Index: 0x1d9, Value: 0x1}, cpu, none, none},
		{vmcs.MSREntry{Index: 0x1d9, Value: 0x8}, cpu, vmcs.MSRValue, none},
		{vmcs.MSREntry{Index: 0x38f, Value: 0x700000000}, cpu, none, none},
		{vmcs.MSREntry{Index: 0x38f, Value: 0x800000000}, cpu, vmcs.MSRValue, none},
	} {
		require.Equal(t, c.load, c.entry.LoadRule(c.cpu), "%v, %v", c.entry, c.cpu)
		require.Equal(t, c.store, c.entry.StoreRule(), "%v", c.entry)
	}
	texts := map[string]bool{}
	for r := range vmcs.MSRRule(9) {
		texts[r.String()] = true
	}
	require.Len(t, texts, 9)
	require.Equal(t, "MSRRule(8)", vmcs.MSRRule(8).String())
}

func TestMSRAreaChecks(t *testing.T) {
	mem := make([]byte, 16*513)
	a, err := vmcs.MSRAreaOf(mem, 0)
	require.NoError(t, err)
	for i := range uint32(512) {
		require.NoError(t, a.Set(0x100000+i, 0))
	}
	caps := new(vmcs.Capabilities) // at most 512 entries
	require.NoError(t, a.CheckLoad(caps))
	require.NoError(t, a.CheckStore(caps))
	require.NoError(t, a.Set(0x110000, 0))
	require.ErrorContains(t, a.CheckLoad(caps), "at most 512")
	require.ErrorContains(t, a.CheckStore(caps), "at most 512")
	require.NoError(t, a.CheckLoad(nil))
	caps.Misc = 1 << 25
	require.NoError(t, a.CheckLoad(caps))

	a.Reset()
	require.NoError(t, a.Set(0x174, 8))
	require.NoError(t, a.Set(0xc0000100, 0x1000))
	var e *vmcs.MSRAreaError
	require.ErrorAs(t, a.CheckLoad(caps), &e)
	require.Equal(t, vmcs.MSRAreaError{Number: 2, Entry: vmcs.MSREntry{Index: 0xc0000100, Value: 0x1000}, Rule: vmcs.MSRSegmentBase}, *e)
	require.Equal(t, "vmcs: entry 2 of the MSR area, MSR 0xc0000100 = 0x1000: IA32_FS_BASE and IA32_GS_BASE are loaded from the guest or host state: take the entry out", e.Error())
	require.NoError(t, a.CheckStore(caps))
	require.NoError(t, a.Set(0x800, 0))
	require.ErrorAs(t, a.CheckStore(nil), &e)
	require.Equal(t, 3, e.Number)
}

// hostileArea: any memory is read without harm.
func hostileArea(t *rapid.T) {
	mem := rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "memory")
	a, err := vmcs.MSRAreaOf(mem, rapid.Uint32Max(6).Draw(t, "count"))
	if err != nil {
		return
	}
	n := 0
	for e := range a.All() {
		require.Equal(t, e, a.At(n))
		_, _ = e.LoadRule(nil), e.StoreRule()
		n++
	}
	require.Equal(t, int(a.Count()), n)
	_ = a.CheckLoad(nil)
}

func TestHostileArea(t *testing.T) { rapid.Check(t, hostileArea) }
func FuzzHostileArea(f *testing.F) { f.Fuzz(rapid.MakeFuzz(hostileArea)) }
