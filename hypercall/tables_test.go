package hypercall_test

import (
	_ "embed"
	"encoding"
	"encoding/csv"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
)

// deref returns what a pointer points to.
func deref(p any) any { return reflect.ValueOf(p).Elem().Interface() }

var (
	//go:embed testdata/witnesses/calls.csv
	callWitnesses string
	//go:embed testdata/witnesses/statuses.csv
	statusWitnesses string
	//go:embed testdata/witnesses/registers.csv
	registerWitnesses string
	//go:embed testdata/witnesses/msrs.csv
	msrWitnesses string
	//go:embed testdata/witnesses/features.csv
	featureWitnesses string
)

// table returns the rows of a table, and before them the names of its columns.
func table(t require.T, text string) [][]string {
	t.Helper()
	r := csv.NewReader(strings.NewReader(text))
	r.Comment = '#'
	all, err := r.ReadAll()
	require.NoError(t, err)
	return all
}

func rows(t require.T, text string) [][]string { return table(t, text)[1:] }

// A witness is one source's name for a number.
type witness struct {
	number        uint64
	project, tag  string // before the name: "tlfs-page:rep" is project tlfs, tag rep
	name, rowText string
}

func witnessesOf(t require.T, text string) (all []witness) {
	for _, row := range rows(t, text) {
		n, err := strconv.ParseUint(row[0], 0, 32)
		require.NoError(t, err)
		for _, s := range strings.Fields(row[1]) {
			source, name, ok := strings.Cut(s, "=")
			require.True(t, ok, s)
			project, tag, _ := strings.Cut(source, ":")
			project, _, _ = strings.Cut(project, "-")
			all = append(all, witness{n, project, tag, name, s})
		}
	}
	return all
}

// sourceNames are the names of projects as Sources gives them.
var sourceNames = map[string]string{"tlfs": "TLFS", "openvmm": "OpenVMM hvdef", "linux": "Linux", "qemu": "QEMU"}

// Every name and kind in the other documents is in the table, under the same number,
// and the table claims no source that does not have the row.
func TestCallsHaveWitnesses(t *testing.T) {
	claimed := map[string]bool{}
	for c := range hypercall.Codes() {
		for _, s := range c.Sources() {
			claimed[fmt.Sprint(uint16(c), s)] = true
		}
	}
	seen := map[string]bool{}
	for _, w := range witnessesOf(t, callWitnesses) {
		c := hypercall.Code(w.number)
		require.Contains(t, append(c.Aliases(), c.Name()), w.name, "%v", w)
		got, err := hypercall.ParseCode(w.name)
		require.NoError(t, err)
		require.Equal(t, c, got, w.name)
		require.Contains(t, c.Sources(), sourceNames[w.project], "%v %v", c, w)
		seen[fmt.Sprint(w.number, sourceNames[w.project])] = true
		switch w.tag {
		case "simple":
			require.Equal(t, hypercall.Simple, c.Kind(), "%v", c)
		case "rep":
			require.Equal(t, hypercall.Rep, c.Kind(), "%v", c)
		case "variable": // simple, with a variable header
			l, ok := c.Layout()
			require.True(t, ok && l.Variable && c.Kind() == hypercall.Simple, "%v", c)
		case "":
		default:
			t.Fatalf("%v", w)
		}
	}
	for key := range claimed {
		if !strings.HasSuffix(key, "gerhart01") {
			require.True(t, seen[key], "%s is claimed, but no witness is there", key)
		}
	}
}

func TestStatusesHaveWitnesses(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range witnessesOf(t, statusWitnesses) {
		s := hypercall.Status(w.number)
		require.True(t, s.Known(), "%v", w)
		got, err := hypercall.ParseStatus(w.name)
		require.NoError(t, err)
		require.Equal(t, s, got, w.name)
		require.Contains(t, s.Sources(), sourceNames[w.project])
		seen[fmt.Sprint(w.number, sourceNames[w.project])] = true
	}
	for s := range hypercall.Statuses() {
		for _, source := range s.Sources() {
			if source != "TLFS" { // it gives no numbers
				require.True(t, seen[fmt.Sprint(uint16(s), source)], "%v %s", s, source)
			}
		}
	}
}

func TestMSRsHaveWitnesses(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range witnessesOf(t, msrWitnesses) {
		m := hypercall.MSR(w.number)
		require.True(t, m.Known(), "%v", w)
		got, err := hypercall.ParseMSR(w.name)
		require.NoError(t, err)
		require.Equal(t, m, got, w.name)
		require.Contains(t, m.Sources(), sourceNames[w.project], "%v %v", m, w)
		seen[fmt.Sprint(w.number, sourceNames[w.project])] = true
	}
	for m := range hypercall.MSRs() {
		for _, source := range m.Sources() {
			// The TLFS gives some numbers in running text.
			if source != "HDK" && source != "TLFS" {
				require.True(t, seen[fmt.Sprint(uint32(m), source)], "%v %s", m, source)
			}
		}
	}
}

func TestRegistersHaveWitnesses(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range witnessesOf(t, registerWitnesses) {
		r := hypercall.Register(w.number)
		name := w.name
		switch {
		case w.tag == "HvX64RegisterName" && !strings.HasPrefix(name, "Hv"):
			// OpenVMM has registers of all architectures there, too.
			if _, err := hypercall.ParseRegister("HvX64Register" + name); err == nil {
				name = "HvX64Register" + name
			} else {
				name = "HvRegister" + name
			}
		case w.tag == "HvArm64RegisterName" && !strings.HasPrefix(name, "Hv"):
			if _, err := hypercall.ParseRegister("HvArm64Register" + name); err == nil {
				name = "HvArm64Register" + name
			} else {
				name = "HvRegister" + name
			}
		}
		got, err := hypercall.ParseRegister(name)
		require.NoError(t, err, "%v", w)
		require.Equal(t, r, got, "%v", w)
		seen[fmt.Sprint(w.number, sourceNames[w.project])] = true
		if !strings.Contains(name, "Arm64") && w.tag != "HvArm64RegisterName" {
			require.Contains(t, r.Sources(), sourceNames[w.project], "%v", w)
		}
	}
	for r := range hypercall.Registers() {
		for _, source := range r.Sources() {
			if source != "HDK" {
				require.True(t, seen[fmt.Sprint(uint32(r), source)], "%v %s", r, source)
			}
		}
	}
	for r := range hypercall.ARM64Registers() {
		require.True(t, seen[fmt.Sprint(uint32(r), "TLFS")] || seen[fmt.Sprint(uint32(r), "OpenVMM hvdef")], "%v", r)
	}
}

// Bits in Linux and QEMU are the bits here.
func TestFeaturesHaveWitnesses(t *testing.T) {
	types := map[string]textType{}
	for _, typ := range textTypes {
		types[typ.name] = typ
	}
	n := 0
	for _, row := range rows(t, featureWitnesses) {
		bit, err := strconv.Atoi(row[3])
		require.NoError(t, err)
		p := types[row[2]].zero()
		require.NoError(t, p.UnmarshalText(fmt.Appendf(nil, "%#x", uint64(1)<<bit)))
		require.Equal(t, row[4], deref(p).(fmt.Stringer).String(), "%v", row)
		q := types[row[2]].zero()
		require.NoError(t, q.UnmarshalText([]byte(row[4])))
		require.Equal(t, deref(p), deref(q))
		n++
	}
	require.Greater(t, n, 90)
}

// skipped reports whether a number that has no row is passed over: tables are data, so
// that on an emulator, which is slow, one number in 61 is enough.
func skipped(n int, found bool) bool { return ring0.Active() && !found && n%61 != 0 }

// All numbers of 16 bits: those that are not in the tables have no properties, those
// that are have what must be.
func TestAllCodes(t *testing.T) {
	known := slices.Collect(hypercall.Codes())
	require.True(t, slices.IsSorted(known))
	require.Len(t, known, 269)
	for n := range 1 << 16 {
		c := hypercall.Code(n)
		i, found := slices.BinarySearch(known, c)
		if skipped(n, found) {
			continue
		}
		l, ok := c.Layout()
		if c.Known() != found || c.Extended() != (n >= 0x8000) {
			t.Fatalf("%v: known %v, extended %v", c, c.Known(), c.Extended())
		}
		got, err := hypercall.ParseCode(c.String())
		if err != nil || got != c {
			t.Fatalf("%v is read as %v, %v", c, got, err)
		}
		if !found {
			if c.Name() != "" || c.Kind() != hypercall.Unknown || ok || l != (hypercall.Layout{}) || c.Aliases() != nil || c.Sources() != nil || c.String() != "Code(0x"+strconv.FormatInt(int64(n), 16)+")" {
				t.Fatalf("%v has properties", c)
			}
			continue
		}
		require.Equal(t, c, known[i])
		require.NotEmpty(t, c.Sources(), "%v", c)
		require.False(t, strings.Contains(c.Name(), " "))
		if !ok {
			require.Equal(t, hypercall.Layout{Privileges: l.Privileges}, l, "%v", c)
			continue
		}
		require.NotEqual(t, hypercall.Unknown, c.Kind(), "%v has sizes, but no kind", c)
		if c.Kind() == hypercall.Simple {
			require.Zero(t, int(l.InputElement+l.OutputElement), "%v is simple, but has elements", c)
		}
		require.Zero(t, int(l.Input%8), "%v: headers are padded to 8 bytes", c)
		if c.Kind() == hypercall.Simple {
			require.Zero(t, int(l.Output%8), "%v", c)
		}
		require.LessOrEqual(t, int(l.Input)+int(l.InputElement), 4096, "%v", c)
		require.LessOrEqual(t, int(l.Output)+int(l.OutputElement), 4096, "%v", c)
	}
}

func TestAllStatuses(t *testing.T) {
	known := slices.Collect(hypercall.Statuses())
	require.True(t, slices.IsSorted(known))
	require.Len(t, known, 59)
	meanings := map[string]hypercall.Status{}
	for n := range 1 << 16 {
		s := hypercall.Status(n)
		_, found := slices.BinarySearch(known, s)
		if skipped(n, found) {
			continue
		}
		if s.Known() != found {
			t.Fatalf("%v: known %v", s, s.Known())
		}
		got, err := hypercall.ParseStatus(s.String())
		if err != nil || got != s {
			t.Fatalf("%v is read as %v, %v", s, got, err)
		}
		hex := "(0x" + strconv.FormatInt(int64(n), 16) + ")"
		if want := "hypercall: " + s.String() + " " + hex + ": " + s.Meaning(); s.Error() != want {
			t.Fatalf("%q is not %q", s.Error(), want)
		}
		if !found {
			if s.Aliases() != nil || s.Sources() != nil || s.String() != "Status"+hex {
				t.Fatalf("%v has properties", s)
			}
			continue
		}
		require.True(t, strings.HasPrefix(s.String(), "HV_STATUS_"))
		other, twice := meanings[s.Meaning()]
		require.False(t, twice, "%v and %v mean the same", s, other)
		meanings[s.Meaning()] = s
	}
}

// Constants, typed by hand from the TLFS' tables and pages.
func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		got  any
		want uint64
		text string
	}{
		{hypercall.CodeFlushVirtualAddressSpace, 0x0002, "HvCallFlushVirtualAddressSpace"},
		{hypercall.CodeFlushVirtualAddressList, 0x0003, "HvCallFlushVirtualAddressList"},
		{hypercall.CodeNotifyLongSpinWait, 0x0008, "HvCallNotifyLongSpinWait"},
		{hypercall.CodeSendSyntheticClusterIpi, 0x000b, "HvCallSendSyntheticClusterIpi"},
		{hypercall.CodeModifyVtlProtectionMask, 0x000c, "HvCallModifyVtlProtectionMask"},
		{hypercall.CodeEnablePartitionVtl, 0x000d, "HvCallEnablePartitionVtl"},
		{hypercall.CodeEnableVpVtl, 0x000f, "HvCallEnableVpVtl"},
		{hypercall.CodeVtlCall, 0x0011, "HvCallVtlCall"},
		{hypercall.CodeVtlReturn, 0x0012, "HvCallVtlReturn"},
		{hypercall.CodeGetVpRegisters, 0x0050, "HvCallGetVpRegisters"},
		{hypercall.CodeSetVpRegisters, 0x0051, "HvCallSetVpRegisters"},
		{hypercall.CodeTranslateVirtualAddress, 0x0052, "HvCallTranslateVirtualAddress"},
		{hypercall.CodeInstallIntercept, 0x004d, "HvCallInstallIntercept"},
		{hypercall.CodePostMessage, 0x005c, "HvCallPostMessage"},
		{hypercall.CodeSignalEvent, 0x005d, "HvCallSignalEvent"},
		{hypercall.CodeAssertVirtualInterrupt, 0x0094, "HvCallAssertVirtualInterrupt"},
		{hypercall.CodeStartVirtualProcessor, 0x0099, "HvCallStartVirtualProcessor"},
		{hypercall.CodeGetVpIndexFromApicId, 0x009a, "HvCallGetVpIndexFromApicId"},
		{hypercall.CodeTranslateVirtualAddressEx, 0x00ac, "HvCallTranslateVirtualAddressEx"},
		{hypercall.CodeExtQueryCapabilities, 0x8001, "HvExtCallQueryCapabilities"},
		{hypercall.StatusInvalidHypercallCode, 2, "HV_STATUS_INVALID_HYPERCALL_CODE"},
		{hypercall.StatusInvalidHypercallInput, 3, "HV_STATUS_INVALID_HYPERCALL_INPUT"},
		{hypercall.StatusInvalidAlignment, 4, "HV_STATUS_INVALID_ALIGNMENT"},
		{hypercall.StatusInvalidParameter, 5, "HV_STATUS_INVALID_PARAMETER"},
		{hypercall.StatusAccessDenied, 6, "HV_STATUS_ACCESS_DENIED"},
		{hypercall.StatusInvalidPartitionID, 0xd, "HV_STATUS_INVALID_PARTITION_ID"},
		{hypercall.StatusInvalidVPIndex, 0xe, "HV_STATUS_INVALID_VP_INDEX"},
		{hypercall.StatusInvalidVPState, 0x15, "HV_STATUS_INVALID_VP_STATE"},
		{hypercall.StatusInvalidRegisterValue, 0x50, "HV_STATUS_INVALID_REGISTER_VALUE"},
		{hypercall.StatusInvalidVTLState, 0x51, "HV_STATUS_INVALID_VTL_STATE"},
		{hypercall.StatusVTLAlreadyEnabled, 0x86, "HV_STATUS_VTL_ALREADY_ENABLED"},
		{hypercall.RegisterRAX, 0x20000, "HvX64RegisterRax"},
		{hypercall.RegisterRIP, 0x20010, "HvX64RegisterRip"},
		{hypercall.RegisterCR0, 0x40000, "HvX64RegisterCr0"},
		{hypercall.RegisterEFER, 0x80001, "HvX64RegisterEfer"},
		{hypercall.RegisterVsmCodePageOffsets, 0xd0002, "HvRegisterVsmCodePageOffsets"},
		{hypercall.RegisterVsmVpStatus, 0xd0003, "HvRegisterVsmVpStatus"},
		{hypercall.RegisterVsmPartitionStatus, 0xd0004, "HvRegisterVsmPartitionStatus"},
		{hypercall.RegisterVsmVina, 0xd0005, "HvRegisterVsmVina"},
		{hypercall.RegisterVsmCapabilities, 0xd0006, "HvRegisterVsmCapabilities"},
		{hypercall.RegisterVsmPartitionConfig, 0xd0007, "HvRegisterVsmPartitionConfig"},
		{hypercall.RegisterVsmVpSecureConfigVtl0, 0xd0010, "HvRegisterVsmVpSecureConfigVtl0"},
		{hypercall.RegisterCRInterceptControl, 0xe0000, "HvX64RegisterCrInterceptControl"},
		{hypercall.MSRGuestOSID, 0x40000000, "HV_X64_MSR_GUEST_OS_ID"},
		{hypercall.MSRHypercall, 0x40000001, "HV_X64_MSR_HYPERCALL"},
		{hypercall.MSRVPIndex, 0x40000002, "HV_X64_MSR_VP_INDEX"},
		{hypercall.MSRVPAssistPage, 0x40000073, "HV_X64_MSR_VP_ASSIST_PAGE"},
		{hypercall.MSRSINT0, 0x40000090, "HV_X64_MSR_SINT0"},
		{hypercall.MSRSTimer3Count, 0x400000b7, "HV_X64_MSR_STIMER3_COUNT"},
	} {
		require.Equal(t, c.want, reflect.ValueOf(c.got).Uint())
		require.Equal(t, c.text, c.got.(fmt.Stringer).String())
	}
}

// Sizes of parameters, typed by hand from the pages of the calls and OpenVMM's
// structures.
func TestLayouts(t *testing.T) {
	for _, c := range []struct {
		code   hypercall.Code
		layout hypercall.Layout
	}{
		{hypercall.CodeEnablePartitionVtl, hypercall.Layout{Input: 16, Privileges: hypercall.PrivilegeAccessVSM}},
		{hypercall.CodeEnableVpVtl, hypercall.Layout{Input: 240, Privileges: hypercall.PrivilegeAccessVSM}},
		{hypercall.CodeModifyVtlProtectionMask, hypercall.Layout{Input: 16, InputElement: 8, Privileges: hypercall.PrivilegeAccessVSM}},
		{hypercall.CodeGetVpRegisters, hypercall.Layout{Input: 16, InputElement: 4, OutputElement: 16, Privileges: hypercall.PrivilegeAccessVpRegisters}},
		{hypercall.CodeSetVpRegisters, hypercall.Layout{Input: 16, InputElement: 32, Privileges: hypercall.PrivilegeAccessVpRegisters}},
		{hypercall.CodeStartVirtualProcessor, hypercall.Layout{Input: 240, Privileges: hypercall.PrivilegeStartVirtualProcessor}},
		{hypercall.CodeTranslateVirtualAddress, hypercall.Layout{Input: 32, Output: 16}},
		{hypercall.CodeTranslateVirtualAddressEx, hypercall.Layout{Input: 32, Output: 64}},
		{hypercall.CodeSendSyntheticClusterIpi, hypercall.Layout{Input: 16}},
		{hypercall.CodeSendSyntheticClusterIpiEx, hypercall.Layout{Input: 24, Variable: true}},
		{hypercall.CodeFlushVirtualAddressListEx, hypercall.Layout{Input: 32, InputElement: 8, Variable: true}},
		{hypercall.CodePostMessage, hypercall.Layout{Input: 256, Privileges: hypercall.PrivilegePostMessages}},
		{hypercall.CodeVtlCall, hypercall.Layout{SlowOnly: true}},
		{hypercall.CodeExtQueryCapabilities, hypercall.Layout{Output: 8, Privileges: hypercall.PrivilegeEnableExtendedHypercalls}},
	} {
		l, ok := c.code.Layout()
		require.True(t, ok, "%v", c.code)
		require.Equal(t, c.layout, l, "%v", c.code)
	}
	_, ok := hypercall.CodeSwitchAliasMap.Layout()
	require.False(t, ok)
}

// The table of calls and the structures are from the same documents, but were typed
// apart: they agree.
func TestLayoutsAreStructures(t *testing.T) {
	for _, c := range []struct {
		code                                       hypercall.Code
		input, inputElement, output, outputElement int
	}{
		{hypercall.CodeFlushVirtualAddressSpace, hypercall.FlushVirtualAddressInputSize, 0, 0, 0},
		{hypercall.CodeFlushVirtualAddressList, hypercall.FlushVirtualAddressInputSize, hypercall.PageNumberSize, 0, 0},
		{hypercall.CodeFlushVirtualAddressSpaceEx, hypercall.FlushVirtualAddressExInputSize, 0, 0, 0},
		{hypercall.CodeFlushVirtualAddressListEx, hypercall.FlushVirtualAddressExInputSize, hypercall.PageNumberSize, 0, 0},
		{hypercall.CodeNotifyLongSpinWait, hypercall.NotifyLongSpinWaitInputSize, 0, 0, 0},
		{hypercall.CodeSendSyntheticClusterIpi, hypercall.SendSyntheticClusterIpiInputSize, 0, 0, 0},
		{hypercall.CodeSendSyntheticClusterIpiEx, hypercall.SendSyntheticClusterIpiExInputSize, 0, 0, 0},
		{hypercall.CodeModifyVtlProtectionMask, hypercall.ModifyVtlProtectionMaskInputSize, hypercall.PageNumberSize, 0, 0},
		{hypercall.CodeEnablePartitionVtl, hypercall.EnablePartitionVtlInputSize, 0, 0, 0},
		{hypercall.CodeEnableVpVtl, hypercall.EnableVpVtlInputSize, 0, 0, 0},
		{hypercall.CodeStartVirtualProcessor, hypercall.StartVirtualProcessorInputSize, 0, 0, 0},
		{hypercall.CodeInstallIntercept, hypercall.InstallInterceptInputSize, 0, 0, 0},
		{hypercall.CodeGetVpRegisters, hypercall.VpRegistersInputSize, hypercall.RegisterNameSize, 0, hypercall.RegisterValueSize},
		{hypercall.CodeSetVpRegisters, hypercall.VpRegistersInputSize, hypercall.RegisterAssocSize, 0, 0},
		{hypercall.CodeTranslateVirtualAddress, hypercall.TranslateVirtualAddressInputSize, 0, hypercall.TranslateVirtualAddressOutputSize, 0},
		{hypercall.CodeTranslateVirtualAddressEx, hypercall.TranslateVirtualAddressInputSize, 0, hypercall.TranslateVirtualAddressExOutputSize, 0},
		{hypercall.CodePostMessage, hypercall.PostMessageInputSize, 0, 0, 0},
		{hypercall.CodeSignalEvent, hypercall.SignalEventInputSize, 0, 0, 0},
		{hypercall.CodeSignalEventDirect, hypercall.SignalEventDirectInputSize, 0, hypercall.SignalEventDirectOutputSize, 0},
		{hypercall.CodeAssertVirtualInterrupt, hypercall.AssertVirtualInterruptInputSize, 0, 0, 0},
		{hypercall.CodeGetVpIndexFromApicId, hypercall.GetVpIndexFromApicIdInputSize, 4, 0, 4},
	} {
		l, ok := c.code.Layout()
		require.True(t, ok, "%v", c.code)
		require.Equal(t, []int{c.input, c.inputElement, c.output, c.outputElement},
			[]int{int(l.Input), int(l.InputElement), int(l.Output), int(l.OutputElement)}, "%v", c.code)
	}
}

// What the registers of a fast call hold (TLFS, XMM fast hypercall input): 112 bytes,
// output behind the input on 16.
func TestFast(t *testing.T) {
	for _, c := range []struct {
		code      hypercall.Code
		qwords, n int
		want      bool
	}{
		{hypercall.CodeGetVpRegisters, 0, 1, true},  // 20 bytes in, 16 out from 32
		{hypercall.CodeGetVpRegisters, 0, 4, true},  // 32 in, 64 out
		{hypercall.CodeGetVpRegisters, 0, 5, false}, // 36 in, 80 out from 48
		{hypercall.CodeSetVpRegisters, 0, 3, true},  // 112
		{hypercall.CodeSetVpRegisters, 0, 4, false},
		{hypercall.CodeModifyVtlProtectionMask, 0, 12, true},
		{hypercall.CodeModifyVtlProtectionMask, 0, 13, false},
		{hypercall.CodeEnableVpVtl, 0, 0, false},
		{hypercall.CodeVtlCall, 0, 0, false},
		{hypercall.CodeSendSyntheticClusterIpiEx, 11, 0, true},
		{hypercall.CodeSendSyntheticClusterIpiEx, 12, 0, false},
		{hypercall.CodeSignalEvent, -1, 0, false},
		{hypercall.CodeSignalEvent, 0, -1, false},
		{hypercall.CodeSignalEvent, 1 << 30, 0, false},
		{hypercall.CodeGetVpRegisters, 0, 1 << 30, false},
	} {
		l, ok := c.code.Layout()
		require.True(t, ok)
		require.Equal(t, c.want, l.Fast(c.qwords, c.n), "%v %d %d", c.code, c.qwords, c.n)
	}
}

// A number is in the tables of registers at most once for each architecture, and reads
// back.
func TestAllRegisters(t *testing.T) {
	x64 := slices.Collect(hypercall.Registers())
	arm := slices.Collect(hypercall.ARM64Registers())
	require.True(t, slices.IsSorted(x64) && slices.IsSorted(arm))
	require.Greater(t, len(x64)+len(arm), 811)
	for _, r := range append(x64, arm...) {
		got, err := hypercall.ParseRegister(r.String())
		require.NoError(t, err)
		require.Equal(t, r, got)
		require.True(t, r.Known())
		require.NotEmpty(t, r.Sources())
	}
	for _, r := range x64 {
		require.True(t, r.X64())
		require.False(t, strings.HasPrefix(r.String(), "HvArm64"), "%v", r)
	}
	for _, r := range arm {
		require.True(t, strings.HasPrefix(r.ARM64Name(), "HvArm64Register"), "%v", r)
	}
	require.Equal(t, "HvArm64RegisterX0", hypercall.RegisterRAX.ARM64Name())
	require.Equal(t, "HvRegisterVpIndex", hypercall.RegisterVpIndex.ARM64Name())
	require.Equal(t, "", hypercall.RegisterEFER.ARM64Name())
	require.Equal(t, "", hypercall.Register(0xffffffff).ARM64Name())
	require.Equal(t, "Register(0xffffffff)", hypercall.Register(0xffffffff).String())
	require.False(t, hypercall.Register(0xffffffff).Known())
	for m := range hypercall.MSRs() {
		got, err := hypercall.ParseMSR(m.String())
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
	require.Equal(t, "MSR(0x1b)", hypercall.MSR(0x1b).String())
}

// Aliases do not take another row's name.
func TestAliases(t *testing.T) {
	n := 0
	for c := range hypercall.Codes() {
		for _, a := range c.Aliases() {
			n++
			got, err := hypercall.ParseCode(a)
			require.NoError(t, err)
			if got != c {
				require.Equal(t, got.Name(), a, "%s is an alias of %v, but read as %v", a, c, got)
			}
		}
	}
	require.Greater(t, n, 100)
}

var _ encoding.TextMarshaler = hypercall.Kind(0)
