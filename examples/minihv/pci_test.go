package main

import (
	"fmt"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"pgregory.net/rapid"
)

// Functions as CONFIG_ADDRESS has them.
const (
	atHost = pciEnable
	atISA  = pciEnable | 1<<11
	atPM   = pciEnable | 1<<11 | 3<<8
)

// Accesses to the ports of PCI configuration, in order.
func TestPCIPorts(t *testing.T) {
	type access struct {
		port uint16
		size int
		v    uint32 // written, or to be read
	}
	out := func(port uint16, size int, v uint32) access { return access{port, -size, v} }
	for _, tt := range []struct {
		name     string
		control  uint16 // where PM1 control is
		accesses []access
	}{
		{"at first", 0, []access{{0xcf8, 4, 0}, {0xcfc, 4, 0xffffffff}}},
		{"as Linux looks for the mechanism", 0, []access{
			out(0xcfb, 1, 1), {0xcf8, 4, 0}, out(0xcf8, 4, 0x80000000), {0xcf8, 4, 0x80000000}, out(0xcf8, 4, 0), {0xcf8, 4, 0}}},
		{"reserved bits of the address", 0, []access{
			out(0xcf8, 4, 0xffffffff), {0xcf8, 4, 0x80fffffc}, out(0xcf8, 4, 0x7f000003), {0xcf8, 4, 0}}},
		{"the address in less than 4 bytes", 0, []access{
			out(0xcf8, 4, 0x80123454), out(0xcf8, 2, 0), out(0xcf8, 1, 0), out(0xcfa, 2, 0), out(0xcfb, 1, 0), {0xcf8, 4, 0x80123454},
			{0xcf8, 2, 0xffff}, {0xcf8, 1, 0xff}, {0xcfa, 1, 0xff}, {0xcfb, 1, 0xff}}},
		{"not enabled", 0, []access{
			out(0xcf8, 4, atISA&^pciEnable|0x60), {0xcfc, 4, 0xffffffff}, out(0xcfc, 4, 0), out(0xcf8, 4, atISA|0x60), {0xcfc, 4, 0x090b090b}}},
		{"host bridge", 0xb004, []access{
			out(0xcf8, 4, atHost), {0xcfc, 4, 0x12378086}, out(0xcf8, 4, atHost|4), {0xcfc, 4, 0x02800006},
			out(0xcf8, 4, atHost|8), {0xcfc, 4, 0x06000000}, out(0xcf8, 4, atHost|0xc), {0xcfc, 4, 0}}},
		{"ISA bridge", 0xb004, []access{
			out(0xcf8, 4, atISA), {0xcfc, 4, 0x70008086}, out(0xcf8, 4, atISA|4), {0xcfc, 4, 0x02000007},
			out(0xcf8, 4, atISA|8), {0xcfc, 4, 0x06010000}, out(0xcf8, 4, atISA|0xc), {0xcfc, 4, 0x00800000}}},
		{"power management", 0xb004, []access{
			out(0xcf8, 4, atPM), {0xcfc, 4, 0x71138086}, out(0xcf8, 4, atPM|4), {0xcfc, 4, 0x02800000},
			out(0xcf8, 4, atPM|8), {0xcfc, 4, 0x06800003}, out(0xcf8, 4, atPM|0xc), {0xcfc, 4, 0},
			out(0xcf8, 4, atPM|0x3c), {0xcfc, 4, 0x00000109}, out(0xcf8, 4, atPM|0x40), {0xcfc, 4, 0xb001}, out(0xcf8, 4, atPM|0x80), {0xcfc, 4, 1},
			out(0xcf8, 4, atPM|0x5c), {0xcfc, 4, 0}, out(0xcf8, 4, atPM|0x64), {0xcfc, 4, 0x08000000}}},
		{"its ports elsewhere", 0xff44, []access{out(0xcf8, 4, atPM|0x40), {0xcfc, 4, 0xff41}, out(0xcf8, 4, atPM|0x80), {0xcfc, 4, 1}}},
		{"its ports nowhere", 0, []access{out(0xcf8, 4, atPM|0x40), {0xcfc, 4, 1}, out(0xcf8, 4, atPM|0x80), {0xcfc, 4, 0}}},
		{"its ports where it cannot have them", 0xb008, []access{out(0xcf8, 4, atPM|0x40), {0xcfc, 4, 1}, out(0xcf8, 4, atPM|0x80), {0xcfc, 4, 0}}},
		{"parts of a register", 0, []access{
			out(0xcf8, 4, atISA), {0xcfc, 1, 0x86}, {0xcfd, 1, 0x80}, {0xcfe, 1, 0x00}, {0xcff, 1, 0x70},
			{0xcfc, 2, 0x8086}, {0xcfd, 2, 0x0080}, {0xcfe, 2, 0x7000}}},
		{"beyond the data ports", 0, []access{
			out(0xcf8, 4, atISA), {0xcfd, 4, 0xff700080}, {0xcff, 2, 0xff70}, {0xcff, 4, 0xffffff70}, {0xcfa, 4, 0x8086ffff}, {0xcfb, 2, 0x86ff},
			out(0xcf8, 4, atISA|0x60), out(0xcff, 4, 0), {0xcfc, 4, 0x000b090b}, out(0xcfa, 4, 0x01020304), {0xcfc, 4, 0x000b0102},
			out(0xcf8, 4, atISA|0x64), {0xcfc, 4, 0}}},
		{"interrupt routes", 0, []access{
			out(0xcf8, 4, atISA|0x60), out(0xcfc, 4, 0xffffffff), {0xcfc, 4, 0x8f8f8f8f}, out(0xcfd, 1, 5), {0xcfc, 4, 0x8f8f058f},
			out(0xcfe, 2, 0x0a80), {0xcfc, 4, 0x0a80058f}}},
		{"interrupt line", 0, []access{out(0xcf8, 4, atPM|0x3c), out(0xcfc, 4, 0xffffffff), {0xcfc, 4, 0x000001ff}, out(0xcfc, 1, 3), {0xcfc, 4, 0x00000103}}},
		{"command", 0, []access{
			out(0xcf8, 4, atHost|4), out(0xcfc, 2, 0), {0xcfc, 4, 0x02800006}, out(0xcf8, 4, atISA|4), out(0xcfc, 4, 0), {0xcfc, 4, 0x02000007},
			out(0xcf8, 4, atPM|4), out(0xcfc, 4, 0xffffffff), {0xcfc, 4, 0x02800000}}},
		{"SMRAM is not opened, nor memory under the firmware", 0, []access{
			out(0xcf8, 4, atHost|0x70), out(0xcfe, 1, 0x4a), {0xcfe, 1, 0x1a}, out(0xcf8, 4, atHost|0x58), out(0xcfc, 4, 0x33333333), {0xcfc, 4, 0x1000}}},
		{"the ports of power management stay", 0xb004, []access{out(0xcf8, 4, atPM|0x40), out(0xcfc, 4, 0xc001), {0xcfc, 4, 0xb001}}},
		{"other functions and buses", 0, []access{
			out(0xcf8, 4, pciEnable|1<<8), {0xcfc, 4, 0xffffffff}, out(0xcf8, 4, atISA|1<<8), {0xcfc, 4, 0xffffffff}, out(0xcf8, 4, atISA|2<<8), {0xcfc, 4, 0xffffffff},
			out(0xcf8, 4, pciEnable|2<<11), {0xcfc, 4, 0xffffffff}, out(0xcf8, 4, pciEnable|31<<11|7<<8), {0xcfc, 4, 0xffffffff},
			out(0xcf8, 4, atISA|1<<16), {0xcfc, 4, 0xffffffff}, out(0xcf8, 4, pciEnable|0xff<<16), {0xcfc, 4, 0xffffffff}}},
	} {
		b := newPCIBus(tt.control)
		for i, a := range tt.accesses {
			if a.size < 0 {
				require.NoError(t, b.Out(a.port, -a.size, a.v))
				continue
			}
			v, err := b.In(a.port, a.size)
			require.NoError(t, err)
			require.Equal(t, a.v, v&(1<<(8*a.size)-1), "%s: %d: port %#x, %d bytes", tt.name, i, a.port, a.size)
		}
	}
}

// What answers at the ports of configuration: the bus, and the reset register as it always was.
func TestPCIAndReset(t *testing.T) {
	bitmaps, err := vmcs.IOBitmapsOf(make([]byte, pageSize), make([]byte, pageSize))
	require.NoError(t, err)
	ports := newPorts(bitmaps, new(acpi), new(direct))
	for port := uint16(0xcf7); port <= 0xd00; port++ {
		require.True(t, bitmaps.Intercepts(port, 1))
		want := "*main.pciBus"
		switch port {
		case 0xcf7, 0xd00:
			want = "<nil>"
		case 0xcf9:
			want = "main.reset"
		}
		require.Equal(t, want, fmt.Sprintf("%T", ports.Device(port)), "port %#x", port)
	}
}

// pciSpace reads a function's registers, 4 bytes at a time.
func pciSpace(in func(port uint16, size int) uint32, out func(port uint16, size int, v uint32), function uint32) (all [64]uint32) {
	for i := range all {
		out(pciAddress, 4, function|uint32(i)<<2)
		all[i] = in(pciData, 4)
	}
	return all
}

// pciAccess draws an access, more often than not to what is there.
func pciAccess(t *rapid.T) (port uint16, size int, v uint32) {
	port = rapid.Uint16Range(pciAddress-3, pciLast+3).Draw(t, "port")
	size = rapid.SampledFrom([]int{1, 2, 4}).Draw(t, "size")
	v = rapid.Uint32().Draw(t, "value")
	if rapid.Bool().Draw(t, "address") {
		port, size = pciAddress, 4
		v = rapid.SampledFrom([]uint32{atHost, atISA, atPM, atISA | 0x60, atPM | 0x3c, atPM | 1<<8}).Draw(t, "function") | v&0x010000ff
	}
	return port, size, v
}

// Whatever is written, in any order: interrupt routes and the interrupt line hold what was written
// to them, and all else is as it was.
func checkPCI(t *rapid.T) {
	b := newPCIBus(rapid.SampledFrom([]uint16{0, 4, 0xb004, 0xb005, 0xffc4, 0xffff}).Draw(t, "control"))
	in := func(port uint16, size int) uint32 {
		v, err := b.In(port, size)
		require.NoError(t, err)
		return v
	}
	out := func(port uint16, size int, v uint32) { require.NoError(t, b.Out(port, size, v)) }
	first := map[uint32][64]uint32{}
	for _, f := range []uint32{atHost, atISA, atPM} {
		first[f] = pciSpace(in, out, f)
	}
	out(pciAddress, 4, 0)

	address := uint32(0)
	held := map[uint32]uint8{} // by address, of those registers
	byteAt := func(port uint16) uint8 {
		if port < pciData || port > pciLast || address&pciEnable == 0 {
			return 0xff
		}
		at := address + uint32(port-pciData)
		all, ok := first[at&^0xff]
		switch v, written := held[at]; {
		case !ok:
			return 0xff
		case written:
			return v
		}
		return uint8(all[at&0xff>>2] >> (8 * (at & 3)))
	}
	for range rapid.IntRange(1, 40).Draw(t, "accesses") {
		port, size, v := pciAccess(t)
		switch {
		case rapid.Bool().Draw(t, "reads"):
			want := uint32(0)
			for i := range size {
				want |= uint32(byteAt(port+uint16(i))) << (8 * i)
			}
			if port == pciAddress && size == 4 {
				want = address
			}
			require.Equal(t, want, in(port, size)&(1<<(8*size)-1), "port %#x, %d bytes, address %#x", port, size, address)
		case port == pciAddress && size == 4:
			out(port, size, v)
			address = v &^ 0x7f000003
		default:
			out(port, size, v)
			for i := range size {
				at := address + uint32(port) + uint32(i) - pciData
				if p := port + uint16(i); p < pciData || p > pciLast {
					continue
				}
				switch at {
				case atISA | 0x60, atISA | 0x61, atISA | 0x62, atISA | 0x63:
					held[at] = uint8(v>>(8*i)) & 0x8f
				case atPM | 0x3c:
					held[at] = uint8(v >> (8 * i))
				}
			}
		}
	}
}

func TestPCIModel(t *testing.T) { rapid.Check(t, checkPCI) }

func FuzzPCI(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkPCI)) }

// No bus, device or function but these three answers.
func TestPCIFunctions(t *testing.T) {
	b := newPCIBus(0xb004)
	var found []uint32
	for f := range uint32(1 << 16) {
		_ = b.Out(pciAddress, 4, pciEnable|f<<8)
		if v, _ := b.In(pciData, 4); v != 1<<32-1 {
			found = append(found, pciEnable|f<<8)
		}
	}
	require.Equal(t, []uint32{atHost, atISA, atPM}, found)
}
