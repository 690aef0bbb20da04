package vmcs

// What all processors demand of control registers in VMX operation (A.7, A.8), and
// the bit that widens linear addresses.
const (
	requiredCR0 = 1<<0 | 1<<5 | 1<<31 // PE, NE, PG
	requiredCR4 = 1 << 13             // VMXE
	wideCR4     = 1 << 12             // LA57
)

// DumpProcessor returns the capabilities to check a dump with when the processor
// it comes from is not known: one that has every control in this package's tables,
// every CPUID feature, 52 physical-address bits and the most of everything else, and
// demands only what all processors do. So Check finds what is wrong on any
// processor, and misses what is wrong only on some. Linear addresses have 57 bits
// if CR4.LA57 is 1 in the guest or the host, and else 48, although a processor
// that could do 57 accepts wider ones.
func DumpProcessor(r Reader) *Capabilities {
	c := &Capabilities{
		// A region of 4096 bytes in write-back memory, information about INS and
		// OUTS, TRUE controls, any error code, nested exceptions (A.1).
		Basic: Basic(4096<<32 | 6<<50 | 1<<54 | 1<<55 | 1<<56 | 1<<58),
		// All activity states, 4 CR3-target values, as all processors so far,
		// and all flags (A.6).
		Misc:      Misc(1<<5 | 7<<6 | 1<<14 | 1<<15 | 4<<16 | 7<<25 | 7<<28),
		EPTVPID:   ^EPTVPID(0),
		CR0Fixed0: requiredCR0, CR0Fixed1: 0xffffffff,
		CR4Fixed0: requiredCR4, CR4Fixed1: namedBits(cr4Bits),
		VMCSEnum: 0x3fe,
		CPU:      AnyCPU(),
	}
	for g := range c.Controls {
		group := ControlGroup(g)
		named := uint64(0)
		for b := range group.Bits() {
			named |= 1 << b.Bit
		}
		c.Controls[g] = Allowed{Must1: group.Default1() &^ named, May1: group.Default1() | named}
	}
	c.CPU.LinearAddressBits = 48
	for _, f := range []Field{GuestCR4, HostCR4} {
		if v, err := r.Read(f); err == nil && v&wideCR4 != 0 {
			c.CPU.LinearAddressBits = 57
		}
	}
	return c
}

func namedBits(fields []bitField) (mask uint64) {
	for _, b := range fields {
		mask |= (1<<b.width - 1) << b.low
	}
	return mask
}
