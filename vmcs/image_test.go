package vmcs_test

import (
	"errors"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
	"pgregory.net/rapid"
)

// drawField draws any encoding; most are of fields that there are.
func drawField(t *rapid.T) vmcs.Field {
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) vmcs.Field {
			var all []vmcs.Field
			for f := range vmcs.Fields() {
				all = append(all, f)
			}
			f := rapid.SampledFrom(all).Draw(t, "known")
			if f.Width() == vmcs.Width64 && rapid.Bool().Draw(t, "high") {
				f = f.HighHalf()
			}
			return f
		}),
		rapid.Custom(func(t *rapid.T) vmcs.Field { return vmcs.Field(rapid.Uint32().Draw(t, "any")) }),
	).Draw(t, "field")
}

// checkImage: an Image is a map from fields to values of their width.
func checkImage(t *rapid.T) {
	var image vmcs.Image
	model := map[vmcs.Field]uint64{}
	t.Repeat(map[string]func(*rapid.T){
		"write": func(t *rapid.T) {
			f, v := drawField(t), rapid.Uint64().Draw(t, "value")
			err := image.Write(f, v)
			require.Equal(t, f.Known(), err == nil)
			if err != nil {
				require.ErrorIs(t, err, vmcs.ErrUnsupported)
				require.Panics(t, func() { image.Set(f, v) })
				return
			}
			if f.High() {
				v = v<<32 | model[f.Full()]&0xffffffff
			}
			model[f.Full()] = v & f.Width().Mask()
		},
		"delete": func(t *rapid.T) {
			f := drawField(t)
			image.Delete(f)
			if f.Known() {
				delete(model, f.Full())
			}
		},
		"": func(t *rapid.T) {
			f := drawField(t)
			want, there := model[f.Full()]
			there = there && f.Known()
			if f.High() {
				want >>= 32
			}
			got, err := image.Read(f)
			require.Equal(t, there, err == nil)
			require.Equal(t, there, image.Has(f))
			if there {
				require.Equal(t, want, got)
			} else {
				require.Equal(t, f.Known(), errors.Is(err, vmcs.ErrAbsent))
			}
			require.Equal(t, len(model), image.Len())
			n := 0
			for f, v := range image.All() {
				require.Equal(t, model[f], v)
				n++
			}
			require.Equal(t, len(model), n)
			require.Equal(t, image, *vmcs.Snapshot(&image))
		},
	})
	image.Reset()
	require.Equal(t, vmcs.Image{}, image)
}

func TestImage(t *testing.T) {
	ring0test.CheckOnHost(t, checkImage)
}
func FuzzImage(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkImage)) }

func TestTypedAccess(t *testing.T) {
	m := new(vmcs.Image)
	require.NoError(t, vmcs.Write16(m, vmcs.VPID, 0x1234))
	require.NoError(t, vmcs.Write32(m, vmcs.ExceptionBitmap, 0x12345678))
	require.NoError(t, vmcs.Write64(m, vmcs.EPTPointer, 0x123456789abcdef0))
	require.NoError(t, vmcs.WriteNatural(m, vmcs.GuestRIP, ^uint64(0)))
	require.NoError(t, vmcs.Write32(m, vmcs.EPTPointer.HighHalf(), 1))

	w, err := vmcs.Read16(m, vmcs.VPID)
	require.NoError(t, err)
	require.Equal(t, uint16(0x1234), w)
	d, err := vmcs.Read32(m, vmcs.ExceptionBitmap)
	require.NoError(t, err)
	require.Equal(t, uint32(0x12345678), d)
	q, err := vmcs.Read64(m, vmcs.EPTPointer)
	require.NoError(t, err)
	require.Equal(t, uint64(0x19abcdef0), q)
	n, err := vmcs.ReadNatural(m, vmcs.GuestRIP)
	require.NoError(t, err)
	require.Equal(t, ^uint64(0), n)
	d, err = vmcs.Read32(m, vmcs.EPTPointer.HighHalf())
	require.NoError(t, err)
	require.Equal(t, uint32(1), d)

	for _, err := range []error{
		vmcs.Write16(m, vmcs.ExceptionBitmap, 0), vmcs.Write32(m, vmcs.EPTPointer, 0),
		vmcs.Write64(m, vmcs.GuestRIP, 0), vmcs.WriteNatural(m, vmcs.EPTPointer, 0),
		vmcs.Write64(m, vmcs.EPTPointer.HighHalf(), 0), vmcs.Write16(m, vmcs.VPID|1, 0),
	} {
		require.ErrorIs(t, err, vmcs.ErrWidth)
	}
	_, err = vmcs.Read64(m, vmcs.VPID)
	require.ErrorIs(t, err, vmcs.ErrWidth)
	require.Equal(t, "vmcs: read of VPID (0x0000): the field has another width: it is 16, not 64 bits wide", err.Error())
	_, err = vmcs.Read32(m, vmcs.ExitReason)
	require.ErrorIs(t, err, vmcs.ErrAbsent)
}

// A Shadow refuses what a processor with these capabilities refuses.
func TestShadow(t *testing.T) {
	caps := everything()
	caps.Misc &^= 1 << 29
	caps.Controls[vmcs.GroupSecondary].May1 &^= uint64(vmcs.SecondaryEnableVPID)
	s := vmcs.NewShadow(caps)

	_, err := s.Read(vmcs.VPID)
	require.ErrorIs(t, err, vmcs.UnsupportedComponent)
	require.ErrorIs(t, err, vmcs.ErrUnsupported)
	require.Equal(t, "vmcs: read of VPID (0x0000): VM-instruction error 12: VMREAD/VMWRITE from/to unsupported VMCS component", err.Error())
	n, err := s.Read(vmcs.VMInstructionErrorNumber)
	require.NoError(t, err)
	require.Equal(t, uint64(12), n)

	err = s.Write(vmcs.ExitReason, 1)
	require.ErrorIs(t, err, vmcs.ReadOnlyComponent)
	require.ErrorIs(t, err, vmcs.ErrReadOnly)
	n, err = s.Read(vmcs.VMInstructionErrorNumber)
	require.NoError(t, err)
	require.Equal(t, uint64(13), n)
	require.ErrorIs(t, s.Write(0x7000, 0), vmcs.ErrUnsupported)

	// The number is what it was, though the snapshot tries fields that are not there.
	require.Error(t, s.Write(vmcs.ExitReason, 1))
	n, _ = vmcs.Snapshot(s).Read(vmcs.VMInstructionErrorNumber)
	require.Equal(t, uint64(13), n)

	caps.Misc |= 1 << 29
	require.NoError(t, s.Write(vmcs.ExitReason, 1))
	require.NoError(t, s.Write(vmcs.GuestESSelector, 0x12345))
	v, err := s.Read(vmcs.GuestESSelector)
	require.NoError(t, err)
	require.Equal(t, uint64(0x2345), v)
}

// Copy takes what there is, except VM-exit information.
func TestCopy(t *testing.T) {
	var src vmcs.Image
	src.Set(vmcs.GuestRIP, 1)
	src.Set(vmcs.ExitReason, 2)
	src.Set(vmcs.VPID, 3)
	var dst vmcs.Image
	require.NoError(t, vmcs.Copy(&dst, &src))
	require.Equal(t, 2, dst.Len())

	caps := &vmcs.Capabilities{} // without VPIDs
	require.ErrorIs(t, vmcs.Copy(vmcs.NewShadow(caps), &src), vmcs.ErrUnsupported)
}

func TestInstructionError(t *testing.T) {
	named := 0
	for n := range vmcs.InstructionError(64) {
		s := n.String()
		if s == "" {
			t.Errorf("no text for %d", n)
		}
		if s[0] != 'I' || n == vmcs.InvalidInvalidationOperand {
			named++
			require.Contains(t, n.Error(), s)
		}
	}
	require.Equal(t, 25, named) // 1 to 28 without 14, 21 and 27
	require.Equal(t, "InstructionError(4294967295)", vmcs.InstructionError(0xffffffff).String())
	require.NotErrorIs(t, vmcs.EntryInvalidControls, vmcs.ErrUnsupported)
}

func BenchmarkImageRead(b *testing.B) {
	var m vmcs.Image
	m.Set(vmcs.GuestRIP, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Read(vmcs.GuestRIP); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkImageWrite(b *testing.B) {
	var m vmcs.Image
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Write(vmcs.GuestRIP, 1); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkShadowRead(b *testing.B) {
	s := vmcs.NewShadow(everything())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Read(vmcs.GuestRIP); err != nil {
			b.Fatal(err)
		}
	}
}
