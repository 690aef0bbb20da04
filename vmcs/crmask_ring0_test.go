package vmcs_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
)

// TestCRMaskOnVTx: what a guest reads from CR0 and CR4, which of its writes exit,
// and what the others leave in the real registers.
func TestCRMaskOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	code, at := snippets(
		[]byte{0x0f, 0x22, 0xc0},       // MOV CR0, RAX
		[]byte{0x0f, 0x22, 0xe0},       // MOV CR4, RAX
		[]byte{0x0f, 0x20, 0xc0},       // MOV RAX, CR0
		[]byte{0x0f, 0x20, 0xe0},       // MOV RAX, CR4
		[]byte{0x48, 0x0f, 0x01, 0xe0}, // SMSW RAX
		[]byte{0x0f, 0x01, 0xf0},       // LMSW AX
		[]byte{0x0f, 0x06},             // CLTS
	)
	const moveCR0, moveCR4, readCR0, readCR4, smsw, lmsw, clts = 0, 1, 2, 3, 4, 5, 6
	g := vm{m.NewGuest(vmtest.LongNoEPT, code...)}

	// Bits that the guest may own and change without harm, and bits that the host
	// may own.
	const (
		harmless0 = 1<<1 | 1<<2 | 1<<3 | 1<<16 | 1<<18             // MP, EM, TS, WP, AM
		harmless4 = 1<<2 | 1<<3 | 1<<7 | 1<<8                      // TSD, DE, PGE, PCE
		bits0     = harmless0 | 1<<0 | 1<<4 | 1<<5 | 3<<29 | 1<<31 // PE, ET, NE, NW, CD, PG
		bits4     = harmless4 | 3<<0 | 1<<4 | 1<<5 | 1<<6 | 1<<13  // VME, PVI, PSE, PAE, MCE, VMXE
	)
	base0, base4 := g.Get(vmcs.GuestCR0)&^harmless0, g.Get(vmcs.GuestCR4)&^harmless4
	exits := 0
	rapid.Check(t, func(t *rapid.T) {
		word := func(name string) uint64 { return rapid.Uint64().Draw(t, name) }
		cr0 := vmcs.CRMask{Mask: word("CR0 mask") & bits0, Shadow: word("CR0 shadow")}
		cr4 := vmcs.CRMask{Mask: word("CR4 mask") & bits4, Shadow: word("CR4 shadow")}
		if rapid.Bool().Draw(t, "few bits owned") {
			cr0.Mask &= 0xf
			cr4.Mask &= 0xff
		}
		real0, real4 := base0|word("CR0")&harmless0, base4|word("CR4")&harmless4
		for _, c := range []struct {
			f vmcs.Field
			v uint64
		}{{vmcs.GuestCR0, real0}, {vmcs.GuestCR4, real4}} {
			g.Set(c.f, c.v)
		}
		require.NoError(t, cr0.WriteCR0(vmcs.Current{}))
		require.NoError(t, cr4.WriteCR4(vmcs.Current{}))

		run := func(i int, rax uint64) uint16 { g.Regs[asm.RAX] = rax; return g.from(at[i]) }
		reads := func() {
			require.Equal(t, uint16(reasonVMCALL), run(readCR0, 0))
			require.Equal(t, cr0.Read(real0), g.Regs[asm.RAX])
			require.Equal(t, uint16(reasonVMCALL), run(readCR4, 0))
			require.Equal(t, cr4.Read(real4), g.Regs[asm.RAX])
			require.Equal(t, uint16(reasonVMCALL), run(smsw, 0))
			require.Equal(t, cr0.Read(real0)&0xffffffff, g.Regs[asm.RAX]&0xffffffff)
		}
		reads()

		// Writes. A bit that the guest owns is harmless or stays.
		value := func(m vmcs.CRMask, real, harmless, all uint64) uint64 {
			v := real ^ word("changed")&(harmless|m.Mask&all)
			if rapid.Bool().Draw(t, "as the shadow") {
				v = v&^m.Mask | m.Shadow&m.Mask
			}
			return v & 0xffffffff
		}
		for range 4 {
			i := rapid.SampledFrom([]int{moveCR0, moveCR4, lmsw, clts}).Draw(t, "instruction")
			var rax uint64
			var exit bool
			after0, after4 := real0, real4
			switch i {
			case moveCR0:
				rax = value(cr0, real0, harmless0, bits0)
				exit, after0 = cr0.MOVExits(rax), cr0.MOV(real0, rax)
			case moveCR4:
				rax = value(cr4, real4, harmless4, bits4)
				exit, after4 = cr4.MOVExits(rax), cr4.MOV(real4, rax)
			case lmsw:
				rax = uint64(rapid.Uint16().Draw(t, "LMSW"))
				exit, after0 = cr0.LMSWExits(uint16(rax)), cr0.LMSW(real0, uint16(rax))
			case clts:
				exit, after0 = cr0.CLTSExits(), cr0.CLTS(real0)
			}
			got := run(i, rax)
			if exit {
				exits++
				require.Equal(t, uint16(reasonCRAccess), got, "instruction %d of 0x%x; CR0 %v; CR4 %v", i, rax, cr0, cr4)
				if i == moveCR0 { // the hypervisor grants what the guest sees
					cr0 = cr0.Set(rax)
					require.NoError(t, cr0.WriteCR0(vmcs.Current{}))
					require.Equal(t, rax&cr0.Mask, cr0.Read(real0)&cr0.Mask)
				}
			} else {
				require.Equal(t, uint16(reasonVMCALL), got, "instruction %d of 0x%x; CR0 %v; CR4 %v", i, rax, cr0, cr4)
				real0, real4 = after0, after4
			}
			require.Equal(t, real0, g.Get(vmcs.GuestCR0), "instruction %d of 0x%x; CR0 %v", i, rax, cr0)
			require.Equal(t, real4, g.Get(vmcs.GuestCR4), "instruction %d of 0x%x; CR4 %v", i, rax, cr4)
		}
		reads()
	})
	require.Greater(t, exits, 0)
}
