package vtl_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		config vtl.Config
		want   string
	}{
		{vtl.Config{}, "Processors is 0"},
		{vtl.Config{Processors: vtl.MaxProcessors + 1}, "1 to 4096"},
		{vtl.Config{Processors: 1, MaximumVTL: 16}, "levels are 0 to 15"},
		{vtl.Config{Processors: 1, Profile: 3}, "Profile(3)"},
		{vtl.Config{Processors: 1, Capabilities: 1 << 18}, "cannot be offered"},
		{vtl.Config{Processors: 1, MaximumVTL: 1, Capabilities: 4 << 1}, "above MaximumVTL 1"},
		{vtl.Config{Processors: 1, RAM: []vtl.Range{{}}}, "is empty"},
		{vtl.Config{Processors: 1, RAM: []vtl.Range{{Page: 1, Pages: 1 << 40}}}, "52 bits"},
		{vtl.Config{Processors: 1, RAM: []vtl.Range{{Page: 1 << 63, Pages: 1 << 63}}}, "52 bits"},
		{vtl.Config{Processors: 1, RAM: []vtl.Range{{Page: 1, Pages: 2}, {Page: 2, Pages: 1}}}, "starts before"},
		{vtl.Config{Processors: 2, APICIDs: []uint32{1}}, "1 APICIDs for 2"},
		{vtl.Config{Processors: 2, APICIDs: []uint32{1, 1}}, "both"},
		{vtl.Config{Processors: 1, ProtectionMemory: -1}, "-1 bytes"},
	} {
		_, err := vtl.New(c.config)
		require.Error(t, err)
		if c.want == "both" {
			c.want = "two processors have APIC ID 0x1"
		}
		require.ErrorContains(t, err, c.want)
	}
}

// Sixteen levels call up and return down, one at a time, in order.
func TestSixteenLevels(t *testing.T) {
	r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 15})
	for l := vtl.VTL(1); l <= 15; l++ {
		r.enable(0, l, 0)
		r.e.Reset()
		r.call(0)
		f := r.one(vtl.EffectSwitch)
		require.Equal(t, vtl.Effect{Kind: vtl.EffectSwitch, From: l - 1, Level: l, Reason: vtl.ReasonCall, Flags: vtl.FlagAdvance}, f)
	}
	require.Equal(t, vtl.UndefinedInstruction, r.Call(0, callTrap, &r.e))
	require.Equal(t, uint16(0xffff), r.Status().EnabledVtlSet())
	require.Equal(t, uint16(0xffff), r.VPStatus(0).EnabledVtlSet())
	for l := vtl.VTL(15); l > 0; l-- {
		require.Equal(t, l, r.Active(0))
		r.ret(0)
	}
	require.Equal(t, vtl.UndefinedInstruction, r.Return(0, returnTrap, &r.e))
	require.Equal(t, "there is no level below VTL0", r.Why().String())
}

// Levels need not be consecutive: a call and a return go to the next one there is.
func TestLevelsWithGaps(t *testing.T) {
	r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 9})
	r.enable(0, 4, 0)
	r.call(0)
	require.Equal(t, vtl.VTL(4), r.Active(0))
	r.enable(0, 9, 0)
	r.call(0)
	require.Equal(t, vtl.VTL(9), r.Active(0))
	// A level below the caller can be enabled later, in between.
	r.enable(0, 7, 0)
	r.ret(0)
	require.Equal(t, vtl.VTL(7), r.Active(0))
	r.ret(0)
	require.Equal(t, vtl.VTL(4), r.Active(0))
	// Not the highest below its target: 9 is there, and 7 is between.
	require.Equal(t, hypercall.StatusAccessDenied, r.enablePartition(0, 8, 0))
	r.ret(0)
	require.Equal(t, vtl.VTL(0), r.Active(0))
}

func TestTraps(t *testing.T) {
	r := twoLevels(t, vtl.Config{})
	before := state(r.Partition)
	for _, bad := range []vtl.Trap{
		{Word: callTrap.Word, CPL: 1}, {Word: callTrap.Word, CPL: 3}, {Word: callTrap.Word, RealMode: true},
		{Word: callTrap.Word, Control: 1}, {Word: callTrap.Word | hypercall.InputFast}, {Word: callTrap.Word | 1<<32}, {Word: returnTrap.Word},
	} {
		require.Equal(t, vtl.UndefinedInstruction, r.Call(0, bad, &r.e))
		require.NotZero(t, r.Why())
	}
	require.Equal(t, vtl.UndefinedInstruction, r.Call(9, callTrap, &r.e))
	require.Equal(t, before, state(r.Partition))
	r.call(0)
	before = state(r.Partition)
	r.e.Reset()
	for _, bad := range []vtl.Trap{
		{Word: returnTrap.Word, CPL: 3}, {Word: returnTrap.Word, RealMode: true}, {Word: returnTrap.Word, Control: 2}, {Word: returnTrap.Word, Control: 1 << 63},
		{Word: returnTrap.Word | hypercall.InputFast}, {Word: callTrap.Word},
	} {
		require.Equal(t, vtl.UndefinedInstruction, r.Return(0, bad, &r.e))
	}
	require.Equal(t, vtl.UndefinedInstruction, r.Return(9, returnTrap, &r.e))
	require.Equal(t, before, state(r.Partition))
	require.Zero(t, r.e.Len())
}

// What the assist page gets and gives: the reason on entry, RAX and RCX on return.
func TestAssistPage(t *testing.T) {
	for _, c := range []struct {
		profile vtl.Profile
		trap    vtl.Trap
		entry   vtl.Flags
		exit    vtl.Flags
	}{
		{vtl.TLFS, returnTrap, vtl.FlagReason, vtl.FlagRestore},
		{vtl.TLFS, fastTrap, vtl.FlagReason, 0},
		{vtl.OpenVMM, fastTrap, vtl.FlagReason, 0},
		{vtl.KVM, fastTrap, vtl.FlagReason | vtl.FlagStore, vtl.FlagRestore},
	} {
		r := twoLevels(t, vtl.Config{Profile: c.profile})
		require.Equal(t, vtl.Done, r.SetAssistPage(0, 1, 0x123001))
		require.Equal(t, vtl.GeneralProtection, r.SetAssistPage(0, 1, 1<<52|1))
		require.Equal(t, vtl.Dropped, r.SetAssistPage(0, 2, 1))
		require.Equal(t, uint64(0x123001), r.AssistPage(0, 1))
		r.call(0)
		f := r.one(vtl.EffectSwitch)
		require.Equal(t, c.entry|vtl.FlagAdvance, f.Flags)
		require.Equal(t, uint64(0x123), f.Page)
		r.e.Reset()
		require.Equal(t, vtl.Switched, r.Return(0, c.trap, &r.e))
		require.Equal(t, c.exit|vtl.FlagAdvance, r.one(vtl.EffectSwitch).Flags)
	}
}

func TestInterrupts(t *testing.T) {
	r := twoLevels(t, vtl.Config{})
	require.Equal(t, vtl.Dropped, r.Interrupt(0, 2, vtl.Fixed, 0x40, &r.e))
	require.Equal(t, vtl.Dropped, r.Interrupt(0, 0, vtl.Fixed, 15, &r.e))
	require.Equal(t, vtl.Dropped, r.Interrupt(7, 0, vtl.Fixed, 0x40, &r.e))

	// VTL1's TPR holds it back, and lets it go.
	require.Equal(t, vtl.Done, r.SetTPR(0, 1, 0x50, &r.e))
	require.Equal(t, vtl.Pending, r.Interrupt(0, 1, vtl.Fixed, 0x5f, &r.e))
	require.Equal(t, vtl.VTL(0), r.Active(0))
	require.Equal(t, vtl.Switched, r.SetTPR(0, 1, 0x4f, &r.e))
	require.Equal(t, vtl.ReasonInterrupt, r.one(vtl.EffectSwitch).Reason)
	require.Zero(t, r.one(vtl.EffectSwitch).Flags)

	// Not accepted: the return comes straight back.
	r.e.Reset()
	r.ret(0)
	require.Equal(t, 2, r.e.Len(), "%v", &r.e)
	require.Equal(t, vtl.VTL(1), r.Active(0))
	kind, vector, taken := r.Accept(0)
	require.True(t, taken)
	require.Equal(t, vtl.Fixed, kind)
	require.Equal(t, uint8(0x5f), vector)
	// The same class waits for EOI, and a higher one does not.
	require.Equal(t, vtl.Pending, r.Interrupt(0, 1, vtl.Fixed, 0x50, &r.e))
	_, _, taken = r.Next(0)
	require.False(t, taken)
	require.Equal(t, vtl.Done, r.EOI(0, &r.e))
	require.Equal(t, vtl.Dropped, r.EOI(0, &r.e))
	_, vector, taken = r.Accept(0)
	require.True(t, taken)
	require.Equal(t, uint8(0x50), vector)
	require.Zero(t, r.PendingLevels(0))

	// An NMI knows no TPR.
	r.ret(0)
	r.SetTPR(0, 1, 0xff, &r.e)
	require.Equal(t, vtl.Switched, r.Interrupt(0, 1, vtl.NMI, 0, &r.e))
	kind, _, taken = r.Accept(0)
	require.True(t, taken)
	require.Equal(t, vtl.NMI, kind)

	// For a lower level it waits until that runs.
	require.Equal(t, vtl.Pending, r.Interrupt(0, 0, vtl.Fixed, 0x31, &r.e))
	_, _, taken = r.Next(0)
	require.False(t, taken)
	r.ret(0)
	_, vector, taken = r.Next(0)
	require.True(t, taken)
	require.Equal(t, uint8(0x31), vector)
}

// A processor that may be in the guest is kicked, and settles when it is resolved; the
// highest of its levels wins.
func TestKick(t *testing.T) {
	r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 2})
	r.enable(0, 1, 0)
	r.call(0)
	r.enable(0, 2, 0)
	r.ret(0)
	r.e.Reset()
	require.Equal(t, vtl.Pending, r.Request(0, 1, vtl.Fixed, 0x40, &r.e))
	require.Equal(t, vtl.Pending, r.Request(0, 2, vtl.Fixed, 0x30, &r.e))
	require.Equal(t, 2, r.e.Len())
	require.Equal(t, vtl.EffectKick, r.e.List()[0].Kind)
	require.Equal(t, vtl.VTL(0), r.Active(0))
	require.Equal(t, vtl.Switched, r.Resolve(0, &r.e))
	require.Equal(t, vtl.VTL(2), r.Active(0))
	require.Equal(t, vtl.Done, r.Resolve(0, &r.e))
	require.Equal(t, vtl.Dropped, r.Resolve(1, &r.e))
}

func TestVINA(t *testing.T) {
	const on = hypercall.VsmVinaEnabled | 0x41
	for _, c := range []struct {
		profile vtl.Profile
		vina    hypercall.VsmVina
		onEntry bool
		onExit  bool
	}{
		{vtl.TLFS, on, false, false},
		{vtl.TLFS, on | hypercall.VsmVinaAutoReset, true, false},
		{vtl.OpenVMM, on | hypercall.VsmVinaAutoReset, false, true},
		{vtl.KVM, on | hypercall.VsmVinaAutoReset | hypercall.VsmVinaAutoEoi, true, false},
	} {
		r := twoLevels(t, vtl.Config{Profile: c.profile})
		r.call(0)
		r.own(0, hypercall.RegisterVsmVina, uint64(c.vina))
		r.e.Reset()
		// RFLAGS.IF of VTL0 is 0: it would not take it.
		require.Equal(t, vtl.Pending, r.Interrupt(0, 0, vtl.Fixed, 0x60, &r.e))
		require.Zero(t, r.e.Len())
		require.Equal(t, ok, r.Registers().SetRegister(0, 0, hypercall.RegisterRFLAGS, vtl.Value{Low: 0x202}))
		r.Resolve(0, &r.e)
		f := r.one(vtl.EffectVINA)
		require.Equal(t, uint8(0x41), f.Vector)
		require.True(t, r.VINAAsserted(0, 1))
		_, vector, taken := r.Accept(0)
		require.True(t, taken)
		require.Equal(t, uint8(0x41), vector)
		eoi := vtl.Done
		if c.vina.AutoEoi() {
			eoi = vtl.Dropped
		}
		require.Equal(t, eoi, r.EOI(0, &r.e))
		// No second one while it is asserted; EOI does not change that.
		r.e.Reset()
		r.Interrupt(0, 0, vtl.Fixed, 0x61, &r.e)
		require.Zero(t, r.e.Len())
		// Cleared by software, the next one is told of.
		r.SetVINAAsserted(0, 1, false)
		r.Interrupt(0, 0, vtl.Fixed, 0x62, &r.e)
		r.one(vtl.EffectVINA)
		r.Accept(0)

		r.SetTPR(0, 0, 0xf0, &r.e) // so that nothing is ready any more
		r.ret(0)
		require.Equal(t, !c.onExit, r.VINAAsserted(0, 1))
		r.call(0)
		require.Equal(t, !c.onExit && !c.onEntry, r.VINAAsserted(0, 1))
	}
}

func TestTLBLock(t *testing.T) {
	lock := uint64(hypercall.VsmVpSecureConfigTlbLocked)
	r := twoLevels(t, vtl.Config{Processors: 3})
	var start hypercall.StartVirtualProcessorInput
	start.PartitionID, start.Context = hypercall.PartitionSelf, good
	for _, vp := range []uint32{1, 2} {
		start.VPIndex = vp
		o, s := r.StartVP(0, &start, &r.e)
		require.Equal(t, vtl.Done, o)
		require.Equal(t, ok, s)
		require.Equal(t, vtl.VTL(1), r.Active(vp), "the highest level runs first")
		r.ret(vp)
	}
	r.call(0)
	for _, vp := range []uint32{hypercall.VPSelf, 1} {
		require.Equal(t, ok, r.set(0, vp, 0, hypercall.RegisterVsmVpSecureConfigVtl0, lock))
	}
	v, s := r.get(0, 1, 0, hypercall.RegisterVsmVpSecureConfigVtl0)
	require.Equal(t, ok, s)
	require.Equal(t, lock, v)

	var one, all vtl.Set
	one.Add(1)
	all.Format = hypercall.VpSetAll
	flush := func(vp uint32, set *vtl.Set) vtl.Outcome {
		r.e.Reset()
		o, s := r.Flush(vp, 0, set, &r.e)
		require.Equal(t, ok, s)
		return o
	}
	require.Equal(t, vtl.Blocked, flush(1, &one), "its own TLB, locked by another processor")
	require.Equal(t, vtl.Effect{Kind: vtl.EffectBlock, VP: 1}, r.one(vtl.EffectBlock))
	require.True(t, r.Blocked(1))
	require.Equal(t, vtl.Blocked, flush(2, &all))
	require.Equal(t, vtl.Blocked, flush(2, &all), "asked again")
	require.Zero(t, r.e.Len())
	require.Equal(t, vtl.Done, flush(0, &all), "a level above is not held up")

	// Interrupts for VTL1 still come through, and returning goes back to waiting.
	require.Equal(t, vtl.Switched, r.Interrupt(2, 1, vtl.Fixed, 0x40, &r.e))
	require.False(t, r.Blocked(2))
	r.Accept(2)
	r.e.Reset()
	r.ret(2)
	require.NotZero(t, r.one(vtl.EffectSwitch).Flags&vtl.FlagBlocked)
	require.True(t, r.Blocked(2))

	// Processor 0's return gives back its lock; processor 1's is still there.
	r.e.Reset()
	r.ret(0)
	r.one(vtl.EffectUnblock)
	require.False(t, r.Blocked(1))
	require.False(t, r.Blocked(2))
	require.Equal(t, vtl.Blocked, flush(2, &all))
	r.call(0)
	r.e.Reset()
	require.Equal(t, ok, r.set(0, 1, 0, hypercall.RegisterVsmVpSecureConfigVtl0, 0))
	require.Equal(t, vtl.Effect{Kind: vtl.EffectUnblock, VP: 2}, r.one(vtl.EffectUnblock))
	require.Equal(t, vtl.Done, flush(2, &all))
	require.Equal(t, 3, r.e.Len())
	o, s := r.Flush(2, 1<<4, &all, &r.e)
	require.Equal(t, vtl.Done, o)
	require.Equal(t, hypercall.StatusInvalidParameter, s)
}

func TestProtection(t *testing.T) {
	r := twoLevels(t, vtl.Config{})
	vtl0 := hypercall.TargetVTL(0)
	r.call(0)
	r.e.Reset()
	_, s := r.protect(0, vtl0, vtl.NoAccess, 0x100)
	require.Equal(t, hypercall.StatusAccessDenied, s, "not before it is enabled")
	r.protectOn(0)
	require.Zero(t, r.e.Len(), "with a default of all rights no view changes")
	done, s := r.protect(0, vtl0, vtl.Read, 0x110, 0x111, 0x112, 0x120)
	require.Equal(t, ok, s)
	require.Equal(t, 4, done)
	require.Equal(t, []vtl.Effect{
		{Kind: vtl.EffectProtect, Page: 0x110, Pages: 3, Access: vtl.Read},
		{Kind: vtl.EffectProtect, Page: 0x120, Pages: 1, Access: vtl.Read},
	}, r.e.List())
	r.e.Reset()
	done, s = r.protect(0, vtl0, vtl.Read, 0x110, 0x130, 0x200, 0x140)
	require.Equal(t, hypercall.StatusInvalidParameter, s, "not RAM")
	require.Equal(t, 2, done)
	require.Equal(t, 1, r.e.Len(), "nothing changes for the first")
	require.True(t, r.SetOverlay(0, 0x150, true))
	_, s = r.protect(0, vtl0, vtl.Read, 0x150)
	require.Equal(t, hypercall.StatusInvalidParameter, s, "an overlay page")
	require.True(t, r.SetOverlay(0, 0x150, false))
	_, s = r.protect(0, vtl0, vtl.Read, 0x150)
	require.Equal(t, ok, s)

	// VTL1 itself is not held back; VTL0 is, and VTL1 is told.
	require.Equal(t, vtl.Done, r.Access(0, 0x110, vtl.Writing, &r.e))
	r.ret(0)
	r.e.Reset()
	require.Equal(t, vtl.Done, r.Access(0, 0x110, vtl.Reading, &r.e))
	require.Equal(t, vtl.Done, r.Access(0, 0x200, vtl.Writing, &r.e), "not RAM: not for VSM")
	require.Zero(t, r.e.Len())
	require.Equal(t, vtl.Intercepted, r.Access(0, 0x110, vtl.Writing, &r.e))
	require.Equal(t, vtl.VTL(1), r.Active(0))
	i := r.e.Intercept(r.one(vtl.EffectIntercept))
	require.Equal(t, vtl.Intercept{Kind: vtl.InterceptMemory, Owner: 1, Operation: vtl.Writing, Page: 0x110}, *i)
	require.Zero(t, r.one(vtl.EffectSwitch).Flags, "RIP is held")
	require.Equal(t, "VP0 VTL0 tells VTL1: write of page 0x110", i.String())
	var m [vtl.MaxMessage]byte
	kind, n := i.PutMessage(&vtl.Circumstance{Bytes: []byte{0x48, 0x89, 0x00}}, &m)
	require.Equal(t, hypercall.MessageGpaIntercept, kind)
	var message hypercall.MemoryIntercept
	require.NoError(t, message.UnmarshalBinary(m[:n]))
	require.Equal(t, uint64(0x110000), message.GPA)
	require.Equal(t, uint8(3), message.InstructionByteCount)
	require.Equal(t, hypercall.AccessWrite, message.Header.AccessType)
}

// The masks of several levels add up; the lowest one that forbids an access is told first.
func TestNestedProtection(t *testing.T) {
	r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 2})
	r.enable(0, 1, 0)
	r.call(0)
	r.protectOn(0)
	r.enable(0, 2, 0)
	r.call(0)
	r.protectOn(0)
	vtl0, vtl1 := hypercall.TargetVTL(0), hypercall.TargetVTL(1)
	_, s := r.protect(0, vtl0, vtl.Read|vtl.Write, 0x100)
	require.Equal(t, ok, s)
	_, s = r.protect(0, vtl1, vtl.Read, 0x100)
	require.Equal(t, ok, s)
	r.ret(0)
	r.e.Reset()
	_, s = r.protect(0, vtl0, vtl.Read|vtl.KernelExecute|vtl.UserExecute, 0x100)
	require.Equal(t, ok, s)
	require.Equal(t, vtl.Read, r.one(vtl.EffectProtect).Access)
	require.Equal(t, vtl.Read, r.PageRights(0, 0x100))
	require.Equal(t, vtl.Read|vtl.Write, r.Mask(2, 0, 0x100))
	_, s = r.protect(0, vtl1, vtl.FullAccess, 0x100)
	require.Equal(t, hypercall.StatusAccessDenied, s, "its own mask is VTL2's")
	r.ret(0)
	for _, c := range []struct {
		op    vtl.Operation
		owner vtl.VTL
	}{{vtl.Writing, 1}, {vtl.Fetching, 2}, {vtl.Writing | vtl.Fetching, 1}} {
		r.e.Reset()
		require.Equal(t, vtl.Intercepted, r.Access(0, 0x100, c.op, &r.e))
		require.Equal(t, c.owner, r.Active(0))
		for r.Active(0) > 0 {
			r.ret(0)
		}
	}
}

// A violation on a processor without the level that forbids it cannot be reported, and is
// not allowed either.
func TestProtectionWithoutOwner(t *testing.T) {
	r := newRig(t, vtl.Config{Processors: 2, MaximumVTL: 1})
	r.enable(0, 1, 0)
	require.Equal(t, vtl.Done, r.Startup(0, 1, 0, vtl.SIPI, 8, &r.e))
	r.call(0)
	r.protectOn(0)
	_, s := r.protect(0, hypercall.TargetVTL(0), vtl.NoAccess, 0x100)
	require.Equal(t, ok, s)
	r.e.Reset()
	require.Equal(t, vtl.GeneralProtection, r.Access(1, 0x100, vtl.Reading, &r.e))
	require.Equal(t, vtl.Done, r.Access(1, 0x101, vtl.Reading, &r.e))
	require.Equal(t, vtl.GeneralProtection, r.Access(2, 0x100, vtl.Reading, &r.e))
	require.Zero(t, r.e.Len())
}

func TestMBEC(t *testing.T) {
	const on = uint64(hypercall.VsmVpSecureConfigMbecEnabled)
	caps := hypercall.VsmCapabilities(2 << 1)
	r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 2, Capabilities: caps})
	require.Equal(t, hypercall.StatusInvalidParameter, r.enablePartition(0, 2, hypercall.PartitionVtlEnableMbec))
	r.enable(0, 1, hypercall.PartitionVtlEnableMbec)
	require.Equal(t, uint16(2), r.Status().MbecEnabledVtlSet())
	r.call(0)
	r.protectOn(0)
	const k, u, rd = vtl.KernelExecute, vtl.UserExecute, vtl.Read
	_, s := r.protect(0, 0x10, rd|k, 0x100)
	require.Equal(t, hypercall.StatusInvalidRegisterValue, s)
	_, s = r.protect(0, 0x10, rd|u, 0x100)
	require.Equal(t, ok, s)
	fetch := func(op vtl.Operation) vtl.Outcome {
		if r.Active(0) == 1 {
			r.ret(0)
		}
		return r.Access(0, 0x100, op, &r.e)
	}
	require.Equal(t, vtl.Intercepted, fetch(vtl.Fetching|vtl.User), "off: KX says all")
	r.e.Reset()
	r.own(0, hypercall.RegisterVsmVpSecureConfigVtl0, on)
	require.Equal(t, vtl.Effect{Kind: vtl.EffectMBEC, Flags: vtl.FlagOn}, r.one(vtl.EffectMBEC))
	require.False(t, r.VPStatus(0).ActiveMbecEnabled())
	require.Equal(t, vtl.Done, fetch(vtl.Fetching|vtl.User))
	require.True(t, r.VPStatus(0).ActiveMbecEnabled())
	require.True(t, r.MBEC(0, 0))
	require.Equal(t, vtl.GeneralProtection, fetch(vtl.Descriptor|vtl.User|vtl.Reading))
	require.Equal(t, vtl.Intercepted, fetch(vtl.Fetching))
	require.Equal(t, vtl.Intercepted, fetch(vtl.Fetching|vtl.User|vtl.SMEPOff))
	r.e.Reset()
	r.own(0, hypercall.RegisterVsmVpSecureConfigVtl0, 0)
	require.Equal(t, vtl.Effect{Kind: vtl.EffectMBEC}, r.one(vtl.EffectMBEC))
}

// Without MBEC there is one right to execute, and profiles differ in what makes it.
func TestExecuteWithoutMBEC(t *testing.T) {
	const k, u, rd = vtl.KernelExecute, vtl.UserExecute, vtl.Read
	for _, c := range []struct {
		profile vtl.Profile
		in, out vtl.Access
	}{
		{vtl.TLFS, rd | k, rd | k | u}, {vtl.TLFS, rd | u, rd}, {vtl.KVM, rd | u, rd | k | u}, {vtl.KVM, rd | k, rd | k | u},
		{vtl.OpenVMM, rd | k | u, rd | k | u},
	} {
		r := twoLevels(t, vtl.Config{Profile: c.profile})
		r.call(0)
		r.protectOn(0)
		target := hypercall.TargetVTL(0)
		if c.profile == vtl.OpenVMM {
			target = hypercall.TargetVTL(1)
			_, s := r.protect(0, target, rd|k, 0x100)
			require.Equal(t, hypercall.StatusInvalidRegisterValue, s)
		}
		_, s := r.protect(0, target, c.in, 0x100)
		require.Equal(t, ok, s)
		require.Equal(t, c.out, r.PageRights(0, 0x100))
	}
}

func TestDefaultMask(t *testing.T) {
	r := twoLevels(t, vtl.Config{})
	r.call(0)
	r.e.Reset()
	const on = hypercall.VsmPartitionConfigEnableVtlProtection
	r.own(0, hypercall.RegisterVsmPartitionConfig, 1<<1) // a mask, but not yet on
	require.Equal(t, vtl.FullAccess, r.PageRights(0, 0x100))
	require.Zero(t, r.e.Len())
	r.own(0, hypercall.RegisterVsmPartitionConfig, uint64(on|1<<1))
	require.Equal(t, vtl.Effect{Kind: vtl.EffectView}, r.one(vtl.EffectView))
	require.Equal(t, vtl.Read, r.PageRights(0, 0x100))
	n := 0
	for run, a := range r.Rights(0) {
		require.Equal(t, oneRange[0], run)
		require.Equal(t, vtl.Read, a)
		n++
	}
	require.Equal(t, 1, n)
	require.Equal(t, hypercall.StatusInvalidRegisterValue, r.set(0, hypercall.VPSelf, 0, hypercall.RegisterVsmPartitionConfig, uint64(on|0xf<<1)))
	require.Equal(t, hypercall.StatusInvalidRegisterValue, r.set(0, hypercall.VPSelf, 0, hypercall.RegisterVsmPartitionConfig, 1<<1))
	require.Equal(t, hypercall.StatusInvalidRegisterValue, r.set(0, hypercall.VPSelf, 0, hypercall.RegisterVsmPartitionConfig, 1<<7))
	require.Equal(t, hypercall.StatusInvalidRegisterValue, r.set(0, hypercall.VPSelf, 0, hypercall.RegisterVsmPartitionConfig, 1<<6), "not offered")

	r = twoLevels(t, vtl.Config{Profile: vtl.KVM})
	r.call(0)
	r.protectOn(0)
	r.own(0, hypercall.RegisterVsmPartitionConfig, 1<<1)
	require.True(t, r.PartitionConfig(1).EnableVtlProtection())
	require.Equal(t, hypercall.MapFlags(0xf), r.PartitionConfig(1).DefaultVtlProtectionMask())
}

func TestStart(t *testing.T) {
	r := twoLevels(t, vtl.Config{Processors: 2, Capabilities: hypercall.VsmCapabilitiesDenyLowerVtlStartup})
	in := hypercall.StartVirtualProcessorInput{PartitionID: hypercall.PartitionSelf, VPIndex: 1, Context: good}
	start := func() (vtl.Outcome, hypercall.Status) {
		r.e.Reset()
		return r.StartVP(0, &in, &r.e)
	}
	bad := func(want hypercall.Status) {
		t.Helper()
		before := state(r.Partition)
		o, s := start()
		require.Equal(t, vtl.Done, o)
		require.Equal(t, want, s, "%v", r.Why())
		require.Equal(t, before, state(r.Partition))
	}
	in.VPIndex = 2
	bad(hypercall.StatusInvalidVPIndex)
	in.VPIndex = hypercall.VPSelf
	bad(hypercall.StatusInvalidVPIndex)
	in.VPIndex = 1
	in.TargetVTL = 1
	bad(hypercall.StatusAccessDenied)
	in.TargetVTL = 0
	in.Context.PAT = 2
	bad(hypercall.StatusInvalidRegisterValue)
	in.Context.PAT = 0x0007040600070406
	r.call(0)
	r.own(0, hypercall.RegisterVsmPartitionConfig, uint64(hypercall.VsmPartitionConfigDenyLowerVtlStartup|hypercall.VsmPartitionConfigInterceptVpStartup))
	r.ret(0)
	bad(hypercall.StatusAccessDenied)
	r.call(0)
	r.own(0, hypercall.RegisterVsmPartitionConfig, uint64(hypercall.VsmPartitionConfigInterceptVpStartup))
	r.ret(0)
	o, _ := start()
	require.Equal(t, vtl.Intercepted, o)
	require.Equal(t, vtl.VTL(1), r.Active(0))
	i := r.e.Intercept(r.one(vtl.EffectIntercept))
	require.Equal(t, vtl.Intercept{Kind: vtl.InterceptStart, Owner: 1, Target: 1}, *i)
	require.False(t, r.Started(1))
	o, s := start() // VTL1 does it instead
	require.Equal(t, vtl.Done, o)
	require.Equal(t, ok, s)
	require.Equal(t, in.Context, *r.e.Context(r.one(vtl.EffectContext)))
	require.Equal(t, vtl.Effect{Kind: vtl.EffectStart, VP: 1, Level: 1}, r.one(vtl.EffectStart))
	require.True(t, r.Started(1))
	bad(hypercall.StatusInvalidVPState)
}

func TestStartup(t *testing.T) {
	r := newRig(t, vtl.Config{Processors: 3, MaximumVTL: 1})
	require.Equal(t, vtl.Done, r.Startup(0, 1, 0, vtl.INIT, 0, &r.e))
	require.Equal(t, vtl.Done, r.Startup(0, 1, 0, vtl.SIPI, 9, &r.e))
	require.Equal(t, vtl.Effect{Kind: vtl.EffectStart, VP: 1, Vector: 9, Flags: vtl.FlagSIPI}, r.one(vtl.EffectStart))
	require.Equal(t, vtl.Dropped, r.Startup(0, 1, 0, vtl.SIPI, 9, &r.e), "it runs")
	require.Equal(t, vtl.Dropped, r.Startup(0, 1, 1, vtl.INIT, 9, &r.e), "only VTL0 is started so")
	require.Equal(t, vtl.Dropped, r.Startup(0, 3, 0, vtl.INIT, 9, &r.e))
	r.enable(0, 1, 0)
	r.call(0)
	require.Equal(t, ok, r.enableVP(0, 1, 1, good))
	require.Equal(t, vtl.Dropped, r.Startup(0, 1, 0, vtl.INIT, 0, &r.e), "it has a higher level")
	r.own(0, hypercall.RegisterVsmPartitionConfig, uint64(hypercall.VsmPartitionConfigInterceptVpStartup))
	r.ret(0)
	require.Equal(t, vtl.Intercepted, r.Startup(0, 2, 0, vtl.SIPI, 9, &r.e))
	require.Equal(t, vtl.VTL(1), r.Active(0))
	require.Equal(t, vtl.Done, r.Startup(0, 2, 0, vtl.SIPI, 9, &r.e))
	r.e.Reset()
	require.Equal(t, vtl.Done, r.Startup(0, 2, 0, vtl.INIT, 9, &r.e))
	require.Equal(t, vtl.Effect{Kind: vtl.EffectInit, VP: 2}, r.one(vtl.EffectInit))
	require.False(t, r.Started(2))
}

func TestReset(t *testing.T) {
	for _, zero := range []bool{true, false} {
		r := newRig(t, vtl.Config{Processors: 2, MaximumVTL: 2})
		fresh := state(r.Partition)
		r.enable(0, 1, 0)
		r.call(0)
		r.own(0, hypercall.RegisterRSP, 7)
		r.protectOn(0)
		if !zero {
			r.own(0, hypercall.RegisterVsmPartitionConfig, uint64(hypercall.VsmPartitionConfigEnableVtlProtection|0xf<<1))
		}
		_, s := r.protect(0, 0x10, vtl.NoAccess, 0x101)
		require.Equal(t, ok, s)
		r.e.Reset()
		require.NotEqual(t, fresh, state(r.Partition))
		r.Reset(&r.e)
		require.Equal(t, fresh, state(r.Partition))
		_, found := r.e.Find(vtl.EffectZero)
		require.Equal(t, zero, found)
		r.one(vtl.EffectReset)
		require.Zero(t, r.ProtectionMemory())
	}
	r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 2})
	r.Reset(&r.e)
	require.Equal(t, 1, r.e.Len(), "without higher levels nothing is hidden")
}

func TestRegisterIntercepts(t *testing.T) {
	const misc, efer, lstar = 0x1a0, 0xc0000080, 0xc0000082
	r := twoLevels(t, vtl.Config{})
	r.call(0)
	control := hypercall.CrInterceptCr0Write | hypercall.CrInterceptMsrEferWrite | hypercall.CrInterceptMsrLstarRead | hypercall.CrInterceptIA32MiscEnableWrite | hypercall.CrInterceptGdtrWrite
	r.e.Reset()
	r.own(0, hypercall.RegisterCRInterceptControl, uint64(control))
	r.one(vtl.EffectGuard)
	r.own(0, hypercall.RegisterCRInterceptCR0Mask, 1<<16)
	r.own(0, hypercall.RegisterCRInterceptIa32MiscEnableMask, 1<<34)
	got, cr0, cr4, m := r.Guard(0, 1)
	require.Equal(t, control, got)
	require.Equal(t, [3]uint64{1 << 16, 0, 1 << 34}, [3]uint64{cr0, cr4, m})
	require.Equal(t, vtl.Done, r.WriteMSR(0, efer, 0, 1, &r.e), "its own")
	for _, c := range []struct {
		name string
		do   func() vtl.Outcome
		want vtl.Outcome
	}{
		{"CR0 in the mask", func() vtl.Outcome {
			return r.WriteRegister(0, hypercall.RegisterCR0, 0x80010011, 0x80000011, &r.e)
		}, vtl.Intercepted},
		{"CR0 beside it", func() vtl.Outcome {
			return r.WriteRegister(0, hypercall.RegisterCR0, 0x80010011, 0x80010013, &r.e)
		}, vtl.Done},
		{"CR4", func() vtl.Outcome { return r.WriteRegister(0, hypercall.RegisterCR4, 0, ^uint64(0), &r.e) }, vtl.Done},
		{"GDTR", func() vtl.Outcome { return r.WriteRegister(0, hypercall.RegisterGDTR, 0, 0, &r.e) }, vtl.Intercepted},
		{"another register", func() vtl.Outcome { return r.WriteRegister(0, hypercall.RegisterRAX, 0, 1, &r.e) }, vtl.Done},
		{"EFER written", func() vtl.Outcome { return r.WriteMSR(0, efer, 1, 1, &r.e) }, vtl.Intercepted},
		{"EFER read", func() vtl.Outcome { return r.ReadMSR(0, efer, &r.e) }, vtl.Done},
		{"LSTAR read", func() vtl.Outcome { return r.ReadMSR(0, lstar, &r.e) }, vtl.Intercepted},
		{"MISC_ENABLE in the mask", func() vtl.Outcome { return r.WriteMSR(0, misc, 0, 1<<34, &r.e) }, vtl.Intercepted},
		{"MISC_ENABLE beside it", func() vtl.Outcome { return r.WriteMSR(0, misc, 0, 1, &r.e) }, vtl.Done},
		{"another MSR", func() vtl.Outcome { return r.WriteMSR(0, 0x10, 0, 1, &r.e) }, vtl.Done},
		{"no processor", func() vtl.Outcome { return r.WriteMSR(9, 0x10, 0, 1, &r.e) }, vtl.GeneralProtection},
	} {
		if r.Active(0) == 1 {
			r.ret(0)
		}
		r.e.Reset()
		require.Equal(t, c.want, c.do(), c.name)
		require.Equal(t, c.want == vtl.Intercepted, r.Active(0) == 1, c.name)
	}
}

func TestIOIntercepts(t *testing.T) {
	r := twoLevels(t, vtl.Config{})
	in := hypercall.InstallInterceptInput{PartitionID: hypercall.PartitionSelf, Type: hypercall.InterceptIoPort, AccessMask: hypercall.InterceptAccessWrite, Parameters: 0x61}
	require.Equal(t, hypercall.StatusAccessDenied, r.InstallIntercept(0, &in, &r.e))
	r.call(0)
	require.Equal(t, ok, r.InstallIntercept(0, &in, &r.e))
	r.one(vtl.EffectGuardIO)
	in.AccessMask = 4
	require.Equal(t, hypercall.StatusInvalidParameter, r.InstallIntercept(0, &in, &r.e))
	in.AccessMask, in.Type = 1, hypercall.InterceptIoPortRange
	in.Parameters = hypercall.IoPortParameters(0x70, 0x6f)
	require.Equal(t, hypercall.StatusInvalidParameter, r.InstallIntercept(0, &in, &r.e))
	in.Parameters = hypercall.IoPortParameters(0xfff0, 0xffff)
	require.Equal(t, ok, r.InstallIntercept(0, &in, &r.e))
	clone := r.Clone()
	r.ret(0)
	for _, c := range []struct {
		port  uint16
		size  uint8
		write bool
		want  vtl.Outcome
	}{
		{0x61, 1, true, vtl.Intercepted}, {0x61, 1, false, vtl.Done}, {0x60, 1, true, vtl.Done}, {0x60, 2, true, vtl.Intercepted},
		{0x5e, 4, true, vtl.Intercepted}, {0xffef, 1, false, vtl.Done}, {0xffef, 4, false, vtl.Intercepted}, {0xffff, 4, false, vtl.Intercepted},
		{0x61, 0, true, vtl.GeneralProtection},
	} {
		if r.Active(0) == 1 {
			r.ret(0)
		}
		require.Equal(t, c.want, r.AccessIO(0, c.port, c.size, c.write, 0, &r.e), "port 0x%x", c.port)
	}
	if r.Active(0) == 0 {
		r.call(0)
	}
	in.AccessMask = 0
	require.Equal(t, ok, r.InstallIntercept(0, &in, &r.e))
	in.Type, in.Parameters = hypercall.InterceptIoPort, 0x61
	require.Equal(t, ok, r.InstallIntercept(0, &in, &r.e))
	require.False(t, r.InterceptsPort(1, 0x61, true))
	require.True(t, clone.InterceptsPort(1, 0x61, true), "a clone keeps its own")
}

func TestPendingEvent(t *testing.T) {
	r := twoLevels(t, vtl.Config{})
	ud := hypercall.PendingException{Header: hypercall.PendingEventHeaderEventPending, Vector: 6}
	require.Equal(t, hypercall.StatusInvalidParameter, r.set(0, hypercall.VPSelf, 0, hypercall.RegisterPendingEvent0, ud.Value().Low))
	r.call(0)
	vtl0 := hypercall.TargetVTL(0)
	for vector := range uint16(40) {
		x := ud
		x.Vector = vector
		s := r.set(0, hypercall.VPSelf, vtl0, hypercall.RegisterPendingEvent0, x.Value().Low)
		bad := vector == 2 || vector == 9 || vector == 15 || vector == 20 || vector > 21
		require.Equal(t, bad, s == hypercall.StatusInvalidRegisterValue, "vector %d", vector)
	}
	gp := hypercall.PendingException{Header: hypercall.PendingEventHeaderEventPending, Flags: hypercall.PendingExceptionFlagsDeliverErrorCode, Vector: 13, ErrorCode: 0x18}
	ud.Flags = gp.Flags
	require.Equal(t, hypercall.StatusInvalidRegisterValue, r.set(0, hypercall.VPSelf, vtl0, hypercall.RegisterPendingEvent0, ud.Value().Low))
	r.e.Reset()
	require.Equal(t, ok, r.set(0, hypercall.VPSelf, vtl0, hypercall.RegisterPendingEvent0, gp.Value().Low))
	r.one(vtl.EffectWake)
	v, s := r.get(0, hypercall.VPSelf, vtl0, hypercall.RegisterPendingEvent0)
	require.Equal(t, ok, s)
	require.Equal(t, gp.Value().Low, v)
	r.ret(0)
	require.Equal(t, vtl.Effect{Kind: vtl.EffectInject, Vector: 13, Flags: vtl.FlagErrorCode, Value: 0x18}, r.one(vtl.EffectInject))
	r.call(0)
	r.e.Reset()
	r.ret(0)
	_, found := r.e.Find(vtl.EffectInject)
	require.False(t, found, "once only")
}

func TestDoubleFault(t *testing.T) {
	for _, c := range []struct {
		first, second uint8
		want          bool
	}{{13, 13, true}, {14, 14, true}, {14, 13, true}, {13, 14, false}, {6, 13, false}, {13, 6, false}, {0, 21, true}, {40, 13, false}, {13, 40, false}} {
		require.Equal(t, c.want, vtl.DoubleFault(c.first, c.second), "%d then %d", c.first, c.second)
	}
}

// Every refusal of the table can happen with the status that it has: programs of the
// fuzzer are too blind for some of them. Here is what the table itself must keep.
func TestTables(t *testing.T) {
	seen := map[string]bool{}
	n := 0
	for r := range vtl.Refusals() {
		n++
		require.NotEmpty(t, r.String())
		for _, p := range []vtl.Profile{vtl.TLFS, vtl.OpenVMM, vtl.KVM} {
			if s := r.Status(p); s != ok {
				require.True(t, s.Known(), "%v", r)
			}
		}
	}
	require.Greater(t, n, 50)
	require.Equal(t, ok, vtl.Refusal(0).Status(vtl.TLFS))
	require.Equal(t, "not refused", vtl.Refusal(255).String())
	for c := range vtl.Choices() {
		require.False(t, seen[c.Question])
		seen[c.Question] = true
		require.NotEmpty(t, c.Rules)
		require.False(t, c.Answers[0] == c.Answers[1] && c.Answers[1] == c.Answers[2], "%q: all agree", c.Question)
	}
	for _, p := range []vtl.Profile{vtl.TLFS, vtl.OpenVMM, vtl.KVM} {
		text, err := p.MarshalText()
		require.NoError(t, err)
		var q vtl.Profile
		require.NoError(t, q.UnmarshalText(text))
		require.Equal(t, p, q)
	}
	_, err := vtl.ParseProfile("XEN")
	require.ErrorContains(t, err, "TLFS, OpenVMM or KVM")
	require.Equal(t, "Profile(9)", vtl.Profile(9).String())
	require.Equal(t, "Outcome(99)", vtl.Outcome(99).String())
	require.Equal(t, "EffectKind(99)", vtl.EffectKind(99).String())
	require.Equal(t, "Reason(9)", vtl.Reason(9).String())
	require.Equal(t, "RW--", (vtl.Read | vtl.Write).String())
	require.Equal(t, "Access(0x10)", vtl.Access(16).String())
}

// The names in the table of states are those of package hypercall, whose numbers they have.
func TestStates(t *testing.T) {
	for _, c := range []struct {
		name  string
		class vtl.Class
	}{
		{"HvX64RegisterRax", vtl.Shared}, {"HvX64RegisterRbx", vtl.Shared}, {"HvX64RegisterRsp", vtl.Private}, {"HvX64RegisterRbp", vtl.Shared},
		{"HvX64RegisterR15", vtl.Shared}, {"HvX64RegisterRip", vtl.Private}, {"HvX64RegisterRflags", vtl.Private}, {"HvX64RegisterXmm15", vtl.Shared},
		{"HvX64RegisterCr0", vtl.Private}, {"HvX64RegisterCr2", vtl.Shared}, {"HvX64RegisterCr3", vtl.Private}, {"HvX64RegisterCr4", vtl.Private},
		{"HvX64RegisterCr8", vtl.Private}, {"HvX64RegisterXfem", vtl.Shared}, {"HvX64RegisterDr0", vtl.Shared}, {"HvX64RegisterDr3", vtl.Shared},
		{"HvX64RegisterDr6", vtl.PrivateOrShared}, {"HvX64RegisterDr7", vtl.Private}, {"HvX64RegisterCs", vtl.Private}, {"HvX64RegisterTr", vtl.Private},
		{"HvX64RegisterGdtr", vtl.Private}, {"HvX64RegisterEfer", vtl.Private}, {"HvX64RegisterPat", vtl.Private}, {"HvX64RegisterTscAux", vtl.Private},
		{"HvX64RegisterMsrMtrrPhysMaskF", vtl.Shared}, {"HvRegisterVpAssistPage", vtl.Private}, {"HvRegisterSint15", vtl.Private},
		{"HvRegisterVpIndex", vtl.Shared}, {"HvRegisterGuestOsId", vtl.Private}, {"HvRegisterVpRuntime", vtl.Shared}, {"HvRegisterReferenceTsc", vtl.Private},
		{"HvRegisterStimer3Count", vtl.Private}, {"HvRegisterSirbp", vtl.Private}, {"HvRegisterPendingEvent0", vtl.Private}, {"HvRegisterTimeRefCount", vtl.Shared},
	} {
		r, err := hypercall.ParseRegister(c.name)
		require.NoError(t, err)
		require.Equal(t, c.class, vtl.StateOf(r), c.name)
	}
	for msr, class := range map[hypercall.MSR]vtl.Class{
		hypercall.MSRGuestOSID: vtl.Private, hypercall.MSRHypercall: vtl.Private, hypercall.MSRVPIndex: vtl.Shared, hypercall.MSRReset: vtl.Shared,
		hypercall.MSRVPRuntime: vtl.Shared, hypercall.MSRTimeRefCount: vtl.Shared, hypercall.MSRReferenceTSC: vtl.Private,
		hypercall.MSRTSCFrequency: vtl.Shared, hypercall.MSRAPICFrequency: vtl.Private, hypercall.MSREOI: vtl.Private, hypercall.MSRTPR: vtl.Private,
		hypercall.MSRVPAssistPage: vtl.Private, hypercall.MSREOM: vtl.Private, hypercall.MSRGuestIdle: vtl.Shared, 0xc0000080: vtl.Private,
		0x277: vtl.Private, 0x2ff: vtl.Shared, 0x179: vtl.Shared, 0x3a: vtl.ClassUnknown,
	} {
		require.Equal(t, class, vtl.StateOfMSR(uint32(msr)), "%v", msr)
	}
	n := 0
	for s := range vtl.States() {
		n++
		require.NotEmpty(t, s.Name)
		require.NotEmpty(t, s.Source)
		require.LessOrEqual(t, s.Register, s.LastRegister)
		require.LessOrEqual(t, s.MSR, s.LastMSR)
	}
	require.Greater(t, n, 60)
}

// Shared registers are one for all levels, private ones are not.
func TestRegisterFile(t *testing.T) {
	r := twoLevels(t, vtl.Config{})
	r.call(0)
	r.own(0, hypercall.RegisterRBX, 5)
	r.own(0, hypercall.RegisterRSP, 6)
	clone := r.Clone()
	require.Equal(t, state(r.Partition), state(clone))
	r.ret(0)
	for _, c := range []struct {
		name hypercall.Register
		want uint64
	}{{hypercall.RegisterRBX, 5}, {hypercall.RegisterRSP, 0}} {
		v, s := r.get(0, hypercall.VPSelf, 0, c.name)
		require.Equal(t, ok, s)
		require.Equal(t, c.want, v)
	}
	require.Equal(t, hypercall.StatusAccessDenied, r.set(0, hypercall.VPSelf, hypercall.TargetVTL(1), hypercall.RegisterRSP, 1))
	_, s := r.get(0, hypercall.VPSelf, 0, 0x12345678)
	require.Equal(t, hypercall.StatusInvalidParameter, s)
	r.own(0, hypercall.RegisterRBX, 0)
	require.NotEqual(t, state(r.Partition), state(clone))
}

func TestDraw(t *testing.T) {
	r := twoLevels(t, vtl.Config{Processors: 3})
	r.call(0)
	require.Equal(t, ""+
		"VTL1  RUN   on    on    default RWKU, zero on reset\n"+
		"VTL0  on    stop  stop\n"+
		"      VP0   VP1   VP2\n", r.Draw())
}
