//go:build amd64 && !race

package ept

// store changes an entry of a live table, where a processor will not set flags at the same
// moment. On this processor an aligned store of 8 bytes is one store, and stores are
// seen in the order of the program (SDM Vol. 3A 9.1.1, 9.2.2); an atomic store of Go's
// would be an XCHG, five times as slow as what Map does for a page otherwise.
func store(p *Entry, e Entry) { *p = e }
