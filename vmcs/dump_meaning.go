package vmcs

import (
	"fmt"
	"math/bits"
	"strings"
)

// none stands for a list without elements.
const none = "none"

// Meaning tells what the value of a field means, in names of bits and of the things
// encoded, in brief and in one line. It is "" where a number or an address is all
// there is. The reader gives other fields that it depends on: the exit
// qualification is explained by the exit reason. It may be nil.
func Meaning(r Reader, f Field, v uint64) string {
	v &= f.Width().Mask()
	if g, ok := controlGroupOf(f); ok {
		return meanControls(g, v)
	}
	if b := bitFields[f]; b != nil {
		return bitNames(v, b)
	}
	if m := meanings[f]; m != nil {
		return m(v)
	}
	if f == ExitQualification && r != nil {
		return meanQualification(r, v)
	}
	return ""
}

// isList tells whether the meaning of the field's values is a list of names of
// bits, separated by a comma and a blank.
func isList(f Field) bool {
	_, ok := controlGroupOf(f)
	return ok || bitFields[f] != nil || f == ExceptionBitmap
}

func controlGroupOf(f Field) (ControlGroup, bool) {
	for g := range ControlGroup(NumControlGroups) {
		if g.Field() == f {
			return g, true
		}
	}
	return 0, false
}

// meanings explains the fields that are neither controls nor mere bits.
var meanings = fieldMeanings()

func fieldMeanings() map[Field]func(uint64) string {
	event := func(v uint64) string { return InterruptionInfo(v).String() }
	m := map[Field]func(uint64) string{
		ExceptionBitmap:              func(v uint64) string { return Exceptions(v).String() },
		EntryInterruptionInformation: event,
		ExitInterruptionInformation:  event,
		IDTVectoringInformation:      event,
		ExitReason:                   meanReason,
		VMInstructionErrorNumber:     meanInstructionError,
		GuestActivityState:           meanActivity,
		GuestInterruptStatus:         meanInterruptStatus,
		EPTPointer:                   meanEPTP,
		GuestPAT:                     meanPAT,
		HostPAT:                      meanPAT,
	}
	for i := range Field(8) {
		m[GuestESSelector+2*i] = meanSelector
		m[GuestESAccessRights+2*i] = meanRights
	}
	for f := HostESSelector; f <= HostTRSelector; f += 2 {
		m[f] = meanSelector
	}
	for i := range Field(4) {
		m[GuestPDPTE0+2*i] = meanPDPTE
	}
	return m
}

// A bitField is a part of a value that has a name: a bit, printed by its name if
// it is 1; or more bits, printed as name=value if not 0. A bit without a name is
// always 1 where all is well, and printed if it is 0.
type bitField struct {
	low, width uint8
	name       string
}

func flags(low uint8, names ...string) []bitField {
	var fields []bitField
	for i, name := range names {
		if name != "" {
			fields = append(fields, bitField{low + uint8(i), 1, name})
		}
	}
	return fields
}

func join(lists ...[]bitField) (all []bitField) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// Registers, as in SDM Vol. 3A 2.5 (CR0, CR4), 2.2.1 (IA32_EFER), Vol. 1 3.4.3
// (RFLAGS), Vol. 3B 18.2 (DR7), 18.4.1 (IA32_DEBUGCTL), Vol. 1 17.3.3
// (IA32_S_CET), and VMCS fields, Vol. 3C 25.4.2 and 25.6.3.
var (
	cr0Bits = join(flags(0, "PE", "MP", "EM", "TS", "ET", "NE"),
		flags(16, "WP", "", "AM"), flags(29, "NW", "CD", "PG"))
	cr4Bits = join(flags(0, "VME", "PVI", "TSD", "DE", "PSE", "PAE", "MCE", "PGE", "PCE", "OSFXSR",
		"OSXMMEXCPT", "UMIP", "LA57", "VMXE", "SMXE", "", "FSGSBASE", "PCIDE", "OSXSAVE", "KL",
		"SMEP", "SMAP", "PKE", "CET", "PKS", "UINTR", "", "LASS", "LAM_SUP"), flags(32, "FRED"))
	eferBits   = flags(0, "SCE", "", "", "", "", "", "", "", "LME", "", "LMA", "NXE")
	rflagsBits = join(flags(0, "CF", "", "PF", "", "AF", "", "ZF", "SF", "TF", "IF", "DF", "OF"),
		[]bitField{{1, 1, ""}, {12, 2, "IOPL"}}, flags(14, "NT", "", "RF", "VM", "AC", "VIF", "VIP", "ID"))
	dr7Bits = join(flags(0, "L0", "G0", "L1", "G1", "L2", "G2", "L3", "G3", "LE", "GE", "", "RTM", "", "GD"),
		[]bitField{{10, 1, ""}, {16, 2, "R/W0"}, {18, 2, "LEN0"}, {20, 2, "R/W1"}, {22, 2, "LEN1"},
			{24, 2, "R/W2"}, {26, 2, "LEN2"}, {28, 2, "R/W3"}, {30, 2, "LEN3"}})
	debugCtlBits = join(flags(0, "LBR", "BTF", "BLD"), flags(6, "TR", "BTS", "BTINT", "BTS_OFF_OS", "BTS_OFF_USR",
		"FREEZE_LBRS_ON_PMI", "FREEZE_PERFMON_ON_PMI", "ENABLE_UNCORE_PMI", "FREEZE_WHILE_SMM", "RTM_DEBUG"))
	sCETBits = join(flags(0, "SH_STK_EN", "WR_SHSTK_EN", "ENDBR_EN", "LEG_IW_EN", "NO_TRACK_EN", "SUPPRESS_DIS"),
		flags(10, "SUPPRESS", "TRACKER"), []bitField{{12, 52, "EB_LEG_BITMAP_BASE"}})
	interruptibilityBits = flags(0, "blocking by STI", "blocking by MOV SS", "blocking by SMI", "blocking by NMI", "enclave interruption")
	pendingDebugBits     = join(flags(0, "B0", "B1", "B2", "B3"), flags(11, "bus lock", "enabled breakpoint", "", "BS", "", "RTM"))
	pageFaultBits        = join(flags(0, "P", "W/R", "U/S", "RSVD", "I/D", "PK", "SS", "HLAT"), flags(15, "SGX"))
)

var bitFields = map[Field][]bitField{
	GuestCR0: cr0Bits, HostCR0: cr0Bits, CR0GuestHostMask: cr0Bits, CR0ReadShadow: cr0Bits,
	GuestCR4: cr4Bits, HostCR4: cr4Bits, CR4GuestHostMask: cr4Bits, CR4ReadShadow: cr4Bits,
	GuestEFER: eferBits, HostEFER: eferBits,
	GuestRFLAGS: rflagsBits, GuestDR7: dr7Bits, GuestDebugCtl: debugCtlBits,
	GuestSCET: sCETBits, HostSCET: sCETBits,
	GuestInterruptibilityState:  interruptibilityBits,
	GuestPendingDebugExceptions: pendingDebugBits,
	PageFaultErrorCodeMask:      pageFaultBits, PageFaultErrorCodeMatch: pageFaultBits,
}

// bitNames lists what is set in v; bits without a name come last, as "bit 26".
// A mask is all bits: "all".
func bitNames(v uint64, fields []bitField) string {
	var out []string
	for _, b := range fields {
		mask := uint64(1)<<b.width - 1
		x := v >> b.low & mask
		v &^= mask << b.low
		switch {
		case b.name == "":
			if x == 0 {
				out = append(out, fmt.Sprintf("without bit %d", b.low))
			}
		case x == 0:
		case b.width == 1:
			out = append(out, b.name)
		default:
			out = append(out, fmt.Sprintf("%s=%#x", b.name, x))
		}
	}
	return list(append(out, unnamed(v)...))
}

// unnamed lists bits by number; a run of three or more is one element.
func unnamed(v uint64) (out []string) {
	for v != 0 {
		low := bits.TrailingZeros64(v)
		n := bits.TrailingZeros64(^(v >> low))
		if n < 3 {
			out = append(out, fmt.Sprintf("bit %d", low))
			v &= v - 1
			continue
		}
		out = append(out, fmt.Sprintf("bits %d:%d", low+n-1, low))
		v &^= (1<<n - 1) << low
	}
	return out
}

func list(names []string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}

// meanRights explains segment access rights; all but that it is unusable matters
// little for an unusable segment.
func meanRights(v uint64) string {
	r := AccessRights(v)
	if r.Unusable() {
		return "unusable"
	}
	return r.String()
}

// setNames names the bits that are set, from bit 0.
func setNames(v uint64, names ...string) (out []string) {
	for i, name := range names {
		if v>>i&1 != 0 {
			out = append(out, name)
		}
	}
	return out
}

func meanSelector(v uint64) string {
	if v&^3 == 0 {
		return "null"
	}
	table := "GDT"
	if v>>2&1 != 0 {
		table = "LDT"
	}
	return fmt.Sprintf("%s entry %d, RPL %d", table, v>>3, v&3)
}

// memoryTypes are the encodings of memory types (SDM Vol. 3A 12.11.2 and, for 7,
// 12.12).
var memoryTypes = [8]string{0: "UC", 1: "WC", 4: "WT", 5: "WP", 6: "WB", 7: "UC-"}

func memoryType(v uint64) string {
	if v < 8 && memoryTypes[v] != "" {
		return memoryTypes[v]
	}
	return fmt.Sprintf("reserved type %d", v)
}

func meanPAT(v uint64) string {
	out := make([]string, 8)
	for i := range out {
		out[i] = memoryType(v >> (8 * i) & 0xff)
	}
	return strings.Join(out, " ")
}

// meanEPTP explains the EPT pointer (SDM Vol. 3C 25.6.11).
func meanEPTP(v uint64) string {
	out := []string{memoryType(v & 7), fmt.Sprintf("%d levels", v>>3&7+1)}
	out = append(out, setNames(v>>6, "accessed and dirty flags", "supervisor shadow-stack control")...)
	out = append(out, unnamed(v&0xf00)...)
	return list(append(out, fmt.Sprintf("table at %#x", v&^0xfff)))
}

// meanPDPTE explains a guest's PDPTE (SDM Vol. 3A 4.4.1).
func meanPDPTE(v uint64) string {
	if v&1 == 0 {
		return "not present"
	}
	out := append([]string{"present"}, setNames(v>>3, "PWT", "PCD")...)
	out = append(out, unnamed(v&0x1e6)...)
	return list(append(out, fmt.Sprintf("directory at %#x", v&^0xfff)))
}

var activityStates = [...]string{"active", "HLT", "shutdown", "wait-for-SIPI"}

func meanActivity(v uint64) string {
	if v < uint64(len(activityStates)) {
		return activityStates[v]
	}
	return "reserved"
}

func meanInterruptStatus(v uint64) string {
	return fmt.Sprintf("RVI %#02x, SVI %#02x", v&0xff, v>>8)
}

func meanInstructionError(v uint64) string {
	if v == 0 {
		return none
	}
	return InstructionError(v).String()
}

// meanControls lists the controls that are 1. Bits of the default1 class without a
// name say nothing when they are 1; when one is 0, that is said.
func meanControls(g ControlGroup, v uint64) string {
	reserved := g.Default1()
	for b := range g.Bits() {
		reserved &^= 1 << b.Bit
	}
	var out []string
	if v&^reserved != 0 {
		out = append(out, string(g.AppendBits(nil, v&^reserved)))
	}
	for _, s := range unnamed(reserved &^ v) {
		out = append(out, "without "+s)
	}
	return list(out)
}
