package ept

import (
	"fmt"
	"math/bits"
)

// Every operation is one recursion over the tables, run twice. The dry run changes
// nothing, finds all errors and counts the tables that will be needed; they are taken
// from Pages; then the same recursion does what it has decided, and cannot fail.
//
// It works on all views at once, if so asked: at each level, on the distinct tables
// (nodes) that the views have at the same place, so that what they share is changed
// once. A table can be changed in place if all that references it are nodes of this
// operation. Else it is copied, and the copy linked in their place.

// An op is an operation that is going on.
type op struct {
	s    *Space
	kind opKind
	dry  bool

	max   Level  // Map, Replace: of pages; Split: what remains; Protect: PTE if only such can have the new attributes
	delta uint64 // Map, Replace: physical address minus guest-physical address
	attr  Entry  // Map, Replace
	types Types  // Map, Replace: if not nil, the memory type comes from here
	run   struct {
		start, end uint64 // of the memory whose type was asked for last
		bits       Entry
	}
	set, clear Entry // Protect
	legal      bool  // Protect: the change makes no entry illegal that was legal
	mask       bool  // Protect: can be done in the entry that references a table
	push       bool  // Protect: rights that are masked above must be brought down to the pages first; Map, Replace too
	joined     Entry // Join: the page that a table is equal to

	need  int   // tables, counted by the dry run
	taken taken // pages for them
	work  int   // tables looked at, ever
	due   Invalidation
}

type opKind uint8

const (
	opMap opKind = iota
	opReplace
	opUnmap
	opProtect
	opSplit
	opJoin
)

var kindNames = [...]string{"Map", "Replace", "Unmap", "Protect", "Split", "Join"}

// A node is a table that the operation works on.
type node struct {
	t      *Table // nil in a dry run for a table that a page will be split into
	page   Entry  // that page
	rights Entry  // rights that will be brought down to the entries: dry runs only
	copied bool   // in a dry run: t will be copied before it is changed
}

// load returns an entry as it is, or will be.
func (o *op) load(n *node, l Level, i int) Entry {
	if n.t == nil {
		return piece(n.page, l, i)
	}
	return load(&n.t[i]) & (n.rights | ^o.s.rights)
}

// piece returns the entry of a page that a page of the next higher level is split into,
// with the same attributes, accessed and dirty flags.
func piece(page Entry, l Level, i int) Entry {
	page = page&^(bookkeeping&^entryUsed) + Entry(uint64(i)<<l.Shift())
	if l == PTE {
		page &^= Large
	}
	return page
}

// A group is nodes in which the same is to be done at the same index, so that they can
// have the same table there.
type group struct {
	groupKey
	n int
}

type groupKey struct {
	do     action
	table  uint64 // descend: its address
	rights Entry  // descend, with push: the rights to bring down
	page   Entry  // split: what to split
}

type action uint8

const (
	skip    action = iota // nothing
	put                   // change the entry: see op.put
	build                 // make a table that maps, and nothing else
	split                 // make a table of what the page maps, and go down
	descend               // go down
)

// start runs an operation on the views of a set.
func (o *op) start(views uint64, gpa, size uint64) (Invalidation, error) {
	s := o.s
	s.hot.view = nil
	o.need, o.due, o.run.end = 0, NoInvalidation, 0
	if views == 0 {
		return NoInvalidation, ErrClosed
	}
	top, n := s.mode.TopLevel(), 0
	for ; views != 0; views &= views - 1 {
		v := s.views[bits.TrailingZeros64(views)]
		s.levels[top].nodes[n] = node{t: v.top, rights: s.rights}
		n++
	}
	o.dry = true
	err := o.region(top, n, gpa, gpa+size)
	if err == nil && o.need > 0 {
		if err = s.take(o.need); err != nil {
			err = fmt.Errorf("%d pages are needed for tables: %w", o.need, err)
		}
	}
	if err == nil {
		o.dry, o.run.end = false, 0
		if err := o.region(top, n, gpa, gpa+size); err != nil {
			panic("ept: the source of memory types changed its answers: " + err.Error())
		}
	}
	s.giveBack()
	o.types = nil
	if o.due == SingleContext && n > 1 {
		o.due = AllContexts
	}
	return o.due, err
}

// region works on the entries of the nodes of a level that translate a range.
func (o *op) region(l Level, n int, lo, hi uint64) error {
	o.work += n
	if l == PTE {
		return o.pages(n, lo, hi)
	}
	size := l.PageSize()
	for at := lo; at < hi; {
		next := min(at&^(size-1)+size, hi)
		if err := o.position(l, n, at, next); err != nil {
			return err
		}
		at = next
	}
	return nil
}

const noGroup = 0xff

// position works on the entries of n nodes at one index, and on what is below: for the
// range from at to next, which is at most what one entry translates.
func (o *op) position(l Level, n int, at, next uint64) error {
	s := o.s
	lv := &s.levels[l]
	i := l.Index(at)
	groups := 0
	for k := range n {
		nd := &lv.nodes[k]
		e := o.load(nd, l, i)
		do, err := o.decide(l, e, at, next)
		if err != nil {
			return err
		}
		lv.of[k] = noGroup
		key := groupKey{do: do}
		switch do {
		case skip:
			continue
		case put:
			if !o.dry {
				o.put(l, &nd.t[i], at)
			}
			continue
		case split:
			key.page = e &^ (Accessed | Dirty | bookkeeping)
		case descend:
			// Where nothing changes, what is shared stays so, and what is masked.
			if (nd.copied || e&entryShared != 0 || o.push && e&s.rights != s.rights) && !o.changes(o.below(e), l-1, at, next) {
				continue
			}
			key.table = uint64(e & addressMask)
			if o.push {
				key.rights = e & s.rights
			}
		}
		g := 0
		for g < groups && lv.groups[g].groupKey != key {
			g++
		}
		if g == groups {
			lv.groups[g] = group{groupKey: key}
			groups++
		}
		lv.groups[g].n++
		lv.of[k] = uint8(g)
	}
	kids := 0
	for g := range groups {
		var child node
		switch lv.groups[g].do {
		case build:
			if err := o.build(l, n, g, at, next); err != nil {
				return err
			}
			continue
		case split:
			child = o.split(l, n, g, i)
		case descend:
			child = o.own(l, n, g, i)
		}
		s.levels[l-1].nodes[kids] = child
		kids++
	}
	if kids == 0 {
		return nil
	}
	return o.region(l-1, kids, at, next)
}

// below returns the node of the table that an entry references, for looking at it.
func (o *op) below(e Entry) node {
	n := node{t: o.s.table(uint64(e & addressMask)), rights: o.s.rights}
	if o.push {
		n.rights = e & o.s.rights
	}
	return n
}

// changes reports whether the operation changes anything in or below a table. Errors
// count as changes: they will be met again.
func (o *op) changes(n node, l Level, lo, hi uint64) bool {
	defer func(dry bool) { o.dry = dry }(o.dry)
	o.dry = false // what needs no tables is a change, too
	size := l.PageSize()
	for at := lo; at < hi; {
		next := min(at&^(size-1)+size, hi)
		e := o.load(&n, l, l.Index(at))
		switch do, err := o.decide(l, e, at, next); {
		case err != nil:
			return true
		case do == skip:
		case do == descend:
			if o.changes(o.below(e), l-1, at, next) {
				return true
			}
		default:
			return true
		}
		at = next
	}
	return false
}

// decide says what is to be done with an entry, for a part of what it translates.
func (o *op) decide(l Level, e Entry, at, next uint64) (action, error) {
	used, page := e&entryUsed != 0, leaf(e, l)
	full := next-at == l.PageSize()
	switch o.kind {
	case opMap:
		switch {
		case !used:
			fits, err := o.fits(l, at, full)
			if fits {
				return put, err
			}
			return build, err
		case page:
			return skip, mapped(at)
		}
		return descend, nil

	case opReplace:
		fits, err := o.fits(l, at, full)
		switch {
		case err != nil:
			return skip, err
		case fits && used && page && (e^o.page(l, at))&^(Accessed|Dirty|entryCount) == 0:
			return skip, nil
		case fits:
			return put, nil
		case !used:
			return build, nil
		case !page:
			return descend, nil
		case o.types == nil && (e^o.page(l, at&^(l.PageSize()-1)))&^(Accessed|Dirty|entryCount) == 0:
			return skip, nil // a part of a page that maps the same
		case full && uint64(e&addressMask) != at+o.delta:
			return build, nil
		}
		return split, nil // what maps the same memory as before keeps its flags

	case opUnmap:
		switch {
		case !used:
			return skip, nil
		case full, !page && o.s.emptyOutside(uint64(e&addressMask), l-1, at, next):
			return put, nil
		case page:
			return split, nil
		}
		return descend, nil

	case opProtect:
		switch changed := e&^o.clear | o.set; {
		case !used:
			return skip, nil
		case page && changed == e:
			return skip, nil
		case page:
			if err := o.check(changed, l, at); err != nil {
				return skip, err
			}
			if full && l <= o.max {
				return put, nil
			}
			return split, nil
		case o.mask && changed == e:
			return skip, nil // what is to be cleared is masked already
		case full && o.mask && (changed&o.s.rights != 0 || !o.s.mode.ViolationVE):
			return put, nil
		}
		return descend, nil

	case opSplit:
		switch {
		case !used:
		case page && l > o.max:
			return split, nil
		case !page && l-1 > o.max:
			return descend, nil
		}
		return skip, nil

	default: // opJoin
		if !used || page || o.dry && l == PDE {
			return skip, nil // at this level it needs no table
		}
		if full {
			if joined, ok := o.s.uniform(uint64(e&addressMask), l-1, e); ok {
				o.joined = joined
				return put, nil
			}
		}
		if l-1 > PTE {
			return descend, nil
		}
		return skip, nil
	}
}

func mapped(at uint64) error { return fmt.Errorf("%#x is mapped: %w", at, ErrMapped) }

// check returns what is wrong with an entry that Protect would make.
func (o *op) check(e Entry, l Level, at uint64) error {
	if o.legal {
		return nil
	}
	if err := o.s.checkLeaf(e, l); err != nil {
		return fmt.Errorf("at %#x: %w", at, err)
	}
	return nil
}

// put changes an entry as decide has found.
func (o *op) put(l Level, p *Entry, at uint64) {
	old := load(p)
	count := old & entryCount
	switch o.kind {
	case opMap:
		store(p, o.page(l, at)|count)
		return
	case opReplace:
		e := o.page(l, at)
		o.replace(p, e, leaf(old, l))
		o.keepFlags(p, old, e, l)
	case opUnmap:
		link(p, o.s.empty|count)
		o.due = SingleContext
	case opProtect:
		o.protect(p)
		return
	case opJoin:
		link(p, o.joined|count)
		o.keepFlags(p, old, o.joined, l)
		o.due = SingleContext
	}
	if old&entryUsed != 0 && !leaf(old, l) {
		o.s.release(old, l-1)
	}
}

// keepFlags gives a page that has taken the place of a table the flags that the table
// had for the same memory, those too that were set before it was unlinked.
func (o *op) keepFlags(p *Entry, old, page Entry, l Level) {
	if o.s.mode.AccessedDirty && old&entryUsed != 0 && !leaf(old, l) {
		o.s.update(p, 0, o.s.flags(uint64(old&addressMask), l-1, uint64(page&addressMask)))
	}
}

// replace changes an entry of any kind to that of a page. If it maps the same memory
// already, its flags are kept.
func (o *op) replace(p *Entry, e Entry, page bool) {
	old := load(p)
	e |= old & entryCount
	if old&entryUsed == 0 {
		store(p, e)
		return
	}
	if page && (old^e)&addressMask == 0 {
		if (old^e)&^(Accessed|Dirty) == 0 {
			return
		}
		for {
			e |= old & (Accessed | Dirty)
			if swap(p, old, e) {
				break
			}
			old = load(p)
		}
	} else {
		link(p, e)
	}
	o.due = o.due.Or(dueFor(old&^e, e&^old, o.s.rights))
}

// protect changes attributes in an entry.
func (o *op) protect(p *Entry) {
	for {
		old := load(p)
		e := old&^o.clear | o.set
		if old&entryUsed == 0 || e == old {
			return
		}
		if o.s.exchange(p, old, e) {
			o.due = o.due.Or(dueFor(old&^e, e&^old, o.s.rights))
			return
		}
	}
}

// dueFor returns the invalidation that is due when present entries lose and get bits
// (SDM Vol. 3C 29.4.3.4): none if rights were added and no more, since the violation
// that they would be missed by removes what is cached; else processors may use what was.
func dueFor(lost, got, rights Entry) Invalidation {
	const ignored = Software11 | Software59 | Software62 | bookkeeping
	if (lost|got&^rights)&^ignored == 0 {
		return NoInvalidation
	}
	return SingleContext
}

// exchange changes an entry of a live table. It fails if a processor has set flags in
// it meanwhile.
func (s *Space) exchange(p *Entry, old, e Entry) bool {
	if s.mode.AccessedDirty {
		return swap(p, old, e)
	}
	store(p, e)
	return true
}

// update sets and clears bits in an entry of a live table.
func (s *Space) update(p *Entry, clear, set Entry) {
	for {
		old := load(p)
		if e := old&^clear | set; e == old || s.exchange(p, old, e) {
			return
		}
	}
}

// own returns the node of a table that a group of nodes references at an index, fit to
// be changed.
func (o *op) own(l Level, n, g, i int) node {
	s := o.s
	lv := &s.levels[l]
	gr := &lv.groups[g]
	d := s.table(gr.table)
	parents := s.parents(d)
	child := node{t: d, rights: s.rights}
	// Nor is a table changed in place for the last group if rights are to be brought down: the
	// processors of the views that had it until now may still walk it.
	must := false
	if o.push && gr.rights != s.rights {
		for _, before := range lv.groups[:g] {
			must = must || before.do == descend && before.table == gr.table
		}
	}
	if o.dry {
		// Count as if the copies that this needs had been made: both those above, and
		// those for groups before this one.
		for k := range n {
			if nd := &lv.nodes[k]; nd.copied {
				if e := load(&nd.t[i]); e&entryUsed != 0 && !leaf(e, l) && uint64(e&addressMask) == gr.table {
					parents++
				}
			}
		}
		for _, before := range lv.groups[:g] {
			if before.do == descend && before.table == gr.table {
				parents -= before.n
			}
		}
		if o.push {
			child.rights = gr.rights
		}
		if child.copied = must || parents != gr.n; child.copied {
			o.need++
		}
		return child
	}
	rights := s.rights
	if o.push {
		rights = gr.rights
	}
	if parents == gr.n && !must {
		if rights != s.rights {
			s.pushDown(d, rights)
		}
		for k := range n {
			if int(lv.of[k]) == g {
				p := &lv.nodes[k].t[i]
				if e := load(p); o.push && e&s.rights != s.rights || gr.n == 1 && e&entryShared != 0 {
					s.relink(p, gr.table, gr.n > 1, o.push)
				}
			}
		}
		return child
	}
	phys, c := s.popTable()
	s.copyTable(c, d, l-1, rights)
	s.setParents(c, gr.n)
	if parents > gr.n {
		s.setParents(d, parents-gr.n)
	}
	for k := range n {
		if int(lv.of[k]) == g {
			s.relink(&lv.nodes[k].t[i], phys, gr.n > 1, o.push)
		}
	}
	if s.mode.AccessedDirty {
		// Flags that were set while the copy was being made.
		for j := range d {
			if late := load(&d[j]) &^ load(&c[j]) & (Accessed | Dirty); late != 0 {
				s.update(&c[j], 0, late)
			}
		}
	}
	if parents == gr.n {
		s.retire(gr.table, d, l-1)
	}
	// Processors may have the old table in their paging-structure caches, and what
	// happens to it from now on is another view's.
	o.due = SingleContext
	child.t = c
	return child
}

// relink makes an entry reference a table, with the flag it has, or with all rights.
func (s *Space) relink(p *Entry, phys uint64, shared, all bool) {
	set := Entry(phys)
	if shared {
		set |= entryShared
	}
	if all {
		set |= s.rights
	}
	s.update(p, addressMask|entryShared, set)
}

// pushDown takes rights from all entries of a table that are not in rights.
func (s *Space) pushDown(t *Table, rights Entry) {
	for i := range t {
		if load(&t[i])&entryUsed != 0 {
			s.update(&t[i], s.rights&^rights, 0)
		}
	}
}

// copyTable fills a new table with what another has, but for rights that are not in
// rights. The tables below get one more parent.
func (s *Space) copyTable(c, d *Table, l Level, rights Entry) {
	for i := range d {
		e := load(&d[i])
		if e&entryUsed != 0 && !leaf(e, l) {
			child := s.table(uint64(e & addressMask))
			s.setParents(child, s.parents(child)+1)
			if e&entryShared == 0 {
				s.update(&d[i], 0, entryShared)
				e |= entryShared
			}
		}
		c[i] = e &^ entryCount & (rights | ^s.rights)
	}
}

// split makes a table from the page that a group of nodes has at an index.
func (o *op) split(l Level, n, g, i int) node {
	s := o.s
	lv := &s.levels[l]
	gr := &lv.groups[g]
	child := node{page: gr.page | entryUsed, rights: s.rights}
	if o.dry {
		o.need++
		return child
	}
	phys, t := s.popTable()
	var flags Entry
	e, step := piece(child.page, l-1, 0), Entry((l - 1).PageSize())
	for j := range t {
		t[j] = e
		e += step
	}
	s.setParents(t, gr.n)
	table := Entry(phys) | s.rights | entryUsed
	if gr.n > 1 {
		table |= entryShared
	}
	for k := range n {
		if int(lv.of[k]) != g {
			continue
		}
		for p := &lv.nodes[k].t[i]; ; {
			// All flags of the page must be in the table before it is linked.
			old := load(p)
			if more := old & (Accessed | Dirty) &^ flags; more != 0 {
				flags |= more
				for j := range t {
					s.update(&t[j], 0, more)
				}
			}
			if swap(p, old, table|old&(Accessed|entryCount)) {
				break
			}
		}
	}
	o.due = SingleContext
	return node{t: t, rights: s.rights}
}

// build makes a table for a range in which a group of nodes has no table yet.
func (o *op) build(l Level, n, g int, at, next uint64) error {
	s := o.s
	if o.dry {
		need, err := o.tables(l-1, at, next)
		o.need += 1 + need
		return err
	}
	lv := &s.levels[l]
	gr := &lv.groups[g]
	phys, t := s.popTable()
	o.fill(t, l-1, at, next)
	s.setParents(t, gr.n)
	e := Entry(phys) | s.rights | entryUsed
	if gr.n > 1 {
		e |= entryShared
	}
	for k := range n {
		if int(lv.of[k]) != g {
			continue
		}
		p := &lv.nodes[k].t[l.Index(at)]
		old := load(p)
		link(p, e|old&entryCount)
		if old&entryUsed != 0 {
			o.due = SingleContext
		}
	}
	return nil
}

// pages works on PTEs.
func (o *op) pages(n int, lo, hi uint64) error {
	i, j := PTE.Index(lo), PTE.Index(hi-1)+1
	nodes := o.s.levels[PTE].nodes[:n]
	if o.dry {
		return o.dryPages(nodes, i, j, lo, hi)
	}
	for k := range nodes {
		t := nodes[k].t[i:j]
		switch o.kind {
		case opMap:
			if o.types == nil {
				// Only the first entries have bookkeeping to keep.
				e := o.page(PTE, lo)
				k := 0
				for ; k < len(t) && i+k < countSlots; k++ {
					store(&t[k], e|load(&t[k])&entryCount)
					e += pageSize
				}
				for t = t[k:]; len(t) > 0; t = t[1:] {
					store(&t[0], e)
					e += pageSize
				}
				continue
			}
			fallthrough
		case opReplace:
			for k := range t {
				at := lo + uint64(k)*pageSize
				if _, err := o.fits(PTE, at, true); err != nil {
					return err
				}
				o.replace(&t[k], o.page(PTE, at), true)
			}
		case opUnmap:
			for k := range t {
				if e := load(&t[k]); e&entryUsed != 0 {
					store(&t[k], o.s.empty|e&entryCount)
					o.due = SingleContext
				}
			}
		case opProtect:
			if !o.s.mode.AccessedDirty {
				o.protectAll(t)
				continue
			}
			for k := range t {
				o.protect(&t[k])
			}
		}
	}
	return nil
}

// protectAll is protect for many pages, in which no processor sets flags.
func (o *op) protectAll(t []Entry) {
	keep, set := ^o.clear, o.set
	var lost, got Entry
	for k := range t {
		old := load(&t[k])
		if e := old&keep | set; old&entryUsed != 0 && e != old {
			store(&t[k], e)
			lost |= old &^ e
			got |= e &^ old
		}
	}
	o.due = o.due.Or(dueFor(lost, got, o.s.rights))
}

// dryPages looks for what would be wrong.
func (o *op) dryPages(nodes []node, i, j int, lo, hi uint64) error {
	if o.types != nil && (o.kind == opMap || o.kind == opReplace) {
		if _, err := o.tables(PTE, lo, hi); err != nil {
			return err
		}
	}
	switch {
	case o.kind == opMap:
		free := j // the entries before are, in all tables
		for k := range nodes {
			for m := i; m < free; m++ {
				if load(&nodes[k].t[m])&entryUsed != 0 {
					free = m
				}
			}
		}
		if free < j {
			return mapped(lo + uint64(free-i)*pageSize)
		}
	case o.kind == opProtect && !o.legal:
		for k := range nodes {
			for m := i; m < j; m++ {
				e := o.load(&nodes[k], PTE, m)
				if changed := e&^o.clear | o.set; e&entryUsed != 0 && changed != e {
					if err := o.check(changed, PTE, lo+uint64(m-i)*pageSize); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}
