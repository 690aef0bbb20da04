package emulate_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit/emulate"
)

// The code that makes one access each, at RBX.
const (
	codeRead  = vmtest.Code
	codeWrite = vmtest.Code + 0x10
	codeFetch = vmtest.Code + 0x20
)

// TestWalksLikeTheProcessor draws paging structures of every form, large pages
// and reserved bits included, and an access. The processor says what comes of it: by a page
// fault, or by the guest-physical address of an EPT violation; and which accessed and dirty
// flags are set.
func TestWalksLikeTheProcessor(t *testing.T) {
	m := vmtest.Start(t)
	var rigs []*rig
	for _, mode := range []vmtest.Mode{vmtest.ModeLong, vmtest.ModeCompatibility, vmtest.ModePAE, vmtest.ModePaged} {
		r := newRig(m, vmtest.Kind{Mode: mode, EPT: true})
		copy(r.fresh[codeRead:], []byte{0x8a, 0x03, 0x0f, 0x01, 0xc1})  // MOV al, [rbx]; VMCALL
		copy(r.fresh[codeWrite:], []byte{0x88, 0x03, 0x0f, 0x01, 0xc1}) // MOV [rbx], al; VMCALL
		copy(r.fresh[codeFetch:], []byte{0xff, 0xe3})                   // JMP rbx
		rigs = append(rigs, r)
	}
	count := map[string]int{}
	before := make([]byte, vmtest.MemorySize)
	ring0test.Check(t, func(t *rapid.T) {
		for _, r := range rigs {
			r.checkWalk(t, before, count)
		}
	})
	t.Log(count)
	for _, what := range []string{"#PF", "#PF, reserved", "table", "page", "large page"} {
		require.True(t, count[what] > 0 || !ring0test.Whole(), what)
	}
}

func (r *rig) checkWalk(t *rapid.T, before []byte, count map[string]int) {
	r.Use()
	r.prepare(t)
	copy(r.Memory, r.fresh)
	if r.Kind.Mode == vmtest.ModePaged && rapid.Bool().Draw(t, "PSE") {
		r.Set(vmcs.GuestCR4, r.Get(vmcs.GuestCR4)|asm.CR4PSE)
	}
	linear := r.drawTables(t)
	a := rapid.SampledFrom([]emulate.Access{emulate.Read, emulate.Write, emulate.Fetch}).Draw(t, "access")
	copy(before, r.Memory)

	var s emulate.State
	s.Regs = new([16]uint64)
	require.NoError(t, s.Read(vmcs.Current{}))
	memory := &updated{ram: ram{bytes: bytes.Clone(before)}}
	w := emulate.Walker{Memory: memory, PhysicalAddressBits: r.Caps.CPU.PhysicalAddressBits}
	if r.Kind.Mode == vmtest.ModePaged {
		w.NoPSE36 = r.Caps.CPU.PhysicalAddressBits < 36
	}
	if _, err := w.Translate(&s, codeRead, emulate.Fetch); err != nil {
		return // SMEP: the code that would make the access cannot run
	}
	gpa, err := w.Translate(&s, linear, a)

	if a == emulate.Fetch && err == nil && gpa < vmtest.MemorySize {
		return // to be run, there would have to be an instruction
	}
	r.RIP = [...]uint64{codeRead, codeWrite, codeFetch}[a]
	r.Regs[asm.RBX] = linear
	r.enter()
	var x *emulate.Exception
	var e *emulate.TableError
	switch r.Basic() {
	case reasonException:
		if !errors.As(err, &x) {
			t.Fatalf("%v: %v of 0x%x gives 0x%x, %v; should be #PF with 0x%x", r.Kind, a, linear, gpa, err, r.Get(vmcs.ExitInterruptionErrorCode))
		}
		require.Equal(t, vmcs.VectorPF, vmcs.InterruptionInfo(r.Get(vmcs.ExitInterruptionInformation)).Vector())
		require.Equal(t, uint32(r.Get(vmcs.ExitInterruptionErrorCode)), x.Event.ErrorCode, "%v: %v of 0x%x", r.Kind, a, linear)
		require.Equal(t, r.Get(vmcs.ExitQualification), x.Address)
		count["#PF"]++
		if x.Event.ErrorCode&8 != 0 {
			count["#PF, reserved"]++
		}
	case reasonEPTViolation:
		got := gpa
		if r.Get(vmcs.ExitQualification)>>8&1 == 0 { // in the walk
			require.ErrorAs(t, err, &e)
			got = e.Entry
			count["table"]++
		} else {
			require.NoError(t, err)
			require.Equal(t, linear, r.Get(vmcs.GuestLinearAddress)) // Operand goes by it
			count["page"]++
			if gpa>>12 != r.leaf(linear)>>12 {
				count["large page"]++
			}
		}
		require.Equal(t, r.Get(vmcs.GuestPhysicalAddress), got, "%v: %v of 0x%x", r.Kind, a, linear)
	case reasonVMCALL:
		require.NoError(t, err, "%v: %v of 0x%x", r.Kind, a, linear)
		if a == emulate.Read {
			require.Equal(t, before[gpa], byte(r.Regs[asm.RAX]))
		} else {
			memory.bytes[gpa] = byte(r.Regs[asm.RAX])
		}
		count["memory"]++
	default:
		t.Fatalf("exit reason %d", r.Reason)
	}
	tables := func(b []byte) []byte { return b[drawnPDPT : drawnPT+0x1000] } // the code's own walk is not made here
	if bytes.Equal(tables(memory.bytes), tables(r.Memory)) {
		return
	}
	for at := drawnPDPT; at < drawnPT+0x1000; at++ {
		if memory.bytes[at] != r.Memory[at] {
			t.Fatalf("%v: %v of 0x%x: byte 0x%x of the tables is 0x%x, should be 0x%x", r.Kind, a, linear, at, memory.bytes[at], r.Memory[at])
		}
	}
}

// The tables that are drawn, from the PDPT, page directory or page table on down.
const (
	drawnPDPT = vmtest.Free + 0x1000*iota
	drawnPD
	drawnPT
)

// drawTables makes paging structures for one linear address, with an entry each in
// tables whose other entries are 0.
func (r *rig) drawTables(t *rapid.T) (linear uint64) {
	physical := func() uint64 {
		if chance(t, 3, "in memory") {
			return vmtest.Data
		}
		return (rapid.Uint64().Draw(t, "physical address")&0x3fffffffff | 0x40000000) &^ 0xfff
	}
	flags := func() uint64 {
		e := uint64(7)
		for range rapid.IntRange(0, 2).Draw(t, "flags") {
			e ^= 1 << rapid.SampledFrom([]int{0, 1, 1, 1, 2, 2, 2, 5, 6, 7, 7, 7, 8}).Draw(t, "flag")
		}
		return e
	}
	entry := func(table uint64, large uint64) uint64 {
		e := flags()
		if e&0x80 != 0 && large != 0 {
			at := physical() &^ (large - 1)
			if chance(t, 4, "reserved bit") {
				at |= large >> rapid.IntRange(1, 9).Draw(t, "bit")
			}
			return e | at
		}
		if chance(t, 12, "nowhere") {
			table = physical()
		}
		return e | table
	}
	high := func() uint64 {
		if chance(t, 6, "high bit") {
			return 1 << rapid.SampledFrom([]int{38, 39, 40, 46, 51, 52, 58, 63, 63}).Draw(t, "bit")
		}
		return 0
	}
	offset := rapid.Uint64Range(0, 0xfff).Draw(t, "offset")
	if r.Kind.Mode == vmtest.ModePaged {
		i, j := rapid.Uint64Range(1, 1023).Draw(t, "PDE"), rapid.Uint64Range(0, 1023).Draw(t, "PTE")
		pde := entry(drawnPT, 1<<22)
		if pde&0x80 != 0 && rapid.Bool().Draw(t, "PSE-36") {
			pde = pde&^0x3ff000 | rapid.Uint64().Draw(t, "PSE-36 bits")&0x1fe000
		}
		binary.LittleEndian.PutUint32(r.Memory[vmtest.TableRoot+4*i:], uint32(pde))
		binary.LittleEndian.PutUint32(r.Memory[drawnPT+4*j:], uint32(flags()|physical()))
		return i<<22 | j<<12 | offset
	}
	i, j, k := rapid.Uint64Range(1, 3).Draw(t, "PDPTE"), rapid.Uint64Range(0, 511).Draw(t, "PDE"), rapid.Uint64Range(0, 511).Draw(t, "PTE")
	put := func(table int, n, e uint64) { binary.LittleEndian.PutUint64(r.Memory[uint64(table)+8*n:], e) }
	put(drawnPD, j, entry(drawnPT, 1<<21)|high())
	put(drawnPT, k, flags()|physical()|high())
	if r.Kind.Mode == vmtest.ModePAE {
		r.Set(vmcs.GuestPDPTE0+vmcs.Field(2*i), drawnPD|uint64(rapid.IntRange(0, 3).Draw(t, "PDPTE is present")+3)/4)
		return i<<30 | j<<21 | k<<12 | offset
	}
	if r.Kind.Mode == vmtest.ModeCompatibility {
		put(vmtest.TablePDPT, i, entry(drawnPD, 1<<30)|high())
		return i<<30 | j<<21 | k<<12 | offset
	}
	n := rapid.Uint64Range(1, 511).Draw(t, "PML4E")
	put(vmtest.TableRoot, n, entry(drawnPDPT, 0)|high())
	put(drawnPDPT, i, entry(drawnPD, 1<<30)|high())
	return uint64(int64(n<<39|i<<30|j<<21|k<<12|offset) << 16 >> 16)
}

// leaf is the address that the last table gives for a linear one.
func (r *rig) leaf(linear uint64) uint64 {
	if r.Kind.Mode == vmtest.ModePaged {
		return uint64(binary.LittleEndian.Uint32(r.Memory[drawnPT+4*(linear>>12&1023):]))
	}
	return binary.LittleEndian.Uint64(r.Memory[drawnPT+8*(linear>>12&511):]) & 0xffffffffff000
}
