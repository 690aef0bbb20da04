package vtl_test

import (
	"fmt"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

// guardRows are all registers whose writes can be intercepted, with the mask if there is one.
var guardRows = []struct {
	name  hypercall.Register
	guard hypercall.CrInterceptControl
	mask  hypercall.Register
	only  bool // in the OpenVMM profile
}{
	{hypercall.RegisterCR0, hypercall.CrInterceptCr0Write, hypercall.RegisterCRInterceptCR0Mask, false},
	{hypercall.RegisterIntermediateCR0, hypercall.CrInterceptCr0Write, hypercall.RegisterCRInterceptCR0Mask, false},
	{hypercall.RegisterCR4, hypercall.CrInterceptCr4Write, hypercall.RegisterCRInterceptCR4Mask, false},
	{hypercall.RegisterIntermediateCR4, hypercall.CrInterceptCr4Write, hypercall.RegisterCRInterceptCR4Mask, false},
	{hypercall.RegisterXFEM, hypercall.CrInterceptXCr0Write, 0, false},
	{hypercall.RegisterMSRIa32MiscEnable, hypercall.CrInterceptIA32MiscEnableWrite, hypercall.RegisterCRInterceptIa32MiscEnableMask, false},
	{hypercall.RegisterLSTAR, hypercall.CrInterceptMsrLstarWrite, 0, false},
	{hypercall.RegisterSTAR, hypercall.CrInterceptMsrStarWrite, 0, false},
	{hypercall.RegisterCSTAR, hypercall.CrInterceptMsrCstarWrite, 0, false},
	{hypercall.RegisterAPICBase, hypercall.CrInterceptApicBaseMsrWrite, 0, false},
	{hypercall.RegisterEFER, hypercall.CrInterceptMsrEferWrite, 0, false},
	{hypercall.RegisterGDTR, hypercall.CrInterceptGdtrWrite, 0, false},
	{hypercall.RegisterIDTR, hypercall.CrInterceptIdtrWrite, 0, false},
	{hypercall.RegisterLDTR, hypercall.CrInterceptLdtrWrite, 0, false},
	{hypercall.RegisterTR, hypercall.CrInterceptTrWrite, 0, false},
	{hypercall.RegisterSysenterCS, hypercall.CrInterceptMsrSysenterCsWrite, 0, false},
	{hypercall.RegisterSysenterEIP, hypercall.CrInterceptMsrSysenterEipWrite, 0, false},
	{hypercall.RegisterSysenterESP, hypercall.CrInterceptMsrSysenterEspWrite, 0, false},
	{hypercall.RegisterSFMASK, hypercall.CrInterceptMsrSfmaskWrite, 0, false},
	{hypercall.RegisterTSCAux, hypercall.CrInterceptMsrTscAuxWrite, 0, false},
	{hypercall.RegisterSgxLaunchControl0, hypercall.CrInterceptMsrSgxLaunchControlWrite, 0, false},
	{hypercall.RegisterSgxLaunchControl3, hypercall.CrInterceptMsrSgxLaunchControlWrite, 0, false},
	{hypercall.RegisterXss, hypercall.CrInterceptMsrXSSWrite, 0, true},
	{hypercall.RegisterSCet, hypercall.CrInterceptMsrScetWrite, 0, true},
	{hypercall.RegisterPl0SSP, hypercall.CrInterceptMsrPlsSspWrite, 0, true},
	{hypercall.RegisterPl2SSP, hypercall.CrInterceptMsrPlsSspWrite, 0, true},
	{hypercall.RegisterInterruptSSPTableAddr, hypercall.CrInterceptMsrInterruptSspTableAddrWrite, 0, true},
}

// TestGuardedByHypercall: what VTL2 intercepts on a processor VTL0 and VTL1 cannot write by
// HvCallSetVpRegisters, from any processor; VTL2 can. A guard of VTL1 does not bind VTL1.
func TestGuardedByHypercall(t *testing.T) {
	for _, c := range guardRows {
		for on := range uint32(2) { // the processor that is guarded
			t.Run(fmt.Sprintf("%v of VP%d", c.name, on), func(t *testing.T) {
				profile := vtl.TLFS
				if c.only {
					profile = vtl.OpenVMM
				}
				r := levels(t, 2, vtl.Config{Processors: 2, Profile: profile})
				for l := vtl.VTL(1); l <= 2; l++ {
					require.Equal(t, ok, r.enableVP(0, 1, l, good))
				}
				set := func(want hypercall.Status, target uint32, level hypercall.InputVTL, v uint64) {
					t.Helper()
					r.status(want, func() hypercall.Status { return r.set(0, target, level, c.name, v) })
				}
				const start, beside, inside = 0x11, 0x13, 0x10011
				for vp := range uint32(2) {
					for _, l := range []hypercall.InputVTL{vtl0, vtl1} {
						set(ok, vp, l, start)
						if c.mask != 0 { // the intermediate registers have the values of these
							for _, name := range []hypercall.Register{hypercall.RegisterCR0, hypercall.RegisterCR4} {
								require.Equal(t, ok, r.set(0, vp, l, name, start))
							}
						}
					}
				}
				require.Equal(t, ok, r.set(0, on, vtl2, hypercall.RegisterCRInterceptControl, uint64(c.guard)))
				if c.mask != 0 {
					set(ok, on, vtl0, start) // of the owner
					require.Equal(t, ok, r.set(0, on, vtl2, c.mask, 1<<16))
				}
				set(ok, on, vtl0, start)
				for l := vtl.VTL(1); ; l-- {
					r.downTo(0, l)
					for target := vtl.VTL(0); target <= l; target++ {
						in := hypercall.TargetVTL(target)
						own := profile == vtl.OpenVMM && target == l // denied anyway: rule 65
						if c.mask != 0 {
							set(ok, on, in, beside)
							set(ok, on, in, start)
						} else {
							set(denied, on, in, start)
						}
						set(denied, on, in, inside)
						if !own {
							require.Equal(t, "a level above the caller intercepts writes to the register", r.Why().String())
							set(ok, 1-on, in, inside) // not guarded
							set(ok, 1-on, in, start)
						}
					}
					if l == 0 {
						break
					}
				}
				// The owner writes, and opens it for the others.
				r.call(0)
				r.call(0)
				set(ok, on, vtl0, inside)
				set(ok, on, vtl0, start)
				require.Equal(t, ok, r.set(0, on, vtl2, hypercall.RegisterCRInterceptControl, 0))
				require.Equal(t, ok, r.set(0, on, vtl1, hypercall.RegisterCRInterceptControl, uint64(c.guard)))
				require.Equal(t, ok, r.enableMask(c.mask, on))
				r.downTo(0, 1)
				set(ok, on, vtl0, inside)
				set(ok, on, vtl0, start)
				r.downTo(0, 0)
				set(denied, on, vtl0, inside)
			})
		}
	}
}

// enableMask has VTL1 guard bit 16, if the register has a mask.
func (r *rig) enableMask(mask hypercall.Register, vp uint32) hypercall.Status {
	if mask == 0 {
		return ok
	}
	return r.set(0, vp, vtl1, mask, 1<<16)
}

// A guard of a register that cannot be read lets no write pass.
type unreadable struct{ vtl.Registers }

func (unreadable) Register(uint32, vtl.VTL, hypercall.Register) (vtl.Value, hypercall.Status) {
	return vtl.Value{}, hypercall.StatusInvalidParameter
}

func TestGuardOfUnreadable(t *testing.T) {
	r := levels(t, 1, vtl.Config{Registers: unreadable{vtl.NewRegisterFile()}})
	r.own(0, hypercall.RegisterCRInterceptControl, uint64(hypercall.CrInterceptCr4Write))
	r.own(0, hypercall.RegisterCRInterceptCR4Mask, 1)
	r.downTo(0, 0)
	r.status(iParameter, func() hypercall.Status { return r.set(0, 0, 0, hypercall.RegisterCR4, 1) })
	r.status(ok, func() hypercall.Status { return r.set(0, 0, 0, hypercall.RegisterRSP, 1) })
}

func TestPhysicalBits(t *testing.T) {
	for _, width := range []uint8{1, 31, 53, 64, 255} {
		_, err := vtl.New(vtl.Config{Processors: 1, PhysicalBits: width})
		require.ErrorContains(t, err, fmt.Sprintf("PhysicalBits is %d", width))
	}
	_, err := vtl.New(vtl.Config{Processors: 1, PhysicalBits: 36, RAM: []vtl.Range{{Page: 1<<24 - 1, Pages: 2}}})
	require.ErrorContains(t, err, "36 bits")
	for _, c := range []struct{ given, bits uint8 }{{0, 52}, {32, 32}, {36, 36}, {39, 39}, {52, 52}} {
		r := levels(t, 1, vtl.Config{PhysicalBits: c.given})
		require.Equal(t, c.bits, r.Config().PhysicalBits)
		last, beyond := uint64(1)<<c.bits-1<<12|1, uint64(1)<<c.bits|1
		last &= 1<<c.bits - 1
		r.status(ok, func() hypercall.Status { return r.set(0, 0, 0, hypercall.RegisterVpAssistPage, last) })
		for _, v := range []uint64{beyond, 1<<63 | 1, beyond &^ 1} {
			r.status(iValue, func() hypercall.Status { return r.set(0, 0, 0, hypercall.RegisterVpAssistPage, v) })
			r.status(iValue, func() hypercall.Status { return r.set(0, 0, vtl0, hypercall.RegisterVpAssistPage, v) })
			r.outcome(vtl.GeneralProtection, func() vtl.Outcome { return r.SetAssistPage(0, 1, v) })
		}
		require.Equal(t, last, r.AssistPage(0, 1))
		r.outcome(vtl.Done, func() vtl.Outcome { return r.SetAssistPage(0, 1, last) })
	}
}

// TestOwnerElsewhere: what VTL1 intercepts for the whole partition does not pass on a
// processor that it is not enabled on.
func TestOwnerElsewhere(t *testing.T) {
	r := levels(t, 1, vtl.Config{Processors: 3})
	r.started(0, 1) // without VTL1
	in := hypercall.InstallInterceptInput{PartitionID: self, Type: hypercall.InterceptIoPort, AccessMask: hypercall.InterceptAccessWrite, Parameters: 0x61}
	require.Equal(t, ok, r.InstallIntercept(0, &in, &r.e))
	require.Equal(t, ok, r.config(0, allRights|hypercall.VsmPartitionConfigInterceptVpStartup))
	r.outcome(vtl.GeneralProtection, func() vtl.Outcome { return r.AccessIO(1, 0x60, 2, true, 0, &r.e) })
	r.outcome(vtl.Done, func() vtl.Outcome { return r.AccessIO(1, 0x61, 1, false, 0, &r.e) })
	r.outcome(vtl.Done, func() vtl.Outcome { return r.AccessIO(0, 0x61, 1, true, 0, &r.e) })
	r.outcome(vtl.Dropped, func() vtl.Outcome { return r.Startup(1, 2, 0, vtl.INIT, 0, &r.e) })
	r.outcome(vtl.Dropped, func() vtl.Outcome { return r.Startup(1, 2, 0, vtl.SIPI, 8, &r.e) })
	r.status(denied, func() hypercall.Status {
		o, s := r.startVP(1, 2, 0)
		require.Equal(t, vtl.Done, o)
		return s
	})
	require.False(t, r.Started(2))

	// Once it is enabled there it is told.
	require.Equal(t, ok, r.enableVP(0, 1, 1, good))
	for _, event := range []func() vtl.Outcome{
		func() vtl.Outcome { return r.AccessIO(1, 0x61, 1, true, 0, &r.e) },
		func() vtl.Outcome { return r.Startup(1, 2, 0, vtl.SIPI, 8, &r.e) },
		func() vtl.Outcome { o, _ := r.startVP(1, 2, 0); return o },
	} {
		r.outcome(vtl.Intercepted, event)
		r.downTo(1, 0)
	}
}
