package hypercall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
)

// CPUID holds what the CPUID instruction returns.
type CPUID struct{ EAX, EBX, ECX, EDX uint32 }

// Leaves of CPUID that tell of the hypervisor (TLFS, "Feature and Interface
// Discovery").
const (
	LeafVendor          uint32 = 0x40000000
	LeafInterface       uint32 = 0x40000001
	LeafVersion         uint32 = 0x40000002
	LeafFeatures        uint32 = 0x40000003
	LeafRecommendations uint32 = 0x40000004
	LeafLimits          uint32 = 0x40000005
	LeafHardware        uint32 = 0x40000006
	LeafManagement      uint32 = 0x40000007
	LeafPasid           uint32 = 0x40000008
	LeafNested          uint32 = 0x40000009
	LeafOptimizations   uint32 = 0x4000000a
	LeafIPT             uint32 = 0x4000000b
	LeafIsolation       uint32 = 0x4000000c
)

// HypervisorPresent is the bit of ECX of CPUID leaf 1 that is 1 under a hypervisor.
const HypervisorPresent = 1 << 31

// SignatureHv1 is the signature "Hv#1" of an interface as the TLFS describes it, and
// MinLeaf the least that the highest leaf must be with it.
const (
	SignatureHv1 = uint32(0x31237648)
	MinLeaf      = LeafLimits
)

// VendorMicrosoftHv is how Microsoft's hypervisor names itself.
const VendorMicrosoftHv = "Microsoft Hv"

// Words of the leaves.
type (
	// PowerFeatures is ECX of leaf 0x40000003.
	PowerFeatures uint32

	// Features is EDX of leaf 0x40000003, and of leaf 0x40000009.
	Features uint32

	// Recommendations is EAX of leaf 0x40000004: what the hypervisor recommends to
	// its guest.
	Recommendations uint32

	// AddressWidth is ECX of leaf 0x40000004.
	AddressWidth uint32

	// HardwareFeatures is EAX of leaf 0x40000006: features of the hardware that the
	// hypervisor uses.
	HardwareFeatures uint32

	// ManagementFeatures is EAX of leaf 0x40000007.
	ManagementFeatures uint32

	// PowerManagement is EBX of leaf 0x40000007.
	PowerManagement uint32

	// PasidFeatures is EAX of leaf 0x40000008.
	PasidFeatures uint32

	// NestedAccess is EAX of leaf 0x40000009.
	NestedAccess uint32

	// NestedOptimizations is EAX of leaf 0x4000000A.
	NestedOptimizations uint32

	// NestedFields is EBX of leaf 0x4000000A.
	NestedFields uint32

	// IsolationFeatures is EAX of leaf 0x4000000C.
	IsolationFeatures uint32

	// IsolationState is EBX of leaf 0x4000000C.
	IsolationState uint32
)

// A Leaf is one of the leaves in typed form, such as [FeaturesLeaf]. Every value of
// the registers has one, and every one its registers: also what is reserved is kept.
type Leaf interface {
	// Number returns the leaf's number.
	Number() uint32

	// CPUID returns the registers.
	CPUID() CPUID

	// String returns what the leaf says, on one line.
	String() string
}

// VendorLeaf is leaf 0x40000000.
type VendorLeaf struct {
	MaxLeaf uint32   // the highest leaf of the hypervisor
	Vendor  [12]byte // its name, such as VendorMicrosoftHv
}

// InterfaceLeaf is leaf 0x40000001.
type InterfaceLeaf struct {
	Signature uint32    // such as SignatureHv1
	Reserved  [3]uint32 // EBX, ECX, EDX
}

// VersionLeaf is leaf 0x40000002. The last three are not in the TLFS's table, but in a
// comment of its source and in Linux.
type VersionLeaf struct {
	Build         uint32
	Major, Minor  uint16
	ServicePack   uint32
	ServiceNumber uint32 // 24 bits
	ServiceBranch uint8
}

// FeaturesLeaf is leaf 0x40000003.
type FeaturesLeaf struct {
	Privileges Privileges
	Power      PowerFeatures
	Features   Features
}

// RecommendationsLeaf is leaf 0x40000004.
type RecommendationsLeaf struct {
	Recommendations Recommendations
	SpinRetries     uint32 // attempts at a spinlock before HvCallNotifyLongSpinWait; NeverNotify: do not
	Address         AddressWidth
	Reserved        uint32 // EDX
}

// NeverNotify is the number of spin retries that means to never notify of long waits.
const NeverNotify = ^uint32(0)

// LimitsLeaf is leaf 0x40000005. A 0 means that the limit is not told.
type LimitsLeaf struct {
	VirtualProcessors, LogicalProcessors uint32
	InterruptVectors                     uint32 // physical ones, for interrupt remapping
	Reserved                             uint32 // EDX
}

// HardwareLeaf is leaf 0x40000006.
type HardwareLeaf struct {
	Features HardwareFeatures
	Reserved [3]uint32 // EBX (width of device domains in its low byte, by hvdef only), ECX, EDX
}

// ManagementLeaf is leaf 0x40000007, about the management of processors by the root
// partition. It is not in the TLFS's pages.
type ManagementLeaf struct {
	Features ManagementFeatures
	Power    PowerManagement
	Reserved [2]uint32 // ECX, EDX
}

// PasidLeaf is leaf 0x40000008, about memory shared with devices. It is not in the
// TLFS's pages.
type PasidLeaf struct {
	Features                             PasidFeatures
	MaxPasidSpaceCount, MaxDevicePrqSize uint32
	Reserved                             uint32 // EDX
}

// NestedLeaf is leaf 0x40000009: what a nested hypervisor can use of the one below.
type NestedLeaf struct {
	Access   NestedAccess
	Reserved [2]uint32 // EBX, ECX
	Features Features
}

// OptimizationsLeaf is leaf 0x4000000A: what makes nested virtualization faster.
type OptimizationsLeaf struct {
	Optimizations NestedOptimizations
	Fields        NestedFields
	Reserved      [2]uint32 // ECX, EDX
}

// IPTLeaf is leaf 0x4000000B, about Intel processor trace. No source tells its fields.
type IPTLeaf struct{ Registers CPUID }

// IsolationLeaf is leaf 0x4000000C: how the partition is isolated from its host. It is
// not in the TLFS's pages.
type IsolationLeaf struct {
	Features IsolationFeatures
	State    IsolationState
	Reserved [2]uint32 // ECX, EDX
}

// Number returns the leaf's number, as for all leaves.
func (VendorLeaf) Number() uint32          { return LeafVendor }
func (InterfaceLeaf) Number() uint32       { return LeafInterface }
func (VersionLeaf) Number() uint32         { return LeafVersion }
func (FeaturesLeaf) Number() uint32        { return LeafFeatures }
func (RecommendationsLeaf) Number() uint32 { return LeafRecommendations }
func (LimitsLeaf) Number() uint32          { return LeafLimits }
func (HardwareLeaf) Number() uint32        { return LeafHardware }
func (ManagementLeaf) Number() uint32      { return LeafManagement }
func (PasidLeaf) Number() uint32           { return LeafPasid }
func (NestedLeaf) Number() uint32          { return LeafNested }
func (OptimizationsLeaf) Number() uint32   { return LeafOptimizations }
func (IPTLeaf) Number() uint32             { return LeafIPT }
func (IsolationLeaf) Number() uint32       { return LeafIsolation }

// CPUID returns the registers.
func (l VendorLeaf) CPUID() CPUID {
	v := binary.LittleEndian
	return CPUID{l.MaxLeaf, v.Uint32(l.Vendor[0:]), v.Uint32(l.Vendor[4:]), v.Uint32(l.Vendor[8:])}
}

// CPUID returns the registers.
func (l InterfaceLeaf) CPUID() CPUID {
	return CPUID{l.Signature, l.Reserved[0], l.Reserved[1], l.Reserved[2]}
}

// CPUID returns the registers. Of ServiceNumber the low 24 bits are taken.
func (l VersionLeaf) CPUID() CPUID {
	return CPUID{l.Build, uint32(l.Major)<<16 | uint32(l.Minor), l.ServicePack, uint32(l.ServiceBranch)<<24 | l.ServiceNumber&0xffffff}
}

// CPUID returns the registers.
func (l FeaturesLeaf) CPUID() CPUID {
	eax, ebx := l.Privileges.Registers()
	return CPUID{eax, ebx, uint32(l.Power), uint32(l.Features)}
}

// CPUID returns the registers.
func (l RecommendationsLeaf) CPUID() CPUID {
	return CPUID{uint32(l.Recommendations), l.SpinRetries, uint32(l.Address), l.Reserved}
}

// CPUID returns the registers.
func (l LimitsLeaf) CPUID() CPUID {
	return CPUID{l.VirtualProcessors, l.LogicalProcessors, l.InterruptVectors, l.Reserved}
}

// CPUID returns the registers.
func (l HardwareLeaf) CPUID() CPUID {
	return CPUID{uint32(l.Features), l.Reserved[0], l.Reserved[1], l.Reserved[2]}
}

// CPUID returns the registers.
func (l ManagementLeaf) CPUID() CPUID {
	return CPUID{uint32(l.Features), uint32(l.Power), l.Reserved[0], l.Reserved[1]}
}

// CPUID returns the registers.
func (l PasidLeaf) CPUID() CPUID {
	return CPUID{uint32(l.Features), l.MaxPasidSpaceCount, l.MaxDevicePrqSize, l.Reserved}
}

// CPUID returns the registers.
func (l NestedLeaf) CPUID() CPUID {
	return CPUID{uint32(l.Access), l.Reserved[0], l.Reserved[1], uint32(l.Features)}
}

// CPUID returns the registers.
func (l OptimizationsLeaf) CPUID() CPUID {
	return CPUID{uint32(l.Optimizations), uint32(l.Fields), l.Reserved[0], l.Reserved[1]}
}

// CPUID returns the registers.
func (l IPTLeaf) CPUID() CPUID { return l.Registers }

// CPUID returns the registers.
func (l IsolationLeaf) CPUID() CPUID {
	return CPUID{uint32(l.Features), uint32(l.State), l.Reserved[0], l.Reserved[1]}
}

// DecodeLeaf returns a leaf in typed form, and false for a number that is none of
// 0x40000000 to 0x4000000C.
func DecodeLeaf(number uint32, r CPUID) (Leaf, bool) {
	var l Leaves
	if !l.Set(number, r) {
		return nil, false
	}
	return l.Leaf(number)
}

// A line collects the parts of a leaf's text.
type line []string

func (l *line) add(format string, args ...any) { *l = append(*l, fmt.Sprintf(format, args...)) }

// reserved adds the registers that should be 0 and are not. names has their names,
// separated by blanks.
func (l *line) reserved(names string, values ...uint32) {
	for i, name := range strings.Fields(names) {
		if values[i] != 0 {
			l.add("%s 0x%x", name, values[i])
		}
	}
}

func (l line) String() string { return strings.Join(l, "; ") }

// printable returns the bytes of a name up to the first 0, with those that are not
// ASCII text quoted.
func printable(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	q := fmt.Sprintf("%+q", s)
	return q[1 : len(q)-1]
}

// String returns `vendor "Microsoft Hv", leaves up to 0x4000000c`.
func (l VendorLeaf) String() string {
	return fmt.Sprintf("vendor \"%s\", leaves up to 0x%x", printable(l.Vendor[:]), l.MaxLeaf)
}

// String returns `interface "Hv#1"`.
func (l InterfaceLeaf) String() string {
	var t line
	t.add("interface \"%s\"", printable(binary.LittleEndian.AppendUint32(nil, l.Signature)))
	t.reserved("EBX ECX EDX", l.Reserved[:]...)
	return t.String()
}

// String returns "version 10.0 build 22621, service pack 0, branch 0, number 1".
func (l VersionLeaf) String() string {
	return fmt.Sprintf("version %d.%d build %d, service pack %d, branch %d, number %d", l.Major, l.Minor, l.Build, l.ServicePack, l.ServiceBranch, l.ServiceNumber&0xffffff)
}

// String returns the privileges and features.
func (l FeaturesLeaf) String() string {
	return fmt.Sprintf("privileges %v; power %v; features %v", l.Privileges, l.Power, l.Features)
}

// String returns the recommendations.
func (l RecommendationsLeaf) String() string {
	var t line
	t.add("recommends %v", l.Recommendations)
	if l.SpinRetries == NeverNotify {
		t.add("never notify of long spin waits")
	} else {
		t.add("notify after %d spins", l.SpinRetries)
	}
	t.add("physical address width %v", l.Address)
	t.reserved("EDX", l.Reserved)
	return t.String()
}

// String returns the limits; "not told" stands for 0.
func (l LimitsLeaf) String() string {
	var t line
	for _, f := range []struct {
		name string
		v    uint32
	}{{"virtual processors", l.VirtualProcessors}, {"logical processors", l.LogicalProcessors}, {"interrupt vectors", l.InterruptVectors}} {
		if f.v == 0 {
			t.add("%s not told", f.name)
		} else {
			t.add("up to %d %s", f.v, f.name)
		}
	}
	t.reserved("EDX", l.Reserved)
	return t.String()
}

// String returns the features.
func (l HardwareLeaf) String() string {
	var t line
	t.add("uses %v", l.Features)
	t.reserved("EBX ECX EDX", l.Reserved[:]...)
	return t.String()
}

// String returns the features.
func (l ManagementLeaf) String() string {
	var t line
	t.add("processor management %v", l.Features)
	t.add("power management %v", l.Power)
	t.reserved("ECX EDX", l.Reserved[:]...)
	return t.String()
}

// String returns the features.
func (l PasidLeaf) String() string {
	var t line
	t.add("shared virtual memory %v", l.Features)
	t.add("up to %d PASID spaces", l.MaxPasidSpaceCount)
	t.add("page request queue up to %d", l.MaxDevicePrqSize)
	t.reserved("EDX", l.Reserved)
	return t.String()
}

// String returns what can be used.
func (l NestedLeaf) String() string {
	var t line
	t.add("nested access %v", l.Access)
	t.add("features %v", l.Features)
	t.reserved("EBX ECX", l.Reserved[:]...)
	return t.String()
}

// String returns the optimizations.
func (l OptimizationsLeaf) String() string {
	var t line
	t.add("nested optimizations %v", l.Optimizations)
	t.add("enlightened VMCS fields %v", l.Fields)
	t.reserved("ECX EDX", l.Reserved[:]...)
	return t.String()
}

// String returns the registers that are not 0.
func (l IPTLeaf) String() string {
	r := l.Registers
	if r == (CPUID{}) {
		return "processor trace none"
	}
	t := line{"processor trace"}
	t.reserved("EAX EBX ECX EDX", r.EAX, r.EBX, r.ECX, r.EDX)
	return t.String()
}

// String returns how the partition is isolated.
func (l IsolationLeaf) String() string {
	var t line
	t.add("isolation %v", l.Features)
	t.add("state %v", l.State)
	t.reserved("ECX EDX", l.Reserved[:]...)
	return t.String()
}

// Leaves are the leaves of a hypervisor with the interface "Hv#1", in typed form. A
// hypervisor fills them in and answers CPUID with [Leaves.CPUID]; a guest gets them
// from [ReadLeaves].
type Leaves struct {
	Vendor          VendorLeaf
	Interface       InterfaceLeaf
	Version         VersionLeaf
	Features        FeaturesLeaf
	Recommendations RecommendationsLeaf
	Limits          LimitsLeaf
	Hardware        HardwareLeaf
	Management      ManagementLeaf
	Pasid           PasidLeaf
	Nested          NestedLeaf
	Optimizations   OptimizationsLeaf
	IPT             IPTLeaf
	Isolation       IsolationLeaf
}

// NewLeaves returns leaves that say who the hypervisor is and that its interface is
// "Hv#1", and no more. Of vendor the first 12 bytes are taken. Leaves beyond highest
// are not offered; one beyond what is known, or below what the interface needs, is
// brought within [MinLeaf] to [LeafIsolation].
func NewLeaves(vendor string, highest uint32) Leaves {
	var l Leaves
	copy(l.Vendor.Vendor[:], vendor)
	l.Vendor.MaxLeaf = min(LeafIsolation, max(highest, MinLeaf))
	l.Interface.Signature = SignatureHv1
	return l
}

// Set decodes one leaf. It reports false for a number that is none of 0x40000000 to
// 0x4000000C.
func (l *Leaves) Set(number uint32, r CPUID) bool {
	switch number {
	case LeafVendor:
		l.Vendor.MaxLeaf = r.EAX
		v := binary.LittleEndian
		v.PutUint32(l.Vendor.Vendor[0:], r.EBX)
		v.PutUint32(l.Vendor.Vendor[4:], r.ECX)
		v.PutUint32(l.Vendor.Vendor[8:], r.EDX)
	case LeafInterface:
		l.Interface = InterfaceLeaf{r.EAX, [3]uint32{r.EBX, r.ECX, r.EDX}}
	case LeafVersion:
		l.Version = VersionLeaf{r.EAX, uint16(r.EBX >> 16), uint16(r.EBX), r.ECX, r.EDX & 0xffffff, uint8(r.EDX >> 24)}
	case LeafFeatures:
		l.Features = FeaturesLeaf{MakePrivileges(r.EAX, r.EBX), PowerFeatures(r.ECX), Features(r.EDX)}
	case LeafRecommendations:
		l.Recommendations = RecommendationsLeaf{Recommendations(r.EAX), r.EBX, AddressWidth(r.ECX), r.EDX}
	case LeafLimits:
		l.Limits = LimitsLeaf{r.EAX, r.EBX, r.ECX, r.EDX}
	case LeafHardware:
		l.Hardware = HardwareLeaf{HardwareFeatures(r.EAX), [3]uint32{r.EBX, r.ECX, r.EDX}}
	case LeafManagement:
		l.Management = ManagementLeaf{ManagementFeatures(r.EAX), PowerManagement(r.EBX), [2]uint32{r.ECX, r.EDX}}
	case LeafPasid:
		l.Pasid = PasidLeaf{PasidFeatures(r.EAX), r.EBX, r.ECX, r.EDX}
	case LeafNested:
		l.Nested = NestedLeaf{NestedAccess(r.EAX), [2]uint32{r.EBX, r.ECX}, Features(r.EDX)}
	case LeafOptimizations:
		l.Optimizations = OptimizationsLeaf{NestedOptimizations(r.EAX), NestedFields(r.EBX), [2]uint32{r.ECX, r.EDX}}
	case LeafIPT:
		l.IPT = IPTLeaf{r}
	case LeafIsolation:
		l.Isolation = IsolationLeaf{IsolationFeatures(r.EAX), IsolationState(r.EBX), [2]uint32{r.ECX, r.EDX}}
	default:
		return false
	}
	return true
}

// Leaf returns one leaf, and false for a number that is none of 0x40000000 to
// 0x4000000C. It allocates; [Leaves.CPUID] does not.
func (l *Leaves) Leaf(number uint32) (Leaf, bool) {
	switch number {
	case LeafVendor:
		return l.Vendor, true
	case LeafInterface:
		return l.Interface, true
	case LeafVersion:
		return l.Version, true
	case LeafFeatures:
		return l.Features, true
	case LeafRecommendations:
		return l.Recommendations, true
	case LeafLimits:
		return l.Limits, true
	case LeafHardware:
		return l.Hardware, true
	case LeafManagement:
		return l.Management, true
	case LeafPasid:
		return l.Pasid, true
	case LeafNested:
		return l.Nested, true
	case LeafOptimizations:
		return l.Optimizations, true
	case LeafIPT:
		return l.IPT, true
	case LeafIsolation:
		return l.Isolation, true
	}
	return nil, false
}

// CPUID returns the registers of a leaf, for a hypervisor to answer with. It reports
// false for leaves that are not the hypervisor's: those below 0x40000000, and those
// beyond Vendor.MaxLeaf and beyond 0x4000000C.
func (l *Leaves) CPUID(number uint32) (CPUID, bool) {
	if number > l.Vendor.MaxLeaf {
		return CPUID{}, false
	}
	switch number {
	case LeafVendor:
		return l.Vendor.CPUID(), true
	case LeafInterface:
		return l.Interface.CPUID(), true
	case LeafVersion:
		return l.Version.CPUID(), true
	case LeafFeatures:
		return l.Features.CPUID(), true
	case LeafRecommendations:
		return l.Recommendations.CPUID(), true
	case LeafLimits:
		return l.Limits.CPUID(), true
	case LeafHardware:
		return l.Hardware.CPUID(), true
	case LeafManagement:
		return l.Management.CPUID(), true
	case LeafPasid:
		return l.Pasid.CPUID(), true
	case LeafNested:
		return l.Nested.CPUID(), true
	case LeafOptimizations:
		return l.Optimizations.CPUID(), true
	case LeafIPT:
		return l.IPT.CPUID(), true
	case LeafIsolation:
		return l.Isolation.CPUID(), true
	}
	return CPUID{}, false
}

// All returns the leaves up to Vendor.MaxLeaf, in ascending order.
func (l *Leaves) All() iter.Seq[Leaf] {
	return func(yield func(Leaf) bool) {
		for n := LeafVendor; n <= LeafIsolation && n <= l.Vendor.MaxLeaf; n++ {
			if leaf, _ := l.Leaf(n); !yield(leaf) {
				return
			}
		}
	}
}

// Errors of ReadLeaves.
var (
	// ErrNoHypervisor is that CPUID leaf 1 tells of no hypervisor.
	ErrNoHypervisor = errors.New("hypercall: there is no hypervisor: bit 31 of ECX of CPUID leaf 1 is 0")

	// ErrInterface is that the hypervisor's interface is not the TLFS's.
	ErrInterface = errors.New("hypercall: the hypervisor's interface is not \"Hv#1\"")
)

// ReadLeaves reads the leaves that there are with cpuid, which executes CPUID with a
// leaf in EAX and a subleaf in ECX. Its error wraps [ErrNoHypervisor] or
// [ErrInterface]. With the latter, leaves 0x40000000 and 0x40000001 are there all the
// same.
func ReadLeaves(cpuid func(leaf, subleaf uint32) CPUID) (*Leaves, error) {
	if cpuid(1, 0).ECX&HypervisorPresent == 0 {
		return nil, ErrNoHypervisor
	}
	l := new(Leaves)
	l.Set(LeafVendor, cpuid(LeafVendor, 0))
	l.Set(LeafInterface, cpuid(LeafInterface, 0))
	if l.Interface.Signature != SignatureHv1 || l.Vendor.MaxLeaf < MinLeaf {
		return l, fmt.Errorf("%w: %v, %v; this needs leaves up to 0x%x at least", ErrInterface, l.Vendor, l.Interface, MinLeaf)
	}
	for n := LeafVersion; n <= LeafIsolation && n <= l.Vendor.MaxLeaf; n++ {
		l.Set(n, cpuid(n, 0))
	}
	return l, nil
}
