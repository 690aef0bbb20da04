package ring0

// coverageCounters gives the bounds of the linker's section of coverage
// counters, which is empty in a program that is built without -cover.
func coverageCounters() (start, end uint64)

// dropEarlyCoverage forgets what coverage counted before this package's
// initialization. A function's counters begin with their number and with its
// package's identity, which the package gets when it is initialized; the kernel
// runs earlier, and the runtime gives up on counters without an identity.
func dropEarlyCoverage() {
	p, end := coverageCounters()
	for p+12 <= end {
		n := uint64(load32(p))
		if n == 0 { // has not run
			p += 4
			continue
		}
		size := 4 * (3 + n)
		if load32(p+4) == 0 {
			for i := p; i < min(p+size, end); i += 4 {
				store32(i, 0)
			}
		}
		p += size
	}
}
