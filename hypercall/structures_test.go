package hypercall_test

import (
	"bytes"
	_ "embed"
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/names"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

var (
	//go:embed testdata/witnesses/layouts.csv
	layoutWitnesses string

	//go:embed testdata/witnesses/enums.csv
	enumWitnesses string

	//go:embed bitfields.csv
	bitfieldRows string
)

// csvRows returns the rows of a table without its first, by column.
func csvRows(t require.T, text string) (rows []map[string]string) {
	t.Helper()
	all := table(t, text)
	for _, row := range all[1:] {
		m := map[string]string{}
		for i, column := range all[0] {
			m[column] = row[i]
		}
		rows = append(rows, m)
	}
	return rows
}

func number(t require.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// structureNamed and wordNamed return a new structure or word of a type, or nil.
func structureNamed(name string) hypercall.Structure {
	for _, make := range hypercall.Structures {
		if s := make(); typeName(s) == name {
			return s
		}
	}
	return nil
}

func wordNamed(name string) reflect.Value {
	for _, w := range hypercall.Words {
		if typeName(w) == name {
			return reflect.New(reflect.TypeOf(w).Elem())
		}
	}
	return reflect.Value{}
}

func typeName(pointer any) string { return reflect.TypeOf(pointer).Elem().Name() }

// call calls a method of what v points to.
func call(v reflect.Value, method string, args ...reflect.Value) (reflect.Value, bool) {
	m := v.MethodByName(method)
	if !m.IsValid() {
		return reflect.Value{}, false
	}
	return m.Call(args)[0], true
}

// ones returns a word with width bits set from off on.
func ones(off, width int) uint64 { return ^uint64(0) >> (64 - width) << off }

// fieldOf returns where a structure's field is in memory: where Put writes it.
func fieldOf(t require.T, s hypercall.Structure, field string) (off, width int, ok bool) {
	v := reflect.New(reflect.TypeOf(s).Elem())
	f := v.Elem().FieldByName(field)
	if !f.IsValid() {
		return 0, 0, false
	}
	fill(f)
	b := make([]byte, s.Size())
	require.True(t, v.Interface().(hypercall.Structure).Put(b))
	off = bytes.IndexByte(b, 0xff)
	width = bytes.Count(b, []byte{0xff})
	require.Equal(t, bytes.Repeat([]byte{0xff}, width), b[off:off+width], "%T.%s", s, field)
	require.Equal(t, width, len(b)-bytes.Count(b, []byte{0}), "%T.%s", s, field)
	sf, _ := v.Elem().Type().FieldByName(field)
	require.Equal(t, int(sf.Offset), off, "%T.%s lies elsewhere in Go", s, field)
	require.Equal(t, int(sf.Type.Size()), width, "%T.%s", s, field)
	return off, width, true
}

// fill sets every bit of v.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i))
		}
	default:
		v.SetUint(^uint64(0) >> (64 - v.Type().Bits()))
	}
}

// unnamed reports whether a field has no meaning.
func unnamed(field string) bool {
	return strings.HasPrefix(field, "Reserved") || field == "Pad" || strings.HasSuffix(field, "More")
}

// structureAgrees returns what Go has that the row of the table has not.
func structureAgrees(t require.T, s hypercall.Structure, field string, off, width int) string {
	switch field {
	case "size":
		if s.Size() != width {
			return fmt.Sprintf("the size is %d", s.Size())
		}
	case "all":
		if off != 0 || s.Size() != width {
			return fmt.Sprintf("it is %d bytes at 0", s.Size())
		}
	case "reserved":
		typ := reflect.TypeOf(s).Elem()
		for i := range typ.NumField() {
			f := typ.Field(i)
			if int(f.Offset) < off+width && int(f.Offset+f.Type.Size()) > off && !unnamed(f.Name) {
				return "there is " + f.Name
			}
		}
	default:
		o, w, ok := fieldOf(t, s, field)
		if !ok {
			return "there is no such field"
		}
		if o != off || w != width {
			return fmt.Sprintf("it is %d bytes at %d", w, o)
		}
	}
	return ""
}

// wordAgrees does the same for words, with the bits that other sources alone have.
func wordAgrees(v reflect.Value, field string, off, width int, others uint64) string {
	mask := ones(off, width)
	set := func(x uint64) reflect.Value { v.Elem().SetUint(x); return v }
	if field == "reserved" {
		r, ok := call(set(mask), "Reserved")
		if named := mask &^ r.Uint() &^ others; !ok || named != 0 {
			return fmt.Sprintf("bits %#x have names", named)
		}
		return ""
	}
	got, ok := call(set(mask), field)
	if !ok {
		return "there is no such field"
	}
	all := ones(0, v.Elem().Type().Bits())
	if got.Kind() == reflect.Bool {
		off, _ := call(set(all&^mask), field)
		if width != 1 || !got.Bool() || off.Bool() {
			return "it is another bit"
		}
		return ""
	}
	rest, _ := call(set(all&^mask), field)
	with, _ := call(set(0), "With"+field, reflect.ValueOf(ones(0, width)).Convert(got.Type()))
	without, _ := call(set(all), "With"+field, reflect.Zero(got.Type()))
	if got.Uint() != ones(0, width) || rest.Uint() != 0 || with.Uint() != mask || without.Uint() != all&^mask {
		return "it is other bits"
	}
	return ""
}

// Every word and structure is as all sources have it, or the table says why not; and all
// their fields are in a source.
func TestLayoutsAreTheSources(t *testing.T) {
	ring0test.HostOnly(t)
	bitfields := csvRows(t, bitfieldRows)
	others := func(typ, source string) (bits uint64) {
		for _, r := range bitfields {
			if r["type"] != typ {
				continue
			}
			only := source == "linux" && !strings.Contains(r["source"], "linux") || source == "tlfs" && r["tlfs"] == "no"
			if only {
				bits |= ones(number(t, r["shift"]), number(t, r["width"]))
			}
		}
		return bits
	}
	witnessed := map[string]bool{}
	for _, r := range csvRows(t, layoutWitnesses) {
		off, width := number(t, r["offset"]), number(t, r["width"])
		source, _, _ := strings.Cut(r["source"], " ")
		var found string
		if s := structureNamed(r["type"]); s != nil {
			require.Equal(t, "byte", r["unit"], "%v", r)
			found = structureAgrees(t, s, r["field"], off, width)
		} else {
			v := wordNamed(r["type"])
			require.True(t, v.IsValid(), "there is no %s", r["type"])
			if r["unit"] == "byte" {
				off, width = off*8, width*8
			}
			found = wordAgrees(v, r["field"], off, width, others(r["type"], source))
		}
		if r["differs"] == "" {
			require.Equal(t, "", found, "%v", r)
		} else {
			require.NotEqual(t, "", found, "the sources agree: %v", r)
		}
		witnessed[r["type"]+"."+r["field"]] = true
	}

	for _, make := range hypercall.Structures {
		typ := reflect.TypeOf(make()).Elem()
		for i := range typ.NumField() {
			f := typ.Field(i).Name
			require.True(t, unnamed(f) || witnessed[typ.Name()+"."+f] || witnessed[typ.Name()+".all"], "no source has %s.%s", typ.Name(), f)
		}
	}
	for _, r := range bitfields {
		require.True(t, witnessed[r["type"]+"."+r["field"]], "no source has %s.%s", r["type"], r["field"])
	}
}

// reservedMask returns the bits of v, in order, that have to be 0: those of fields that are
// named so, and of words.
func reservedMask(v reflect.Value, name string) (mask []byte) {
	size := int(v.Type().Size())
	if strings.HasPrefix(name, "Reserved") {
		return bytes.Repeat([]byte{0xff}, size)
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			mask = append(mask, reservedMask(v.Field(i), v.Type().Field(i).Name)...)
		}
	case reflect.Array:
		for i := range v.Len() {
			mask = append(mask, reservedMask(v.Index(i), "")...)
		}
	default:
		mask = make([]byte, size)
		all := reflect.New(v.Type())
		fill(all.Elem())
		if r, ok := call(all, "Reserved"); ok {
			for i := range mask {
				mask[i] = byte(r.Uint() >> (8 * i))
			}
		}
	}
	return mask
}

// Each bit that is reserved, and no other, is found and refused.
func TestReservedBits(t *testing.T) {
	ring0test.HostOnly(t)
	for _, make_ := range hypercall.Structures {
		s := make_()
		mask := reservedMask(reflect.ValueOf(s).Elem(), "")
		require.Len(t, mask, s.Size(), "%T", s)
		b := make([]byte, s.Size())
		for i := range s.Size() * 8 {
			if s.Size() > 1024 && i%61 != 0 {
				continue
			}
			b[i/8] = 1 << (i % 8)
			reserved := mask[i/8]>>(i%8)&1 != 0
			require.True(t, s.Get(b))
			require.Equal(t, !reserved, s.ReservedZero(), "%T, bit %d", s, i)
			err := s.CheckReserved()
			if reserved {
				var e *hypercall.ReservedError
				require.ErrorAs(t, err, &e)
				require.NotZero(t, e.Bits)
				require.ErrorContains(t, err, e.Field)
			} else {
				require.NoError(t, err, "%T, bit %d", s, i)
			}
			b[i/8] = 0
		}
	}
}

// A field inside is named with the fields around it.
func TestReservedErrorNamesField(t *testing.T) {
	var x hypercall.EnableVpVtlInput
	x.Context.CS.Attributes = 0x0f00
	require.ErrorContains(t, x.CheckReserved(), "the reserved bits 0xf00 of Context.CS.Attributes are set")
	_, err := x.AppendBinary(nil)
	require.ErrorContains(t, err, "Context.CS.Attributes")
	x = hypercall.EnableVpVtlInput{Reserved: [3]uint8{0, 7, 0}}
	require.ErrorContains(t, x.CheckReserved(), "the reserved bits 0x7 of Reserved are set (offset 14")
}

// codec has what holds for a structure and any bytes.
func codec(t require.T, s hypercall.Structure, b []byte, extra int) {
	t.Helper()
	fresh := func() hypercall.Structure {
		return reflect.New(reflect.TypeOf(s).Elem()).Interface().(hypercall.Structure)
	}
	size := s.Size()
	require.Equal(t, len(b) >= size, s.Get(b), "%T", s)
	out := bytes.Repeat([]byte{0xa5}, size+extra)
	if len(b) < size {
		require.Equal(t, fresh(), s, "was changed")
		require.False(t, s.Put(out[:len(b)]))
		require.Equal(t, bytes.Repeat([]byte{0xa5}, size+extra), out)
		require.ErrorIs(t, s.UnmarshalBinary(b), hypercall.ErrSize)
		return
	}
	// Get and Put are inverse on all bytes, and touch no others.
	require.True(t, s.Put(out))
	require.Equal(t, b[:size], out[:size], "%T", s)
	require.Equal(t, bytes.Repeat([]byte{0xa5}, extra), out[size:])

	if len(b) > size {
		require.ErrorIs(t, s.UnmarshalBinary(b), hypercall.ErrSize)
	}
	x := fresh()
	err := x.UnmarshalBinary(b[:size])
	require.Equal(t, s.ReservedZero(), err == nil, "%T: %v", s, err)
	appended, err2 := s.AppendBinary([]byte("before"))
	require.Equal(t, err, err2)
	if err != nil {
		require.Equal(t, fresh(), x, "was changed")
		require.Equal(t, "before", string(appended))
		return
	}
	require.Equal(t, s, x)
	require.Equal(t, "before"+string(b[:size]), string(appended))
	marshalled, err := s.MarshalBinary()
	require.NoError(t, err)
	require.Equal(t, b[:size], marshalled)
}

func structures(t *rapid.T) {
	s := rapid.SampledFrom(hypercall.Structures).Draw(t, "structure")()
	size := s.Size()
	n := rapid.OneOf(rapid.Just(size), rapid.IntRange(max(0, size-2), size+2), rapid.IntRange(0, size+9)).Draw(t, "length")
	b := make([]byte, n)
	// Few bytes need to be drawn: the others are as likely to show a mistake.
	rapid.Custom(func(t *rapid.T) int {
		for range rapid.IntRange(0, 16).Draw(t, "bytes") {
			if n > 0 {
				b[rapid.IntRange(0, n-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			}
		}
		return 0
	}).Draw(t, "contents")
	if len(b) >= size && rapid.Bool().Draw(t, "valid") {
		for i, m := range reservedMask(reflect.ValueOf(s).Elem(), "") {
			b[i] &^= m
		}
	}
	codec(t, s, b, rapid.IntRange(0, 9).Draw(t, "extra"))
}

func TestStructures(t *testing.T) { ring0test.CheckOnHost(t, structures) }

func FuzzStructures(f *testing.F) {
	for i, make_ := range hypercall.Structures {
		f.Add(uint(i), make([]byte, make_().Size()))
	}
	f.Fuzz(func(t *testing.T, kind uint, b []byte) {
		codec(t, hypercall.Structures[kind%uint(len(hypercall.Structures))](), b, len(b)%5)
	})
}

// The methods that a hypervisor uses do not allocate.
func TestStructuresDoNotAllocate(t *testing.T) {
	b := make([]byte, 4096)
	for _, make := range hypercall.Structures {
		s := make()
		require.Zero(t, testing.AllocsPerRun(5, func() {
			s.Get(b)
			s.ReservedZero()
			s.Put(b)
		}), "%T", s)
	}
}

// Every bit of a word is in one field, or reserved; and texts are read back.
func TestWordBits(t *testing.T) {
	for _, w := range hypercall.Words {
		typ := reflect.TypeOf(w).Elem()
		for i := range typ.Bits() {
			v := reflect.New(typ)
			v.Elem().SetUint(1 << i)
			text := fmt.Sprint(v.Elem().Interface())
			require.NotEqual(t, "none", text, "%s, bit %d", typ, i)
			reserved, _ := call(v, "Reserved")
			require.Equal(t, reserved.Uint() != 0, strings.Contains(", "+text, ", reserved"), "%s, bit %d: %s", typ, i, text)
		}
	}
}

func words(t *rapid.T) {
	typ := reflect.TypeOf(rapid.SampledFrom(hypercall.Words).Draw(t, "word")).Elem()
	v := reflect.New(typ)
	v.Elem().SetUint(rapid.OneOf(rapid.Uint64(), rapid.Custom(func(t *rapid.T) uint64 {
		a, b := rapid.IntRange(0, 63).Draw(t, "bit"), rapid.IntRange(0, 63).Draw(t, "bit")
		return 1<<a | 1<<b
	})).Draw(t, "value") & ones(0, typ.Bits()))
	text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
	require.NoError(t, err)
	for _, s := range []string{string(text), strings.ToUpper(string(text[:1])) + string(text[1:]), strconv.FormatUint(v.Elem().Uint(), 10), fmt.Sprintf("%#x", v.Elem().Uint())} {
		back := reflect.New(typ)
		require.NoError(t, back.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)), "%s", typ)
		require.Equal(t, v.Elem().Uint(), back.Elem().Uint(), "%s %q", typ, s)
	}
	bits := reflect.ValueOf(rapid.Uint64().Draw(t, "bits") & ones(0, typ.Bits())).Convert(typ)
	on, _ := call(v, "With", bits, reflect.ValueOf(true))
	off, _ := call(v, "With", bits, reflect.ValueOf(false))
	require.Equal(t, v.Elem().Uint()|bits.Uint(), on.Uint())
	require.Equal(t, v.Elem().Uint()&^bits.Uint(), off.Uint())
}

func TestWords(t *testing.T) { ring0test.CheckOnHost(t, words) }

// wordTexts has what holds for a word or enumeration and any text: it is refused and nothing is
// changed, or what it is read as prints and is read again.
func wordTexts(t require.T, typ reflect.Type, s string) {
	v := reflect.New(typ)
	v.Elem().SetUint(1)
	if err := v.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
		require.Equal(t, uint64(1), v.Elem().Uint())
		require.Less(t, len(err.Error()), 1500, "whatever the text")
		return
	}
	again := reflect.New(typ)
	require.NoError(t, again.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(fmt.Sprint(v.Elem().Interface()))))
	require.Equal(t, v.Elem().Uint(), again.Elem().Uint(), "%s %q", typ, s)
}

func FuzzWordTexts(f *testing.F) {
	all := slices.Concat(hypercall.Words, hypercall.Enums)
	for i := range all {
		for _, s := range []string{"none", "", "1", "0x80", "reserved 0x10", "EnableMbec, EnableMbec", "ResultCode 3, CacheType HvCacheTypeWriteBack"} {
			f.Add(uint(i), s)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint, s string) {
		wordTexts(t, reflect.TypeOf(all[kind%uint(len(all))]).Elem(), s)
	})
}

func TestWordTexts(t *testing.T) {
	for _, c := range []struct {
		v    fmt.Stringer
		text string
	}{
		{hypercall.VsmPartitionConfig(0), "none"},
		{hypercall.VsmPartitionConfig(0x1f), "EnableVtlProtection, DefaultVtlProtectionMask Readable+Writable+KernelExecutable+UserExecutable"},
		{hypercall.VsmPartitionConfig(1 << 63), "reserved 0x8000000000000000"},
		{hypercall.VsmPartitionStatus(0x10003), "EnabledVtlSet 0x3, MaximumVtl VTL1"},
		{hypercall.VsmVina(0x1ff), "Vector 0xff, Enabled"},
		{hypercall.TranslateResult(0x0000000600000000), "ResultCode HvTranslateGvaSuccess, CacheType HvCacheTypeWriteBack"},
		{hypercall.TranslateFlags(0x1100000000000001), "ValidateRead, InputVtl VTL1"},
		{hypercall.InterruptControl(0x100000004), "InterruptType HvX64InterruptTypeNmi, LevelTriggered"},
		{hypercall.InterruptControl(0x77), "InterruptType InterruptType(0x77)"},
		{hypercall.MessageType(0x80000001), "HvMessageTypeGpaIntercept"},
		{hypercall.MessageType(1), "MessageType(0x1)"},
		{hypercall.MapFlags(3), "Readable, Writable"},
	} {
		require.Equal(t, c.text, c.v.String())
	}
	for _, c := range []struct{ text, err string }{
		{"Vector 0x1ff", "Vector takes a value of 8 bits"},
		{"Enabled 1", "Enabled is one bit and has no value"},
		{"Enabled, Enabled", "it stands there twice"},
		{"Enabled, reserved 1", "only bits of 0xfffffffffffff800 are reserved"},
		{"Wibble", "there is no field \"Wibble\": write a VsmVina as a list of its fields, or as a number of 64 bits"},
	} {
		_, err := hypercall.ParseVsmVina(c.text)
		require.ErrorContains(t, err, c.err)
	}
	_, err := hypercall.ParseCacheType("hot")
	require.ErrorContains(t, err, `"hot" is no CacheType: write a name such as HvCacheTypeUncached, or a number of 32 bits`)
}

// Enumerations have every value that a source has, by the TLFS's name where it has one.
func TestEnumsAreTheSources(t *testing.T) {
	ring0test.HostOnly(t)
	seen := map[string]bool{}
	for _, r := range csvRows(t, enumWitnesses) {
		var v reflect.Value
		for _, e := range hypercall.Enums {
			if typeName(e) == r["type"] {
				v = reflect.New(reflect.TypeOf(e).Elem())
			}
		}
		require.True(t, v.IsValid(), "there is no %s", r["type"])
		n, err := strconv.ParseUint(r["value"], 0, 64)
		require.NoError(t, err)
		v.Elem().SetUint(n)
		text := fmt.Sprint(v.Elem().Interface())
		require.NotContains(t, text, "(", "%v", r)
		wordTexts(t, v.Elem().Type(), text)
		wordTexts(t, v.Elem().Type(), r["value"])
		if strings.HasPrefix(r["source"], "tlfs") {
			require.Equal(t, names.Squeeze(r["name"]), names.Squeeze(text), "%v", r)
		}
		seen[r["type"]+text] = true
	}
	for _, e := range hypercall.Enums {
		count := 0
		typ := reflect.TypeOf(e).Elem()
		for n := range uint64(0x80) {
			for _, base := range []uint64{0, 0x80000000, 0x80000100, 0x80010000} {
				if base+n != (base+n)&ones(0, typ.Bits()) {
					continue
				}
				v := reflect.New(typ)
				v.Elem().SetUint(base + n)
				if text := fmt.Sprint(v.Elem().Interface()); !strings.Contains(text, "(") {
					count++
					require.True(t, seen[typ.Name()+text], "no source has %s", text)
				}
			}
		}
		require.NotZero(t, count, "%s", typ)
	}
}

func BenchmarkStructures(b *testing.B) {
	page := make([]byte, 4096)
	for _, s := range []hypercall.Structure{new(hypercall.VpRegistersInput), new(hypercall.EnableVpVtlInput), new(hypercall.MemoryIntercept)} {
		b.Run(typeName(s)+"/Get", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !s.Get(page) || !s.ReservedZero() {
					b.Fatal("refused")
				}
			}
		})
		b.Run(typeName(s)+"/Put", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Put(page)
			}
		})
	}
}
