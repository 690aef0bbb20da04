package hypercall

import (
	"cmp"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

// A witness is a set of the sources that have a row of the tables.
type witness uint8

const (
	fromTLFS witness = 1 << iota
	fromHvdef
	fromLinux
	fromQEMU
	fromHDK
	fromGerhart01
)

var witnessNames = [...]string{"TLFS", "OpenVMM hvdef", "Linux", "QEMU", "HDK", "gerhart01"}

// list returns the names of the sources.
func (w witness) list() []string {
	var all []string
	for i, name := range witnessNames {
		if w>>i&1 != 0 {
			all = append(all, name)
		}
	}
	return all
}

// aliases splits a column of names; nil if there are none.
func aliases(also string) []string {
	if also == "" {
		return nil
	}
	return strings.Fields(also)
}

// find returns the row of a table that has a key, by ascending keys, and nil if there
// is none.
func find[R any, K cmp.Ordered](table []R, key K, of func(*R) K) *R {
	lo, hi := 0, len(table)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if of(&table[mid]) < key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(table) && of(&table[lo]) == key {
		return &table[lo]
	}
	return nil
}

// keys returns the keys of a table, in its order.
func keys[R, K any](table []R, of func(*R) K) iter.Seq[K] {
	return func(yield func(K) bool) {
		for i := range table {
			if !yield(of(&table[i])) {
				return
			}
		}
	}
}

// squeezed has the names of a table's rows, squeezed, with and without a prefix. What
// of returns of a row is its key, its name and its other names.
func squeezed[R, K any](table []R, prefix string, of func(*R) (K, string, string)) map[string]K {
	all := make(map[string]K, 4*len(table))
	for i := range table {
		key, name, also := of(&table[i])
		for _, name := range append([]string{name}, aliases(also)...) {
			all[names.Squeeze(name)] = key
			all[names.Squeeze(strings.TrimPrefix(name, prefix))] = key
		}
	}
	return all
}

// nameOf returns a name, and TYPE(0x...) if there is none.
func nameOf(name, typ string, n uint64) string {
	if name != "" {
		return name
	}
	return typ + "(0x" + strconv.FormatUint(n, 16) + ")"
}

// parseName reads a name that all has, what nameOf gives if there is none, or a number.
// The error says what is to have a name, and what to use.
func parseName[K ~uint16 | ~uint32](s string, all map[string]K, typ string, bits int, what, use string) (K, error) {
	s = strings.TrimSpace(s)
	if k, ok := all[names.Squeeze(s)]; ok {
		return k, nil
	}
	n, err := parseNumber(s, typ+"(", bits)
	if err != nil {
		return 0, fmt.Errorf("hypercall: no %s is named %.80q: use %s", what, s, use)
	}
	return K(n), nil
}
