package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/machine"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// text returns what is printed.
func (r *refusals) text() string {
	var b bytes.Buffer
	r.print(&b)
	return b.String()
}

// The table has every attempt by name and number, most first, and MSRs and ports that follow on
// each other in one row.
func TestRefusedTable(t *testing.T) {
	const (
		ud, gp = answeredFault | answer(vmcs.VectorUD), answeredFault | answer(vmcs.VectorGP)
		denied = answer(hypercall.StatusAccessDenied)
	)
	r := new(refusals)
	require.Equal(t, "", r.text())
	for _, tt := range []struct {
		times uint64
		attempt
		first uint64
	}{
		{300, attempt{kind: refusedCall, number: 0x51, answer: denied}, 0x51},
		{299, attempt{kind: refusedCall, number: anyCall, answer: answer(hypercall.StatusInvalidHypercallCode)}, 0x5c},
		{298, attempt{kind: refusedCall, number: 0x11, answer: ud, part: 3}, 0x11},
		{297, attempt{kind: refusedCall, number: anyCall, answer: ud, part: 3}, 0xc},
		{296, attempt{kind: refusedCall, number: 0x12, answer: ud}, 0x12},
		{295, attempt{kind: refusedCall, number: 0x12, answer: ud, level: 1}, 0x12},
		{294, attempt{kind: refusedInstruction, number: uint64(vmexit.VMXON), answer: ud}, 0},
		{293, attempt{kind: refusedMemory, number: 0, answer: gp}, 0x7e0000000},
		{292, attempt{kind: refusedMemory, number: 1, answer: gp, part: 1}, 0x50008},
		{291, attempt{kind: refusedCR, number: asm.CR4VMXE, answer: gp, part: 4}, 0},
		{290, attempt{kind: refusedCR, number: asm.CR0PG | 1<<40, answer: gp}, 0},
		{289, attempt{kind: refusedCR, answer: gp, part: 8}, 0},
		{3, attempt{kind: refusedWRMSR, number: vmcs.MSRFeatureControl, answer: gp}, 0},
		{7, attempt{kind: refusedRDMSR, number: 0x481, answer: gp}, 0},
		{9, attempt{kind: refusedRDMSR, number: 0x480, answer: gp}, 0},
		{15, attempt{kind: refusedRDMSR, number: 0x483, answer: gp}, 0},
		{14, attempt{kind: refusedRDMSR, number: 0x484, answer: gp, level: 1}, 0},
		{1, attempt{kind: refusedIN, number: 0x1f1, answer: answeredNothing}, 0},
		{1, attempt{kind: refusedIN, number: 0x1f0, answer: answeredNothing}, 0},
		{1, attempt{kind: refusedIN, number: 0x1f2, answer: gp}, 0},
		{1, attempt{kind: refusedOUT, number: 0x1f0, answer: answeredNothing}, 0},
	} {
		for range tt.times {
			r.note(tt.attempt, tt.first)
		}
	}
	require.Equal(t, `  refused  VTL  what
      300    0  HvCallSetVpRegisters: HV_STATUS_ACCESS_DENIED
      299    0  hypercalls that there are not, first HvCallPostMessage: HV_STATUS_INVALID_HYPERCALL_CODE
      298    0  HvCallVtlCall at privilege level 3: #UD
      297    0  other hypercalls at privilege level 3, first HvCallModifyVtlProtectionMask: #UD
      296    0  HvCallVtlReturn: #UD
      295    1  HvCallVtlReturn: #UD
      294    0  VMXON: #UD
      293    0  read of guest-physical memory that is nobody's, first 0x7e0000000: #GP
      292    0  write of a page of the hypervisor's, first 0x50008: #GP
      291    0  change of CR4, VMXE: #GP
      290    0  change of CR0, PG, bit 40: #GP
      289    0  MOV to CR8: #GP
       16    0  RDMSR 0x480 (IA32_VMX_BASIC) to 0x481 (IA32_VMX_PINBASED_CTLS): #GP
       15    0  RDMSR 0x483 (IA32_VMX_EXIT_CTLS): #GP
       14    1  RDMSR 0x484 (IA32_VMX_ENTRY_CTLS): #GP
        3    0  WRMSR 0x3a (IA32_FEATURE_CONTROL): #GP
        2    0  IN from port 0x1f0 to 0x1f1: no device, all ones
        1    0  IN from port 0x1f2: #GP
        1    0  OUT to port 0x1f0: no device, nothing is done
`, r.text())
}

// However many different attempts there are, the table does not grow, none is lost from its sums, and those
// of one kind take no place from another.
func TestRefusedIsBounded(t *testing.T) {
	ring0test.HostOnly(t)
	r := new(refusals)
	const each = 100_000
	note := func(kind refusalKind) {
		for n := range uint64(each) {
			r.note(attempt{kind: kind, number: 2 * n, level: 1}, 0)
		}
	}
	for kind := range numRefusalKinds {
		if kind != refusedInstruction && kind != refusedMemory { // of which there are few
			require.Zero(t, testing.AllocsPerRun(1, func() { note(kind) }))
		}
	}
	r.note(attempt{kind: refusedInstruction, number: uint64(vmexit.VMXOFF)}, 0)
	require.Contains(t, r.text(), "VMXOFF")
	require.LessOrEqual(t, strings.Count(r.text(), "\n"), 1+len(r)*(refusalRows+numLevels))
	for kind := range numRefusalKinds {
		k := &r[kind]
		sum := k.others[1]
		for i := range k.rows {
			sum += k.rows[i].n
		}
		switch kind {
		case refusedInstruction:
			require.Equal(t, uint64(1), sum)
		case refusedMemory:
			require.Zero(t, sum)
		default:
			require.Equal(t, uint64(2*each), sum) // AllocsPerRun calls once more
			require.Equal(t, refusalRows, k.used)
			require.Contains(t, r.text(), "  "+refusalKinds[kind].others+"\n")
		}
	}
}

// A run with a kernel ends with the table.
func TestRefusedIsPrinted(t *testing.T) {
	exe, kernel := build(t), hostileKernel(t)
	stdout, stderr, _, status := bootKernel(t, exe, kernel, machine.Config{}, "-append", "x") // instructions that are not there
	require.Zero(t, status, "%s", stderr)
	_, table, _ := strings.Cut(stdout, "refused  VTL  what\n")
	require.Contains(t, table, "1    0  VMXON: #UD\n")
	require.True(t, strings.HasSuffix(table, "\nguest      turned off\n"), stdout)
}
