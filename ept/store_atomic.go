//go:build !amd64 || race

package ept

// store changes an entry of a live table, where a processor will not set flags at the same
// moment.
func store(p *Entry, e Entry) { link(p, e) }
