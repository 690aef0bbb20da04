package main

// leave returns to VTL0, with its registers as s has them, and comes back when VTL1 is entered
// the next time.
//
//go:noescape
func leave(s *shared)
