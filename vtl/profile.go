package vtl

import (
	"fmt"
	"iter"
	"strings"

	"github.com/govtx/vtx/hypercall"
)

// A Profile names whom the core follows where documents and implementations disagree.
// [Choices] and [Refusals] list all that depends on it.
type Profile uint8

// Profiles.
const (
	// TLFS is the Top Level Functional Specification, and where it is silent what is
	// closest to its text.
	TLFS Profile = iota
	// OpenVMM is OpenHCL's VSM for hardware-isolated partitions.
	OpenVMM
	// KVM is QEMU's and KVM's VSM, and the unit tests that were written for it.
	KVM

	numProfiles
)

var profileNames = [numProfiles]string{"TLFS", "OpenVMM", "KVM"}

// String returns the profile's name.
func (p Profile) String() string {
	if p < numProfiles {
		return profileNames[p]
	}
	return fmt.Sprintf("Profile(%d)", uint8(p))
}

// ParseProfile reads what String prints, without regard to case.
func ParseProfile(s string) (Profile, error) {
	for p, name := range profileNames {
		if strings.EqualFold(s, name) {
			return Profile(p), nil
		}
	}
	return 0, fmt.Errorf("vtl: %.80q is no profile: use TLFS, OpenVMM or KVM", s)
}

// MarshalText returns what String does.
func (p Profile) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what ParseProfile does.
func (p *Profile) UnmarshalText(text []byte) (err error) {
	*p, err = ParseProfile(string(text))
	return err
}

// A Choice is something that profiles answer differently. Which statuses refused calls
// get is in [Refusals].
type Choice struct {
	Question string
	Rules    string // numbers of rules, as in the tests of this package
	Answers  [numProfiles]bool
}

// The choices: numbers of rows of the table below.
type choice uint8

const (
	storeOnEntry choice = iota
	restoreAlways
	vinaResetOnReturn
	enableOnlyOwn
	ownRegistersDenied
	writeOnceKept
	defaultMaskReadWrite
	maskNeedsEnable
	mbecAsPartition
	ownLockPasses
	userExecuteChecked
	userExecuteCounts
	maskNamesOwner
	ipiOnlyVTL0
	ipiUpward
	translateOnlyLower
	translateOnlyOwnVP
	interceptsExtended

	numChoices
)

var choices = [numChoices]Choice{
	storeOnEntry:         {"does entering a level store RAX and RCX in its assist page?", "37", [...]bool{false, false, true}},
	restoreAlways:        {"does a fast return restore RAX and RCX, too?", "44", [...]bool{false, false, true}},
	vinaResetOnReturn:    {"is VinaAsserted reset automatically on return, not on the next entry?", "59", [...]bool{false, true, false}},
	enableOnlyOwn:        {"may a lower level enable a level only on its own processor?", "18", [...]bool{false, true, false}},
	ownRegistersDenied:   {"are a level's own architectural registers refused to it?", "65", [...]bool{false, true, false}},
	writeOnceKept:        {"is a second write to what is write-once ignored, not an error?", "73 74 137", [...]bool{false, false, true}},
	defaultMaskReadWrite: {"must the default mask have read and write?", "75", [...]bool{false, true, false}},
	maskNeedsEnable:      {"does the default mask count only once EnableVtlProtection is set?", "74 76", [...]bool{true, false, true}},
	mbecAsPartition:      {"must MbecEnabled of a processor be as it is for the partition?", "84", [...]bool{false, true, false}},
	ownLockPasses:        {"does a processor's own TLB lock not stop its own flushes?", "85 87", [...]bool{false, true, false}},
	userExecuteChecked:   {"is a mask with KX other than UX refused without MBEC, not UX ignored?", "88 97", [...]bool{false, true, false}},
	userExecuteCounts:    {"is a page executable without MBEC if KX or UX is set?", "88 104", [...]bool{false, false, true}},
	maskNamesOwner:       {"does ModifyVtlProtectionMask name the level whose mask it is, not the one restricted?", "93", [...]bool{false, true, false}},
	ipiOnlyVTL0:          {"are synthetic cluster IPIs only for VTL0?", "62 144", [...]bool{false, true, false}},
	ipiUpward:            {"may a level send such an IPI to a higher one?", "144", [...]bool{false, false, true}},
	translateOnlyLower:   {"are only lower levels' addresses translated, not the caller's?", "120 142", [...]bool{false, true, false}},
	translateOnlyOwnVP:   {"are addresses translated only for the caller's processor?", "120", [...]bool{false, true, false}},
	interceptsExtended:   {"can writes to CET and XSS MSRs be intercepted, but no reads, and not the SGX keys?", "110", [...]bool{false, true, false}},
}

// Choices lists what profiles answer differently.
func Choices() iter.Seq[Choice] {
	return func(yield func(Choice) bool) {
		for _, c := range choices {
			if !yield(c) {
				return
			}
		}
	}
}

// is reports whether the answer of the partition's profile is yes.
func (p *Partition) is(c choice) bool { return p.answers>>c&1 != 0 }

// answers returns those of a profile: a bit for each choice.
func answers(profile Profile) (a uint32) {
	for i := range choices {
		if choices[i].Answers[profile] {
			a |= 1 << i
		}
	}
	return a
}

const _ = 32 - uint(numChoices) // they fit

// A Refusal is why a call was refused, more exactly than its status says. 0 is none.
type Refusal uint8

// A refusal is a row of the table of refusals: its status in each profile; 0 for #UD.
type refusal struct {
	text   string
	rules  string
	status [numProfiles]hypercall.Status
}

const (
	refusedNot Refusal = iota
	noSuchCaller
	foreignPartition
	foreignDenied
	noSuchVP
	reservedInput
	noLevel

	callWord
	callCPL
	callRealMode
	callControl
	callNothingAbove
	returnFromVTL0
	returnControl

	partitionZero
	partitionMaximum
	partitionCaller
	partitionAlready
	partitionMBEC
	partitionFlags

	vpZero
	vpPartition
	vpOwn
	vpCaller
	vpAlready
	badContext
	realMode

	registerAbove
	registerLevelOff
	registerOwn
	registerGuarded
	registerUnknown
	registerReadOnly
	registerVTL0
	registerHigh
	interceptVTL0
	interceptBits
	interceptOff
	secureNotLower
	secureBits
	secureMBEC
	secureMBECPartition
	vinaReserved
	configBits
	configOnce
	configMaskOnce
	configMask
	pendingNotLower
	pendingEvent
	valueCR0
	valueCR8
	assistValue
	registersRefuse

	maskNotLower
	maskVTL0
	maskNotEnabled
	maskOwnerOff
	maskTargetOff
	maskFlags
	maskNotRAM
	maskMemory

	startSelf
	startAbove
	startLevelOff
	startDenied
	startRunning
	startUntold

	indexUnknown
	indexLevelOff

	translateVP
	translateAbove
	translateOwn
	translateLevelOff

	ipiFlags
	ipiVector
	ipiAbove
	ipiNotVTL0

	assertOwn
	assertAbove
	assertType
	assertVector

	flushFlags

	installVTL0
	installAccess
	installKind

	numRefusals
)

// Statuses, for the table.
const (
	iParameter = hypercall.StatusInvalidParameter
	denied     = hypercall.StatusAccessDenied
	iValue     = hypercall.StatusInvalidRegisterValue
	iVTL       = hypercall.StatusInvalidVTLState
	iVP        = hypercall.StatusInvalidVPState
	iIndex     = hypercall.StatusInvalidVPIndex
	iPartition = hypercall.StatusInvalidPartitionID
	already    = hypercall.StatusVTLAlreadyEnabled
	noMemory   = hypercall.StatusInsufficientMemory
)

func all(s hypercall.Status) [numProfiles]hypercall.Status {
	return [numProfiles]hypercall.Status{s, s, s}
}

type three = [numProfiles]hypercall.Status

var refusals = [numRefusals]refusal{
	refusedNot:       {"not refused", "", all(0)},
	noSuchCaller:     {"there is no such processor to make the call", "", all(iIndex)},
	foreignPartition: {"the partition is another one", "7 20 114 119", all(iPartition)},
	foreignDenied:    {"the partition is another one", "61 66 99 111 120", all(denied)},
	noSuchVP:         {"there is no processor with this index", "20 66 114", all(iIndex)},
	reservedInput:    {"reserved bits are set", "", all(iParameter)},
	noLevel:          {"levels are 0 to 15", "1", all(iParameter)},

	callWord:         {"the input word has more than the call code", "32", all(0)},
	callCPL:          {"only CPL 0 may call and return", "28 41", all(0)},
	callRealMode:     {"not in real mode", "29", all(0)},
	callControl:      {"the control input of a VTL call must be 0", "31", all(0)},
	callNothingAbove: {"no higher level is enabled on the processor", "30 33", all(0)},
	returnFromVTL0:   {"there is no level below VTL0", "40", all(0)},
	returnControl:    {"bits 63:1 of the control input of a VTL return must be 0", "42", all(0)},

	partitionZero:    {"VTL0 is always enabled", "2 8", three{iParameter, denied, iParameter}},
	partitionMaximum: {"the level is above the maximum of the partition", "9 15", three{iParameter, denied, iParameter}},
	partitionCaller:  {"the caller is not the highest enabled level below the target", "6", all(denied)},
	partitionAlready: {"the level is enabled already", "10", three{iVTL, iVTL, iParameter}},
	partitionMBEC:    {"MBEC is not offered for the level", "11 14", all(iParameter)},
	partitionFlags:   {"what the flags ask for is not offered", "12", all(iParameter)},

	vpZero:      {"VTL0 is always enabled", "2 20", all(iParameter)},
	vpPartition: {"the level is not enabled for the partition", "4", all(iVTL)},
	vpOwn:       {"a lower level may enable this level only on its own processor", "18", all(denied)},
	vpCaller:    {"the caller's level is too low to enable this one", "16 17", all(denied)},
	vpAlready:   {"the level is enabled on the processor already", "19", three{already, already, iParameter}},
	badContext:  {"the initial context has a register value that no processor can have", "23", all(iValue)},
	realMode:    {"levels above VTL0 have protected mode only", "24", all(iValue)},

	registerAbove:       {"the target is a higher level than the caller", "63 72", all(denied)},
	registerLevelOff:    {"the target level is not enabled", "80", all(iVTL)},
	registerOwn:         {"architectural registers are those of lower levels only", "65", all(denied)},
	registerGuarded:     {"a level above the caller intercepts writes to the register", "65 107", all(denied)},
	registerUnknown:     {"there is no such register", "66", all(iParameter)},
	registerReadOnly:    {"the register is read-only", "68", all(iParameter)},
	registerVTL0:        {"VTL0 has no such register", "60 81", all(iParameter)},
	registerHigh:        {"the register has 64 bits: the upper half must be 0", "", all(iValue)},
	interceptVTL0:       {"VTL0 cannot intercept", "71", all(denied)},
	interceptBits:       {"there is no such intercept", "", all(iValue)},
	interceptOff:        {"the level is not enabled on the processor", "71", all(iVTL)},
	secureNotLower:      {"a level configures only levels lower than itself", "82", all(denied)},
	secureBits:          {"reserved bits are set, or a feature that is not offered", "", all(iValue)},
	secureMBEC:          {"MBEC is not enabled for the partition", "84", all(iValue)},
	secureMBECPartition: {"MbecEnabled must be as it is for the partition", "84", all(iValue)},
	vinaReserved:        {"reserved bits are set", "60", all(iParameter)},
	configBits:          {"reserved bits are set, or a feature that is not offered", "80", all(iValue)},
	configOnce:          {"EnableVtlProtection cannot be cleared", "73", all(iValue)},
	configMaskOnce:      {"DefaultVtlProtectionMask cannot be changed once protection is enabled", "74", all(iValue)},
	configMask:          {"the default mask is not a combination of rights that there is", "75 96 97", all(iValue)},
	pendingNotLower:     {"events are for lower levels only", "69", all(iParameter)},
	pendingEvent:        {"the event is not an exception that can be injected", "69", all(iValue)},
	valueCR0:            {"CR0 cannot have this value", "70", all(iValue)},
	valueCR8:            {"CR8 has 4 bits", "", all(iValue)},
	assistValue:         {"the assist page's address has more bits than physical addresses", "", all(iValue)},
	registersRefuse:     {"the register cannot have this value, or is not there", "66", all(iParameter)},

	maskNotLower:   {"a level restricts only levels lower than itself", "92 93", all(denied)},
	maskVTL0:       {"VTL0 has no mask", "93", all(iParameter)},
	maskNotEnabled: {"EnableVtlProtection is not set", "94", all(denied)},
	maskOwnerOff:   {"the level whose mask it is is not enabled", "95", all(iVTL)},
	maskTargetOff:  {"the level to be restricted is not enabled", "", all(iVTL)},
	maskFlags:      {"the map flags are not a combination of rights that there is", "95 96 97", all(iValue)},
	maskNotRAM:     {"the page is not RAM, or an overlay page", "98", all(iParameter)},
	maskMemory:     {"the partition's protections take all the memory that they may", "", all(noMemory)},

	startSelf:     {"a processor cannot start itself", "114", all(iIndex)},
	startAbove:    {"the target is a higher level than the caller", "116", three{denied, denied, iParameter}},
	startLevelOff: {"the target level is not enabled on the processor", "115", three{iVTL, iVP, iVTL}},
	startDenied:   {"a higher level denies it to start processors", "78", all(denied)},
	startRunning:  {"the processor is started already", "117", all(iVP)},
	startUntold:   {"a higher level wants to know, but is not enabled on the caller's processor", "79", all(denied)},

	indexUnknown:  {"no processor has this APIC ID", "", all(iParameter)},
	indexLevelOff: {"the level is not enabled on the processor", "119", all(iVTL)},

	translateVP:       {"the processor is not the caller's own", "120", all(denied)},
	translateAbove:    {"the target is a higher level than the caller", "120", three{denied, denied, iVP}},
	translateOwn:      {"addresses of the caller's own level are not translated", "120 142", all(denied)},
	translateLevelOff: {"the target level is not enabled on the processor", "", all(iVTL)},

	ipiFlags:   {"flags must be 0", "62", all(iParameter)},
	ipiVector:  {"the vector must be 16 to 255", "62", all(iParameter)},
	ipiAbove:   {"the target is a higher level than the caller", "144", all(denied)},
	ipiNotVTL0: {"IPIs are for VTL0 only", "62", all(iVTL)},

	assertOwn:    {"interrupts are asserted in lower levels only", "61", all(denied)},
	assertAbove:  {"the target is a higher level than the caller", "61", all(denied)},
	assertType:   {"the interrupt is neither fixed nor an NMI, or reserved bits are set", "61", all(iParameter)},
	assertVector: {"the vector must be 16 to 255", "", all(iParameter)},

	flushFlags: {"reserved flags are set", "", all(iParameter)},

	installVTL0:   {"VTL0 cannot intercept", "111", all(denied)},
	installAccess: {"ports are read and written only", "111", all(iParameter)},
	installKind:   {"only I/O ports can be intercepted by this call", "111", all(iParameter)},
}

func (r Refusal) row() *refusal {
	if r < numRefusals {
		return &refusals[r]
	}
	return &refusals[refusedNot]
}

// String says why, in words.
func (r Refusal) String() string { return r.row().text }

// Rules returns the numbers of the rules behind it, as in the tests of this package.
func (r Refusal) Rules() string { return r.row().rules }

// Status returns the status that the refused call has; StatusSuccess if it is #UD, or not
// refused at all.
func (r Refusal) Status(p Profile) hypercall.Status {
	if p < numProfiles {
		return r.row().status[p]
	}
	return 0
}

// Refusals lists all there are.
func Refusals() iter.Seq[Refusal] {
	return func(yield func(Refusal) bool) {
		for r := range numRefusals - 1 {
			if !yield(r + 1) {
				return
			}
		}
	}
}

// Why returns why the last call, VTL call or return was refused: 0 if it was not. It is
// no part of the partition's state.
func (p *Partition) Why() Refusal { return p.why }

// refuse notes why a call is refused, and returns its status.
func (p *Partition) refuse(r Refusal) hypercall.Status {
	p.why = r
	return refusals[r].status[p.config.Profile]
}

// undefined notes why there is #UD.
func (p *Partition) undefined(r Refusal) Outcome {
	p.why = r
	return UndefinedInstruction
}
