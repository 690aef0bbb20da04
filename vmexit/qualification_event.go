package vmexit

import (
	"fmt"
	"math/bits"

	"github.com/govtx/vtx/vmcs"
)

// A DebugQualification is that of a debug exception (SDM Vol. 3C table 28-1).
//
//	63   17 16  15  14 13 12 11  10    4 3     0
//	┌──────┬───┬───┬──┬──┬──┬───┬───────┬───────┐
//	│  -   │RTM│ - │BS│BD│ -│BLD│   -   │B3 - B0│
//	└──────┴───┴───┴──┴──┴──┴───┴───────┴───────┘
//
// It is like DR6, but BLD and RTM are 1 where DR6 has 0. The exit has left DR6 as it
// was.
type DebugQualification uint64

const (
	dr6BLD = 1 << 11
	dr6BD  = 1 << 13
	dr6BS  = 1 << 14
	dr6RTM = 1 << 16

	// dr6Ones are the bits of DR6 that are always 1 (SDM Vol. 3B 18.2.3).
	dr6Ones = 0xfffe07f0
)

var debugBits = []namedBit{{0, "B0"}, {1, "B1"}, {2, "B2"}, {3, "B3"}, {11, "BLD"}, {13, "BD"}, {14, "BS"}, {16, "RTM"}}

// Breakpoint reports whether the condition of breakpoint n (0 to 3) was met. It need
// not be enabled in DR7.
func (q DebugQualification) Breakpoint(n int) bool { return n >= 0 && n < 4 && bit(uint64(q), uint(n)) }

// BusLock reports whether a bus lock at CPL above 0 was the cause.
func (q DebugQualification) BusLock() bool { return q&dr6BLD != 0 }

// RegisterAccess reports whether an access to a debug register was the cause (BD).
func (q DebugQualification) RegisterAccess() bool { return q&dr6BD != 0 }

// SingleStep reports whether an instruction, or with IA32_DEBUGCTL.BTF a branch, was
// the cause (BS).
func (q DebugQualification) SingleStep() bool { return q&dr6BS != 0 }

// RTM reports whether the exception came up in a transactional region with
// advanced debugging.
func (q DebugQualification) RTM() bool { return q&dr6RTM != 0 }

// DR6 returns what the exception leaves in a DR6 that has been old (SDM Vol. 3B
// 18.2.3). A hypervisor sets it when it gives the exception to the guest.
func (q DebugQualification) DR6(old uint64) uint64 {
	v := old&^0xf | uint64(q)&(0xf|dr6BD|dr6BS) | dr6Ones | dr6RTM
	if q.BusLock() {
		v &^= dr6BLD
	}
	if q.RTM() {
		v &^= dr6RTM
	}
	return v
}

// String lists the bits that are 1 as the SDM names them.
func (q DebugQualification) String() string { return list(appendBits(nil, uint64(q), debugBits)) }

// A LinearAddressQualification is the linear address that a page fault or an INVLPG
// was about (SDM Vol. 3C 28.2.1). Bits 63:32 are 0 if the guest was not in 64-bit
// mode. The page fault has left CR2 as it was.
type LinearAddressQualification uint64

// Address returns the linear address.
func (q LinearAddressQualification) Address() uint64 { return uint64(q) }

// String tells the address.
func (q LinearAddressQualification) String() string {
	return fmt.Sprintf("linear address %#x", uint64(q))
}

// An NMIQualification tells where an NMI came from, on processors that report it
// (CPUID.(EAX=7,ECX=1):EAX[20]); it is 0 on others. It is younger than revision 084
// of the SDM: see 7.7.3 of Vol. 3A, and 30.2.1 of Vol. 3C, in later ones.
type NMIQualification uint64

// Source reports whether source n (0 to 63) has raised the NMI. Source 0 stands for
// unknown ones.
func (q NMIQualification) Source(n int) bool { return n >= 0 && n < 64 && bit(uint64(q), uint(n)) }

// String lists the sources.
func (q NMIQualification) String() string {
	var words []string
	for v := uint64(q); v != 0; v &= v - 1 {
		words = append(words, fmt.Sprintf("NMI source %d", bits.TrailingZeros64(v)))
	}
	return list(words)
}

// A SIPIQualification is that of a start-up IPI (SDM Vol. 3C 28.2.1).
//
//	63           8 7      0
//	┌─────────────┬────────┐
//	│      0      │ vector │
//	└─────────────┴────────┘
type SIPIQualification uint64

// Vector returns the SIPI vector.
func (q SIPIQualification) Vector() uint8 { return uint8(q) }

// Address returns the physical address at which the processor is to start: vector
// times 4096. CS is Address/16, with that base, and RIP is 0.
func (q SIPIQualification) Address() uint32 { return uint32(q.Vector()) << 12 }

// String tells the vector and the address.
func (q SIPIQualification) String() string {
	return fmt.Sprintf("vector %#02x, start at %#x", q.Vector(), q.Address())
}

// A TaskSwitchSource is what initiated a task switch.
type TaskSwitchSource uint8

// Sources of task switches.
const (
	TaskSwitchCALL TaskSwitchSource = 0
	TaskSwitchIRET TaskSwitchSource = 1
	TaskSwitchJMP  TaskSwitchSource = 2
	TaskSwitchGate TaskSwitchSource = 3 // a task gate in the IDT
)

var taskSwitchNames = []string{"CALL", "IRET", "JMP", "task gate"}

// String returns CALL, IRET, JMP or task gate.
func (s TaskSwitchSource) String() string {
	return enumName(taskSwitchNames, "TaskSwitchSource", uint8(s))
}

// MarshalText returns what String does.
func (s TaskSwitchSource) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what String prints.
func (s *TaskSwitchSource) UnmarshalText(text []byte) error {
	return parseEnum(s, taskSwitchNames, "TaskSwitchSource", text)
}

// A TaskSwitchQualification is that of a task switch (SDM Vol. 3C table 28-2).
//
//	63       32 31  30 29    16 15          0
//	┌──────────┬──────┬────────┬─────────────┐
//	│    -     │source│   -    │TSS selector │
//	└──────────┴──────┴────────┴─────────────┘
type TaskSwitchQualification uint64

// Selector returns the selector of the TSS to switch to.
func (q TaskSwitchQualification) Selector() uint16 { return uint16(q) }

// Source returns what initiated the task switch.
func (q TaskSwitchQualification) Source() TaskSwitchSource { return TaskSwitchSource(q >> 30 & 3) }

// String tells source and selector.
func (q TaskSwitchQualification) String() string {
	return fmt.Sprintf("%v to TSS selector %#04x", q.Source(), q.Selector())
}

// An EOIQualification is that of a virtualized EOI (SDM Vol. 3C 28.2.1).
//
//	63           8 7      0
//	┌─────────────┬────────┐
//	│      0      │ vector │
//	└─────────────┴────────┘
type EOIQualification uint64

// Vector returns the vector of the virtual interrupt that is over.
func (q EOIQualification) Vector() vmcs.Vector { return vmcs.Vector(q) }

// String tells the vector.
func (q EOIQualification) String() string { return fmt.Sprintf("vector %#02x", uint8(q.Vector())) }

// A TimeoutQualification is that of an instruction timeout (SDM Vol. 3C 28.2.1).
//
//	63    13 12 11   1    0
//	┌───────┬──┬──────┬───────┐
//	│   -   │N │  -   │invalid│
//	└───────┴──┴──────┴───────┘
//
// N: NMI unblocking due to IRET.
type TimeoutQualification uint64

// ContextInvalid reports whether the guest's state is lost, so that it cannot go on.
func (q TimeoutQualification) ContextInvalid() bool { return q&1 != 0 }

// NMIUnblocking reports whether an IRET had ended the blocking of NMIs; see
// [NMIUnblocking].
func (q TimeoutQualification) NMIUnblocking() bool { return q&nmiUnblocking != 0 }

// String lists the bits that are 1.
func (q TimeoutQualification) String() string {
	return list(appendBits(nil, uint64(q), []namedBit{{0, "context invalid"}, {12, "NMI unblocking"}}))
}

// A GuestStateQualification tells why a VM entry failed due to invalid guest state,
// in a few cases (SDM Vol. 3C 27.8). A processor need not check the rules in any
// order: others can be broken, too.
type GuestStateQualification uint64

// Values of a GuestStateQualification. 1 is not used.
const (
	GuestStateOther GuestStateQualification = 0 // any other rule of 27.3.1
	GuestStatePDPTE GuestStateQualification = 2 // the PDPTEs could not be loaded (27.3.1.6)
	GuestStateNMI   GuestStateQualification = 3 // an NMI was to be injected during blocking by STI (27.3.1.5)
	GuestStateLink  GuestStateQualification = 4 // the VMCS link pointer is invalid (27.3.1.5)
)

// String tells what was wrong.
func (q GuestStateQualification) String() string {
	switch q {
	case GuestStateOther:
		return "not told which rule"
	case GuestStatePDPTE:
		return "loading the PDPTEs failed"
	case GuestStateNMI:
		return "an NMI was to be injected during blocking by STI"
	case GuestStateLink:
		return "the VMCS link pointer is invalid"
	}
	return fmt.Sprintf("GuestStateQualification(%#x)", uint64(q))
}

// An MSRLoadingQualification tells which entry of the VM-entry MSR-load area could
// not be loaded (SDM Vol. 3C 27.8).
type MSRLoadingQualification uint64

// Entry returns the number of the entry, 1 for the first.
func (q MSRLoadingQualification) Entry() uint64 { return uint64(q) }

// String tells the number of the entry.
func (q MSRLoadingQualification) String() string {
	return fmt.Sprintf("entry %d of the VM-entry MSR-load area, from 1", uint64(q))
}
