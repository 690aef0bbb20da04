package vtl

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"

	"github.com/govtx/vtx/hypercall"
)

// Access is a set of rights to a page, with the bits of HV_MAP_GPA_FLAGS.
type Access uint8

// Rights.
const (
	Read Access = 1 << iota
	Write
	KernelExecute // fetches in supervisor mode, and without MBEC all
	UserExecute   // fetches in user mode

	NoAccess   Access = 0
	FullAccess        = Read | Write | KernelExecute | UserExecute
)

// String returns the rights as four characters, such as "RW--" or "R-KU".
func (a Access) String() string {
	if a > FullAccess {
		return fmt.Sprintf("Access(0x%x)", uint8(a))
	}
	return hypercall.MapFlags(a).Rights()
}

// Which rights each level leaves to each lower one is kept for every pair of levels in a
// mask: a tree over page numbers with 64 children a node, and 64 pages a leaf of 4 bits
// each. What is the same for all pages below a node is said there, without a subtree, so
// that there is one form for each contents, and few exceptions take little memory.
//
// Nodes are in slices, with a list of those that are free: a clone of the partition is a
// copy of the slices.

const (
	fanBits   = 6
	fan       = 1 << fanBits
	slotMask  = fan - 1
	leafWords = fan * 4 / 64

	innerBytes = fan * 4
	leafBytes  = leafWords * 8
)

// A slot is what is below one place of a node: the rights of all pages there, or the
// index of a node.
type slot uint32

const slotUniform slot = 1 << 31

func uniform(a Access) slot { return slotUniform | slot(a) }

type inner [fan]slot

type leaf [leafWords]uint64 // 16 pages a word

// spread has the rights in each of a word's 16 places.
func spread(a Access) uint64 { return uint64(a) * 0x1111111111111111 }

// A pool has the nodes of all masks of a partition.
type pool struct {
	inners     []inner
	leaves     []leaf
	freeInners []uint32
	freeLeaves []uint32
	limit      int // bytes of nodes in use
}

func (t *pool) clear() {
	t.inners, t.leaves = t.inners[:0], t.leaves[:0]
	t.freeInners, t.freeLeaves = t.freeInners[:0], t.freeLeaves[:0]
}

func (t *pool) clone() pool {
	return pool{append([]inner(nil), t.inners...), append([]leaf(nil), t.leaves...),
		append([]uint32(nil), t.freeInners...), append([]uint32(nil), t.freeLeaves...), t.limit}
}

// used returns how many bytes nodes in use take.
func (t *pool) used() int {
	return (len(t.inners)-len(t.freeInners))*innerBytes + (len(t.leaves)-len(t.freeLeaves))*leafBytes
}

func (t *pool) newInner(s slot) uint32 {
	var i uint32
	if n := len(t.freeInners); n > 0 {
		i = t.freeInners[n-1]
		t.freeInners = t.freeInners[:n-1]
	} else {
		i = uint32(len(t.inners))
		t.inners = append(t.inners, inner{})
	}
	n := &t.inners[i]
	for k := range n {
		n[k] = s
	}
	return i
}

func (t *pool) newLeaf(a Access) uint32 {
	var i uint32
	if n := len(t.freeLeaves); n > 0 {
		i = t.freeLeaves[n-1]
		t.freeLeaves = t.freeLeaves[:n-1]
	} else {
		i = uint32(len(t.leaves))
		t.leaves = append(t.leaves, leaf{})
	}
	w := spread(a)
	t.leaves[i] = leaf{w, w, w, w}
	return i
}

// A mask is what one level leaves to another one. height is how many nodes there can be
// from the root to a leaf: 1 covers 64 pages. The root of height 0 covers none: there is
// no RAM.
type mask struct {
	root   slot
	height uint8
}

// heightFor returns the height that covers page numbers up to last.
func heightFor(last uint64) uint8 { return uint8(max(1, (bits.Len64(last)+fanBits-1)/fanBits)) }

// pairs returns how many pairs there are of a level and a lower one.
func pairs(maximum VTL) int { return int(maximum) * (int(maximum) + 1) / 2 }

// mask returns what owner leaves to target, which is lower.
func (p *Partition) mask(owner, target VTL) *mask {
	return &p.masks[int(owner)*(int(owner)-1)/2+int(target)]
}

// get returns the rights to a page that the mask covers.
func (m *mask) get(t *pool, page uint64) Access {
	s := m.root
	for h := m.height; s&slotUniform == 0; {
		h--
		if h == 0 {
			return Access(t.leaves[s][page>>4&3]>>(page&15*4)) & FullAccess
		}
		s = t.inners[s][page>>(h*fanBits)&slotMask]
	}
	return Access(s) & FullAccess
}

// fill gives all pages the same rights. The mask has no nodes yet.
func (m *mask) fill(a Access) { m.root = uniform(a) }

// find returns the place of what is uniform around a page, or of the leaf that it is in,
// and the height of what can be there.
func (m *mask) find(t *pool, page uint64) (at *slot, h uint8) {
	at, h = &m.root, m.height
	for ; *at&slotUniform == 0 && h > 1; h-- {
		at = &t.inners[*at][page>>((h-1)*fanBits)&slotMask]
	}
	return at, h
}

// cost returns how many bytes of nodes set would take.
func (m *mask) cost(t *pool, page, n uint64, a Access) int {
	at, h := m.find(t, page)
	switch {
	case *at&slotUniform == 0 || *at == uniform(a):
		return 0
	case n == fan:
		return int(h-1) * innerBytes
	}
	return int(h-1)*innerBytes + leafBytes
}

// set gives n pages of one leaf, or what could be one, rights. It reports false, and changes
// nothing, if that takes more memory than there may be.
func (m *mask) set(t *pool, page, n uint64, a Access) bool {
	at, h := m.find(t, page)
	if s := *at; s&slotUniform == 0 {
		if n < fan && !t.leaves[s].set(page, n, a) {
			return true
		}
		t.freeLeaves = append(t.freeLeaves, uint32(s))
		*at = uniform(a)
	} else {
		old := Access(s) & FullAccess
		if old == a {
			return true
		}
		if t.used()+m.cost(t, page, n, a) > t.limit {
			return false
		}
		below := uniform(a)
		if n < fan {
			l := t.newLeaf(old)
			t.leaves[l].set(page, n, a)
			below = slot(l)
		}
		for k := uint8(1); k < h; k++ { // from the leaf up; this may move the nodes
			i := t.newInner(s)
			t.inners[i][page>>(k*fanBits)&slotMask] = below
			below = slot(i)
		}
		at, _ = m.find(t, page)
		*at = below
		if n < fan {
			return true
		}
	}
	m.collapse(t, page, uniform(a))
	return true
}

// set gives n pages of the leaf rights, and reports whether all have the same now.
func (l *leaf) set(page, n uint64, a Access) bool {
	w := spread(a)
	for first, end := page&slotMask, page&slotMask+n; first < end; {
		k := min(end-first, 16-first&15)
		places := ^uint64(0) >> (64 - 4*k) << (first & 15 * 4)
		word := &l[first>>4&(leafWords-1)]
		*word = *word&^places | w&places
		first += k
	}
	return *l == leaf{w, w, w, w}
}

// collapse takes away the nodes above a page in which every place is uniform as s is.
func (m *mask) collapse(t *pool, page uint64, s slot) {
	var path [8]uint32 // indices of nodes from the root: 40 bits take a height of 7
	n := 0
	for c, h := m.root, m.height; c&slotUniform == 0 && h > 1; h-- {
		path[n&7] = uint32(c)
		n++
		c = t.inners[c][page>>((h-1)*fanBits)&slotMask]
	}
	for n--; n >= 0; n-- {
		for _, c := range &t.inners[path[n&7]] {
			if c != s {
				return
			}
		}
		t.freeInners = append(t.freeInners, path[n&7])
		if n == 0 {
			m.root = s
		} else {
			height := m.height - uint8(n) // of what is in a place of the node above
			t.inners[path[(n-1)&7]][page>>(height*fanBits)&slotMask] = s
		}
	}
}

// run returns the rights to a page, and how many pages from it on are surely the same.
func (m *mask) run(t *pool, page uint64) (a Access, n uint64) {
	s := m.root
	h := m.height
	for s&slotUniform == 0 {
		h--
		if h == 0 {
			w := t.leaves[s][page>>4&3] >> (page & 15 * 4)
			a = Access(w) & FullAccess
			same := uint64(bits.TrailingZeros64(w^spread(a)|1<<63)) / 4
			return a, min(same, 16-page&15)
		}
		s = t.inners[s][page>>(h*fanBits)&slotMask]
	}
	size := uint64(1) << (h * fanBits)
	return Access(s) & FullAccess, size - page&(size-1)
}

// appendState appends the contents in the one form that they have.
func (m *mask) appendState(b []byte, t *pool) []byte {
	var walk func(s slot, h uint8)
	walk = func(s slot, h uint8) {
		if s&slotUniform != 0 {
			b = append(b, byte(s)&byte(FullAccess))
			return
		}
		if h == 1 {
			b = append(b, 0x10)
			for _, w := range t.leaves[s] {
				b = binary.LittleEndian.AppendUint64(b, w)
			}
			return
		}
		b = append(b, 0x20)
		for _, c := range t.inners[s] {
			walk(c, h-1)
		}
	}
	walk(m.root, m.height)
	return b
}

// rights returns what all enabled levels above a level leave to it of a page of RAM.
func (p *Partition) rights(level VTL, page uint64) Access {
	a := FullAccess
	for o := p.protecting & above(level); o != 0; o &= o - 1 {
		a &= p.effective(VTL(bits.TrailingZeros16(o)), p.mask(VTL(bits.TrailingZeros16(o)), level).get(&p.pool, page))
	}
	return a
}

// effective returns what a mask of owner means. Without MBEC there is one right to
// execute.
func (p *Partition) effective(owner VTL, a Access) Access {
	if p.mbec&bit(owner) != 0 {
		return a
	}
	return p.oneExecute(a)
}

func (p *Partition) oneExecute(a Access) Access {
	x := a & KernelExecute
	if p.is(userExecuteCounts) {
		x |= a >> 1 & KernelExecute
	}
	return a&(Read|Write) | x | x<<1
}

// PageRights returns what a level may do with a page: everything if it is not RAM, since
// then VSM has no say.
func (p *Partition) PageRights(level VTL, page uint64) Access {
	if !level.Valid() || !p.isRAM(page) {
		return FullAccess
	}
	return p.rights(level, page)
}

// Mask returns what owner leaves to target, a lower level, of a page: FullAccess unless it
// has protection enabled, and the page is RAM.
func (p *Partition) Mask(owner, target VTL, page uint64) Access {
	if !owner.Valid() || target >= owner || p.protecting&bit(owner) == 0 || !p.isRAM(page) {
		return FullAccess
	}
	return p.mask(owner, target).get(&p.pool, page)
}

// Rights yields what a level may do with memory, in ascending order of pages, with as few
// ranges as there can be: those of RAM where it does not have all rights.
func (p *Partition) Rights(level VTL) iter.Seq2[Range, Access] {
	return func(yield func(Range, Access) bool) {
		if !level.Valid() {
			return
		}
		var last Range
		var of Access
		for _, r := range p.config.RAM {
			for page := r.Page; page < r.End(); {
				a, n := FullAccess, r.End()-page
				for o := p.protecting & above(level); o != 0; o &= o - 1 {
					owner := VTL(bits.TrailingZeros16(o))
					b, m := p.mask(owner, level).run(&p.pool, page)
					a &= p.effective(owner, b)
					n = min(n, m)
				}
				switch {
				case last.Pages > 0 && of == a && last.End() == page:
					last.Pages += n
				default:
					if last.Pages > 0 && of != FullAccess && !yield(last, of) {
						return
					}
					last, of = Range{page, n}, a
				}
				page += n
			}
		}
		if last.Pages > 0 && of != FullAccess {
			yield(last, of)
		}
	}
}

// ProtectionMemory returns how many bytes the protections take now.
func (p *Partition) ProtectionMemory() int { return p.pool.used() }

// isRAM reports whether a page is RAM.
func (p *Partition) isRAM(page uint64) bool {
	ram := p.config.RAM
	if i := p.lastRAM; i < len(ram) && ram[i].Contains(page) {
		return true
	}
	return p.findRAM(page)
}

func (p *Partition) findRAM(page uint64) bool {
	ram := p.config.RAM
	low, high := 0, len(ram)
	for low < high {
		mid := int(uint(low+high) / 2)
		if r := ram[mid]; r.Contains(page) {
			p.lastRAM = mid
			return true
		} else if page < r.Page {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return false
}
