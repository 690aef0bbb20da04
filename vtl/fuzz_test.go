package vtl_test

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vtl"
)

// input hands out numbers from a fuzzer's bytes, and then zeroes.
type input struct{ b []byte }

func (in *input) byte() byte {
	if len(in.b) == 0 {
		return 0
	}
	v := in.b[0]
	in.b = in.b[1:]
	return v
}

func (in *input) word() uint64 {
	var b [8]byte
	in.b = in.b[copy(b[:], in.b):]
	return binary.LittleEndian.Uint64(b[:])
}

// pick returns one of the values that matter, or now and then any.
func pick[T ~uint8 | ~uint16 | ~uint32 | ~uint64](in *input, v ...T) T {
	n := int(in.byte())
	if n >= 253 {
		return T(in.word())
	}
	return v[n%len(v)]
}

var fuzzRegisters = []hypercall.Register{
	hypercall.RegisterVsmCapabilities, hypercall.RegisterVsmPartitionStatus, hypercall.RegisterVsmVpStatus, hypercall.RegisterVsmCodePageOffsets,
	hypercall.RegisterVsmPartitionConfig, hypercall.RegisterVsmPartitionConfig, hypercall.RegisterVsmVina, hypercall.RegisterVsmVpSecureConfigVtl0,
	hypercall.RegisterVsmVpSecureConfigVtl1, hypercall.RegisterVsmVpSecureConfigVtl14, hypercall.RegisterCRInterceptControl,
	hypercall.RegisterCRInterceptCR0Mask, hypercall.RegisterCRInterceptCR4Mask, hypercall.RegisterCRInterceptIa32MiscEnableMask,
	hypercall.RegisterPendingEvent0, hypercall.RegisterPendingEvent1, hypercall.RegisterCR0, hypercall.RegisterCR8, hypercall.RegisterRIP,
	hypercall.RegisterRFLAGS, hypercall.RegisterRAX, hypercall.RegisterVpAssistPage, hypercall.RegisterVpIndex, 0xffffffff, 0xd0010 + 15,
}

// act makes one call or event of a program. refusal reports whether nothing may have
// happened.
func act(in *input, p *vtl.Partition, e *vtl.Effects) (refusal bool) {
	vp := pick[uint32](in, 0, 0, 1, 2)
	index := pick(in, hypercall.VPSelf, 0, 1, 2)
	id := pick(in, hypercall.PartitionSelf, hypercall.PartitionSelf, hypercall.PartitionSelf, hypercall.PartitionSelf, 7)
	level := pick[vtl.VTL](in, 0, 1, 2, 1, 3)
	target := pick[hypercall.InputVTL](in, 0, 0x10, 0x11, 0x12)
	page := pick[uint64](in, 0x100, 0x101, 0x1ff, 0x200, 0)
	status := func(s hypercall.Status) bool { return s != ok }
	both := func(o vtl.Outcome, s hypercall.Status) bool { return o == vtl.Done && s != ok }
	context := good
	if b := in.byte(); b > 200 {
		context.CR0, context.EFER, context.PAT = in.word(), in.word(), in.word()
	}
	set := new(vtl.Set)
	set.Format = pick[hypercall.VpSetFormat](in, 0, 1)
	set.ValidBanksMask, set.Banks[0] = 1, pick[uint64](in, 1, 3, 2, 7)
	trap := vtl.Trap{Word: pick(in, callTrap.Word, callTrap.Word, callTrap.Word, returnTrap.Word), Control: pick[uint64](in, 0, 0, 0, 1), CPL: pick[uint8](in, 0, 0, 0, 0, 0, 3) & 3}
	value := vtl.Value{Low: pick[uint64](in, 0, 1, 0x3f, 0x7f, 0x1d, 0x2ff, 0x350, 2, 3, 1<<9, 0xd<<16|1, 0x100001, 0x80000011, 1<<40-1), High: pick[uint64](in, 0)}
	header := hypercall.VpRegistersInput{PartitionID: id, VPIndex: index, TargetVTL: target}
	switch in.byte() % 32 {
	case 0, 20, 21, 22:
		return p.Call(vp, trap, e) == vtl.UndefinedInstruction
	case 1, 23, 24, 25:
		trap.Word = returnTrap.Word
		return p.Return(vp, trap, e) == vtl.UndefinedInstruction
	case 2:
		return status(p.EnablePartitionVTL(vp, &hypercall.EnablePartitionVtlInput{PartitionID: id, TargetVTL: level, Flags: pick[hypercall.EnablePartitionVtlFlags](in, 0, 1)}, e))
	case 3, 26:
		return status(p.EnableVPVTL(vp, &hypercall.EnableVpVtlInput{PartitionID: id, VPIndex: index, TargetVTL: level, Context: context}, e))
	case 4:
		return both(p.StartVP(vp, &hypercall.StartVirtualProcessorInput{PartitionID: id, VPIndex: index, TargetVTL: level, Context: context}, e))
	case 5, 27, 28:
		name := pick(in, fuzzRegisters...)
		return status(p.SetRegister(vp, &header, name, value, e))
	case 6:
		_, s := p.GetRegister(vp, &header, pick(in, fuzzRegisters...))
		return status(s) || true
	case 7, 29, 30:
		m := hypercall.ModifyVtlProtectionMaskInput{PartitionID: id, TargetVTL: target, MapFlags: pick[hypercall.MapFlags](in, 0, 1, 3, 13, 15)}
		done, s := p.ModifyProtection(vp, &m, []uint64{page, page + 1}, e)
		return status(s) && done == 0
	case 8:
		_, s := p.TranslateVirtualAddress(vp, &hypercall.TranslateVirtualAddressInput{PartitionID: id, VPIndex: index, GVAPage: page,
			ControlFlags: pick[hypercall.TranslateFlags](in, 0, 0x20, 0x10<<56, 0x10<<56|0x20)}, e)
		return status(s)
	case 9:
		_, s := p.VPIndexFromAPICID(vp, &hypercall.GetVpIndexFromApicIdInput{PartitionID: id, TargetVTL: level}, pick[uint32](in, 0, 1, 9))
		return status(s) || true
	case 10:
		return both(p.Flush(vp, pick[hypercall.FlushFlags](in, 0, 1, 3), set, e))
	case 11:
		return status(p.SendIPI(vp, pick[uint32](in, 0x40, 0x80, 3), target, set, e))
	case 12:
		return status(p.AssertVirtualInterrupt(vp, &hypercall.AssertVirtualInterruptInput{PartitionID: id, TargetVTL: level, RequestedVector: pick[uint32](in, 0x40, 0x80, 3),
			Control: pick[hypercall.InterruptControl](in, 0, 4, 1<<33, 1), DestinationAddress: pick[uint64](in, 0, 1, 0xff)}, e))
	case 13:
		return status(p.InstallIntercept(vp, &hypercall.InstallInterceptInput{PartitionID: id, Type: pick(in, hypercall.InterceptIoPort, hypercall.InterceptIoPortRange),
			AccessMask: pick[hypercall.InterceptAccessMask](in, 3, 1, 0), Parameters: pick[hypercall.InterceptParameters](in, 0x60, 0x61_0060)}, e))
	case 14:
		switch in.byte() % 6 {
		case 0:
			p.Access(vp, page, pick[vtl.Operation](in, 1, 2, 4, 12, 28, 40), e)
		case 1:
			p.WriteRegister(vp, pick(in, fuzzRegisters...), in.word(), in.word(), e)
		case 2:
			p.WriteMSR(vp, pick[uint32](in, 0x1b, 0x1a0, 0xc0000080), in.word(), in.word(), e)
		case 3:
			p.ReadMSR(vp, pick[uint32](in, 0x1b, 0x1a0, 0xc0000080), e)
		case 4:
			p.AccessIO(vp, pick[uint16](in, 0x60, 0x5e, 0xffff), pick[uint8](in, 1, 4), in.byte()&1 != 0, 0, e)
		case 5:
			p.SetOverlay(level, page, in.byte()&1 != 0)
		}
	case 15:
		p.Interrupt(vp, level, pick(in, vtl.Fixed, vtl.NMI), pick[uint8](in, 0x40, 0x80, 3), e)
	case 16:
		p.Request(vp, level, pick(in, vtl.Fixed, vtl.NMI), pick[uint8](in, 0x40, 0x80, 3), e)
	case 17:
		if _, _, taken := p.Accept(vp); taken {
			p.EOI(vp, e)
		}
		p.SetTPR(vp, level, pick[uint8](in, 0, 0x50, 0xf0), e)
	case 18:
		p.Startup(vp, pick[uint32](in, 0, 1, 2), level, pick(in, vtl.INIT, vtl.SIPI), 8, e)
	case 19:
		p.SetAssistPage(vp, level, pick[uint64](in, 0, 0x100001))
		p.SetVINAAsserted(vp, level, in.byte()&1 != 0)
		p.Resolve(vp, e)
	case 31:
		if in.byte() == 0 {
			p.Reset(e)
		}
	}
	return false
}

func runProgram(t testing.TB, b []byte) {
	in := &input{b}
	profile := vtl.Profile(in.byte() % 3)
	p, err := vtl.New(vtl.Config{Processors: 3, MaximumVTL: vtl.VTL(in.byte() % 4), Profile: profile, RAM: oneRange, ProtectionMemory: 4000,
		Capabilities: hypercall.VsmCapabilitiesDenyLowerVtlStartup | 2<<1})
	if err != nil { // MBEC for VTL1, which it may not have
		return
	}
	// Without this little would ever get past its checks.
	r := &rig{t: t, Partition: p}
	r.enable(0, 1, hypercall.EnablePartitionVtlFlags(in.byte()&1))
	if in.byte()&1 != 0 {
		r.call(0)
		r.protectOn(0)
	}
	var e vtl.Effects
	var active [3]vtl.VTL
	for len(in.b) > 0 {
		before := state(p)
		q := p.Clone()
		require.Equal(t, before, state(q))
		for i := range active {
			active[i] = p.Active(uint32(i))
		}
		e.Reset()
		if act(in, p, &e) {
			require.Zero(t, e.Len(), "refused (%v), but:\n%v", p.Why(), &e)
			require.Equal(t, before, state(p), "refused (%v), but something has changed", p.Why())
		}
		require.Equal(t, before, state(q), "a clone has changed")
		for _, f := range e.List() {
			_ = f.String()
			switch f.Kind {
			case vtl.EffectSwitch:
				require.Equal(t, active[f.VP], f.From)
				active[f.VP] = f.Level
			case vtl.EffectStart:
				active[f.VP] = f.Level
			case vtl.EffectInit:
				active[f.VP] = 0
			case vtl.EffectReset:
				clear(active[:])
			case vtl.EffectIntercept:
				i := e.Intercept(f)
				require.Greater(t, i.Owner, i.Level)
				_ = i.String()
				var m [vtl.MaxMessage]byte
				kind, n := i.PutMessage(&vtl.Circumstance{}, &m)
				require.NotZero(t, kind)
				require.NotZero(t, n)
			}
		}
		for i, a := range active {
			vp := uint32(i)
			require.Equal(t, a, p.Active(vp))
			enabled := p.Enabled(vp)
			require.NotZero(t, enabled&1)
			require.NotZero(t, enabled>>a&1, "%v runs, but is not enabled", a)
			require.Zero(t, enabled&^p.Status().EnabledVtlSet())
			require.Zero(t, p.PendingLevels(vp)&^enabled)
			for l := range vtl.VTL(bits.Len16(enabled)) {
				for range p.Rights(l) {
				}
			}
		}
		require.LessOrEqual(t, p.ProtectionMemory(), 4000)
		_ = p.Draw()
	}
}

func FuzzProgram(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 20 {
		b := make([]byte, 100+50*n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { runProgram(t, b[:min(len(b), 2048)]) })
}

// TestPrograms runs programs drawn at random.
func TestPrograms(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	n := 300
	if ring0.Active() {
		n = 20 // on Bochs, which takes its time
	}
	for range n {
		b := make([]byte, 2000)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		runProgram(t, b)
	}
}
