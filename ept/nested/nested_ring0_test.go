package nested_test

import (
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/ept/nested"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vmexit/emulate"
)

// Walks of guests of all paging modes are compared with the processor's in package ept,
// TestTranslateIsProcessor. Here are the accesses that no linear address is behind, and each
// step of a walk by itself.

// behind puts a guest's memory behind a Space.
func behind(m *vmtest.Machine, g *vmtest.Guest, flags bool) (*ept.View, *nested.Walker) {
	m.Helper()
	pages := m.Pages(8)
	arena, err := ept.NewArena(pages.Bytes(), pages.Phys())
	require.NoError(m, err)
	mode := ept.Mode{Capabilities: m.Caps.EPTVPID, PhysicalAddressBits: m.Caps.CPU.PhysicalAddressBits, AccessedDirty: flags}
	space, err := ept.New(ept.Config{Pages: arena, Mode: mode, LargestPage: ept.PTE})
	require.NoError(m, err)
	_, err = space.Map(0, vmtest.MemorySize, g.HostPhysical(0), ept.All|ept.WB.Entry())
	require.NoError(m, err)
	v := space.View(0)
	g.Set(vmcs.EPTPointer, uint64(v.Pointer()))
	return v, &nested.Walker{EPT: v, Memory: &memory{g.HostPhysical(0), g.Memory}, PhysicalAddressBits: mode.PhysicalAddressBits}
}

func protect(g *vmtest.Guest, v *ept.View, gpa uint64, rights ept.Entry) {
	g.Helper()
	i, err := v.Protect(gpa, 4096, rights, ept.All)
	require.NoError(g, err)
	if t, d, ok := i.INVEPT(v.Pointer(), v.Mode().Capabilities); ok {
		require.Equal(g, asm.Succeed, asm.INVEPT(uint64(t), (*[2]uint64)(&d)))
	}
}

// TestPDPTELoads: MOV to CR3 with PAE paging reads the PDPTEs, and that is no write even
// with accessed and dirty flags for EPT (SDM Vol. 3C 29.3.5).
func TestPDPTELoads(t *testing.T) {
	m := vmtest.Start(t)
	for _, flags := range []bool{false, m.Caps.EPTVPID.AccessedDirty()} {
		g := m.NewGuest(vmtest.Kind{Mode: vmtest.ModePAE, EPT: true}, 0x0f, 0x22, 0xd8) // MOV CR3, eax
		v, w := behind(m, g, flags)
		copy(g.Memory[vmtest.Free:], g.Memory[vmtest.TablePDPT:][:4096])
		for _, rights := range []ept.Entry{0, ept.Execute, ept.Read, ept.ReadWrite, ept.All} {
			for _, offset := range []uint64{0, 0xfe0} {
				if rights == ept.Execute && !m.Caps.EPTVPID.ExecuteOnly() {
					continue
				}
				clear(g.Memory[vmtest.Free+0xfe0 : vmtest.Free+0x1000])
				copy(g.Memory[vmtest.Free+0xfe0:], g.Memory[vmtest.TablePDPT:][:32])
				protect(g, v, vmtest.Free, rights)
				for range v.Harvest(0, vmtest.MemorySize, ept.Accessed|ept.Dirty) {
				}
				_, err := w.LoadPDPTEs(vmtest.Free+offset, false)
				g.RIP = vmtest.Code
				g.Regs[asm.RAX] = vmtest.Free + offset
				g.Run(func() bool { return false })
				if rights&ept.Read == 0 {
					f := faultOf(t, err)
					require.Equal(t, uint16(vmexit.EPTViolation), g.Basic())
					require.Equal(t, f.Qualification, vmexit.EPTViolationQualification(g.Get(vmcs.ExitQualification)))
					require.Equal(t, f.Address, g.Get(vmcs.GuestPhysicalAddress))
					continue
				}
				require.NoError(t, err)
				require.Equal(t, uint16(vmexit.VMCALL), g.Basic())
				e, _, _ := v.Lookup(vmtest.Free)
				want := ept.Entry(0)
				if flags {
					want = ept.Accessed
				}
				require.Equal(t, want, e&(ept.Accessed|ept.Dirty))
			}
		}
	}
}

// TestStepsOfWalks: each page that a walk reads, not present and read-only, in each
// paging mode.
func TestStepsOfWalks(t *testing.T) {
	m := vmtest.Start(t)
	walks := 0
	for _, mode := range []vmtest.Mode{vmtest.ModeLong, vmtest.ModeCompatibility, vmtest.ModePAE, vmtest.ModePaged} {
		for _, flags := range []bool{false, m.Caps.EPTVPID.AccessedDirty()} {
			g := m.NewGuest(vmtest.Kind{Mode: mode, EPT: true})
			v, w := behind(m, g, flags)
			var s emulate.State
			s.Regs = &g.Regs
			require.NoError(t, s.Read(vmcs.Current{}))
			g.Require(uint16(vmexit.VMCALL)) // the guest's accessed flags are set
			r, err := w.Translate(&s, vmtest.Code, emulate.Fetch)
			require.NoError(t, err)
			for _, step := range r.Steps() {
				for _, rights := range []ept.Entry{0, ept.Read} {
					page := step.GPA &^ 0xfff
					protect(g, v, page, rights)
					_, err := w.Translate(&s, vmtest.Code, emulate.Fetch)
					g.RIP = vmtest.Code
					g.Run(func() bool { return false })
					protect(g, v, page, ept.All)
					if err == nil {
						require.Equal(t, uint16(vmexit.VMCALL), g.Basic())
						continue
					}
					walks++
					f := faultOf(t, err)
					want := f.Qualification
					if flags {
						want &^= vmexit.EPTRead // as in package ept: Bochs has bit 1 alone
					}
					require.Equal(t, uint16(vmexit.EPTViolation), g.Basic())
					require.Equal(t, want, vmexit.EPTViolationQualification(g.Get(vmcs.ExitQualification)))
					require.Equal(t, step.GPA, g.Get(vmcs.GuestPhysicalAddress))
					require.Equal(t, uint64(vmtest.Code), g.Get(vmcs.GuestLinearAddress))
				}
			}
		}
	}
	t.Logf("%d violations by page walks", walks)
	require.Greater(t, walks, 20)
}
