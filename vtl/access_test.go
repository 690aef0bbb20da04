package vtl_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

// What VTL0 asks of VTL1, what VTL1 asks of itself and of another partition, in each
// profile: TLFS, OpenVMM, KVM.
func TestWhoMayName(t *testing.T) {
	const (
		denied    = hypercall.StatusAccessDenied
		parameter = hypercall.StatusInvalidParameter
		partition = hypercall.StatusInvalidPartitionID
		vtlState  = hypercall.StatusInvalidVTLState
		index     = hypercall.StatusInvalidVPIndex
	)
	vtl1, vtl0 := hypercall.TargetVTL(1), hypercall.TargetVTL(0)
	type row struct {
		name string
		from vtl.VTL
		do   func(r *rig) hypercall.Status
		want [3]hypercall.Status
	}
	all := func(s hypercall.Status) [3]hypercall.Status { return [3]hypercall.Status{s, s, s} }
	var set vtl.Set
	set.Add(0)
	ipi := func(v uint32, to hypercall.InputVTL) func(r *rig) hypercall.Status {
		return func(r *rig) hypercall.Status { return r.SendIPI(0, v, to, &set, &r.e) }
	}
	translate := func(id uint64, vp uint32, to hypercall.InputVTL) func(r *rig) hypercall.Status {
		return func(r *rig) hypercall.Status {
			in := hypercall.TranslateVirtualAddressInput{PartitionID: id, VPIndex: vp, ControlFlags: hypercall.TranslateFlags(to) << 56}
			_, s := r.TranslateVirtualAddress(0, &in, &r.e)
			return s
		}
	}
	assert := func(in hypercall.AssertVirtualInterruptInput) func(r *rig) hypercall.Status {
		in.PartitionID ^= self
		return func(r *rig) hypercall.Status { return r.AssertVirtualInterrupt(0, &in, &r.e) }
	}
	apic := func(id uint64, level vtl.VTL, apicID uint32) func(r *rig) hypercall.Status {
		return func(r *rig) hypercall.Status {
			_, s := r.VPIndexFromAPICID(0, &hypercall.GetVpIndexFromApicIdInput{PartitionID: id, TargetVTL: level}, apicID)
			return s
		}
	}
	for _, c := range []row{
		{"IPI up", 0, ipi(0x40, vtl1), [3]hypercall.Status{denied, denied, ok}},
		{"IPI to its own level", 1, ipi(0x40, 0), [3]hypercall.Status{ok, vtlState, ok}},
		{"IPI down", 1, ipi(0x40, vtl0), all(ok)},
		{"IPI with vector 15", 1, ipi(15, vtl0), all(parameter)},
		{"IPI with vector 256", 1, ipi(256, vtl0), all(parameter)},
		{"IPI with reserved bits", 1, ipi(0x40, 0x30), all(parameter)},
		{"translate up", 0, translate(self, hypercall.VPSelf, vtl1), [3]hypercall.Status{denied, denied, hypercall.StatusInvalidVPState}},
		{"translate own", 0, translate(self, hypercall.VPSelf, 0), [3]hypercall.Status{ok, denied, ok}},
		{"translate down", 1, translate(self, 0, vtl0), all(ok)},
		{"translate on another processor", 1, translate(self, 1, vtl0), [3]hypercall.Status{ok, denied, ok}},
		{"translate on any processor", 1, translate(self, hypercall.VPAny, vtl0), [3]hypercall.Status{index, denied, index}},
		{"translate in another partition", 1, translate(9, 0, vtl0), all(denied)},
		{"assert up", 0, assert(hypercall.AssertVirtualInterruptInput{TargetVTL: 1, RequestedVector: 0x40}), all(denied)},
		{"assert own", 1, assert(hypercall.AssertVirtualInterruptInput{TargetVTL: 1, RequestedVector: 0x40}), all(denied)},
		{"assert down", 1, assert(hypercall.AssertVirtualInterruptInput{RequestedVector: 0x40}), all(ok)},
		{"assert NMI", 1, assert(hypercall.AssertVirtualInterruptInput{Control: 4}), all(ok)},
		{"assert INIT", 1, assert(hypercall.AssertVirtualInterruptInput{Control: 5}), all(parameter)},
		{"assert vector 3", 1, assert(hypercall.AssertVirtualInterruptInput{RequestedVector: 3}), all(parameter)},
		{"assert in another partition", 1, assert(hypercall.AssertVirtualInterruptInput{PartitionID: 9, RequestedVector: 0x40}), all(denied)},
		{"index", 1, apic(self, 0, 6), all(ok)},
		{"index of no processor", 1, apic(self, 0, 7), all(parameter)},
		{"index, level not there", 1, apic(self, 2, 6), all(vtlState)},
		{"index in another partition", 1, apic(9, 0, 6), all(partition)},
		{"enable VTL1 elsewhere from below", 0, func(r *rig) hypercall.Status { return r.enableVP(0, 1, 1, good) }, all(denied)},
		{"enable VTL1 elsewhere", 1, func(r *rig) hypercall.Status { return r.enableVP(0, 1, 1, good) }, all(ok)},
		{"enable VTL1 again", 1, func(r *rig) hypercall.Status { return r.enableVP(0, 0, 1, good) }, [3]hypercall.Status{hypercall.StatusVTLAlreadyEnabled, hypercall.StatusVTLAlreadyEnabled, parameter}},
		{"enable VTL1 again from below", 0, func(r *rig) hypercall.Status { return r.enableVP(0, 0, 1, good) }, all(denied)},
		{"enable VTL2, which the partition has not", 1, func(r *rig) hypercall.Status { return r.enableVP(0, 0, 2, good) }, all(vtlState)},
		{"enable a partition's VTL1 again", 1, func(r *rig) hypercall.Status { return r.enablePartition(0, 1, 0) }, [3]hypercall.Status{vtlState, vtlState, parameter}},
		{"enable a partition's VTL0", 1, func(r *rig) hypercall.Status { return r.enablePartition(0, 0, 0) }, [3]hypercall.Status{parameter, denied, parameter}},
		{"enable a partition's VTL2 from VTL0", 0, func(r *rig) hypercall.Status { return r.enablePartition(0, 2, 0) }, all(denied)},
		{"RSP of VTL1", 0, func(r *rig) hypercall.Status { _, s := r.get(0, 0, vtl1, hypercall.RegisterRSP); return s }, all(denied)},
		{"RSP of its own", 1, func(r *rig) hypercall.Status { _, s := r.get(0, 0, 0, hypercall.RegisterRSP); return s }, [3]hypercall.Status{ok, denied, ok}},
		{"secure configuration of itself", 1, func(r *rig) hypercall.Status {
			return r.set(0, 0, 0, hypercall.RegisterVsmVpSecureConfigVtl1, 0)
		}, all(denied)},
		{"MBEC that the partition has not", 1, func(r *rig) hypercall.Status {
			return r.set(0, 0, 0, hypercall.RegisterVsmVpSecureConfigVtl0, 1)
		}, all(hypercall.StatusInvalidRegisterValue)},
		{"protect own", 1, func(r *rig) hypercall.Status { _, s := r.protect(0, vtl1, 0, 0x100); return s }, all(denied)}, // OpenVMM: not enabled
		{"protect from VTL0", 0, func(r *rig) hypercall.Status { _, s := r.protect(0, 0, 0, 0x100); return s }, [3]hypercall.Status{denied, parameter, denied}},
		{"CR0 with paging only", 1, func(r *rig) hypercall.Status { return r.set(0, 0, vtl0, hypercall.RegisterCR0, 1<<31) }, all(hypercall.StatusInvalidRegisterValue)},
		{"VINA of VTL0", 1, func(r *rig) hypercall.Status { return r.set(0, 0, vtl0, hypercall.RegisterVsmVina, 0) }, all(parameter)},
		{"VINA with reserved bits", 1, func(r *rig) hypercall.Status { return r.set(0, 0, 0, hypercall.RegisterVsmVina, 1<<11) }, all(parameter)},
		{"intercepts of VTL0", 1, func(r *rig) hypercall.Status { return r.set(0, 0, vtl0, hypercall.RegisterCRInterceptControl, 0) }, all(denied)},
		{"intercept reads of EFER", 1, func(r *rig) hypercall.Status {
			return r.set(0, 0, 0, hypercall.RegisterCRInterceptControl, uint64(hypercall.CrInterceptMsrEferRead))
		}, [3]hypercall.Status{ok, hypercall.StatusInvalidRegisterValue, ok}},
	} {
		for i, profile := range []vtl.Profile{vtl.TLFS, vtl.OpenVMM, vtl.KVM} {
			r := newRig(t, vtl.Config{Processors: 2, MaximumVTL: 3, Profile: profile, APICIDs: []uint32{4, 6}})
			r.enable(0, 1, 0)
			if c.from == 1 {
				r.call(0)
			}
			r.e.Reset()
			before := state(r.Partition)
			require.Equal(t, c.want[i], c.do(r), "%s, %v: %v", c.name, profile, r.Why())
			if c.want[i] != ok {
				require.Equal(t, before, state(r.Partition), c.name)
				require.Zero(t, r.e.Len(), c.name)
				require.NotZero(t, r.Why(), c.name)
				require.Equal(t, c.want[i], r.Why().Status(profile), c.name)
			}
		}
	}
}
