package vmcs_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

func TestVectors(t *testing.T) {
	withCode := []vmcs.Vector{8, 10, 11, 12, 13, 14, 17, 21}
	for v := range 256 {
		v := vmcs.Vector(v)
		require.Equal(t, slices.Contains(withCode, v), v.HasErrorCode(), v)
		text, err := v.MarshalText()
		require.NoError(t, err)
		var back vmcs.Vector
		require.NoError(t, back.UnmarshalText(text))
		require.Equal(t, v, back)
	}
	for text, want := range map[string]vmcs.Vector{
		"#pf": 14, "PF": 14, " nmi": 2, "#CP": 21, "9": 9, "0x30": 0x30, "255": 255,
	} {
		v, err := vmcs.ParseVector(text)
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
	for _, text := range []string{"", "#", "#XX", "256", "-1", "##PF"} {
		_, err := vmcs.ParseVector(text)
		require.ErrorContains(t, err, "mnemonic", text)
	}
	require.Equal(t, "#GP", vmcs.VectorGP.String())
	require.Equal(t, "0x9", vmcs.Vector(9).String())
	require.Equal(t, "0xf", vmcs.Vector(15).String())
}

// vectorSet compares a set of vectors with an array, and with itself behind the
// four fields.
func vectorSet(t *rapid.T) {
	var s vmcs.VectorSet
	var model [256]bool
	vectors := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) vmcs.Vector { return vmcs.Vector(rapid.Byte().Draw(t, "vector")) }), 0, 6)
	t.Repeat(map[string]func(*rapid.T){
		"add": func(t *rapid.T) {
			v := vectors.Draw(t, "vectors")
			s.Add(v...)
			for _, v := range v {
				model[v] = true
			}
		},
		"remove": func(t *rapid.T) {
			v := vectors.Draw(t, "vectors")
			s.Remove(v...)
			for _, v := range v {
				model[v] = false
			}
		},
		"": func(t *rapid.T) {
			var want []vmcs.Vector
			for v, on := range model {
				if s.Has(vmcs.Vector(v)) != on || (s[v/64]>>(v%64)&1 != 0) != on {
					t.Fatalf("vector %d: should be %t in %v", v, on, s)
				}
				if on {
					want = append(want, vmcs.Vector(v))
				}
			}
			require.True(t, slices.Equal(want, slices.Collect(s.All())))
			require.Equal(t, len(want), s.Len())
			highest, ok := s.Highest()
			require.Equal(t, len(want) > 0, ok)
			if ok {
				require.Equal(t, want[len(want)-1], highest)
			}
		},
	})
	require.Equal(t, modelRanges(256, func(i int) bool { return model[i] }), s.String())

	var image vmcs.Image
	require.NoError(t, vmcs.WriteEOIExitBitmap(&image, s))
	back, err := vmcs.ReadEOIExitBitmap(&image)
	require.NoError(t, err)
	require.Equal(t, s, back)
	third, err := image.Read(vmcs.EOIExitBitmap2)
	require.NoError(t, err)
	require.Equal(t, s[2], third)
}

func TestVectorSet(t *testing.T) { ring0test.CheckOnHost(t, vectorSet) }
func FuzzVectorSet(f *testing.F) { f.Fuzz(rapid.MakeFuzz(vectorSet)) }

func TestEOIExitBitmapErrors(t *testing.T) {
	var image vmcs.Image
	require.NoError(t, image.Write(vmcs.EOIExitBitmap0, 1))
	_, err := vmcs.ReadEOIExitBitmap(&image)
	require.ErrorIs(t, err, vmcs.ErrAbsent)
	require.ErrorIs(t, vmcs.WriteEOIExitBitmap(refusing{vmcs.EOIExitBitmap3}, vmcs.VectorSet{}), errRefused)
}

// exceptions: a set of exceptions prints and parses, and is what its vectors say.
func exceptions(t *rapid.T) {
	e := vmcs.Exceptions(rapid.Uint32().Draw(t, "set"))
	text, err := e.MarshalText()
	require.NoError(t, err)
	var back vmcs.Exceptions
	require.NoError(t, back.UnmarshalText(text))
	require.Equal(t, e, back)
	vectors := slices.Collect(e.All())
	require.Equal(t, e, vmcs.ExceptionsOf(vectors...))
	require.Zero(t, e.Without(vectors...))
	for v := range 256 {
		v := vmcs.Vector(v)
		want := v < 32 && uint32(e)>>v&1 != 0
		if e.Has(v) != want || slices.Contains(vectors, v) != want || e.With(v).Has(v) != (v < 32) || e.Without(v).Has(v) {
			t.Fatalf("vector %d: should be %t in %v", v, want, e)
		}
	}
}

func TestExceptions(t *testing.T) { rapid.Check(t, exceptions) }
func FuzzExceptions(f *testing.F) { f.Fuzz(rapid.MakeFuzz(exceptions)) }

func TestParseExceptions(t *testing.T) {
	for text, want := range map[string]vmcs.Exceptions{
		"": 0, "none": 0, "#PF": 1 << 14, "UD, 0x9,#db": 1<<6 | 1<<9 | 1<<1,
		"0x4040": 0x4040, "0xffffffff": 0xffffffff, "1": 2, "32": 32,
	} {
		got, err := vmcs.ParseExceptions(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, part := range map[string]string{"#PF,": "mnemonic", "#PF, 32": "0x20", "PF GP": "mnemonic", "0x100000000": "mnemonic"} {
		_, err := vmcs.ParseExceptions(text)
		require.ErrorContains(t, err, part)
	}
	require.Equal(t, "#DB, #UD, 0x9, 0x1f", vmcs.ExceptionsOf(1, 6, 9, 31, 32, 255).String())
}

// exceptionFilter compares the decision with the manual's words, and with itself
// behind the three fields.
func exceptionFilter(t *rapid.T) {
	f := vmcs.ExceptionFilter{
		Exceptions: vmcs.Exceptions(rapid.Uint32().Draw(t, "exceptions")),
		Mask:       rapid.Uint32Max(0x3f).Draw(t, "mask"),
		Match:      rapid.Uint32Max(0x3f).Draw(t, "match"),
	}
	for _, v := range []int{0, 1, 2, 3, 13, 14, 14, 14, 14, 31, 32, 46, 255} {
		code := rapid.Uint32Max(0x3f).Draw(t, "code")
		set := v < 32 && f.Exceptions&(1<<v) != 0
		want := set
		switch {
		case v == 2:
			want = false
		case v == 14 && code&f.Mask == f.Match:
			want = set
		case v == 14:
			want = !set
		}
		require.Equal(t, want, f.Intercepts(vmcs.Vector(v), code), "vector %d, code 0x%x", v, code)
	}
	var image vmcs.Image
	require.NoError(t, f.Write(&image))
	back, err := vmcs.ReadExceptionFilter(&image)
	require.NoError(t, err)
	require.Equal(t, f, back)
	require.Contains(t, f.String(), f.Exceptions.String())
}

func TestExceptionFilter(t *testing.T) { rapid.Check(t, exceptionFilter) }
func FuzzExceptionFilter(f *testing.F) { f.Fuzz(rapid.MakeFuzz(exceptionFilter)) }

func TestExceptionFilterText(t *testing.T) {
	f := vmcs.ExceptionFilter{Exceptions: vmcs.ExceptionsOf(vmcs.VectorUD, vmcs.VectorPF)}
	require.Equal(t, "#UD, #PF", f.String())
	f.Mask, f.Match = 5, 4
	require.Equal(t, "#UD, #PF; #PF if its code is 0x4 under the mask 0x5", f.String())
	f.Exceptions = 0
	require.Equal(t, "none; #PF if its code is not 0x4 under the mask 0x5", f.String())

	for _, field := range []vmcs.Field{vmcs.ExceptionBitmap, vmcs.PageFaultErrorCodeMask, vmcs.PageFaultErrorCodeMatch} {
		require.ErrorIs(t, f.Write(refusing{field}), errRefused)
		var image vmcs.Image
		require.NoError(t, f.Write(&image))
		image.Delete(field)
		_, err := vmcs.ReadExceptionFilter(&image)
		require.ErrorIs(t, err, vmcs.ErrAbsent)
	}
}
