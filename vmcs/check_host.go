package vmcs

import "github.com/govtx/vtx/asm"

const canonicalText = " must be canonical"

// Checks on host control registers, MSRs and SSP (SDM Vol. 3C 27.2.2).
var hostRegisterRules = []Rule{
	{"host.cr0.fixed", "27.2.2, 24.8", "host CR0 must have the bits of IA32_VMX_CR0_FIXED0, and none beyond those of FIXED1; NW and CD are not checked", []Field{HostCR0}, badHost, false,
		func(c *checker) bool {
			return fixed(c.get(HostCR0), c.Caps.CR0Fixed0&^(asm.CR0NW|asm.CR0CD), c.Caps.CR0Fixed1|asm.CR0NW|asm.CR0CD)
		}},
	{"host.cr4.fixed", "27.2.2, 24.8", "host CR4 must have the bits of IA32_VMX_CR4_FIXED0, and none beyond those of FIXED1", []Field{HostCR4}, badHost, false,
		func(c *checker) bool { return fixed(c.get(HostCR4), c.Caps.CR4Fixed0, c.Caps.CR4Fixed1) }},
	{"host.cr4.cet", "27.2.2", "if CR4.CET (bit 23) is 1 in host CR4, CR0.WP (bit 16) must be 1 in host CR0", []Field{HostCR4, HostCR0}, badHost, false,
		func(c *checker) bool { return c.get(HostCR4)&asm.CR4CET == 0 || c.get(HostCR0)&asm.CR0WP != 0 }},
	{"host.cr3", "27.2.2", "host CR3 must have no bits beyond the physical-address width, except 62:61 where there is LAM", []Field{HostCR3}, badHost, false,
		func(c *checker) bool { return c.cr3(c.get(HostCR3), c.physicalMask) }},
	{"host.sysenter.esp", "27.2.2", "host IA32_SYSENTER_ESP" + canonicalText, []Field{HostSysenterESP}, badHost, false,
		func(c *checker) bool { return c.canonical(c.get(HostSysenterESP)) }},
	{"host.sysenter.eip", "27.2.2", "host IA32_SYSENTER_EIP" + canonicalText, []Field{HostSysenterEIP}, badHost, false,
		func(c *checker) bool { return c.canonical(c.get(HostSysenterEIP)) }},
	{"host.perfglobalctrl", "27.2.2", "if “load IA32_PERF_GLOBAL_CTRL” is 1, the host's must have no reserved bits", []Field{HostPerfGlobalCtrl, fExit}, badHost, false,
		func(c *checker) bool {
			return c.exit()&ExitLoadIA32PerfGlobalCtrl == 0 || c.get(HostPerfGlobalCtrl)&^c.Caps.CPU.PerfGlobalCtrlValid == 0
		}},
	{"host.pat", "27.2.2", "if “load IA32_PAT” is 1, each byte of host IA32_PAT must be 0, 1, 4, 5, 6 or 7", []Field{HostPAT, fExit}, badHost, false,
		func(c *checker) bool { return c.exit()&ExitLoadIA32PAT == 0 || patOK(c.get(HostPAT)) }},
	{"host.efer.reserved", "27.2.2", "if “load IA32_EFER” is 1, host IA32_EFER must have no reserved bits", []Field{HostEFER, fExit}, badHost, false,
		func(c *checker) bool {
			return c.exit()&ExitLoadIA32EFER == 0 || c.get(HostEFER)&^c.Caps.CPU.EFERValid == 0
		}},
	{"host.efer.lma", "27.2.2", "if “load IA32_EFER” is 1, LMA and LME in host IA32_EFER must each be as “host address-space size” is", []Field{HostEFER, fExit}, badHost, false,
		func(c *checker) bool {
			if c.exit()&ExitLoadIA32EFER == 0 {
				return true
			}
			want := uint64(0)
			if c.host64() {
				want = asm.EFERLMA | asm.EFERLME
			}
			return c.get(HostEFER)&(asm.EFERLMA|asm.EFERLME) == want
		}},
	{"host.cet.scet", "27.2.2", "if “load CET state” is 1, host IA32_S_CET must be canonical, with bits 9:6 0 and not both bits 10 and 11 1", []Field{HostSCET, fExit}, badHost, false,
		func(c *checker) bool {
			return c.exit()&ExitLoadCETState == 0 || validSCET(c.get(HostSCET)) && c.canonical(c.get(HostSCET))
		}},
	{"host.cet.ssp", "27.2.2", "if “load CET state” is 1, host SSP must be canonical, with bits 1:0 0", []Field{HostSSP, fExit}, badHost, false,
		func(c *checker) bool {
			return c.exit()&ExitLoadCETState == 0 || c.get(HostSSP)&3 == 0 && c.canonical(c.get(HostSSP))
		}},
	{"host.cet.table", "27.2.2", "if “load CET state” is 1, host IA32_INTERRUPT_SSP_TABLE_ADDR" + canonicalText, []Field{HostInterruptSSPTable, fExit}, badHost, false,
		func(c *checker) bool {
			return c.exit()&ExitLoadCETState == 0 || c.canonical(c.get(HostInterruptSSPTable))
		}},
	{"host.pkrs", "27.2.2", "if “load PKRS” is 1, bits 63:32 of host IA32_PKRS must be 0", []Field{HostPKRS, fExit}, badHost, false,
		func(c *checker) bool { return c.exit()&ExitLoadPKRS == 0 || c.get(HostPKRS)>>32 == 0 }},
	{"host.fred.config", "FRED specification", "if “load FRED” is 1, host IA32_FRED_CONFIG must be canonical, with bits 2, 5:4 and 11 0", []Field{HostFREDConfig, fExit, fExit2}, badHost, false,
		func(c *checker) bool { return c.exit2()&Exit2LoadFRED == 0 || c.fredConfig(HostFREDConfig) }},
	{"host.fred.rsp", "FRED specification", "if “load FRED” is 1, host IA32_FRED_RSP1 to RSP3 must be canonical, with bits 5:0 0", []Field{HostFREDRSP1, HostFREDRSP2, HostFREDRSP3, fExit, fExit2}, badHost, false,
		func(c *checker) bool { return c.exit2()&Exit2LoadFRED == 0 || c.fredStacks(HostFREDRSP1, 0x3f) }},
	{"host.fred.ssp", "FRED specification", "if “load FRED” is 1, host IA32_FRED_SSP1 to SSP3 must be canonical, with bits 2:0 0", []Field{HostFREDSSP1, HostFREDSSP2, HostFREDSSP3, fExit, fExit2}, badHost, false,
		func(c *checker) bool { return c.exit2()&Exit2LoadFRED == 0 || c.fredStacks(HostFREDSSP1, 7) }},
}

func fixed(v, fixed0, fixed1 uint64) bool { return v&fixed0 == fixed0 && v&^fixed1 == 0 }

// host64 tells whether the host is in 64-bit mode after a VM exit.
func (c *checker) host64() bool { return c.exit()&ExitHostAddressSpaceSize != 0 }

// cr3 checks that a CR3 has no reserved bits.
func (c *checker) cr3(v, reserved uint64) bool {
	if c.Caps.CPU.LAM {
		v &^= 3 << 61
	}
	return v&reserved == 0
}

// validSCET checks the reserved bits of IA32_S_CET, and that SUPPRESS and TRACKER
// are not both set (SDM Vol. 1 17.2.2).
func validSCET(v uint64) bool { return v&0x3c0 == 0 && v&0xc00 != 0xc00 }

// fredConfig checks IA32_FRED_CONFIG.
func (c *checker) fredConfig(f Field) bool {
	v := c.get(f)
	return v&0x834 == 0 && c.canonical(v)
}

// fredStacks checks the three stack pointers from f on.
func (c *checker) fredStacks(f Field, low uint64) bool {
	for range 3 {
		v := c.get(f)
		if v&low != 0 || !c.canonical(v) {
			return false
		}
		f += 2
	}
	return true
}

func hostSelector(id, name string, f Field) Rule {
	return Rule{"host." + id + ".selector", "27.2.3", "TI and RPL (bits 2:0) of the host's " + name + " selector must be 0", []Field{f}, badHost, false,
		func(c *checker) bool { return c.get(f)&7 == 0 }}
}

func hostBase(id, name string, f Field) Rule {
	return Rule{"host." + id + ".base", "27.2.3", "the host's " + name + " base" + canonicalText, []Field{f}, badHost, false,
		func(c *checker) bool { return c.canonical(c.get(f)) }}
}

// Checks on host segment and descriptor-table registers (SDM Vol. 3C 27.2.3).
var hostSegmentRules = []Rule{
	hostSelector("es", "ES", HostESSelector),
	hostSelector("cs", "CS", HostCSSelector),
	hostSelector("ss", "SS", HostSSSelector),
	hostSelector("ds", "DS", HostDSSelector),
	hostSelector("fs", "FS", HostFSSelector),
	hostSelector("gs", "GS", HostGSSelector),
	hostSelector("tr", "TR", HostTRSelector),
	{"host.cs.null", "27.2.3", "the host's CS selector must not be 0", []Field{HostCSSelector}, badHost, false,
		func(c *checker) bool { return c.get(HostCSSelector) != 0 }},
	{"host.tr.null", "27.2.3", "the host's TR selector must not be 0", []Field{HostTRSelector}, badHost, false,
		func(c *checker) bool { return c.get(HostTRSelector) != 0 }},
	{"host.ss.null", "27.2.3", "if “host address-space size” is 0, the host's SS selector must not be 0", []Field{HostSSSelector, fExit}, badHost, false,
		func(c *checker) bool { return c.host64() || c.get(HostSSSelector) != 0 }},
	hostBase("fs", "FS", HostFSBase),
	hostBase("gs", "GS", HostGSBase),
	hostBase("gdtr", "GDTR", HostGDTRBase),
	hostBase("idtr", "IDTR", HostIDTRBase),
	hostBase("tr", "TR", HostTRBase),
}

// Checks related to address-space size (SDM Vol. 3C 27.2.4).
var addressSpaceRules = []Rule{
	{"size.legacy", "27.2.4", "outside IA-32e mode, “IA-32e mode guest” and “host address-space size” must be 0", []Field{fExit, fEntry}, badHost, false,
		func(c *checker) bool { return !c.legacy || !c.host64() && c.entry()&EntryIA32eModeGuest == 0 }},
	{"size.ia32e", "27.2.4", "in IA-32e mode, “host address-space size” must be 1", []Field{fExit}, badHost, false,
		func(c *checker) bool { return c.legacy || c.host64() }},
	{"size.32.guest", "27.2.4", "if “host address-space size” is 0, “IA-32e mode guest” must be 0", []Field{fEntry, fExit}, badHost, false,
		func(c *checker) bool { return c.host64() || c.entry()&EntryIA32eModeGuest == 0 }},
	{"size.32.pcide", "27.2.4", "if “host address-space size” is 0, CR4.PCIDE (bit 17) must be 0 in host CR4", []Field{HostCR4, fExit}, badHost, false,
		func(c *checker) bool { return c.host64() || c.get(HostCR4)&asm.CR4PCIDE == 0 }},
	{"size.32.fred", "FRED specification", "if “host address-space size” is 0, CR4.FRED (bit 32) must be 0 in host CR4", []Field{HostCR4, fExit}, badHost, false,
		func(c *checker) bool { return c.host64() || c.get(HostCR4)&asm.CR4FRED == 0 }},
	{"size.32.rip", "27.2.4", "if “host address-space size” is 0, bits 63:32 of host RIP must be 0", []Field{HostRIP, fExit}, badHost, false,
		func(c *checker) bool { return c.host64() || c.get(HostRIP)>>32 == 0 }},
	{"size.32.cet", "27.2.4", "if “host address-space size” is 0 and “load CET state” is 1, bits 63:32 of host IA32_S_CET and SSP must be 0", []Field{HostSCET, HostSSP, fExit}, badHost, false,
		func(c *checker) bool {
			return c.exit()&(ExitHostAddressSpaceSize|ExitLoadCETState) != ExitLoadCETState || (c.get(HostSCET)|c.get(HostSSP))>>32 == 0
		}},
	{"size.64.pae", "27.2.4", "if “host address-space size” is 1, CR4.PAE (bit 5) must be 1 in host CR4", []Field{HostCR4, fExit}, badHost, false,
		func(c *checker) bool { return !c.host64() || c.get(HostCR4)&asm.CR4PAE != 0 }},
	{"size.64.rip", "27.2.4", "if “host address-space size” is 1, host RIP must be canonical for the paging that CR4.LA57 (bit 12) in host CR4 gives", []Field{HostRIP, HostCR4, fExit}, badHost, false,
		func(c *checker) bool {
			if !c.host64() {
				return true
			}
			width := uint8(48)
			if c.get(HostCR4)&asm.CR4LA57 != 0 {
				width = c.Caps.CPU.linearWidth()
			}
			return signExtended(c.get(HostRIP), width)
		}},
}
