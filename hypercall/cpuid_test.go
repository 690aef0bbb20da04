package hypercall_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

const known = hypercall.LeafIsolation - hypercall.LeafVendor + 1 // leaves

// Registers and what they say, by hand from the TLFS' tables.
func TestLeaves(t *testing.T) {
	for _, c := range []struct {
		number uint32
		r      hypercall.CPUID
		leaf   hypercall.Leaf
		text   string
	}{
		{0x40000000, hypercall.CPUID{EAX: 0x4000000c, EBX: 0x7263694d, ECX: 0x666f736f, EDX: 0x76482074},
			hypercall.VendorLeaf{MaxLeaf: 0x4000000c, Vendor: [12]byte([]byte("Microsoft Hv"))},
			`vendor "Microsoft Hv", leaves up to 0x4000000c`},
		{0x40000000, hypercall.CPUID{EAX: 0x40000001, EBX: 0x4b4d564b, ECX: 0x564b4d56, EDX: 0x4d},
			hypercall.VendorLeaf{MaxLeaf: 0x40000001, Vendor: [12]byte([]byte("KVMKVMKVM\x00\x00\x00"))},
			`vendor "KVMKVMKVM", leaves up to 0x40000001`},
		{0x40000001, hypercall.CPUID{EAX: 0x31237648}, hypercall.InterfaceLeaf{Signature: hypercall.SignatureHv1}, `interface "Hv#1"`},
		{0x40000001, hypercall.CPUID{EAX: 0x0a22ff41, ECX: 5}, hypercall.InterfaceLeaf{Signature: 0x0a22ff41, Reserved: [3]uint32{0, 5, 0}}, `interface "A\xff\"\n"; ECX 0x5`},
		{0x40000002, hypercall.CPUID{EAX: 22621, EBX: 0x000a0001, ECX: 2, EDX: 0x03000004},
			hypercall.VersionLeaf{Build: 22621, Major: 10, Minor: 1, ServicePack: 2, ServiceBranch: 3, ServiceNumber: 4},
			"version 10.1 build 22621, service pack 2, branch 3, number 4"},
		{0x40000003, hypercall.CPUID{EAX: 1<<2 | 1<<5, EBX: 1<<16 | 1<<17, ECX: 1 << 6, EDX: 1<<4 | 1<<15},
			hypercall.FeaturesLeaf{
				Privileges: hypercall.PrivilegeAccessSynicRegs | hypercall.PrivilegeAccessHypercallMsrs | hypercall.PrivilegeAccessVSM | hypercall.PrivilegeAccessVpRegisters,
				Power:      hypercall.PowerSupervisorShadowStack,
				Features:   hypercall.FeatureXmmHypercallInput | hypercall.FeatureXmmHypercallOutput,
			},
			"privileges AccessSynicRegs, AccessHypercallMsrs, AccessVSM, AccessVpRegisters; power SupervisorShadowStack; features XmmHypercallInput, XmmHypercallOutput"},
		{0x40000004, hypercall.CPUID{EAX: 1 << 11, EBX: 0xffffffff, ECX: 46, EDX: 1},
			hypercall.RecommendationsLeaf{Recommendations: hypercall.RecommendExProcessorMasks, SpinRetries: hypercall.NeverNotify, Address: 46, Reserved: 1},
			"recommends ExProcessorMasks; never notify of long spin waits; physical address width Implemented 0x2e; EDX 0x1"},
		{0x40000004, hypercall.CPUID{EBX: 4095}, hypercall.RecommendationsLeaf{SpinRetries: 4095},
			"recommends none; notify after 4095 spins; physical address width none"},
		{0x40000005, hypercall.CPUID{EAX: 240, EBX: 2048}, hypercall.LimitsLeaf{VirtualProcessors: 240, LogicalProcessors: 2048},
			"up to 240 virtual processors; up to 2048 logical processors; interrupt vectors not told"},
		{0x40000006, hypercall.CPUID{EAX: 1<<3 | 2<<10, EBX: 48},
			hypercall.HardwareLeaf{Features: hypercall.HardwareSecondLevelAddressTranslation.WithHypervisorLevel(2), Reserved: [3]uint32{48}},
			"uses SecondLevelAddressTranslation, HypervisorLevel 0x2; EBX 0x30"},
		{0x40000007, hypercall.CPUID{EAX: 1 << 31, EBX: 1},
			hypercall.ManagementLeaf{Features: hypercall.ManagementReservedIdentityBit, Power: hypercall.PowerManagementProcessorPowerManagement},
			"processor management ReservedIdentityBit; power management ProcessorPowerManagement"},
		{0x40000008, hypercall.CPUID{EAX: 1 | 3<<11, EBX: 4, ECX: 5},
			hypercall.PasidLeaf{Features: hypercall.PasidSvmSupported.WithMaxPasidSpacePasidCount(3), MaxPasidSpaceCount: 4, MaxDevicePrqSize: 5},
			"shared virtual memory SvmSupported, MaxPasidSpacePasidCount 0x3; up to 4 PASID spaces; page request queue up to 5"},
		{0x40000009, hypercall.CPUID{EAX: 1 << 12, ECX: 1, EDX: 1 << 17},
			hypercall.NestedLeaf{Access: hypercall.NestedAccessReenlightenmentControls, Reserved: [2]uint32{0, 1}, Features: hypercall.FeatureSintPollingMode},
			"nested access AccessReenlightenmentControls; features SintPollingMode; ECX 0x1"},
		{0x4000000a, hypercall.CPUID{EAX: 0x0101 | 1<<19, EBX: 1},
			hypercall.OptimizationsLeaf{
				Optimizations: hypercall.NestedOptimizationMsrBitmap.WithEnlightenedVmcsVersionLow(1).WithEnlightenedVmcsVersionHigh(1),
				Fields:        hypercall.NestedFieldPerfGlobalCtrl,
			},
			"nested optimizations EnlightenedVmcsVersionLow 0x1, EnlightenedVmcsVersionHigh 0x1, MsrBitmap; enlightened VMCS fields PerfGlobalCtrl"},
		{0x4000000b, hypercall.CPUID{}, hypercall.IPTLeaf{}, "processor trace none"},
		{0x4000000b, hypercall.CPUID{ECX: 7}, hypercall.IPTLeaf{Registers: hypercall.CPUID{ECX: 7}}, "processor trace; ECX 0x7"},
		{0x4000000c, hypercall.CPUID{EAX: 1, EBX: 2 | 1<<5 | 46<<6},
			hypercall.IsolationLeaf{Features: hypercall.IsolationParavisorPresent, State: hypercall.IsolationSharedGpaBoundaryActive.WithIsolationType(2).WithSharedGpaBoundaryBits(46)},
			"isolation ParavisorPresent; state IsolationType 0x2, SharedGpaBoundaryActive, SharedGpaBoundaryBits 0x2e"},
	} {
		l, ok := hypercall.DecodeLeaf(c.number, c.r)
		require.True(t, ok)
		require.Equal(t, c.leaf, l)
		require.Equal(t, c.number, l.Number())
		require.Equal(t, c.r, l.CPUID())
		require.Equal(t, c.text, l.String())
	}
	for _, n := range []uint32{0, 1, 0x3fffffff, 0x4000000d, 0x40000080, 0x80000000, 0xffffffff} {
		_, ok := hypercall.DecodeLeaf(n, hypercall.CPUID{})
		require.False(t, ok, "%#x", n)
	}
}

func drawCPUID(t *rapid.T, label string) hypercall.CPUID {
	r := rapid.SliceOfN(rapid.Uint32(), 4, 4).Draw(t, label)
	return hypercall.CPUID{EAX: r[0], EBX: r[1], ECX: r[2], EDX: r[3]}
}

// To decode and to build are inverse, for every value of the registers, one leaf does
// not touch another, and a processor that answers with leaves is read as those leaves.
func leaves(t *rapid.T) {
	model := map[uint32]hypercall.CPUID{}
	var l hypercall.Leaves
	for n := hypercall.LeafVendor; n <= hypercall.LeafIsolation; n++ {
		r := drawCPUID(t, "leaf")
		switch n {
		case hypercall.LeafVendor:
			r.EAX = hypercall.LeafVendor + rapid.Uint32Range(0, 20).Draw(t, "highest")
		case hypercall.LeafInterface:
			if rapid.Bool().Draw(t, "Hv#1") {
				r.EAX = hypercall.SignatureHv1
			}
		}
		model[n] = r
		require.True(t, l.Set(n, r))
		one, ok := hypercall.DecodeLeaf(n, r)
		require.True(t, ok)
		require.Equal(t, r, one.CPUID())
		require.NotEmpty(t, one.String())
	}
	highest := model[hypercall.LeafVendor].EAX
	count := 0
	for leaf := range l.All() {
		require.Equal(t, model[leaf.Number()], leaf.CPUID())
		count++
	}
	require.Equal(t, int(min(highest, hypercall.LeafIsolation)-hypercall.LeafVendor)+1, count)
	for _, n := range []uint32{0, 1, hypercall.LeafVendor - 1, hypercall.LeafIsolation + 1, hypercall.LeafVendor + rapid.Uint32Range(0, 20).Draw(t, "leaf")} {
		r, ok := l.CPUID(n)
		want, in := model[n]
		require.Equal(t, in && n <= highest, ok, "%#x", n)
		if ok {
			require.Equal(t, want, r)
		} else {
			require.Zero(t, r)
		}
	}

	present := rapid.Bool().Draw(t, "present")
	asked := map[uint32]bool{}
	got, err := hypercall.ReadLeaves(func(leaf, subleaf uint32) hypercall.CPUID {
		require.Zero(t, subleaf)
		if leaf == 1 {
			if present {
				return hypercall.CPUID{ECX: 1 << 31}
			}
			return hypercall.CPUID{EAX: 0xffffffff, EBX: 0xffffffff, ECX: 0x7fffffff, EDX: 0xffffffff}
		}
		require.LessOrEqual(t, leaf, highest|1, "not there")
		asked[leaf] = true
		return model[leaf]
	})
	switch {
	case !present:
		require.ErrorIs(t, err, hypercall.ErrNoHypervisor)
		require.Nil(t, got)
		require.Len(t, asked, 0)
	case model[hypercall.LeafInterface].EAX != hypercall.SignatureHv1 || highest < hypercall.MinLeaf:
		require.ErrorIs(t, err, hypercall.ErrInterface)
		require.Equal(t, l.Vendor, got.Vendor)
		require.Equal(t, l.Interface, got.Interface)
		require.Len(t, asked, 2)
	default:
		require.NoError(t, err)
		require.Equal(t, slices.Collect(l.All()), slices.Collect(got.All()))
		require.Len(t, asked, count)
	}
}

func TestReadLeaves(t *testing.T) { ring0test.CheckOnHost(t, leaves) }

func FuzzReadLeaves(f *testing.F) { f.Fuzz(rapid.MakeFuzz(leaves)) }

// What a hypervisor begins with is found by a guest.
func TestNewLeaves(t *testing.T) {
	for highest, want := range map[uint32]uint32{0: hypercall.MinLeaf, hypercall.LeafHardware: hypercall.LeafHardware, 0xffffffff: hypercall.LeafIsolation} {
		l := hypercall.NewLeaves("a name that is too long", highest)
		require.Equal(t, "a name that ", string(l.Vendor.Vendor[:]))
		require.Equal(t, want, l.Vendor.MaxLeaf)
		got, err := hypercall.ReadLeaves(func(leaf, _ uint32) hypercall.CPUID {
			if leaf == 1 {
				return hypercall.CPUID{ECX: hypercall.HypervisorPresent}
			}
			r, ok := l.CPUID(leaf)
			require.True(t, ok)
			return r
		})
		require.NoError(t, err)
		require.Equal(t, l, *got)
	}
}

// Fields of words: accessors take their bits, With is their inverse and touches no
// other. Privileges are two registers.
func TestFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64().Draw(t, "word")
		v := rapid.Uint64().Draw(t, "value")
		h := hypercall.HypercallMSR(n)
		require.Equal(t, n>>12, h.GPN())
		require.Equal(t, n&0xfff|v<<12, uint64(h.WithGPN(v)))
		s := hypercall.SINTMSR(n)
		require.Equal(t, uint8(n), s.Vector())
		require.Equal(t, n&^0xff|v&0xff, uint64(s.WithVector(uint8(v))))
		r := hypercall.ReenlightenmentMSR(n)
		require.Equal(t, uint32(n>>32), r.TargetVp())
		require.Equal(t, n&0xffffffff|v<<32, uint64(r.WithTargetVp(uint32(v))))
		timer := hypercall.STimerConfigMSR(n)
		require.Equal(t, uint8(n>>4), timer.ApicVector())
		require.Equal(t, uint8(n>>16&15), timer.SINTx())
		require.Equal(t, n&^0xff0|v&0xff<<4, uint64(timer.WithApicVector(uint8(v))))
		require.Equal(t, n&^0xf0000|v&0xf<<16, uint64(timer.WithSINTx(uint8(v))))
		hw := hypercall.HardwareFeatures(n)
		require.Equal(t, uint8(n>>10&15), hw.HypervisorLevel())
		require.Equal(t, n&1 == 1 && n&2 != 0, h.Has(hypercall.HypercallMSREnable|hypercall.HypercallMSRLocked))
		p := hypercall.Privileges(n)
		eax, ebx := p.Registers()
		require.Equal(t, n, uint64(ebx)<<32|uint64(eax))
		require.Equal(t, p, hypercall.MakePrivileges(eax, ebx))
	})
	require.Equal(t, hypercall.SINTMSR(0x10000), hypercall.SINTReset)
	require.True(t, strings.HasSuffix(hypercall.Privileges(1<<63).String(), "reserved 0x8000000000000000"))
}

func TestLeafNumbers(t *testing.T) {
	l := hypercall.NewLeaves("", 0xffffffff)
	n := hypercall.LeafVendor
	for leaf := range l.All() {
		require.Equal(t, n, leaf.Number())
		n++
	}
	require.Equal(t, known, n-hypercall.LeafVendor)
	for range l.All() {
		break // an iteration can be left
	}
}
