package vmcs

import (
	"strings"

	"github.com/govtx/vtx/asm"
)

// The segment registers that rules have in common: the six of code, data and
// stack, those of data, and all of them in the manual's order.
var (
	codeDataSegments = []SegmentRegister{CS, SS, DS, ES, FS, GS}
	dataSegments     = []SegmentRegister{DS, ES, FS, GS}
)

func (c *checker) rights(s SegmentRegister) AccessRights {
	return AccessRights(c.get(s.AccessRights()))
}

func (c *checker) dpl(s SegmentRegister) uint8 { return c.rights(s).DPL() }

func (c *checker) rpl(s SegmentRegister) uint8 { return uint8(c.get(s.Selector()) & 3) }

// usable tells whether rules for usable registers hold for s: CS and TR always
// count as usable here.
func (c *checker) usable(s SegmentRegister) bool {
	return s == CS || s == TR || !c.rights(s).Unusable()
}

// Conditions that begin the text of rules.
func ifUsable(s SegmentRegister) string {
	if s == CS || s == TR {
		return ""
	}
	return "if " + s.String() + " is usable, "
}

func notVM(s SegmentRegister) string {
	if s == CS {
		return "outside virtual-8086 mode, "
	}
	return "outside virtual-8086 mode, if " + s.String() + " is usable, "
}

const fGuestEntry = VMEntryControls

// guestSegmentRules returns the checks on guest segment registers
// (SDM Vol. 3C 27.3.1.2).
func guestSegmentRules() []Rule {
	var all []Rule
	add := func(s SegmentRegister, id, text string, fields []Field, ok func(*checker) bool) {
		all = append(all, Rule{"guest." + strings.ToLower(s.String()) + "." + id, "27.3.1.2", text, fields, badGuest, false, ok})
	}
	const flags = GuestRFLAGS

	// Selector fields.
	add(TR, "ti", "TI (bit 2) of the guest's TR selector must be 0", []Field{GuestTRSelector},
		func(c *checker) bool { return c.get(GuestTRSelector)&4 == 0 })
	add(LDTR, "ti", "if LDTR is usable, TI (bit 2) of the guest's LDTR selector must be 0", []Field{GuestLDTRSelector, GuestLDTRAccessRights},
		func(c *checker) bool { return !c.usable(LDTR) || c.get(GuestLDTRSelector)&4 == 0 })
	add(SS, "rpl", "outside virtual-8086 mode, if “unrestricted guest” is 0, RPL of the guest's SS selector must be that of CS", []Field{GuestSSSelector, GuestCSSelector, flags, fPrimary, fSecondary},
		func(c *checker) bool { return c.virtual8086() || c.unrestricted() || c.rpl(SS) == c.rpl(CS) })

	// Base-address fields.
	for _, s := range codeDataSegments {
		add(s, "base.v8086", "in virtual-8086 mode, the guest's "+s.String()+" base must be 16 times the selector", []Field{s.Base(), s.Selector(), flags},
			func(c *checker) bool { return !c.virtual8086() || c.get(s.Base()) == c.get(s.Selector())<<4 })
	}
	for _, s := range []SegmentRegister{TR, FS, GS, LDTR} {
		fields, text := []Field{s.Base()}, ""
		if s == LDTR {
			fields, text = []Field{s.Base(), s.AccessRights()}, ifUsable(s)
		}
		add(s, "base", text+"the guest's "+s.String()+" base"+canonicalText, fields,
			func(c *checker) bool { return s == LDTR && !c.usable(s) || c.canonical(c.get(s.Base())) })
	}
	for _, s := range []SegmentRegister{CS, SS, DS, ES} {
		fields := []Field{s.Base(), s.AccessRights()}
		if s == CS {
			fields = []Field{s.Base()}
		}
		add(s, "base", ifUsable(s)+"bits 63:32 of the guest's "+s.String()+" base must be 0", fields,
			func(c *checker) bool { return !c.usable(s) || c.get(s.Base())>>32 == 0 })
	}

	// Limit fields.
	for _, s := range codeDataSegments {
		add(s, "limit.v8086", "in virtual-8086 mode, the guest's "+s.String()+" limit must be 0xffff", []Field{s.Limit(), flags},
			func(c *checker) bool { return !c.virtual8086() || c.get(s.Limit()) == 0xffff })
	}

	// Access-rights fields.
	for _, s := range codeDataSegments {
		add(s, "rights.v8086", "in virtual-8086 mode, the guest's "+s.String()+" access rights must be 0xf3", []Field{s.AccessRights(), flags},
			func(c *checker) bool { return !c.virtual8086() || c.rights(s) == 0xf3 })
	}
	add(CS, "type", "outside virtual-8086 mode, the type of the guest's CS must be 9, 11, 13 or 15 (accessed code), or 3 if “unrestricted guest” is 1", []Field{GuestCSAccessRights, flags, fPrimary, fSecondary},
		func(c *checker) bool {
			if c.virtual8086() {
				return true
			}
			switch c.rights(CS).Type() {
			case 9, 11, 13, 15:
				return true
			case 3:
				return c.unrestricted()
			}
			return false
		})
	add(SS, "type", "outside virtual-8086 mode, if SS is usable, its type must be 3 or 7 (accessed writable data)", []Field{GuestSSAccessRights, flags},
		func(c *checker) bool {
			t := c.rights(SS).Type()
			return c.virtual8086() || !c.usable(SS) || t == 3 || t == 7
		})
	for _, s := range dataSegments {
		add(s, "type", notVM(s)+"its type must be accessed (bit 0), and readable (bit 1) if it is code (bit 3)", []Field{s.AccessRights(), flags},
			func(c *checker) bool {
				t := c.rights(s).Type()
				return c.virtual8086() || !c.usable(s) || t&TypeAccessed != 0 && (t&TypeCode == 0 || t&TypeReadable != 0)
			})
	}
	for _, s := range codeDataSegments {
		add(s, "s", notVM(s)+"S (bit 4) of its access rights must be 1", []Field{s.AccessRights(), flags},
			func(c *checker) bool { return c.virtual8086() || !c.usable(s) || c.rights(s)&RightsS != 0 })
	}
	add(CS, "dpl", "outside virtual-8086 mode, DPL of CS must be 0 for type 3, DPL of SS for types 9 and 11, and at most that for 13 and 15", []Field{GuestCSAccessRights, GuestSSAccessRights, flags},
		func(c *checker) bool {
			if c.virtual8086() {
				return true
			}
			cs := c.rights(CS)
			switch cs.Type() {
			case 3:
				return cs.DPL() == 0
			case 9, 11:
				return cs.DPL() == c.dpl(SS)
			case 13, 15:
				return cs.DPL() <= c.dpl(SS)
			}
			return true // guest.cs.type has the bad type
		})
	add(SS, "dpl", "outside virtual-8086 mode, if “unrestricted guest” is 0, DPL of SS must be the RPL of its selector", []Field{GuestSSAccessRights, GuestSSSelector, flags, fPrimary, fSecondary},
		func(c *checker) bool { return c.virtual8086() || c.unrestricted() || c.dpl(SS) == c.rpl(SS) })
	add(SS, "dpl.0", "outside virtual-8086 mode, DPL of SS must be 0 if the type of CS is 3 or the guest is in real mode", []Field{GuestSSAccessRights, GuestCSAccessRights, GuestCR0, flags},
		func(c *checker) bool {
			return c.virtual8086() || c.dpl(SS) == 0 || c.rights(CS).Type() != 3 && c.get(GuestCR0)&asm.CR0PE != 0
		})
	for _, s := range dataSegments {
		add(s, "dpl", notVM(s)+"and “unrestricted guest” is 0, DPL must not be less than RPL of the selector unless it is conforming code (types 12 to 15)", []Field{s.AccessRights(), s.Selector(), flags, fPrimary, fSecondary},
			func(c *checker) bool {
				return c.virtual8086() || c.unrestricted() || !c.usable(s) || c.rights(s).Type() > 11 || c.dpl(s) >= c.rpl(s)
			})
	}
	for _, s := range codeDataSegments {
		add(s, "p", notVM(s)+"P (bit 7) of its access rights must be 1", []Field{s.AccessRights(), flags},
			func(c *checker) bool { return c.virtual8086() || !c.usable(s) || c.rights(s).Present() })
	}
	for _, s := range codeDataSegments {
		add(s, "reserved", notVM(s)+"bits 31:17 and 11:8 of its access rights must be 0", []Field{s.AccessRights(), flags},
			func(c *checker) bool { return c.virtual8086() || !c.usable(s) || c.rights(s)&rightsReserved == 0 })
	}
	add(CS, "db", "if the guest begins in 64-bit code (“IA-32e mode guest” and CS.L are 1), D/B (bit 14) of CS must be 0", []Field{GuestCSAccessRights, flags, fGuestEntry},
		func(c *checker) bool { return c.virtual8086() || !c.code64() || c.rights(CS)&RightsDB == 0 })
	for _, s := range codeDataSegments {
		add(s, "g", notVM(s)+granularityText, []Field{s.AccessRights(), s.Limit(), flags},
			func(c *checker) bool { return c.virtual8086() || !c.usable(s) || c.granularity(s) })
	}
	add(SS, "fred", "if CR4.FRED is 1 in guest CR4, DPL of SS must be 0 or 3, and with 0 the guest must begin in 64-bit code (FRED specification)", []Field{GuestSSAccessRights, GuestCR4, GuestCSAccessRights, fGuestEntry},
		func(c *checker) bool {
			if c.get(GuestCR4)&asm.CR4FRED == 0 {
				return true
			}
			return c.dpl(SS) == 3 || c.dpl(SS) == 0 && c.code64()
		})

	add(TR, "type", "the type of the guest's TR must be 11 (busy TSS), or 3 (busy 16-bit TSS) outside IA-32e mode", []Field{GuestTRAccessRights, fGuestEntry},
		func(c *checker) bool {
			t := c.rights(TR).Type()
			return t == TypeTSSBusy || t == TypeTSS16Busy && !c.guest64()
		})
	add(LDTR, "type", "if LDTR is usable, its type must be 2 (LDT)", []Field{GuestLDTRAccessRights},
		func(c *checker) bool { return !c.usable(LDTR) || c.rights(LDTR).Type() == TypeLDT })
	for _, s := range []SegmentRegister{TR, LDTR} {
		fields := []Field{s.AccessRights()}
		add(s, "s", ifUsable(s)+"S (bit 4) of its access rights must be 0: "+s.String()+" needs a system segment", fields,
			func(c *checker) bool { return !c.usable(s) || c.rights(s).System() })
		add(s, "p", ifUsable(s)+"P (bit 7) of the access rights of "+s.String()+" must be 1", fields,
			func(c *checker) bool { return !c.usable(s) || c.rights(s).Present() })
		add(s, "reserved", ifUsable(s)+"bits 31:17 and 11:8 of the access rights of "+s.String()+" must be 0", fields,
			func(c *checker) bool { return !c.usable(s) || c.rights(s)&rightsReserved == 0 })
		add(s, "g", ifUsable(s)+granularityText+" ("+s.String()+")", []Field{s.AccessRights(), s.Limit()},
			func(c *checker) bool { return !c.usable(s) || c.granularity(s) })
	}
	add(TR, "unusable", "TR must be usable: bit 16 of its access rights must be 0", []Field{GuestTRAccessRights},
		func(c *checker) bool { return !c.rights(TR).Unusable() })
	return all
}

// rightsReserved are the bits of access rights that must be 0.
const rightsReserved AccessRights = 0xfffe0f00

const granularityText = "G (bit 15) of its access rights must be 0 if any of bits 11:0 of the limit is 0, and 1 if any of bits 31:20 is 1"

// granularity checks G against the limit.
func (c *checker) granularity(s SegmentRegister) bool {
	limit := c.get(s.Limit())
	if c.rights(s)&RightsG != 0 {
		return limit&0xfff == 0xfff
	}
	return limit>>20 == 0
}
