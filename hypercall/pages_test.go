package hypercall_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/arch/x86/x86asm"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

// What is no page is refused by all views, and the views without one do nothing.
func TestPagesRefuse(t *testing.T) {
	for what, of := range map[string]func([]byte) error{
		"the VP assist page":     func(b []byte) error { _, err := hypercall.VpAssistPageOf(b); return err },
		"the message page":       func(b []byte) error { _, err := hypercall.MessagePageOf(b); return err },
		"the event flags page":   func(b []byte) error { _, err := hypercall.EventFlagsPageOf(b); return err },
		"the reference TSC page": func(b []byte) error { _, err := hypercall.ReferenceTscPageOf(b); return err },
	} {
		require.NoError(t, of(make([]byte, 4096)))
		for _, n := range []int{0, 1, 4095, 4097, 8192} {
			err := of(make([]byte, n))
			require.ErrorIs(t, err, hypercall.ErrSize)
			require.ErrorContains(t, err, fmt.Sprintf("%s takes a page of 4096 bytes, not %d", what, n))
		}
		require.ErrorIs(t, of(nil), hypercall.ErrSize)
		require.ErrorContains(t, of(make([]byte, 8192)[1:4097]), "no multiple of 8")
	}

	var a hypercall.VpAssistPage
	a.SetEntryReason(1)
	a.SetReturnRegisters(1, 2)
	a.SetNoEoiRequired()
	a.SetTimerExpired()
	a.SetInterceptMessage(new(hypercall.Message))
	a.Clear()
	require.False(t, a.Valid() || a.SetVinaAsserted(true) || a.VinaAsserted() || a.ClearNoEoiRequired())
	require.Zero(t, a.Fields())
	require.Equal(t, "no VP assist page", a.String())

	var m hypercall.MessagePage
	m.Clear()
	msg := hypercall.Message{Header: hypercall.MessageHeader{Type: 1}}
	require.False(t, m.Deliver(0, &msg))
	ok, eom := m.Take(0, &msg)
	require.False(t, ok || eom || m.Type(0) != 0)

	var e hypercall.EventFlagsPage
	require.False(t, e.Set(0, 0) || e.Clear(0, 0) || e.IsSet(0, 0))
	require.Empty(t, slices.Collect(e.TakeAll(0)))

	var r hypercall.ReferenceTscPage
	r.Set(1, 2)
	r.Disable()
	r.Clear()
	_, ok = r.Time(func() uint64 { return 0 })
	require.False(t, ok || r.Sequence() != 0)
}

// What the view writes into the VP assist page is where its fields are, and nothing else.
func vpAssist(t *rapid.T) {
	page := make([]byte, 4096)
	copy(page, rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "page"))
	a, err := hypercall.VpAssistPageOf(page)
	require.NoError(t, err)
	want := a.Fields()
	same := func() {
		t.Helper()
		b, err := want.MarshalBinary()
		if err == nil { // nothing reserved was drawn
			require.True(t, bytes.Equal(b, page))
		}
		if got := a.Fields(); got != want {
			require.Equal(t, want, got)
		}
	}
	u64 := func(name string) uint64 { return rapid.Uint64().Draw(t, name) }
	t.Repeat(map[string]func(*rapid.T){
		"": func(t *rapid.T) { same() },
		"reason": func(t *rapid.T) {
			want.VtlControl.EntryReason = hypercall.VtlEntryReason(rapid.Uint32().Draw(t, "reason"))
			a.SetEntryReason(want.VtlControl.EntryReason)
			require.Equal(t, want.VtlControl.EntryReason, a.EntryReason())
		},
		"VINA": func(t *rapid.T) {
			on := rapid.Bool().Draw(t, "on")
			require.Equal(t, want.VtlControl.VinaStatus.VinaAsserted(), a.SetVinaAsserted(on))
			want.VtlControl.VinaStatus = want.VtlControl.VinaStatus.With(hypercall.VinaAsserted, on)
			require.Equal(t, on, a.VinaAsserted())
		},
		"registers": func(t *rapid.T) {
			want.VtlControl.ReturnRAX, want.VtlControl.ReturnRCX = u64("RAX"), u64("RCX")
			a.SetReturnRegisters(want.VtlControl.ReturnRAX, want.VtlControl.ReturnRCX)
			eax, ecx, edx := a.ReturnRegisters32()
			require.Equal(t, want.VtlControl.ReturnRAX, uint64(eax)|uint64(ecx)<<32)
			require.Equal(t, uint32(want.VtlControl.ReturnRCX), edx)
		},
		"registers of 32 bits": func(t *rapid.T) {
			eax, ecx, edx := uint32(u64("EAX")), uint32(u64("ECX")), uint32(u64("EDX"))
			want.VtlControl.SetReturnRegisters32(eax, ecx, edx)
			a.SetReturnRegisters32(eax, ecx, edx)
			x, y, z := a.ReturnRegisters32()
			require.Equal(t, []uint32{eax, ecx, edx}, []uint32{x, y, z})
			require.Equal(t, []uint32{eax, ecx, edx}, []uint32{binary.LittleEndian.Uint32(page[16:]), binary.LittleEndian.Uint32(page[20:]), binary.LittleEndian.Uint32(page[24:])}, "TLFS hv_vp_vtl_control.md")
		},
		"no EOI": func(t *rapid.T) {
			a.SetNoEoiRequired()
			want.ApicAssist |= hypercall.ApicAssistNoEoiRequired
		},
		"EOI": func(t *rapid.T) {
			require.Equal(t, want.ApicAssist.NoEoiRequired(), a.ClearNoEoiRequired())
			want.ApicAssist &^= hypercall.ApicAssistNoEoiRequired
		},
		"timer": func(t *rapid.T) {
			a.SetTimerExpired()
			want.SyntheticTimeUnhaltedTimerExpired |= 1
		},
		"message": func(t *rapid.T) {
			var m hypercall.Message
			m.Header.Origin = u64("origin")
			m.Payload[239] = 7
			a.SetInterceptMessage(&m)
			want.InterceptMessage = m
		},
	})
}

func TestVpAssistPage(t *testing.T) { ring0test.CheckOnHost(t, vpAssist) }

// A slot holds one message, of which nothing is lost; what has to wait is announced.
func messagePage(t *rapid.T) {
	page := make([]byte, 4096)
	m, err := hypercall.MessagePageOf(page)
	require.NoError(t, err)
	var slots [hypercall.NumSints]*hypercall.Message
	var pending [hypercall.NumSints]bool
	t.Repeat(map[string]func(*rapid.T){
		"": func(t *rapid.T) {
			for i, s := range slots {
				want := hypercall.MessageNone
				if s != nil {
					want = s.Header.Type
				}
				require.Equal(t, want, m.Type(i))
				require.Equal(t, s != nil, bytes.ContainsFunc(page[256*i:256*i+4], func(r rune) bool { return r != 0 }))
			}
		},
		"deliver": func(t *rapid.T) {
			sint := rapid.IntRange(-1, hypercall.NumSints).Draw(t, "SINT")
			msg := &hypercall.Message{Header: hypercall.MessageHeader{
				Type:  hypercall.MessageType(rapid.SampledFrom([]uint32{0, 1, 0x80000001}).Draw(t, "type")),
				Flags: hypercall.MessageFlags(rapid.SampledFrom([]uint8{0, 1}).Draw(t, "flags")), PayloadSize: 3, Origin: rapid.Uint64().Draw(t, "origin"),
			}}
			copy(msg.Payload[:], rapid.SliceOfN(rapid.Byte(), 0, 240).Draw(t, "payload"))
			ok := sint >= 0 && sint < hypercall.NumSints && msg.Header.Type != 0
			if ok && slots[sint] != nil {
				ok, pending[sint] = false, true
			}
			require.Equal(t, ok, m.Deliver(sint, msg))
			if ok {
				slots[sint], pending[sint] = msg, msg.Header.Flags.MessagePending()
			}
		},
		"take": func(t *rapid.T) {
			sint := rapid.IntRange(0, hypercall.NumSints-1).Draw(t, "SINT")
			var got hypercall.Message
			ok, eom := m.Take(sint, &got)
			require.Equal(t, slots[sint] != nil, ok)
			if ok {
				want := *slots[sint]
				want.Header.Flags = want.Header.Flags.With(hypercall.MessagePending, pending[sint])
				require.Equal(t, want, got)
				require.Equal(t, pending[sint], eom)
			}
			slots[sint] = nil
		},
	})
}

func TestMessagePage(t *testing.T) { ring0test.CheckOnHost(t, messagePage) }

// A hypervisor and a guest's processor that use a slot at the same time lose no message: the
// hypervisor tries again after an EOM only.
func TestMessagePageRace(t *testing.T) {
	m, err := hypercall.MessagePageOf(make([]byte, 4096))
	require.NoError(t, err)
	messages := uint64(1000)
	if runtime.GOMAXPROCS(0) > 1 {
		messages = 20000
	}
	eoms := make(chan struct{}, messages)
	done := make(chan uint64)
	go func() {
		var got hypercall.Message
		idle := 0
		for next := uint64(1); next <= messages; {
			ok, eom := m.Take(2, &got)
			if !ok {
				// It looks again at once, most of the time, to come in between.
				if idle++; idle%256 == 0 {
					runtime.Gosched()
				}
				continue
			}
			if got.Header.Origin != next || got.Payload[0] != byte(next) || got.Payload[239] != byte(next) {
				done <- got.Header.Origin
				return
			}
			next++
			if eom {
				eoms <- struct{}{}
			}
		}
		done <- 0
	}()
	for i := uint64(1); i <= messages; i++ {
		msg := hypercall.Message{Header: hypercall.MessageHeader{Type: 0x80000001, Origin: i}}
		msg.Payload[0], msg.Payload[239] = byte(i), byte(i)
		for !m.Deliver(2, &msg) {
			select {
			case <-eoms: // of this message, or of one before
			case wrong := <-done:
				t.Fatalf("message %d came out of turn, or torn", wrong)
			}
		}
	}
	require.Zero(t, <-done)
}

// Flags are those of a set.
func eventFlags(t *rapid.T) {
	page := make([]byte, 4096)
	e, err := hypercall.EventFlagsPageOf(page)
	require.NoError(t, err)
	model := map[[2]int]bool{}
	draw := func(t *rapid.T) (sint, n int, ok bool) {
		sint = rapid.IntRange(-1, hypercall.NumSints).Draw(t, "SINT")
		n = rapid.OneOf(rapid.IntRange(-1, hypercall.NumEventFlags), rapid.SampledFrom([]int{0, 63, 64, 2047})).Draw(t, "flag")
		return sint, n, sint >= 0 && sint < hypercall.NumSints && n >= 0 && n < hypercall.NumEventFlags
	}
	t.Repeat(map[string]func(*rapid.T){
		"": func(t *rapid.T) {
			count := 0
			for i, b := range page {
				count += bits.OnesCount8(b)
				for ; b != 0; b &= b - 1 {
					require.True(t, model[[2]int{i / 256, i%256*8 + bits.TrailingZeros8(b)}], "TLFS hv_synic_event_flags.md")
				}
			}
			require.Len(t, model, count)
		},
		"set": func(t *rapid.T) {
			sint, n, ok := draw(t)
			require.Equal(t, ok && !model[[2]int{sint, n}], e.Set(sint, n))
			if ok {
				model[[2]int{sint, n}] = true
			}
		},
		"clear": func(t *rapid.T) {
			sint, n, _ := draw(t)
			require.Equal(t, model[[2]int{sint, n}], e.IsSet(sint, n))
			require.Equal(t, model[[2]int{sint, n}], e.Clear(sint, n))
			delete(model, [2]int{sint, n})
		},
		"take": func(t *rapid.T) {
			sint := rapid.IntRange(-1, hypercall.NumSints).Draw(t, "SINT")
			limit := rapid.IntRange(1, 5).Draw(t, "limit")
			last := -1
			for n := range e.TakeAll(sint) {
				require.True(t, model[[2]int{sint, n}] && n > last)
				delete(model, [2]int{sint, n})
				last = n
				if limit--; limit == 0 {
					break
				}
			}
			if limit > 0 {
				require.Empty(t, slices.Collect(e.TakeAll(sint)))
			}
		},
	})
}

func TestEventFlagsPage(t *testing.T) { ring0test.CheckOnHost(t, eventFlags) }

// Each flag that is set while others clear is seen once.
func TestEventFlagsRace(t *testing.T) {
	e, err := hypercall.EventFlagsPageOf(make([]byte, 4096))
	require.NoError(t, err)
	const rounds = 50000
	set := make(chan int)
	go func() {
		newly := 0
		for i := range rounds {
			if e.Set(3, i%8) { // in one word, which both write all the time
				newly++
			}
			if i%5000 == 0 {
				runtime.Gosched()
			}
		}
		set <- newly
	}()
	taken := 0
	for {
		for range e.TakeAll(3) {
			taken++
		}
		select {
		case newly := <-set:
			for range e.TakeAll(3) {
				taken++
			}
			require.Equal(t, newly, taken)
			return
		default:
			runtime.Gosched()
		}
	}
}

// The reference time never mixes two settings, and the page says when it does not serve.
func TestReferenceTscPage(t *testing.T) {
	page := make([]byte, 4096)
	r, err := hypercall.ReferenceTscPageOf(page)
	require.NoError(t, err)
	tsc := func() uint64 { return 1 << 40 }
	_, ok := r.Time(tsc)
	require.False(t, ok, "the sequence is 0")

	scale, ok := hypercall.TscScale(2_000_000_000)
	require.True(t, ok)
	r.Set(scale, 1000)
	require.Equal(t, uint32(1), r.Sequence())
	time, ok := r.Time(tsc)
	require.True(t, ok)
	require.Equal(t, uint64(1<<40/200+1000), time)
	var f hypercall.ReferenceTscFields
	require.NoError(t, f.UnmarshalBinary(page))
	require.Equal(t, []uint64{1, scale, 1000}, []uint64{uint64(f.Sequence), f.Scale, f.Offset})

	// An offset below 0.
	r.Set(0, ^uint64(4))
	time, _ = r.Time(tsc)
	require.Equal(t, int64(-5), int64(time))

	// Neither of the sequences that do not serve comes up.
	for _, s := range []uint32{0xfffffffd, 0xfffffffe, 0xffffffff} {
		binary.LittleEndian.PutUint32(page, s)
		r.Set(1, 1)
		require.True(t, r.Sequence() != 0 && r.Sequence() != 0xffffffff, "after %#x comes %#x", s, r.Sequence())
		require.NotEqual(t, s, r.Sequence())
	}

	// A page that changes with every look at it ends the loop.
	looks := 0
	_, ok = r.Time(func() uint64 { looks++; r.Set(uint64(looks), 0); return 0 })
	require.False(t, ok)
	require.LessOrEqual(t, looks, 64)

	r.Clear()
	_, ok = r.Time(tsc)
	require.False(t, ok)
	require.Equal(t, make([]byte, 4096), page)
}

func TestReferenceTscRace(t *testing.T) {
	r, err := hypercall.ReferenceTscPageOf(make([]byte, 4096))
	require.NoError(t, err)
	r.Set(1<<32, 1)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := uint64(2); ; i++ {
			select {
			case <-stop:
				return
			default:
				r.Set(i<<32, i) // at a TSC of 2^32 the time is 2i
				if i%64 == 0 || runtime.GOMAXPROCS(0) == 1 {
					runtime.Gosched()
				}
			}
		}
	}()
	// Until the page has been read often, and found changed often. With one processor only
	// one of the two runs.
	reads := 5000
	if runtime.GOMAXPROCS(0) > 1 {
		reads = 500_000
	}
	last, changed, looks := uint64(0), 0, 0
	for read := 0; read < reads || changed < 500; {
		time, ok := r.Time(func() uint64 {
			if looks++; looks%4 == 0 && runtime.GOMAXPROCS(0) == 1 {
				runtime.Gosched()
			}
			return 1 << 32
		})
		if !ok {
			runtime.Gosched()
			continue
		}
		require.Zero(t, time%2, "scale and offset of two settings")
		require.LessOrEqual(t, last, time)
		if time > last {
			changed++
		}
		last = time
		read++
	}
	close(stop)
	<-done
}

func TestTscScale(t *testing.T) {
	for _, hz := range []uint64{0, 1, 10_000_000} {
		_, ok := hypercall.TscScale(hz)
		require.False(t, ok, "%d Hz", hz)
	}
	rapid.Check(t, func(t *rapid.T) {
		hz := rapid.Uint64Range(10_000_001, 100_000_000_000).Draw(t, "Hz")
		seconds := rapid.Uint64Range(0, 1_000_000).Draw(t, "seconds")
		scale, ok := hypercall.TscScale(hz)
		require.True(t, ok)
		time := hypercall.ReferenceTime(hz*seconds, scale, 0)
		exact := seconds * 10_000_000
		// The scale is rounded down by less than 1: after n ticks the time is late by less
		// than n/2^64, and rounded down once more.
		require.True(t, time <= exact && exact-time <= 1, "%d for %d", time, exact)
	})
}

// A text of the hypercall page, one instruction a line, in the syntax of Intel's manual.
func disassemble(t require.T, code []byte, mode int) (lines []string) {
	t.Helper()
	for {
		if len(code) >= 3 && code[0] == 0x0f && code[1] == 0x01 && (code[2] == 0xc1 || code[2] == 0xd9) {
			// x86asm does not know VMCALL and VMMCALL (SDM Vol. 3C 31.3, APM Vol. 3).
			lines = append(lines, map[byte]string{0xc1: "vmcall", 0xd9: "vmmcall"}[code[2]])
			code = code[3:]
			continue
		}
		inst, err := x86asm.Decode(code, mode)
		require.NoError(t, err)
		lines = append(lines, x86asm.IntelSyntax(inst, 0, nil))
		if inst.Op == x86asm.RET {
			return lines
		}
		code = code[inst.Len:]
	}
}

func TestHypercallPage(t *testing.T) {
	for _, c := range []struct {
		trap hypercall.Trap
		name string
	}{{hypercall.TrapVMCALL, "vmcall"}, {hypercall.TrapVMMCALL, "vmmcall"}} {
		p := hypercall.HypercallPage{Trap: c.trap}
		page := make([]byte, 4096)
		require.NoError(t, p.Write(page))
		used := 0
		entry := func(mode int, offset uint16, want ...string) {
			t.Helper()
			require.Equal(t, append(want, c.name, "ret"), disassemble(t, page[offset:], mode), "%v, %d-bit", c.trap, mode)
		}
		for _, mode := range []int{32, 64} {
			entry(mode, 0)
		}
		long, short := p.Offsets(true), p.Offsets(false)
		require.Zero(t, long.Reserved()|short.Reserved())
		entry(64, long.VtlCallOffset(), "mov rax, rcx", "mov ecx, 0x11")
		entry(64, long.VtlReturnOffset(), "mov rax, rcx", "mov ecx, 0x12")
		entry(32, short.VtlCallOffset(), "mov ecx, eax", "mov eax, 0x11")
		entry(32, short.VtlReturnOffset(), "mov ecx, eax", "mov eax, 0x12")
		require.Equal(t, "0f01"+map[string]string{"vmcall": "c1", "vmmcall": "d9"}[c.name], fmt.Sprintf("%x", p.Trap.Bytes()))

		// The rest is INT3: 4 bytes of the first entry, 12 and 11 of each other in 64- and 32-bit mode.
		for _, b := range page {
			if b != 0xcc {
				used++
			}
		}
		require.Equal(t, 4+2*12+2*11, used)
	}
}

func TestHypercallPageRefuses(t *testing.T) {
	for _, n := range []int{0, 4095, 4097} {
		require.ErrorIs(t, hypercall.HypercallPage{}.Write(make([]byte, n)), hypercall.ErrSize)
	}
	page := make([]byte, 4096)
	require.ErrorContains(t, hypercall.HypercallPage{Trap: 7}.Write(page), "Trap(7) is no instruction that calls the hypervisor")
	require.Equal(t, make([]byte, 4096), page)
	require.Equal(t, "VMMCALL", hypercall.TrapVMMCALL.String())
	// What code there is after the page stays as it is.
	more := make([]byte, 8192)
	require.NoError(t, hypercall.HypercallPage{}.Write(more[:4096]))
	require.Equal(t, make([]byte, 4096), more[4096:])
}

// Using the pages does not allocate.
func TestPagesDoNotAllocate(t *testing.T) {
	if !ring0test.Optimised() {
		t.Skip("only with optimization")
	}
	a, _ := hypercall.VpAssistPageOf(make([]byte, 4096))
	m, _ := hypercall.MessagePageOf(make([]byte, 4096))
	e, _ := hypercall.EventFlagsPageOf(make([]byte, 4096))
	var msg, got hypercall.Message
	var set hypercall.VpSet
	page := make([]byte, 4096)
	require.Zero(t, testing.AllocsPerRun(10, func() {
		a.SetEntryReason(hypercall.VtlEntryVtlCall)
		a.SetReturnRegisters(a.ReturnRegisters())
		a.SetVinaAsserted(!a.VinaAsserted())
		msg.Header.Type = hypercall.MessageGpaIntercept
		m.Deliver(0, &msg)
		m.Take(0, &got)
		e.Set(0, 5)
		for range e.TakeAll(0) {
		}
		set.Add(77)
		set.GetBanks(page[:8])
		_ = hypercall.HypercallPage{}.Write(page)
	}))
}
