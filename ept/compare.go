package ept

import (
	"errors"
	"fmt"
	"iter"
)

// A Difference is a range of guest-physical addresses that two sources translate
// differently.
type Difference struct {
	Range
	A, B Mapping // cut to the range; Size is 0 if nothing is mapped
}

// String tells the range and both sides.
func (d Difference) String() string {
	return fmt.Sprintf("%v (%s): %s | %s", d.Range, formatSize(d.Size), d.A.Translation(), d.B.Translation())
}

// String tells the range and its translation.
func (m Mapping) String() string { return m.Range.String() + ": " + m.Translation() }

// Translation tells all but the range: "RWX WB at 0x1000", "RWX WB" if host-physical
// addresses are the same, "not mapped", or "misconfigured: " with the rule.
func (m Mapping) Translation() string {
	switch {
	case m.Size == 0:
		return "not mapped"
	case m.Misconfigured != nil:
		return "misconfigured: " + m.Misconfigured.ID
	case m.HPA == m.Start:
		return formatAttributes(m.Attributes)
	}
	return fmt.Sprintf("%s at 0x%x", formatAttributes(m.Attributes), m.HPA)
}

// Compare iterates over what two sources translate differently, in order of
// guest-physical addresses: host-physical addresses, rights, memory types and other
// [Mapping] attributes count; sizes of pages, accessed and dirty flags, and where the
// tables are do not. Each Difference is as long as both sides' mappings, or holes, allow.
//
// The last pair has an error if the tables of a or b could not be read to their end, as
// with [Mappings]. Up to there both were compared.
func Compare(a, b Source) iter.Seq2[Difference, error] {
	return CompareIn(a, b, Range{0, 1 << 52})
}

// CompareIn is [Compare] for a range.
func CompareIn(a, b Source, r Range) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		for s, err := range bands([]Source{a, b}, r) {
			if err != nil {
				yield(Difference{}, err)
				return
			}
			x, y := s.cells[0], s.cells[1]
			if !x.alike(&y) || x.HPA != y.HPA {
				if !yield(Difference{s.Range, x, y}, nil) {
					return
				}
			}
		}
	}
}

// A band is a range in which each of several sources has one mapping, or a hole.
type band struct {
	Range
	cells []Mapping // cut to the range, one for each source; Size 0 for holes
}

// bands goes through several sources at once, and yields the bands from where the range
// starts to where the last mapping ends. Bands share their cells.
func bands(sources []Source, r Range) iter.Seq2[band, error] {
	return func(yield func(band, error) bool) {
		type stream struct {
			next func() (Mapping, error, bool)
			at   Mapping // that ends behind the current position; Size 0 for none
			err  error   // in place of a mapping
			last uint64  // how far the source is known, if err
		}
		const none = ^uint64(0)
		pos := r.Start
		step := func(s *stream) {
			s.at, s.err, _ = s.next()
			var table *TableError
			if s.last = pos; errors.As(s.err, &table) {
				s.last = max(pos, table.Range.Start)
			}
		}
		streams := make([]stream, len(sources))
		for i, s := range sources {
			next, stop := iter.Pull2(MappingsIn(s, r))
			defer stop()
			streams[i].next = next
			step(&streams[i])
		}
		cells := make([]Mapping, len(sources))
		for {
			end := none
			for i := range streams {
				s := &streams[i]
				switch m := s.at; {
				case s.err != nil && s.last <= pos:
					yield(band{}, s.err)
					return
				case s.err != nil:
					end = min(end, s.last)
				case m.Size == 0:
				case m.Start > pos:
					end = min(end, m.Start)
				default:
					end = min(end, m.Start+m.Size)
				}
			}
			if end == none {
				return
			}
			for i := range streams {
				cells[i] = streams[i].at.clip(pos, end)
			}
			if !yield(band{Range{pos, end - pos}, cells}, nil) {
				return
			}
			pos = end
			for i := range streams {
				if s := &streams[i]; s.at.Size != 0 && s.at.Start+s.at.Size <= pos {
					step(s)
				}
			}
		}
	}
}
