package vmcs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"pgregory.net/rapid"
)

// strictMSRs answers as a processor does: an MSR that is not there is an error.
type strictMSRs map[uint32]uint64

var errGP = errors.New("#GP")

func (m strictMSRs) ReadMSR(msr uint32) (uint64, error) {
	v, ok := m[msr]
	if !ok {
		return 0, errGP
	}
	return v, nil
}

// leaves answers CPUID; leaves that a processor does not have must not be asked
// for.
type leaves struct {
	t testing.TB
	m map[[2]uint32][4]uint32
}

func (l leaves) ReadCPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32) {
	v, ok := l.m[[2]uint32{leaf, subleaf}]
	if !ok {
		l.t.Fatalf("leaf %#x, %d is not there", leaf, subleaf)
	}
	return v[0], v[1], v[2], v[3]
}

// plainCPU has VMX and long mode, and nothing else.
func plainCPU(t testing.TB) leaves {
	return leaves{t, map[[2]uint32][4]uint32{
		{0, 0}:           {1},
		{1, 0}:           {2: 1 << 5},
		{0x8000_0000, 0}: {0x8000_0008},
		{0x8000_0001, 0}: {3: 1<<29 | 1<<20 | 1<<11},
		{0x8000_0008, 0}: {0x3027},
	}}
}

// oldMSRs are those of a processor that announces nothing.
func oldMSRs() strictMSRs {
	return strictMSRs{
		0x3a: 5, 0x480: 0x001a_0400_0000_0007,
		0x481: 0x0000_003f_0000_0016, 0x482: 0x77f9_fffe_0401_e172, 0x483: 0x0003_efff_0003_6dff, 0x484: 0x0000_1fff_0000_11ff,
		0x485: 0x0403c0, 0x486: 0x8000_0021, 0x487: 0xffff_ffff, 0x488: 0x2000, 0x489: 0x27ff, 0x48a: 0x2c,
	}
}

// TestGates: each MSR is read if and only if the processor announces it.
func TestGates(t *testing.T) {
	up := func(msr uint32, bit int) func(strictMSRs) { return func(m strictMSRs) { m[msr] |= 1 << bit } }
	secondary := up(0x482, 32+31)
	for _, c := range []struct {
		name     string
		announce []func(strictMSRs)
		with     map[uint32]uint64
		lacking  uint32 // the MSR whose reading must be tried
		group    vmcs.ControlGroup
		want     vmcs.Allowed
	}{
		{"TRUE pin-based", []func(strictMSRs){up(0x480, 55)}, map[uint32]uint64{0x48d: 0x3f_0000_0000, 0x48e: 1 << 32, 0x48f: 1 << 33, 0x490: 1 << 34},
			0x48d, vmcs.GroupPin, vmcs.Allowed{May1: 0x3f}},
		{"TRUE primary", []func(strictMSRs){up(0x480, 55)}, map[uint32]uint64{0x48d: 1 << 32, 0x48e: 0x0401_e172_0400_6172, 0x48f: 1 << 33, 0x490: 1 << 34},
			0x48e, vmcs.GroupPrimary, vmcs.Allowed{Must1: 0x0400_6172, May1: 0x0401_e172}},
		{"TRUE exit", []func(strictMSRs){up(0x480, 55)}, map[uint32]uint64{0x48d: 1 << 32, 0x48e: 1 << 32, 0x48f: 0x3_6dff_0003_6dfb, 0x490: 1 << 34},
			0x48f, vmcs.GroupExit, vmcs.Allowed{Must1: 0x3_6dfb, May1: 0x3_6dff}},
		{"TRUE entry", []func(strictMSRs){up(0x480, 55)}, map[uint32]uint64{0x48d: 1 << 32, 0x48e: 1 << 32, 0x48f: 1 << 33, 0x490: 0x11ff_0000_11fb},
			0x490, vmcs.GroupEntry, vmcs.Allowed{Must1: 0x11fb, May1: 0x11ff}},
		{"secondary", []func(strictMSRs){secondary}, map[uint32]uint64{0x48b: 1 << (32 + 7)}, 0x48b, vmcs.GroupSecondary, vmcs.Allowed{May1: 1 << 7}},
		{"EPT", []func(strictMSRs){secondary}, map[uint32]uint64{0x48b: 1 << (32 + 1), 0x48c: 0x141}, 0x48c, vmcs.GroupSecondary, vmcs.Allowed{May1: 1 << 1}},
		{"VPID", []func(strictMSRs){secondary}, map[uint32]uint64{0x48b: 1 << (32 + 5), 0x48c: 0x141}, 0x48c, vmcs.GroupSecondary, vmcs.Allowed{May1: 1 << 5}},
		{"VM functions", []func(strictMSRs){secondary}, map[uint32]uint64{0x48b: 1 << (32 + 13), 0x491: 1}, 0x491, vmcs.GroupVMFunctions, vmcs.Allowed{May1: 1}},
		{"tertiary", []func(strictMSRs){up(0x482, 32+17)}, map[uint32]uint64{0x492: 1<<63 | 2}, 0x492, vmcs.GroupTertiary, vmcs.Allowed{May1: 1<<63 | 2}},
		{"secondary exit", []func(strictMSRs){up(0x483, 32+31)}, map[uint32]uint64{0x493: 8}, 0x493, vmcs.GroupSecondaryExit, vmcs.Allowed{May1: 8}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := oldMSRs()
			got, err := vmcs.ReadCapabilities(m, plainCPU(t))
			require.NoError(t, err, "nothing is announced, nothing else is read")
			require.NotEqual(t, c.want, got.Controls[c.group])

			for _, f := range c.announce {
				f(m)
			}
			maps.Copy(m, c.with)
			got, err = vmcs.ReadCapabilities(m, plainCPU(t))
			require.NoError(t, err)
			require.Equal(t, c.want, got.Controls[c.group])
			if v, ok := c.with[0x48c]; ok {
				require.Equal(t, vmcs.EPTVPID(v), got.EPTVPID)
			}

			delete(m, c.lacking)
			_, err = vmcs.ReadCapabilities(m, plainCPU(t))
			require.ErrorIs(t, err, errGP)
			require.ErrorContains(t, err, fmt.Sprintf("%#x", c.lacking))
			require.ErrorContains(t, err, vmcs.MSRName(c.lacking))
		})
	}
}

func TestReadCapabilitiesErrors(t *testing.T) {
	_, err := vmcs.ReadCapabilities(nil, nil)
	require.Error(t, err)

	noVMX := plainCPU(t)
	noVMX.m[[2]uint32{1, 0}] = [4]uint32{}
	_, err = vmcs.ReadCapabilities(strictMSRs{}, noVMX)
	require.ErrorIs(t, err, vmcs.ErrNoVMX, "and no MSR is read")

	for msr := range oldMSRs() {
		m := oldMSRs()
		delete(m, msr)
		_, err := vmcs.ReadCapabilities(m, plainCPU(t))
		require.ErrorIs(t, err, errGP, "%#x", msr)
	}

	m := oldMSRs()
	m[0x481] = 0x16 // must be 1, must be 0
	_, err = vmcs.ReadCapabilities(m, nil)
	require.ErrorContains(t, err, "bit 1, bit 2, bit 4")
	m = oldMSRs()
	m[0x489] = 0
	_, err = vmcs.ReadCapabilities(m, nil)
	require.ErrorContains(t, err, "CR4")
	require.ErrorContains(t, err, "0x2000")
}

func TestCanVMXON(t *testing.T) {
	for _, c := range []struct {
		value vmcs.FeatureControl
		says  string // "" if it can
	}{
		{0x5, ""}, {0x7, ""}, {0x20005, ""},
		{0x0, "write 0x5 to MSR 0x3a"},
		{0x4, "write 0x5 to MSR 0x3a"},
		{0x20000, "write 0x20005 to MSR 0x3a"},
		{0x1, "firmware"}, {0x3, "firmware"},
	} {
		m := oldMSRs()
		m[0x3a] = uint64(c.value)
		caps, err := vmcs.ReadCapabilities(m, nil)
		require.NoError(t, err)
		err = caps.CanVMXON()
		if c.says == "" {
			require.NoError(t, err, "%v", c.value)
			continue
		}
		require.ErrorIs(t, err, vmcs.ErrVMXLockedOff)
		require.ErrorContains(t, err, c.says)
	}
	require.Equal(t, "0x5 (locked, VMX outside SMX operation)", vmcs.FeatureControl(5).String())
	require.Equal(t, "0x2 (VMX in SMX operation)", vmcs.FeatureControl(2).String())
	require.Equal(t, "0x0 (none)", vmcs.FeatureControl(0).String())
	require.True(t, vmcs.FeatureControl(2).VMXInSMX())

	r, err := vmcs.RecordedModel("westmere_hp_2540p")
	require.NoError(t, err)
	caps, err := r.Capabilities()
	require.NoError(t, err)
	require.False(t, caps.HasFeatureControl)
	require.NoError(t, caps.CanVMXON(), "not known")
}

// TestBitsOfCapabilityMSRs sets one bit after another, and looks which accessor
// sees it, by SDM Vol. 3D A.1, A.6 and A.10.
func TestBitsOfCapabilityMSRs(t *testing.T) {
	type accessors = map[string]any
	for _, c := range []struct {
		name string
		at   func(v uint64) accessors
		bits map[string]string // "low-high", or a bit, to the accessor
	}{
		{"basic", func(v uint64) accessors {
			b := vmcs.Basic(v)
			return accessors{"revision": b.Revision(), "size": b.RegionSize(), "32": b.Addresses32(), "dual": b.DualMonitor(), "type": b.MemoryType(),
				"insouts": b.InsOutsInfo(), "true": b.TrueControls(), "error code": b.AnyErrorCode(), "nested": b.NestedExceptions()}
		}, map[string]string{"0-30": "revision", "32-44": "size", "48": "32", "49": "dual", "50-53": "type", "54": "insouts", "55": "true", "56": "error code", "58": "nested"}},
		{"misc", func(v uint64) accessors {
			m := vmcs.Misc(v)
			return accessors{"timer": m.TimerShift(), "LMA": m.StoresLMA(), "HLT": m.ActivityHLT(), "shutdown": m.ActivityShutdown(), "SIPI": m.ActivityWaitForSIPI(),
				"PT": m.IntelPT(), "SMBASE": m.ReadsSMBase(), "CR3": m.CR3Targets(), "list": m.MSRListMax(), "SMI": m.BlocksSMI(),
				"VMWRITE": m.WritesExitInformation(), "length": m.ZeroLengthInjection(), "MSEG": m.MSEGRevision()}
		}, map[string]string{"0-4": "timer", "5": "LMA", "6": "HLT", "7": "shutdown", "8": "SIPI", "14": "PT", "15": "SMBASE", "16-24": "CR3", "25-27": "list",
			"28": "SMI", "29": "VMWRITE", "30": "length", "32-63": "MSEG"}},
		{"EPT and VPID", func(v uint64) accessors {
			e := vmcs.EPTVPID(v)
			return accessors{"x": e.ExecuteOnly(), "4": e.Walk4(), "5": e.Walk5(), "UC": e.Uncacheable(), "WB": e.WriteBack(), "2M": e.Pages2M(), "1G": e.Pages1G(),
				"INVEPT": e.INVEPT(), "AD": e.AccessedDirty(), "info": e.AdvancedExitInfo(), "SSS": e.SupervisorShadowStack(), "INVEPT 1": e.INVEPTSingleContext(),
				"INVEPT all": e.INVEPTAllContexts(), "INVVPID": e.INVVPID(), "INVVPID address": e.INVVPIDAddress(), "INVVPID 1": e.INVVPIDSingleContext(),
				"INVVPID all": e.INVVPIDAllContexts(), "INVVPID globals": e.INVVPIDSingleContextRetainingGlobals(), "HLAT": e.MaxHLATPrefix()}
		}, map[string]string{"0": "x", "6": "4", "7": "5", "8": "UC", "14": "WB", "16": "2M", "17": "1G", "20": "INVEPT", "21": "AD", "22": "info", "23": "SSS",
			"25": "INVEPT 1", "26": "INVEPT all", "32": "INVVPID", "40": "INVVPID address", "41": "INVVPID 1", "42": "INVVPID all", "43": "INVVPID globals", "48-53": "HLAT"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := map[int]string{}
			for bits, name := range c.bits {
				var low, high int
				if n, _ := fmt.Sscanf(bits, "%d-%d", &low, &high); n == 1 {
					high = low
				}
				for bit := low; bit <= high; bit++ {
					want[bit] = name
				}
			}
			zero := c.at(0)
			require.Len(t, c.bits, len(zero), "every accessor is in the table")
			for bit := range 64 {
				seen := ""
				for name, v := range c.at(1 << bit) {
					if v != zero[name] {
						seen += name
					}
				}
				require.Equal(t, want[bit], seen, "bit %d", bit)
			}
		})
	}
	require.Equal(t, 512, vmcs.Misc(0).MSRListMax())
	require.Equal(t, 4096, vmcs.Misc(7<<25).MSRListMax())
	require.Equal(t, 7, vmcs.Misc(0x7004c1e7).TimerShift())
}

func TestCapabilityMSRsPrint(t *testing.T) {
	for _, c := range []struct {
		value fmt.Stringer
		want  string
	}{
		{vmcs.Basic(0x00da_0400_0000_0010), "revision 0x10, 1024-byte regions, write-back; dual-monitor treatment, INS/OUTS information, TRUE controls"},
		{vmcs.Basic(0x0001_1000_0000_0001), "revision 0x1, 4096-byte regions, uncacheable; 32-bit addresses"},
		{vmcs.Basic(0x0504_0000_0000_0000), "revision 0x0, 0-byte regions, memory type 1; any error code, nested exceptions"},
		{vmcs.Misc(0x1004_01e5), "timer shift 5, 4 CR3 targets, MSR lists of 512, MSEG revision 0x0; stores LMA, HLT state, shutdown state, wait-for-SIPI state, blocks SMIs"},
		{vmcs.EPTVPID(0x0010_0f01_0611_4141), "execute-only, 4 levels, UC, WB, 2 MiB pages, INVEPT, INVEPT of one context, INVEPT of all contexts, INVVPID, " +
			"INVVPID of one address, INVVPID of one context, INVVPID of all contexts, INVVPID of one context but globals, HLAT prefix up to 16"},
		{vmcs.EPTVPID(0), "none"},
	} {
		require.Equal(t, c.want, c.value.String())
	}
	require.Equal(t, "IA32_VMX_PROCBASED_CTLS3", vmcs.MSRName(0x492))
	require.Equal(t, "MSR(0x10)", vmcs.MSRName(0x10))
}

func TestFixedBits(t *testing.T) {
	c, err := vmcs.Model("core_i7_3770")
	require.NoError(t, err)
	const pe, ne, pg = 1, 1 << 5, 1 << 31
	require.Equal(t, uint64(pe|ne|pg), c.FixedCR0(0, false))
	require.Equal(t, uint64(ne), c.FixedCR0(0, true), "an unrestricted guest needs neither PE nor PG")
	require.Equal(t, uint64(pe|ne), c.FixedCR0(pe, true))
	require.Equal(t, uint64(0xffff_ffff), c.FixedCR0(^uint64(0), true))
	require.Equal(t, uint64(0x2000), c.FixedCR4(0))
	require.Equal(t, uint64(0x1767ff), c.FixedCR4(^uint64(0)))
	require.Equal(t, 0x15, c.HighestIndex())
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.Uint64().Draw(t, "want")
		for _, got := range []uint64{c.FixedCR0(want, false), c.FixedCR0(want, true)} {
			require.Zero(t, got&^c.CR0Fixed1)
			require.Equal(t, want&c.CR0Fixed1&^c.CR0Fixed0, got&^c.CR0Fixed0, "bits that are free stay")
		}
		require.Equal(t, c.CR0Fixed0, c.FixedCR0(want, false)&c.CR0Fixed0)
		got := c.FixedCR4(want)
		require.Equal(t, c.CR4Fixed0, got&c.CR4Fixed0)
		require.Zero(t, got&^c.CR4Fixed1)
	})
}

func TestSupports(t *testing.T) {
	c, err := vmcs.Model("core_i7_3770")
	require.NoError(t, err)
	require.True(t, vmcs.Supports(c, vmcs.SecondaryEnableEPT|vmcs.SecondaryEnableVPID))
	require.False(t, vmcs.Supports(c, vmcs.SecondaryEnableEPT|vmcs.SecondaryEnablePML))
	require.True(t, vmcs.Supports(c, vmcs.TertiaryControls(0)))
	require.False(t, vmcs.Supports(c, vmcs.VMFuncEPTPSwitching))
	require.False(t, c.Has(vmcs.NumControlGroups, 0))
	a := c.Controls[vmcs.GroupPin]
	require.True(t, a.Allows(a.Must1))
	require.False(t, a.Allows(0))
	require.False(t, a.Allows(a.Must1|1<<7))
	require.Equal(t, uint64(vmcs.PinExternalInterruptExiting|vmcs.PinNMIExiting|vmcs.PinVirtualNMIs|vmcs.PinActivateVMXPreemptionTimer), a.Free())
}

// TestModels: each recorded model can be read, tells where it is from, and obeys
// what the SDM says of every processor.
func TestModels(t *testing.T) {
	names := vmcs.Models()
	require.True(t, slices.IsSorted(names))
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			text, err := vmcs.ModelText(name)
			require.NoError(t, err)
			lines := strings.Split(text, "\n")
			require.True(t, strings.HasPrefix(lines[0], "# "))
			require.True(t, strings.HasPrefix(lines[1], "# Source: "))
			r, err := vmcs.RecordedModel(name)
			require.NoError(t, err)
			values := lines[slices.IndexFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "#") }):]
			require.Equal(t, strings.Join(values, "\n"), r.String(), "the file is written as String writes it")

			c, err := vmcs.Model(name)
			require.NoError(t, err)
			require.NoError(t, c.CanVMXON())
			require.False(t, c.Basic.Addresses32(), "SDM Vol. 3D A.1: 0 on processors with Intel 64")
			require.Equal(t, uint8(6), c.Basic.MemoryType())
			require.LessOrEqual(t, c.Basic.RegionSize(), 4096)
			require.Greater(t, c.Basic.RegionSize(), 0)
			require.Equal(t, uint64(0x8000_0021), c.CR0Fixed0)
			require.Equal(t, uint64(1<<13), c.CR4Fixed0)
			if vmcs.Supports(c, vmcs.SecondaryUnrestrictedGuest) {
				require.True(t, vmcs.Supports(c, vmcs.SecondaryEnableEPT))
				require.True(t, c.Misc.StoresLMA() || strings.HasPrefix(name, "bochs_"), "SDM Vol. 3D A.6")
			}
			if c.CPU.Known {
				require.True(t, c.CPU.VMX && c.CPU.LongMode)
				require.Equal(t, uint64(0xd01), c.CPU.EFERValid)
				require.Equal(t, uint8(48), c.CPU.LinearAddressBits)
				require.GreaterOrEqual(t, c.CPU.PhysicalAddressBits, uint8(36))
			}
			for g, a := range c.Controls {
				g := vmcs.ControlGroup(g)
				require.Zero(t, a.Must1&^g.Default1(), "%v: only bits of the default1 class must be 1", g)
				if !c.Basic.TrueControls() {
					require.Equal(t, g.Default1(), a.Must1, "%v", g)
				}
				v, err := c.SettleBits(g, 0, a.May1, 0)
				require.NoError(t, err)
				require.Equal(t, a.May1, v)
			}
		})
	}
	_, err := vmcs.Model("i8086")
	require.ErrorContains(t, err, `"i8086"`)
	require.ErrorContains(t, err, "core_i7_3770")
	_, err = vmcs.ModelText("../../field.go\x00")
	require.Error(t, err)
}

func TestCPU(t *testing.T) {
	get := func(model string) vmcs.CPU {
		c, err := vmcs.Model(model)
		require.NoError(t, err)
		return c.CPU
	}
	ivy := get("core_i7_3770")
	require.Equal(t, vmcs.CPU{
		Known: true, PhysicalAddressBits: 36, LinearAddressBits: 48,
		EFERValid: 0xd01, DebugCtlValid: 0x7fc3, PerfGlobalCtrlValid: 0x7_0000_000f,
		VMX: true, SMX: true, LongMode: true, X2APIC: true,
	}, ivy)
	tiger := get("bochs_tigerlake")
	require.True(t, tiger.CET && !tiger.UINTR && !tiger.PKS && !tiger.FRED)
	require.False(t, get("bochs_corei7_skylake_x").CET)
	require.Equal(t, vmcs.AnyCPU(), get("westmere_hp_2540p"))
	require.False(t, vmcs.AnyCPU().Known)

	// One bit of CPUID after another.
	for _, c := range []struct {
		leaf, subleaf uint32
		register, bit int
		has           func(vmcs.CPU) bool
	}{
		{1, 0, 2, 5, func(c vmcs.CPU) bool { return c.VMX }},
		{1, 0, 2, 6, func(c vmcs.CPU) bool { return c.SMX }},
		{1, 0, 2, 21, func(c vmcs.CPU) bool { return c.X2APIC }},
		{1, 0, 3, 21, func(c vmcs.CPU) bool { return c.DebugCtlValid == 0x43|0x780 }},
		{7, 0, 1, 2, func(c vmcs.CPU) bool { return c.SGX }},
		{7, 0, 1, 11, func(c vmcs.CPU) bool { return c.RTM && c.DebugCtlValid == 0x43|1<<15 }},
		{7, 0, 1, 14, func(c vmcs.CPU) bool { return c.MPX }},
		{7, 0, 1, 25, func(c vmcs.CPU) bool { return c.IntelPT }},
		{7, 0, 2, 7, func(c vmcs.CPU) bool { return c.CET }},
		{7, 0, 2, 24, func(c vmcs.CPU) bool { return c.DebugCtlValid == 0x43|1<<2 }},
		{7, 0, 2, 31, func(c vmcs.CPU) bool { return c.PKS }},
		{7, 0, 3, 5, func(c vmcs.CPU) bool { return c.UINTR }},
		{7, 0, 3, 19, func(c vmcs.CPU) bool { return c.ArchLBR }},
		{7, 0, 3, 20, func(c vmcs.CPU) bool { return c.CET }},
		{7, 1, 0, 17, func(c vmcs.CPU) bool { return c.FRED }},
		{7, 1, 0, 26, func(c vmcs.CPU) bool { return c.LAM }},
		{0x8000_0001, 0, 3, 29, func(c vmcs.CPU) bool { return c.LongMode && c.EFERValid == 0x501 }},
		{0x8000_0001, 0, 3, 20, func(c vmcs.CPU) bool { return c.EFERValid == 0x800 }},
		{0x8000_0001, 0, 3, 11, func(c vmcs.CPU) bool { return c.EFERValid == 1 }},
		{0x8000_0008, 0, 0, 5, func(c vmcs.CPU) bool { return c.PhysicalAddressBits == 32 }},
	} {
		all := leaves{t, map[[2]uint32][4]uint32{
			{0, 0}: {10}, {1, 0}: {}, {7, 0}: {1}, {7, 1}: {}, {10, 0}: {},
			{0x8000_0000, 0}: {0x8000_0008}, {0x8000_0001, 0}: {}, {0x8000_0008, 0}: {},
		}}
		require.False(t, c.has(vmcs.ReadCPU(all)))
		v := all.m[[2]uint32{c.leaf, c.subleaf}]
		v[c.register] |= 1 << c.bit
		all.m[[2]uint32{c.leaf, c.subleaf}] = v
		require.True(t, c.has(vmcs.ReadCPU(all)), "leaf %#x, %d, register %d, bit %d", c.leaf, c.subleaf, c.register, c.bit)
	}

	for _, c := range []struct {
		eax, ecx, edx uint32
		want          uint64
	}{
		{0, 0, 0, 0},
		{0x0201, 0, 3, 0x3},
		{0x0402, 0, 3, 0x7_0000_000f},
		{0x0805, 0xf, 4, 0x1_000f_0000_00ff},
		{0xff05, 0xffff, 31, 0x1_ffff_ffff_ffff},
	} {
		all := leaves{t, map[[2]uint32][4]uint32{
			{0, 0}: {10}, {1, 0}: {}, {7, 0}: {}, {10, 0}: {c.eax, 0, c.ecx, c.edx}, {0x8000_0000, 0}: {},
		}}
		require.Equal(t, c.want, vmcs.ReadCPU(all).PerfGlobalCtrlValid, "%#x", c.eax)
	}
}

func TestRecordedText(t *testing.T) {
	const basic = 0x00d8_1000_0000_002b
	for _, line := range []string{
		"msr 0x480 0x00d810000000002b",
		"0x480 00d810000000002b",
		"480: d810000000002b",
		"MSR 480 = 00d81000_0000002b",
		"MSR_480 = 00d81000`0000002b",
		"msr480 00D810000000002Bh",
		"IA32_VMX_BASIC (0x480): 0x00d810000000002b",
		"IA32_VMX_BASIC=0x00d810000000002b # a comment",
		"00:00:00.154395 HM: MSR_IA32_VMX_BASIC                = 0xd810000000002b",
		"CPU(0x00): RDMSR(0x00000480) = 0x00d810000000002b",
		"$ rdmsr 0x480\nd810000000002b",
		"# rdmsr\nrdmsr -x -p 0 0x480\r\n  00d810000000002b\r\n",
	} {
		r, err := vmcs.ParseRecorded("some words before\n" + line + "\nHM:   VMCS size = 1024 bytes\n")
		require.NoError(t, err, line)
		v, err := r.ReadMSR(0x480)
		require.NoError(t, err, line)
		require.Equal(t, uint64(basic), v, line)
		_, err = r.ReadMSR(0x481)
		require.ErrorIs(t, err, vmcs.ErrNotRecorded)
		require.True(t, r.CPUID() == nil)
		require.Equal(t, "msr 0x480 0x00d810000000002b # IA32_VMX_BASIC\n", r.String())
	}
	for _, line := range []string{
		"cpuid 7 0 00000001 009c6fbb 2 0x3",
		"CPUID 0x00000007 0x00: 00000001 009c6fbb 00000002 00000003",
		"   0x00000007 0x00: eax=0x00000001 ebx=0x009c6fbb ecx=0x00000002 edx=0x00000003",
	} {
		r, err := vmcs.ParseRecorded("msr 0x480 1\n" + line + "\n" + line + "\n")
		require.NoError(t, err, line)
		a, b, c, d := r.CPUID().ReadCPUID(7, 0)
		require.Equal(t, [4]uint32{1, 0x9c6fbb, 2, 3}, [4]uint32{a, b, c, d})
		a, _, _, _ = r.CPUID().ReadCPUID(0, 0)
		require.Equal(t, uint32(7), a, "the highest leaf recorded")
		a, b, c, d = r.CPUID().ReadCPUID(1, 0)
		require.Zero(t, a|b|c|d)
	}
	for _, c := range []struct{ text, says string }{
		{"", "no capability MSR"},
		{"nothing here\n# msr 0x480 1\n", "no capability MSR"},
		{"msr 0x10 1", "no capability MSR"},
		{"msr 0x480 1\nmsr 0x480 2", "line 2: IA32_VMX_BASIC (MSR 0x480) is 0x2 here and 0x1 before"},
		{"msr 0x480 xyz", `line 1: "xyz" is no value`},
		{"msr 0x480 00112233445566778", "is no value"},
		{"msr 0x480", "without a value"},
		{"msr 0x480 1\ncpuid 1 2 3 4 5 123456789", `"123456789"`},
	} {
		_, err := vmcs.ParseRecorded(c.text)
		require.ErrorContains(t, err, c.says, c.text)
	}
	r, err := vmcs.ParseRecorded("RDMSR(0x480) = 1\nRDMSR(0x491) = unavailable\nrdmsr: CPU 0 cannot read MSR 0x00000492\n2\n")
	require.NoError(t, err)
	require.Equal(t, "msr 0x480 0x0000000000000001 # IA32_VMX_BASIC\n", r.String())

	var many strings.Builder
	many.WriteString("msr 0x480 1\n")
	for i := range 1025 {
		fmt.Fprintf(&many, "cpuid 7 %x 0 0 0 0\n", i)
	}
	_, err = vmcs.ParseRecorded(many.String())
	require.ErrorContains(t, err, "1024 leaves")

	text, err := json.Marshal(r)
	require.NoError(t, err)
	var back vmcs.Recorded
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, *r, back)
	require.Error(t, back.UnmarshalText([]byte("x")))
	require.Equal(t, *r, back, "a failed UnmarshalText changes nothing")
}

// TestRecord: recording a model gives the model.
func TestRecord(t *testing.T) {
	for _, name := range vmcs.Models() {
		want, err := vmcs.RecordedModel(name)
		require.NoError(t, err)
		got, err := vmcs.Record(want, want.CPUID())
		require.NoError(t, err)
		require.Equal(t, want.String(), got.String())
	}
	_, err := vmcs.Record(nil, nil)
	require.Error(t, err)
	m := oldMSRs()
	delete(m, 0x481)
	_, err = vmcs.Record(m, nil)
	require.ErrorIs(t, err, errGP)
}

func FuzzRecorded(f *testing.F) {
	for _, name := range vmcs.Models() {
		text, err := vmcs.ModelText(name)
		require.NoError(f, err)
		f.Add(text)
	}
	f.Add("rdmsr 0x480\nd810000000002b\nIA32_VMX_MISC\n0x7 0x0: eax=1 ebx=2 ecx=3 edx=4\nmsr 48c")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := vmcs.ParseRecorded(text)
		if err != nil {
			require.Less(t, len(err.Error()), 1000)
			return
		}
		back, err := vmcs.ParseRecorded(r.String())
		require.NoError(t, err)
		require.Equal(t, r, back)
		c, err := r.Capabilities()
		if err != nil {
			return
		}
		for g, a := range c.Controls {
			require.Zero(t, a.Must1&^a.May1)
			_, err := c.SettleBits(vmcs.ControlGroup(g), 0, ^uint64(0), 0)
			require.NoError(t, err)
		}
		require.Zero(t, c.FixedCR0(^uint64(0), true)&^c.CR0Fixed1)
		_ = c.Basic.String() + c.Misc.String() + c.EPTVPID.String()
	})
}

func ExampleModel() {
	c, err := vmcs.Model("core_i7_3770")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Basic)
	fmt.Println("unrestricted guest:", vmcs.Supports(c, vmcs.SecondaryUnrestrictedGuest))
	fmt.Println("pages of 1 GiB:", c.EPTVPID.Pages1G())
	fmt.Printf("CR0 in VMX operation: %#x\n", c.FixedCR0(0, false))
	// Output:
	// revision 0x10, 1024-byte regions, write-back; dual-monitor treatment, INS/OUTS information, TRUE controls
	// unrestricted guest: true
	// pages of 1 GiB: false
	// CR0 in VMX operation: 0x80000021
}

func ExampleParseRecorded() {
	r, err := vmcs.ParseRecorded("00:00:00.15 HM: MSR_IA32_VMX_BASIC = 0xda040000000010")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(r)
	// Output:
	// msr 0x480 0x00da040000000010 # IA32_VMX_BASIC
}

func BenchmarkReadCapabilities(b *testing.B) {
	r, err := vmcs.RecordedModel("bochs_tigerlake")
	require.NoError(b, err)
	cpuid := r.CPUID()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = vmcs.ReadCapabilities(r, cpuid)
	}
}
