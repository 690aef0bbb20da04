package ept_test

import (
	"errors"
	"flag"
	"fmt"
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
)

var (
	drawnSteps = flag.Int("ept.steps", 5000, "how many accesses TestTranslateIsProcessor makes")
	drawSeed   = flag.Uint64("ept.seed", 1, "what it draws them by")
)

// needSpeed skips a test that takes too long in a program that was built to be slow.
func needSpeed(t *testing.T) {
	ring0test.Need(t)
	if !ring0test.Optimised() {
		t.Skip("thousands of steps: only with optimization")
	}
}

// TestTranslateIsProcessor maps memory at random, changes the maps at random through a Space
// and its views, pokes wrong entries in, and has guests of all paging modes make accesses: each comes
// to what nested.Walker says (and so Translate, which it is made of), and so do the
// accessed and dirty flags of EPT and of the guest, and the data.
func TestTranslateIsProcessor(t *testing.T) {
	needSpeed(t)
	m := vmtest.Start(t)
	flags := m.Caps.EPTVPID.AccessedDirty()
	ve := vmtest.Has(m, vmcs.SecondaryEPTViolationVE)
	type setting struct {
		guest vmtest.Mode
		mode  ept.Mode
		share int // of 100 steps
	}
	settings := []setting{
		{vmtest.ModeLong, ept.Mode{AccessedDirty: flags}, 30},
		{vmtest.ModeLong, ept.Mode{}, 20},
		{vmtest.ModeLong, ept.Mode{AccessedDirty: flags, ViolationVE: ve}, 15},
		{vmtest.ModePAE, ept.Mode{AccessedDirty: flags}, 10},
		{vmtest.ModePAE, ept.Mode{}, 5},
		{vmtest.ModePaged, ept.Mode{AccessedDirty: flags}, 10},
		{vmtest.ModePaged, ept.Mode{}, 5},
		{vmtest.ModeProtected, ept.Mode{AccessedDirty: flags}, 5},
	}
	total := map[string]int{}
	wanted, steps := ring0test.Share(*drawnSteps), 0
	for n, s := range settings {
		if s.guest == vmtest.ModeProtected && !vmtest.Has(m, vmcs.SecondaryUnrestrictedGuest) {
			continue
		}
		r := newRig(m, s.guest, s.mode, *drawSeed+uint64(n)<<32)
		steps += r.steps(wanted * s.share / 100)
		r.report(t, fmt.Sprintf("%v, A/D %t, #VE %t", s.guest, s.mode.AccessedDirty, s.mode.ViolationVE))
		for name, n := range r.count {
			total[name] += n
		}
	}
	t.Logf("%d steps: %v", steps, total)
	if wanted < 5000 {
		return
	}
	for _, name := range []string{"read", "write", "read-modify-write", "fetch", "4 KiB", "2 MiB", "1 GiB", "#PF", "#VE", "violation, page walk", "violation, not present",
		"violation, read", "violation, write", "violation, read-modify-write", "violation, fetch", "misconfiguration",
		"Map", "Replace", "Unmap", "Protect", "Split", "Join", "Harvest", "Clone", "Close", "Reclaim"} {
		if total[name] == 0 && (name != "#VE" || ve) {
			t.Errorf("%q did not come up", name)
		}
	}
	for _, d := range deviations {
		t.Logf("%5d times: %s", d.met, d.name)
		if d.met == 0 {
			t.Errorf("the processor does not deviate any more, or not in what is drawn: %s", d.name)
		}
	}
}

// steps makes accesses, and changes in between. Memory is compared before each change,
// and otherwise now and then, since that takes longest.
func (r *rig) steps(n int) (made int) {
	r.Helper()
	for tries := 0; made < n; tries++ {
		if tries > 4*n {
			r.Fatalf("of %d accesses only %d could be made", tries, made)
		}
		switch c := r.rand.IntN(100); {
		case tries%150 == 149:
			r.same()
			r.reset()
			r.done(func() string { return "reset" })
		case c < 30:
			r.same()
			r.change()
		case c < 33:
			r.same()
			r.clearGuestFlags()
		case c < 40:
			r.same()
		}
		k := kind(r.rand.IntN(4))
		linear := r.drawLinear(k)
		restore := func() {}
		if r.rand.IntN(10) == 0 {
			r.same()
			restore = r.poke(k, linear)
		}
		if _, ok := r.try(k, linear); ok {
			made++
		}
		restore()
	}
	r.same()
	return made
}

// op is what views and the Space, which is all views at once, have in common.
type op interface {
	Map(gpa, size, hpa uint64, attr ept.Entry) (ept.Invalidation, error)
	Replace(gpa, size, hpa uint64, attr ept.Entry) (ept.Invalidation, error)
	Unmap(gpa, size uint64) (ept.Invalidation, error)
	Protect(gpa, size uint64, set, clear ept.Entry) (ept.Invalidation, error)
	Split(gpa, size uint64, to ept.Level) (ept.Invalidation, error)
	Join(gpa, size uint64) (ept.Invalidation, error)
}

// change makes a random change through the Space or the view.
func (r *rig) change() {
	r.Helper()
	var on op = r.space
	v := r.space.View(r.view)
	if r.rand.IntN(3) > 0 {
		on = v
	}
	gpa, size := r.drawRange()
	before := r.arena.Used()
	var i ept.Invalidation
	var err error
	name := ""
	switch r.rand.IntN(13) {
	case 0, 1:
		name = "Map"
		if r.rand.IntN(2) == 0 {
			i, err = on.Unmap(gpa, size)
		}
		if err == nil {
			var j ept.Invalidation
			j, err = on.Map(gpa, size, r.drawTarget(gpa, size), r.drawAttributes())
			i = i.Or(j)
		}
	case 2, 3, 4:
		name = "Replace"
		i, err = on.Replace(gpa, size, r.drawTarget(gpa, size), r.drawAttributes())
	case 5:
		name = "Unmap"
		i, err = on.Unmap(gpa, size)
	case 6, 7, 8:
		name = "Protect"
		i, err = on.Protect(gpa, size, r.drawRights(), ept.All)
	case 9:
		name = "Split"
		i, err = on.Split(gpa, size, ept.Level(1+r.rand.IntN(2)))
	case 10:
		name = "Join"
		if r.rand.IntN(2) == 0 {
			gpa, size = large, huge
		}
		i, err = on.Join(gpa, size)
	case 11:
		name = "Harvest"
		for range v.Harvest(gpa, size, ept.Accessed|ept.Dirty) {
			r.count["ranges harvested"]++
		}
		i = ept.SingleContext
	case 12:
		name = r.changeViews()
	}
	r.done(func() string { return fmt.Sprintf("%s 0x%x, 0x%x bytes: %v, %v", name, gpa, size, i, err) })
	switch {
	case err == nil:
		r.count[name]++
	case errors.Is(err, ept.ErrMapped) || errors.Is(err, ept.ErrNoPages):
		r.count[name+" refused"]++
		if name != "Map" || i == ept.NoInvalidation {
			require.Equal(r, before, r.arena.Used(), "%s: %v", name, err)
		}
	default:
		r.fail("%s: %v", name, err)
	}
	r.invalidate(i)
	r.sync()
}

// changeViews makes, switches and closes views.
func (r *rig) changeViews() string {
	r.Helper()
	switch r.rand.IntN(4) {
	case 0:
		v := r.space.View(r.view)
		clone, err := v.Clone()
		if err != nil {
			require.ErrorIs(r, err, ept.ErrNoPages)
			return "Clone refused"
		}
		r.setView(clone.Index())
		return "Clone"
	case 1:
		if r.view == 0 {
			return "no view to close"
		}
		old := r.space.View(r.view)
		r.setView(0)
		r.invalidate(old.Close())
		return "Close"
	case 2:
		r.invalidate(ept.AllContexts)
		r.space.Reclaim()
		return "Reclaim"
	}
	for v := range r.space.Views() {
		if r.rand.IntN(2) == 0 {
			r.setView(v.Index())
		}
	}
	return "switch"
}

// drawRange draws guest-physical addresses to change: pages of 4 KiB most often.
func (r *rig) drawRange() (gpa, size uint64) {
	gpa = r.drawPage(false)
	switch r.rand.IntN(8) {
	case 0:
		return gpa &^ (large - 1), large
	case 1:
		return gpa &^ 0xffff, active
	case 2:
		if r.rand.IntN(4) == 0 {
			return huge, huge
		}
	case 3:
		return gpa, 4096 * uint64(1+r.rand.IntN(4))
	}
	return gpa, 4096
}

// drawTarget draws the physical address to map a range to. The part of it that guests access is
// in the pool.
func (r *rig) drawTarget(gpa, size uint64) uint64 {
	pool := r.pool.Phys()
	switch {
	case size >= huge:
		return 0
	case size >= large:
		return pool
	}
	return pool + uint64(r.rand.IntN(16-int(size>>12)+1))<<12
}

func (r *rig) drawRights() ept.Entry {
	rights := []ept.Entry{ept.Read, ept.ReadWrite, ept.ReadExecute, ept.All, ept.All, ept.All}
	if r.mode.Capabilities.ExecuteOnly() {
		rights = append(rights, ept.Execute)
	}
	return rights[r.rand.IntN(len(rights))]
}

// drawAttributes draws rights, a memory type and bits that change nothing.
func (r *rig) drawAttributes() ept.Entry {
	types := []ept.MemoryType{ept.UC, ept.WC, ept.WT, ept.WP, ept.WB}
	e := r.drawRights() | types[r.rand.IntN(len(types))].Entry()
	for _, bit := range []ept.Entry{ept.IgnorePAT, ept.Software11, ept.Software59, ept.Software62, ept.SuppressVE} {
		if r.rand.IntN(4) == 0 {
			e |= bit
		}
	}
	return e
}

// clearGuestFlags clears accessed and dirty flags of the guest, so that they are set
// again.
func (r *rig) clearGuestFlags() {
	r.done(func() string { return "clear the guest's flags" })
	if r.Kind.Mode == vmtest.ModeProtected {
		return
	}
	size := 8
	if r.Kind.Mode == vmtest.ModePaged {
		size = 4
	}
	for at := 0; at < 16*size; at += size {
		r.pool.Bytes()[riskyPT-small+at] &^= 1<<5 | 1<<6
	}
	r.pool.Bytes()[riskyPD-small] &^= 1 << 5
	r.pool.Bytes()[riskyPDPT-small] &^= 1 << 5
	r.sync()
}

// poke changes an entry on the way to where the access goes, until the returned function
// is called: a bit or two, which may make it wrong or not present.
func (r *rig) poke(k kind, linear uint64) (restore func()) {
	res, err := r.walk.Translate(&r.state, linear, k.access())
	gpa := res.GPA
	if err != nil || r.rand.IntN(3) == 0 {
		if s := res.Steps(); len(s) > 0 {
			gpa = s[r.rand.IntN(len(s))].GPA
		}
	}
	level := ept.Level(1 + r.rand.IntN(4))
	table, index, e, l := r.twin.find(gpa, level)
	old := e
	for range 1 + r.rand.IntN(2) {
		bit := r.rand.IntN(12)
		switch r.rand.IntN(4) {
		case 0:
			bit = 12 + r.rand.IntN(18)
		case 1:
			bit = int(r.mode.PhysicalAddressBits) + r.rand.IntN(64-int(r.mode.PhysicalAddressBits))
		}
		e ^= 1 << bit
	}
	if l > ept.PTE && old&ept.Large != 0 && r.rand.IntN(4) == 0 {
		e = old | 1<<12
	}
	r.done(func() string {
		return fmt.Sprintf("%v of 0x%x is 0x%x in place of 0x%x", l, gpa, uint64(e), uint64(old))
	})
	r.set(table, index, e)
	return func() {
		r.same()
		r.restore(table, index, old)
	}
}

// find returns the entry of a level for a guest-physical address, or the one above it at
// which the walk ends.
func (t *twin) find(gpa uint64, level ept.Level) (table uint64, index int, e ept.Entry, l ept.Level) {
	table = t.root
	for l = t.mode.TopLevel(); ; l-- {
		index = l.Index(gpa)
		e, _ = t.Entry(table, index)
		if l == level || !e.Present(t.mode) || t.mode.Misconfiguration(e, l) != nil || e.Leaf(l) {
			return table, index, e, l
		}
		table = e.Address(l)
	}
}
