package hypercall_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
)

// The values of registers are the bytes of their structures.
func TestRegisterValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "bytes")
		var v hypercall.RegisterValue
		require.True(t, v.Get(b))

		var s hypercall.SegmentRegister
		require.True(t, s.Get(b))
		require.Equal(t, s, v.Segment())
		require.Equal(t, v, s.Value())

		var table hypercall.TableRegister
		require.True(t, table.Get(b))
		require.Equal(t, table, v.Table())
		require.Equal(t, v, table.Value())

		var e hypercall.PendingException
		require.True(t, e.Get(b))
		got, ok := v.Exception()
		require.Equal(t, e, got)
		require.Equal(t, v, e.Value())
		require.Equal(t, b[0]&0xf == 1, ok, "pending, and of type 0")

		var event hypercall.PendingEvent
		require.True(t, event.Get(b))
		require.Equal(t, v, event.Value())
		got, ok2 := event.Exception()
		require.Equal(t, e, got)
		require.Equal(t, ok, ok2)
	})
}

// Payloads go into messages and come out, if they fit.
func TestMessagePayload(t *testing.T) {
	for _, make := range hypercall.Structures {
		x, y := make(), make()
		b := [4096]byte{1, 0, 3, 0, 5}
		require.True(t, x.Get(b[:]))
		var m hypercall.Message
		m.Payload[239] = 0xff
		fits := x.Size() <= hypercall.MessagePayloadMax
		require.Equal(t, fits, m.SetPayload(x), "%T", x)
		require.Equal(t, fits, m.GetPayload(y), "%T", x)
		if !fits {
			continue
		}
		require.Equal(t, x, y)
		require.Equal(t, x.Size(), int(m.Header.PayloadSize))
		if x.Size() < 240 {
			require.Zero(t, m.Payload[239], "%T", x)
		}
		m.Header.PayloadSize--
		require.False(t, m.GetPayload(y))
	}
	require.True(t, hypercall.MessageGpaIntercept.Hypervisor())
	require.False(t, hypercall.MessageType(1).Hypervisor())
}

func TestMapFlags(t *testing.T) {
	require.Equal(t, "RWKU", hypercall.MapAccess.Rights())
	require.Equal(t, "R--U", (hypercall.MapReadable | hypercall.MapUserExecutable | hypercall.MapLargePage).Rights())
	require.Equal(t, hypercall.MapReadable, (hypercall.MapReadable | hypercall.MapLargePage).Access())
	require.Equal(t, hypercall.MapSpecialOnes, hypercall.MapFlags(0).WithSpecialPage(3))
	require.Equal(t, hypercall.MapSpecialNoAccess|hypercall.MapSpecialZeroed, hypercall.MapSpecialOnes)
}

func TestInterceptParameters(t *testing.T) {
	p := hypercall.IoPortParameters(0x3f8, 0x3ff)
	first, last := p.IoPortRange()
	require.Equal(t, []uint16{0x3f8, 0x3ff, 0x3f8, 0x3f8}, []uint16{first, last, p.IoPort(), p.Exception()})
	require.Equal(t, []uint32{0x3ff03f8, 0x3ff03f8, 0x3ff03f8}, []uint32{p.Cpuid(), p.Msr(), p.ApicWriteMask()})
}
