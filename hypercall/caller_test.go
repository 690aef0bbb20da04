package hypercall_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"pgregory.net/rapid"
)

// A machine has a guest, which makes calls, and a hypervisor, which carries them out.
type machine struct {
	hypercall.Caller
	d       *hypercall.Dispatcher
	call    hypercall.Call
	mem     *memory
	entries int               // VM exits of all calls
	last    hypercall.Input   // as the hypervisor saw it
	outcome hypercall.Outcome // of the last call
}

func newMachine(d *hypercall.Dispatcher, mode hypercall.Mode) *machine {
	m := &machine{d: d, mem: newMemory(0x1000, 0x2000)}
	m.Caller = hypercall.Caller{
		Trap: m.trap, Mode: mode, XMMInput: true, XMMOutput: true,
		Input: hypercall.Page{GPA: 0x1000, Bytes: m.mem.pages[0x1000][:]}, Output: hypercall.Page{GPA: 0x2000, Bytes: m.mem.pages[0x2000][:]},
	}
	m.call = hypercall.Call{Memory: m.mem, Mode: mode, Privileges: ^hypercall.Privileges(0), XMMInput: true, XMMOutput: true}
	return m
}

// trap is the hypercall instruction: with RIP held it is carried out again.
func (m *machine) trap(r *hypercall.CallRegisters) {
	m.call.Regs, m.call.XMM = &r.General, &r.XMM
	for {
		m.entries++
		if m.outcome = m.d.Dispatch(&m.call); m.outcome != hypercall.Again {
			break
		}
	}
	m.last = m.call.Word()
}

// TestRoundTrip makes the same call in each form that can pass it: in memory and in
// registers, in 64-bit and 32-bit mode, continued by the processor or by the caller. What
// the handlers see, and what the caller gets, is always the same.
func TestRoundTrip(t *testing.T) {
	forms := 0
	rapid.Check(t, func(t *rapid.T) {
		var did effects
		d := newDispatcher(t, hypercall.Config{}, &did)
		tc := rapid.SampledFrom(testCalls).Draw(t, "call")
		if tc.layout.SlowOnly {
			tc.layout.Input = 16
		}
		w := hypercall.Input(tc.code)
		n := 0
		if tc.rep {
			n = rapid.IntRange(1, rapid.SampledFrom([]int{3, 12, 120}).Draw(t, "most")).Draw(t, "count")
			w = w.WithReps(n).WithRepStart(rapid.IntRange(0, min(n-1, 2)).Draw(t, "start"))
		}
		if tc.layout.Variable {
			w = w.WithVariableHeader(rapid.IntRange(0, 9).Draw(t, "variable"))
		}
		in := make([]byte, int(tc.layout.Input)+8*w.VariableHeader()+n*int(tc.layout.InputElement))
		for i := range in {
			in[i] = rapid.Byte().Draw(t, "input")
		}
		if len(in) > 0 && rapid.Bool().Draw(t, "no failure") {
			for i := range in {
				in[i] %= failByte
			}
		}
		size := int(tc.layout.Output) + n*int(tc.layout.OutputElement)
		var want []byte
		var wantDone int
		var wantErr error
		var wantDid effects
		for form := range 8 {
			mode := []hypercall.Mode{hypercall.Mode64, hypercall.Mode32}[form&1]
			m := newMachine(d, mode)
			word := w.WithFast(form&2 != 0)
			if word.Fast() && (!m.Fast(len(in), size) || tc.layout.SlowOnly) {
				continue
			}
			if form&4 != 0 {
				m.call.Budget = rapid.IntRange(1, 5).Draw(t, "budget")
			}
			did = nil
			out := make([]byte, size)
			done, err := m.Do(word, in, out)
			require.Equal(t, hypercall.Done, m.outcome)
			out = out[:min(len(out), int(tc.layout.Output)+done*int(tc.layout.OutputElement))]
			// Elements before the start are not the call's.
			clear(out[:min(len(out), w.RepStart()*int(tc.layout.OutputElement))])
			if form == 0 {
				want, wantDone, wantErr, wantDid = out, done, err, did
			}
			forms++
			require.Equal(t, wantErr, err)
			require.Equal(t, wantDone, done)
			require.Equal(t, want, out, "form %d", form)
			require.Equal(t, wantDid, did)
			require.Equal(t, word.WithRepStart(m.last.RepStart()), m.last)
		}
		if wantErr != nil {
			require.ErrorIs(t, wantErr, failStatus)
		}
	})
	t.Logf("%d calls", forms)
}

// registerFile answers HvCallGetVpRegisters and its like.
type registerFile struct{ fail hypercall.Register }

func (f *registerFile) get(c *hypercall.Call, h hypercall.VpRegistersInput, name hypercall.Register) (hypercall.RegisterValue, hypercall.Status) {
	if h.VPIndex != hypercall.VPSelf {
		return hypercall.RegisterValue{}, hypercall.StatusInvalidVPIndex
	}
	if name == f.fail {
		return hypercall.RegisterValue{}, hypercall.StatusInvalidParameter
	}
	return hypercall.RegisterValue{Low: uint64(name) * 3, High: h.PartitionID}, success
}

// typedDispatcher has a call of each typed form.
func typedDispatcher(t require.T, f *registerFile, pages *[]uint64) *hypercall.Dispatcher {
	d, err := hypercall.NewDispatcher(hypercall.Config{},
		hypercall.SimpleFunc(hypercall.CodeSignalEvent, func(c *hypercall.Call, in hypercall.SignalEventInput) hypercall.Status {
			*pages = append(*pages, uint64(in.ConnectionID))
			return success
		}),
		hypercall.SimpleFunc(0x1000, func(c *hypercall.Call, in hypercall.None) hypercall.Status { return hypercall.Status(len(c.Header())) }),
		hypercall.SimpleFuncOut(0x1001, func(c *hypercall.Call, in hypercall.Uint64) (hypercall.Uint64, hypercall.Status) {
			if in == 0 {
				return 5, denied
			}
			return in + 1, success
		}),
		hypercall.SimpleFunc(hypercall.CodeFlushVirtualAddressSpaceEx, func(c *hypercall.Call, in hypercall.FlushVirtualAddressExInput) hypercall.Status {
			*pages = append(*pages, in.AddressSpace, uint64(len(c.VariableHeader())), le(c.VariableHeader()))
			return success
		}),
		hypercall.RepFunc(hypercall.CodeModifyVtlProtectionMask, func(c *hypercall.Call, h hypercall.ModifyVtlProtectionMaskInput, page hypercall.Uint64) hypercall.Status {
			if page == 13 {
				return denied
			}
			*pages = append(*pages, uint64(page))
			return success
		}),
		hypercall.RepFunc(hypercall.CodeFlushVirtualAddressList, func(c *hypercall.Call, h hypercall.FlushVirtualAddressInput, r hypercall.GvaRange) hypercall.Status {
			*pages = append(*pages, r.Address())
			return success
		}),
		hypercall.RepFuncOut(hypercall.CodeGetVpRegisters, f.get),
		hypercall.RepFuncOut(0x1002, func(c *hypercall.Call, _ hypercall.None, e hypercall.Uint32) (hypercall.Uint32, hypercall.Status) {
			return e + 1, success
		}),
		hypercall.SimpleFuncOut(0x1003, func(c *hypercall.Call, in hypercall.SignalEventInput) (hypercall.Uint32, hypercall.Status) {
			return 0, hypercall.StatusSuccess
		}),
		hypercall.RepFunc(0x1004, func(c *hypercall.Call, _ hypercall.None, e hypercall.SignalEventInput) hypercall.Status {
			return hypercall.StatusSuccess
		}),
		hypercall.RepFuncOut(0x1005, func(c *hypercall.Call, _ hypercall.None, e hypercall.SignalEventInput) (hypercall.Uint32, hypercall.Status) {
			return 0, hypercall.StatusSuccess
		}),
	)
	require.NoError(t, err)
	return d
}

// TestElements has the elements that are plain numbers.
func TestElements(t *testing.T) {
	for n, p := range map[int][]hypercall.Parameters{
		0: {new(hypercall.None)}, 4: {new(hypercall.Uint32), new(hypercall.Register)}, 8: {new(hypercall.Uint64), new(hypercall.GvaRange)},
	} {
		for _, p := range p {
			require.Equal(t, n, p.Size())
			require.True(t, p.ReservedZero())
			b := []byte{1, 2, 3, 4, 5, 6, 7, 8}[:n]
			require.True(t, p.Get(b))
			out := make([]byte, n)
			require.True(t, p.Put(out))
			require.Equal(t, b, out)
			if n > 0 {
				require.False(t, p.Get(b[1:]), "%T", p)
				require.False(t, p.Put(out[1:]), "%T", p)
			}
		}
	}
}

// TestTyped makes calls with structures at both ends.
func TestTyped(t *testing.T) {
	ring0test.HostOnly(t)
	var pages []uint64
	f := &registerFile{fail: 0xffff}
	d := typedDispatcher(t, f, &pages)
	for _, mode := range []hypercall.Mode{hypercall.Mode64, hypercall.Mode32} {
		for _, xmm := range []bool{true, false} {
			pages = nil
			m := newMachine(d, mode)
			m.XMMInput, m.XMMOutput = xmm, xmm
			m.call.XMMInput, m.call.XMMOutput = xmm, xmm

			require.NoError(t, m.Invoke(hypercall.CodeSignalEvent, &hypercall.SignalEventInput{ConnectionID: 7}, nil))
			require.True(t, m.last.Fast())
			require.NoError(t, m.Invoke(0x1000, nil, nil))
			var out hypercall.Uint64
			in := hypercall.Uint64(41)
			require.NoError(t, m.Invoke(0x1001, &in, &out))
			require.Equal(t, hypercall.Uint64(42), out)
			require.Equal(t, xmm && mode == hypercall.Mode64, m.last.Fast())
			in, out = 0, 9
			require.Equal(t, error(denied), m.Invoke(0x1001, &in, &out))
			require.Equal(t, hypercall.Uint64(9), out) // a call that fails has no results

			require.NoError(t, m.Invoke(hypercall.CodeFlushVirtualAddressSpaceEx, &hypercall.FlushVirtualAddressExInput{AddressSpace: 0x5000}, nil, 3))
			require.Equal(t, xmm, m.last.Fast())
			require.Equal(t, []uint64{7, 0x5000, 8, 3}, pages)

			// What is reserved, in each kind of call.
			_, err := hypercall.InvokeListOut(&m.Caller, hypercall.CodeGetVpRegisters, &hypercall.VpRegistersInput{Reserved: [3]uint8{1}}, []hypercall.Register{1}, make([]hypercall.RegisterValue, 1))
			require.Equal(t, error(hypercall.StatusInvalidParameter), err)
			require.Equal(t, error(hypercall.StatusInvalidParameter), m.Invoke(0x1003, &hypercall.SignalEventInput{Reserved: 1}, new(hypercall.Uint32)))
			done, err := hypercall.InvokeList(&m.Caller, 0x1004, nil, []hypercall.SignalEventInput{{}, {Reserved: 1}})
			require.Equal(t, error(hypercall.StatusInvalidParameter), err)
			require.Equal(t, 1, done)
			done, err = hypercall.InvokeListOut(&m.Caller, 0x1005, nil, []hypercall.SignalEventInput{{}, {Reserved: 1}}, make([]hypercall.Uint32, 2))
			require.Equal(t, error(hypercall.StatusInvalidParameter), err)
			require.Equal(t, 1, done)
			require.Equal(t, error(hypercall.StatusInvalidParameter), m.Invoke(hypercall.CodeSignalEvent, &hypercall.SignalEventInput{ConnectionID: 7, Reserved: 1}, nil))

			// Lists.
			var all []hypercall.Uint64
			for i := range 1200 {
				all = append(all, hypercall.Uint64(0x1000+i))
			}
			pages, m.entries = nil, 0
			h := &hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf}
			done, err = hypercall.InvokeList(&m.Caller, hypercall.CodeModifyVtlProtectionMask, h, all)
			require.NoError(t, err)
			require.Equal(t, 1200, done)
			require.Len(t, pages, 1200)
			for i, p := range pages {
				require.Equal(t, uint64(0x1000+i), p)
			}
			require.Equal(t, 8+8+3, m.entries) // 510, 510 and 180 by 64
			all[600] = 13
			done, err = hypercall.InvokeList(&m.Caller, hypercall.CodeModifyVtlProtectionMask, h, all)
			require.Equal(t, error(denied), err)
			require.Equal(t, 600, done)
			h.Reserved[2] = 1
			done, err = hypercall.InvokeList(&m.Caller, hypercall.CodeModifyVtlProtectionMask, h, all[:3])
			require.Equal(t, error(hypercall.StatusInvalidParameter), err)
			require.Zero(t, done)

			pages = nil
			_, err = hypercall.InvokeList(&m.Caller, hypercall.CodeFlushVirtualAddressList, &hypercall.FlushVirtualAddressInput{}, []hypercall.GvaRange{0x1000, 0x7001})
			require.NoError(t, err)
			require.Equal(t, []uint64{0x1000, 0x7000}, pages)

			names := []hypercall.Register{1, 2, 3}
			values := make([]hypercall.RegisterValue, len(names))
			self := &hypercall.VpRegistersInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf}
			done, err = hypercall.InvokeListOut(&m.Caller, hypercall.CodeGetVpRegisters, self, names, values)
			require.NoError(t, err)
			require.Equal(t, 3, done)
			require.Equal(t, []hypercall.RegisterValue{{Low: 3, High: ^uint64(0)}, {Low: 6, High: ^uint64(0)}, {Low: 9, High: ^uint64(0)}}, values)
			require.Equal(t, xmm && mode == hypercall.Mode64, m.last.Fast())
			names[1] = f.fail
			values[2] = hypercall.RegisterValue{}
			done, err = hypercall.InvokeListOut(&m.Caller, hypercall.CodeGetVpRegisters, self, names, values)
			require.Equal(t, error(hypercall.StatusInvalidParameter), err)
			require.Equal(t, 1, done)
			require.Zero(t, values[2])

			numbers := make([]hypercall.Uint32, 3000)
			results := make([]hypercall.Uint32, 3000)
			for i := range numbers {
				numbers[i] = hypercall.Uint32(i)
			}
			done, err = hypercall.InvokeListOut(&m.Caller, 0x1002, nil, numbers, results)
			require.NoError(t, err)
			require.Equal(t, 3000, done)
			for i, v := range results {
				require.Equal(t, hypercall.Uint32(i+1), v)
			}
			done, err = hypercall.InvokeListOut(&m.Caller, 0x1002, nil, numbers[:0], results)
			require.NoError(t, err)
			require.Zero(t, done)
		}
	}
}

// TestTypedAllocates nothing on either side.
func TestTypedAllocates(t *testing.T) {
	if !ring0test.Optimised() {
		t.Skip("built without optimisation")
	}
	pages := make([]uint64, 0, 4096)
	d := typedDispatcher(t, &registerFile{}, &pages)
	m := newMachine(d, hypercall.Mode64)
	event, h := new(hypercall.SignalEventInput), new(hypercall.ModifyVtlProtectionMaskInput)
	self := &hypercall.VpRegistersInput{VPIndex: hypercall.VPSelf}
	names, values := []hypercall.Register{1, 2, 3}, make([]hypercall.RegisterValue, 3)
	all := make([]hypercall.Uint64, 600)
	require.Zero(t, testing.AllocsPerRun(10, func() {
		pages = pages[:0]
		err := m.Invoke(hypercall.CodeSignalEvent, event, nil)
		_, err2 := hypercall.InvokeList(&m.Caller, hypercall.CodeModifyVtlProtectionMask, h, all)
		_, err3 := hypercall.InvokeListOut(&m.Caller, hypercall.CodeGetVpRegisters, self, names, values)
		if err != nil || err2 != nil || err3 != nil || len(pages) != 601 {
			panic("a call fails")
		}
	}))
}

// oversized has a size that no page holds.
type oversized struct{ hypercall.None }

func (*oversized) Size() int { return 4097 }

// TestTypedPanics refuses types that are not those of a call.
func TestTypedPanics(t *testing.T) {
	for _, f := range []func(){
		func() {
			hypercall.SimpleFunc(hypercall.CodeSignalEvent, func(*hypercall.Call, hypercall.Uint32) hypercall.Status { return 0 })
		},
		func() {
			hypercall.SimpleFuncOut(hypercall.CodeSignalEvent, func(*hypercall.Call, hypercall.SignalEventInput) (o hypercall.Uint32, s hypercall.Status) { return })
		},
		func() {
			hypercall.RepFunc(hypercall.CodeModifyVtlProtectionMask, func(*hypercall.Call, hypercall.ModifyVtlProtectionMaskInput, hypercall.Uint32) hypercall.Status {
				return 0
			})
		},
		func() {
			hypercall.SimpleFunc(0x1000, func(*hypercall.Call, oversized) hypercall.Status { return 0 })
		},
	} {
		require.Panics(t, f)
	}
}

// TestCallerRefuses calls that cannot be made.
func TestCallerRefuses(t *testing.T) {
	var did effects
	m := newMachine(newDispatcher(t, hypercall.Config{}, &did), hypercall.Mode64)
	list := make([]hypercall.Uint64, 3)
	for _, c := range []struct {
		change func()
		call   func() error
		want   string
	}{
		{func() { m.Mode = hypercall.ModeReal }, func() error { _, err := m.Do(0x1006, nil, nil); return err }, "set Mode"},
		{func() {}, func() error { _, err := m.Do(0x1_1006, make([]byte, 113), nil); return err }, "in memory"},
		{func() {}, func() error { _, err := m.Do(0x1_1006, make([]byte, 100), make([]byte, 1)); return err }, "in memory"},
		{func() { m.XMMInput = false }, func() error { _, err := m.Do(0x1_1006, make([]byte, 17), nil); return err }, "XMMInput false"},
		{func() { m.XMMOutput = false }, func() error { _, err := m.Do(0x1_1006, nil, make([]byte, 1)); return err }, "XMMOutput false"},
		{func() { m.Mode = hypercall.Mode32 }, func() error { _, err := m.Do(0x1_1006, nil, make([]byte, 1)); return err }, "32-bit"},
		{func() {}, func() error { _, err := m.Do(0x1006, make([]byte, 4097), nil); return err }, "set Input and Output"},
		{func() { m.Output = hypercall.Page{} }, func() error { _, err := m.Do(0x1006, nil, make([]byte, 1)); return err }, "set Input and Output"},
		{func() { m.Input.GPA++ }, func() error { _, err := m.Do(0x1006, make([]byte, 1), nil); return err }, "set Input and Output"},
		{func() { m.Output.GPA = m.Input.GPA }, func() error { _, err := m.Do(0x1006, make([]byte, 1), make([]byte, 1)); return err }, "overlap"},
		{func() {}, func() error { return m.Invoke(0x1006, nil, nil, make([]uint64, 1024)...) }, "there can be 1023"},
		{func() {}, func() error { return m.Invoke(0x1006, nil, nil, make([]uint64, 1023)...) }, "set Input and Output"},
		{func() {}, func() error { return m.Invoke(0x2001, nil, new(oversized)) }, "set Input and Output"},
		{func() {}, func() error {
			_, err := hypercall.InvokeListOut(&m.Caller, 0x1004, nil, list, make([]hypercall.Uint64, 2))
			return err
		}, "2 elements"},
		{func() {}, func() error {
			_, err := hypercall.InvokeList(&m.Caller, 0x1004, nil, list, make([]uint64, 512)...)
			return err
		}, "no element"},
		{func() { m.Input = hypercall.Page{} }, func() error {
			_, err := hypercall.InvokeList(&m.Caller, 0x1004, nil, make([]hypercall.Uint64, 20))
			return err
		}, "set Input and Output"},
	} {
		saved := m.Caller
		c.change()
		err := c.call()
		m.Caller = saved
		require.ErrorContains(t, err, c.want)
		var s hypercall.Status
		if !errors.As(err, &s) {
			require.Contains(t, err.Error(), "hypercall: ")
		}
	}
	require.Empty(t, did)
}

// TestCallerBounded has hypervisors that end rep calls early, and some that never end
// them.
func TestCallerBounded(t *testing.T) {
	for _, c := range []struct {
		answer func(w hypercall.Input) hypercall.Result
		traps  int
		done   int
		want   error
	}{
		{func(w hypercall.Input) hypercall.Result { return hypercall.MakeResult(success, w.RepCount()) }, 1, 9, nil},
		{func(w hypercall.Input) hypercall.Result { return hypercall.MakeResult(success, w.RepStart()+1) }, 9, 9, nil},
		{func(w hypercall.Input) hypercall.Result { return hypercall.MakeResult(success, min(9, w.RepStart()+4)) }, 3, 9, nil},
		{func(w hypercall.Input) hypercall.Result { return hypercall.MakeResult(success, 0) }, 1, 0, hypercall.ErrNoProgress},
		{func(w hypercall.Input) hypercall.Result { return hypercall.MakeResult(success, 4) }, 2, 4, hypercall.ErrNoProgress},
		{func(w hypercall.Input) hypercall.Result { return hypercall.MakeResult(denied, 4) }, 1, 4, denied},
		{func(w hypercall.Input) hypercall.Result { return hypercall.MakeResult(success, 10) }, 1, 0, nil},
	} {
		traps := 0
		caller := &hypercall.Caller{Mode: hypercall.Mode64, XMMInput: true, Trap: func(r *hypercall.CallRegisters) {
			traps++
			r.General[hvRAX] = uint64(c.answer(hypercall.Input(r.General[hvRCX])))
		}}
		done, err := caller.Do(hypercall.Input(0x1_1003).WithReps(9), make([]byte, 88), nil)
		require.Equal(t, c.traps, traps)
		require.Equal(t, c.done, done)
		switch {
		case c.want != nil:
			require.ErrorIs(t, err, c.want)
		case c.done == 9:
			require.NoError(t, err)
		default:
			require.ErrorContains(t, err, "10 of 9 elements")
		}
	}
}

// FuzzCaller has a hypervisor that answers anything.
func FuzzCaller(f *testing.F) {
	f.Add(uint64(0x1_1004), []byte{1, 2, 3}, uint8(2))
	f.Fuzz(func(t *testing.T, word uint64, answers []byte, mode uint8) {
		w := hypercall.Input(word)
		traps := 0
		c := &hypercall.Caller{Mode: hypercall.Mode(mode % 4), XMMInput: true, XMMOutput: true}
		c.Trap = func(r *hypercall.CallRegisters) {
			for i := range r.General {
				if len(answers) > 0 {
					r.General[i] = r.General[i]<<8 | uint64(answers[traps%len(answers)])<<(i%40)
				}
			}
			traps++
		}
		in, out := make([]byte, len(answers)%120), make([]byte, len(answers)%64)
		done, err := c.Do(w.WithFast(true), in, out)
		require.LessOrEqual(t, traps, max(1, w.RepCount()))
		if err == nil && w.RepCount() > 0 {
			require.Equal(t, w.RepCount(), done)
		}
	})
}

// A guest asks for three registers of its own: the names fit in RDX, R8 and XMM0, and the
// values come back in XMM1 to XMM3.
func Example() {
	get := func(c *hypercall.Call, h hypercall.VpRegistersInput, name hypercall.Register) (hypercall.RegisterValue, hypercall.Status) {
		if h.TargetVTL.Of(c.VTL) > c.VTL {
			return hypercall.RegisterValue{}, hypercall.StatusAccessDenied
		}
		return hypercall.RegisterValue{Low: uint64(name)}, hypercall.StatusSuccess
	}
	d, err := hypercall.NewDispatcher(hypercall.Config{}, hypercall.RepFuncOut(hypercall.CodeGetVpRegisters, get))
	if err != nil {
		fmt.Println(err)
		return
	}
	// The hypervisor's side, at a VM exit for VMCALL.
	call := &hypercall.Call{Mode: hypercall.Mode64, Privileges: hypercall.PrivilegeAccessVpRegisters, XMMInput: true, XMMOutput: true}
	exit := func(r *hypercall.CallRegisters) {
		call.Regs, call.XMM = &r.General, &r.XMM
		fmt.Println(d.Dispatch(call), call.Word())
	}
	// The guest's side.
	guest := &hypercall.Caller{Trap: exit, Mode: hypercall.Mode64, XMMInput: true, XMMOutput: true}
	names := []hypercall.Register{hypercall.RegisterVsmPartitionConfig, hypercall.RegisterRIP}
	values := make([]hypercall.RegisterValue, len(names))
	header := &hypercall.VpRegistersInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf}
	done, err := hypercall.InvokeListOut(guest, hypercall.CodeGetVpRegisters, header, names, values)
	fmt.Printf("%d %v %#x %#x\n", done, err, values[0].Low, values[1].Low)
	// Output:
	// done HvCallGetVpRegisters, fast, reps 2
	// 2 <nil> 0xd0007 0x20010
}
