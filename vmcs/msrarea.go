package vmcs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
)

// An MSREntry is one entry of an MSR area (SDM Vol. 3C 25.7.2, table 25-15).
//
//	byte  bits
//	0     32    index of the MSR
//	4     32    reserved, 0
//	8     64    value
type MSREntry struct {
	Index    uint32
	Reserved uint32
	Value    uint64
}

// MSREntryBytes is the size of an entry in memory.
const MSREntryBytes = 16

const (
	msrEntryIndex    = 0
	msrEntryReserved = 4
	msrEntryValue    = 8
)

// String prints the index and the value, and the reserved bits if they are not 0.
func (e MSREntry) String() string {
	if e.Reserved != 0 {
		return fmt.Sprintf("MSR 0x%x = 0x%x, reserved 0x%x", e.Index, e.Value, e.Reserved)
	}
	return fmt.Sprintf("MSR 0x%x = 0x%x", e.Index, e.Value)
}

// An MSRArea is one of the three lists of MSRs that the processor goes through at
// VM exit or VM entry (SDM Vol. 3C 25.7.2, 25.8.2):
//
//	address               count              at
//	ExitMSRStoreAddress   ExitMSRStoreCount  VM exit: the guest's values are stored (28.4)
//	ExitMSRLoadAddress    ExitMSRLoadCount   VM exit: the host's values are loaded (28.6)
//	EntryMSRLoadAddress   EntryMSRLoadCount  VM entry: the guest's values are loaded (27.4)
//
// The address is a multiple of 16. The number of entries is in the VMCS, not in
// the area: write [MSRArea.Count] to the count field after each change of it.
type MSRArea struct {
	mem []byte
	n   int
}

// ErrMSRAreaFull says that an area's memory has no room for another entry.
var ErrMSRAreaFull = errors.New("the MSR area is full: give it more memory, 16 bytes an entry")

// MSRAreaOf returns the area of count entries that mem holds, in place. With count
// 0 it is an empty area. All of mem is room for entries.
func MSRAreaOf(mem []byte, count uint32) (MSRArea, error) {
	if uint64(count) > uint64(len(mem)/MSREntryBytes) {
		return MSRArea{}, fmt.Errorf("vmcs: %d entries of an MSR area take %d bytes, not %d", count, uint64(count)*MSREntryBytes, len(mem))
	}
	return MSRArea{mem, int(count)}, nil
}

// Count returns the number of entries, for the count field.
func (a *MSRArea) Count() uint32 { return uint32(a.n) }

// Cap returns the number of entries that there is room for.
func (a *MSRArea) Cap() int { return len(a.mem) / MSREntryBytes }

// At returns entry i, counted from 0. It panics if there is none.
func (a *MSRArea) At(i int) MSREntry {
	b := a.entry(i)
	return MSREntry{
		Index:    binary.LittleEndian.Uint32(b[msrEntryIndex:]),
		Reserved: binary.LittleEndian.Uint32(b[msrEntryReserved:]),
		Value:    binary.LittleEndian.Uint64(b[msrEntryValue:]),
	}
}

func (a *MSRArea) entry(i int) []byte {
	if i < 0 || i >= a.n {
		panic(fmt.Sprintf("vmcs: no entry %d in an MSR area of %d", i, a.n))
	}
	return a.mem[i*MSREntryBytes : (i+1)*MSREntryBytes]
}

func (a *MSRArea) put(i int, e MSREntry) {
	b := a.entry(i)
	binary.LittleEndian.PutUint32(b[msrEntryIndex:], e.Index)
	binary.LittleEndian.PutUint32(b[msrEntryReserved:], e.Reserved)
	binary.LittleEndian.PutUint64(b[msrEntryValue:], e.Value)
}

// find returns the place of the last entry for an MSR, which is the one whose
// value is loaded in the end; -1 if there is none.
func (a *MSRArea) find(index uint32) int {
	for i := a.n - 1; i >= 0; i-- {
		if binary.LittleEndian.Uint32(a.entry(i)[msrEntryIndex:]) == index {
			return i
		}
	}
	return -1
}

// Get returns the value of an MSR in the area, and whether it is there.
func (a *MSRArea) Get(index uint32) (value uint64, ok bool) {
	i := a.find(index)
	if i < 0 {
		return 0, false
	}
	return a.At(i).Value, true
}

// Set gives an MSR a value in the area, in place if it is there already, at the
// end if not. It fails with [ErrMSRAreaFull].
func (a *MSRArea) Set(index uint32, value uint64) error {
	i := a.find(index)
	if i < 0 {
		if a.n == a.Cap() {
			return fmt.Errorf("vmcs: no room for MSR 0x%x: %w", index, ErrMSRAreaFull)
		}
		i = a.n
		a.n++
	}
	a.put(i, MSREntry{Index: index, Value: value})
	return nil
}

// Remove takes all entries for an MSR out, and reports whether there was one. The
// others keep their order.
func (a *MSRArea) Remove(index uint32) bool {
	kept := 0
	for i := range a.n {
		if e := a.At(i); e.Index != index {
			a.put(kept, e)
			kept++
		}
	}
	removed := kept < a.n
	a.n = kept
	return removed
}

// Reset takes all entries out.
func (a *MSRArea) Reset() { a.n = 0 }

// All yields the entries in the processor's order.
func (a *MSRArea) All() iter.Seq[MSREntry] {
	return func(yield func(MSREntry) bool) {
		for i := 0; i < a.n && yield(a.At(i)); i++ {
		}
	}
}

// String prints the entries, one a line, numbered from 1 as in exit
// qualifications.
func (a *MSRArea) String() string {
	var b strings.Builder
	for i := range a.n {
		fmt.Fprintf(&b, "%d: %v\n", i+1, a.At(i))
	}
	return b.String()
}

// An MSRRule is a reason why the processor refuses an entry of an MSR area.
type MSRRule uint8

// The reasons. The first five come from what the manual says about the areas, the
// last two from what RDMSR and WRMSR do.
const (
	MSRAccepted     MSRRule = iota // there is no reason
	MSRReservedBits                // bits 63:32 of the entry are not 0
	MSRSegmentBase                 // it loads IA32_FS_BASE or IA32_GS_BASE
	MSRX2APIC                      // it is an MSR from 0x800 to 0x8ff, for the APIC in x2APIC mode
	MSRSMM                         // it is accessible in SMM only
	MSRMicrocode                   // it has to do with microcode updates: processors may refuse it
	MSRReadOnly                    // WRMSR would fault: it is read-only
	MSRValue                       // WRMSR would fault: the value has reserved bits, or a bad field or address
)

var msrRuleText = [...]string{
	"accepted",
	"bits 63:32 of the entry must be 0",
	"IA32_FS_BASE and IA32_GS_BASE are loaded from the guest or host state: take the entry out",
	"MSRs 0x800 to 0x8ff are for the APIC in x2APIC mode, and cannot be in an MSR area: take the entry out",
	"the MSR is accessible in system-management mode only: take the entry out",
	"processors may refuse the MSRs for microcode updates: take the entry out",
	"the MSR is read-only: take the entry out",
	"WRMSR of this value would fault: mend its reserved bits, memory types or address",
}

// String says what the rule is, and what to do.
func (r MSRRule) String() string {
	if int(r) < len(msrRuleText) {
		return msrRuleText[r]
	}
	return fmt.Sprintf("MSRRule(%d)", uint8(r))
}

// Indices of MSRs that rules name (SDM Vol. 4 table 2-2).
const (
	msrTSC            = 0x10  // IA32_TIME_STAMP_COUNTER
	msrUpdateTrigger  = 0x79  // IA32_BIOS_UPDT_TRIG
	msrUpdateSign     = 0x8b  // IA32_BIOS_SIGN_ID
	msrSMMMonitorCtl  = 0x9b  // IA32_SMM_MONITOR_CTL
	msrSMBASE         = 0x9e  // IA32_SMBASE
	msrSysenterCS     = 0x174 // IA32_SYSENTER_CS
	msrSysenterESP    = 0x175 // IA32_SYSENTER_ESP
	msrSysenterEIP    = 0x176 // IA32_SYSENTER_EIP
	msrDebugCtl       = 0x1d9 // IA32_DEBUGCTL
	msrPAT            = 0x277 // IA32_PAT
	msrPerfGlobalCtrl = 0x38f // IA32_PERF_GLOBAL_CTRL
	msrVMXFirst       = 0x480 // IA32_VMX_BASIC
	msrVMXLast        = 0x493 // IA32_VMX_EXIT_CTLS2
	msrDSArea         = 0x600 // IA32_DS_AREA
	msrEFER           = 0xc0000080
	msrSTAR           = 0xc0000081
	msrLSTAR          = 0xc0000082
	msrCSTAR          = 0xc0000083
	msrFMASK          = 0xc0000084
	msrFSBase         = 0xc0000100
	msrGSBase         = 0xc0000101
	msrKernelGSBase   = 0xc0000102
)

// common has the rules for loading and storing alike.
func (e MSREntry) common() MSRRule {
	switch {
	case e.Reserved != 0:
		return MSRReservedBits
	case e.Index>>8 == 8:
		return MSRX2APIC
	case e.Index == msrUpdateTrigger || e.Index == msrUpdateSign:
		return MSRMicrocode
	}
	return MSRAccepted
}

// StoreRule returns why a VM exit outside of SMM would refuse to store the MSR
// (SDM Vol. 3C 28.4), as far as the manual tells. That would be VMX abort 1. It
// does not know which MSRs the processor lacks.
func (e MSREntry) StoreRule() MSRRule {
	if r := e.common(); r != MSRAccepted {
		return r
	}
	if e.Index == msrSMBASE {
		return MSRSMM
	}
	return MSRAccepted
}

// LoadRule returns why a VM entry or exit outside of SMM would refuse to load the
// MSR (SDM Vol. 3C 27.4, 28.6), as far as the manual tells. It does not know which
// MSRs the processor lacks, and knows which values WRMSR refuses for
// architectural MSRs with addresses, memory types or reserved bits only; those
// that depend on the processor are not checked if cpu is nil, or does not tell.
func (e MSREntry) LoadRule(cpu *CPU) MSRRule {
	if r := e.common(); r != MSRAccepted {
		return r
	}
	switch e.Index {
	case msrFSBase, msrGSBase:
		return MSRSegmentBase
	case msrSMMMonitorCtl:
		return MSRSMM
	}
	if msrReadOnly(e.Index) {
		return MSRReadOnly
	}
	if !msrValueOK(e.Index, e.Value, cpu) {
		return MSRValue
	}
	return MSRAccepted
}

// msrReadOnly reports whether WRMSR of an architectural MSR always faults: it
// reports capabilities or state (SDM Vol. 4 table 2-2).
func msrReadOnly(index uint32) bool {
	switch index {
	case
		0x17,      // IA32_PLATFORM_ID
		msrSMBASE, //
		0xfe,      // IA32_MTRRCAP
		0x10a,     // IA32_ARCH_CAPABILITIES
		0x179,     // IA32_MCG_CAP
		0x345:     // IA32_PERF_CAPABILITIES
		return true
	}
	return index >= msrVMXFirst && index <= msrVMXLast
}

func msrValueOK(index uint32, value uint64, cpu *CPU) bool {
	switch index {
	case msrPAT:
		return patOK(value)
	case msrSysenterESP, msrSysenterEIP, msrDSArea, msrLSTAR, msrCSTAR, msrKernelGSBase:
		width := uint8(57) // the widest there is
		if cpu != nil {
			width = cpu.linearWidth()
		}
		return signExtended(value, width)
	}
	if cpu == nil {
		return true
	}
	valid := uint64(0)
	switch index {
	case msrEFER:
		valid = cpu.EFERValid
	case msrDebugCtl:
		valid = cpu.DebugCtlValid
	case msrPerfGlobalCtrl:
		valid = cpu.PerfGlobalCtrlValid
	}
	return valid == 0 || value&^valid == 0
}

// patOK reports whether each byte is a memory type for the PAT (SDM Vol. 3A
// 12.12.2): 0 UC, 1 WC, 4 WT, 5 WP, 6 WB or 7 UC-.
func patOK(value uint64) bool {
	for ; value != 0; value >>= 8 {
		if t := value & 0xff; t > 7 || t == 2 || t == 3 {
			return false
		}
	}
	return true
}

// signExtended reports whether an address is canonical for a width in bits.
func signExtended(addr uint64, width uint8) bool {
	shift := 64 - width
	return uint64(int64(addr<<shift)>>shift) == addr
}

// An MSRAreaError says which entry of an MSR area the processor refuses, and why.
type MSRAreaError struct {
	Number int // of the entry, counted from 1 as in the exit qualification
	Entry  MSREntry
	Rule   MSRRule
}

func (e *MSRAreaError) Error() string {
	return fmt.Sprintf("vmcs: entry %d of the MSR area, %v: %v", e.Number, e.Entry, e.Rule)
}

// CheckLoad returns an *MSRAreaError for the first entry that a VM entry or exit
// would refuse to load, by [MSREntry.LoadRule]. A VM entry then fails with exit
// reason 34 and the entry's number as exit qualification; a VM exit leads to VMX
// abort 4. An area longer than the processor recommends is an error as well.
func (a *MSRArea) CheckLoad(c *Capabilities) error {
	var cpu *CPU
	if c != nil {
		cpu = &c.CPU
	}
	return a.check(c, func(e MSREntry) MSRRule { return e.LoadRule(cpu) })
}

// CheckStore is CheckLoad for an area to store in, by [MSREntry.StoreRule]. The
// processor answers with VMX abort 1.
func (a *MSRArea) CheckStore(c *Capabilities) error { return a.check(c, MSREntry.StoreRule) }

func (a *MSRArea) check(c *Capabilities, rule func(MSREntry) MSRRule) error {
	for i := range a.n {
		e := a.At(i)
		if r := rule(e); r != MSRAccepted {
			return &MSRAreaError{i + 1, e, r}
		}
	}
	if c != nil && a.n > c.Misc.MSRListMax() {
		return fmt.Errorf("vmcs: the MSR area has %d entries: IA32_VMX_MISC recommends at most %d, and beyond that anything may happen", a.n, c.Misc.MSRListMax())
	}
	return nil
}
