package hypercall

import (
	"cmp"
	"strings"
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
