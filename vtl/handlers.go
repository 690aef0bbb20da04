package vtl

import (
	"encoding/binary"

	"github.com/govtx/vtx/hypercall"
)

// A Caller is who makes a hypercall. For the handlers of [Handlers], an embedder puts a
// *Caller into Context of each hypercall.Call: one for each processor.
type Caller struct {
	Partition *Partition
	VP        uint32
	Effects   *Effects
}

// Handlers returns the handlers of all hypercalls of this package, for a
// hypercall.Dispatcher:
//
//	HvCallEnablePartitionVtl          HvCallFlushVirtualAddressSpace
//	HvCallEnableVpVtl                 HvCallFlushVirtualAddressSpaceEx
//	HvCallModifyVtlProtectionMask     HvCallFlushVirtualAddressList
//	HvCallGetVpRegisters              HvCallFlushVirtualAddressListEx
//	HvCallSetVpRegisters              HvCallSendSyntheticClusterIpi
//	HvCallTranslateVirtualAddress     HvCallSendSyntheticClusterIpiEx
//	HvCallTranslateVirtualAddressEx   HvCallAssertVirtualInterrupt
//	HvCallStartVirtualProcessor       HvCallInstallIntercept
//	HvCallGetVpIndexFromApicId
//
// VTL calls and returns are outcomes of the dispatcher, for [Partition.Call] and
// [Partition.Return].
//
// After a call that came out as hypercall.Again, a processor that is Blocked does not run
// before it is unblocked, and there may be an EffectSwitch, because a higher level has
// intercepted it. Of the flush calls the embedder finds the address space and the ranges in
// the hypercall.Call.
func Handlers() []hypercall.Handler {
	return []hypercall.Handler{
		hypercall.SimpleFunc(hypercall.CodeEnablePartitionVtl, func(c *hypercall.Call, in hypercall.EnablePartitionVtlInput) hypercall.Status {
			w := caller(c)
			return w.Partition.EnablePartitionVTL(w.VP, &in, w.Effects)
		}),
		hypercall.SimpleFunc(hypercall.CodeEnableVpVtl, func(c *hypercall.Call, in hypercall.EnableVpVtlInput) hypercall.Status {
			w := caller(c)
			return w.Partition.EnableVPVTL(w.VP, &in, w.Effects)
		}),
		modifyProtection(),
		hypercall.RepFuncOut(hypercall.CodeGetVpRegisters, func(c *hypercall.Call, in hypercall.VpRegistersInput, name hypercall.Uint32) (Value, hypercall.Status) {
			w := caller(c)
			return w.Partition.GetRegister(w.VP, &in, hypercall.Register(name))
		}),
		hypercall.RepFunc(hypercall.CodeSetVpRegisters, func(c *hypercall.Call, in hypercall.VpRegistersInput, a hypercall.RegisterAssoc) hypercall.Status {
			w := caller(c)
			return w.Partition.SetRegister(w.VP, &in, a.Name, a.Value, w.Effects)
		}),
		hypercall.SimpleFuncOut(hypercall.CodeTranslateVirtualAddress, func(c *hypercall.Call, in hypercall.TranslateVirtualAddressInput) (out hypercall.TranslateVirtualAddressOutput, s hypercall.Status) {
			w := caller(c)
			t, s := w.Partition.TranslateVirtualAddress(w.VP, &in, w.Effects)
			return hypercall.TranslateVirtualAddressOutput{Result: t.result(), GPAPage: t.Page}, s
		}),
		hypercall.SimpleFuncOut(hypercall.CodeTranslateVirtualAddressEx, func(c *hypercall.Call, in hypercall.TranslateVirtualAddressInput) (out hypercall.TranslateVirtualAddressExOutput, s hypercall.Status) {
			w := caller(c)
			t, s := w.Partition.TranslateVirtualAddress(w.VP, &in, w.Effects)
			return hypercall.TranslateVirtualAddressExOutput{Result: t.result(), GPAPage: t.Page}, s
		}),
		hypercall.SimpleFunc(hypercall.CodeStartVirtualProcessor, func(c *hypercall.Call, in hypercall.StartVirtualProcessorInput) hypercall.Status {
			w := caller(c)
			o, s := w.Partition.StartVP(w.VP, &in, w.Effects)
			return held(c, o, s)
		}),
		hypercall.RepFuncOut(hypercall.CodeGetVpIndexFromApicId, func(c *hypercall.Call, in hypercall.GetVpIndexFromApicIdInput, id hypercall.Uint32) (hypercall.Uint32, hypercall.Status) {
			w := caller(c)
			i, s := w.Partition.VPIndexFromAPICID(w.VP, &in, uint32(id))
			return hypercall.Uint32(i), s
		}),
		hypercall.SimpleFunc(hypercall.CodeFlushVirtualAddressSpace, func(c *hypercall.Call, in hypercall.FlushVirtualAddressInput) hypercall.Status {
			var s Set
			return flush(c, in.Flags, &s, maskOf(&s, in.ProcessorMask))
		}),
		hypercall.SimpleFunc(hypercall.CodeFlushVirtualAddressSpaceEx, func(c *hypercall.Call, in hypercall.FlushVirtualAddressExInput) hypercall.Status {
			var s Set
			return flush(c, in.Flags, &s, banksOf(&s, in.SetFormat, in.ValidBanksMask, c))
		}),
		flushList(hypercall.CodeFlushVirtualAddressList),
		flushList(hypercall.CodeFlushVirtualAddressListEx),
		hypercall.SimpleFunc(hypercall.CodeSendSyntheticClusterIpi, func(c *hypercall.Call, in hypercall.SendSyntheticClusterIpiInput) hypercall.Status {
			var s Set
			return sendIPI(c, in.Vector, in.TargetVTL, &s, maskOf(&s, in.ProcessorMask))
		}),
		hypercall.SimpleFunc(hypercall.CodeSendSyntheticClusterIpiEx, func(c *hypercall.Call, in hypercall.SendSyntheticClusterIpiExInput) hypercall.Status {
			var s Set
			return sendIPI(c, in.Vector, in.TargetVTL, &s, banksOf(&s, in.SetFormat, in.ValidBanksMask, c))
		}),
		hypercall.SimpleFunc(hypercall.CodeAssertVirtualInterrupt, func(c *hypercall.Call, in hypercall.AssertVirtualInterruptInput) hypercall.Status {
			w := caller(c)
			return w.Partition.AssertVirtualInterrupt(w.VP, &in, w.Effects)
		}),
		hypercall.SimpleFunc(hypercall.CodeInstallIntercept, func(c *hypercall.Call, in hypercall.InstallInterceptInput) hypercall.Status {
			w := caller(c)
			return w.Partition.InstallIntercept(w.VP, &in, w.Effects)
		}),
	}
}

func caller(c *hypercall.Call) *Caller { return c.Context.(*Caller) }

// result returns a translation as it is in the output of the call.
func (t *Translation) result() hypercall.TranslateResult {
	r := hypercall.TranslateResult(0).WithResultCode(t.Code)
	if t.Code == hypercall.TranslateSuccess {
		r = r.WithCacheType(t.CacheType).With(hypercall.TranslateResultOverlayPage, t.Overlay)
	}
	return r
}

// held returns the status of a simple call, which is made again unless it is done.
func held(c *hypercall.Call, o Outcome, s hypercall.Status) hypercall.Status {
	if o != Done {
		return c.Hold()
	}
	return s
}

// modifyProtection takes pages as they are in the list, a batch at a time.
func modifyProtection() hypercall.Handler {
	layout, _ := hypercall.CodeModifyVtlProtectionMask.Layout()
	return hypercall.Handler{
		Code: hypercall.CodeModifyVtlProtectionMask, Layout: layout,
		Rep: func(c *hypercall.Call, first, limit int) (int, hypercall.Status) {
			w := caller(c)
			var in hypercall.ModifyVtlProtectionMaskInput
			in.Get(c.Header())
			var batch [hypercall.DefaultBudget]uint64
			done := 0
			for first+done < limit {
				n := min(limit-first-done, len(batch))
				for i := range n {
					batch[i] = binary.LittleEndian.Uint64(c.Element(first + done + i))
				}
				d, s := w.Partition.ModifyProtection(w.VP, &in, batch[:n], w.Effects)
				done += d
				if s != hypercall.StatusSuccess {
					return done, s
				}
			}
			return done, hypercall.StatusSuccess
		},
	}
}

// maskOf makes the set of a processor mask, which is always one.
func maskOf(s *Set, mask uint64) bool {
	s.Format, s.ValidBanksMask = hypercall.VpSetSparse, 1
	s.Banks[0] = mask
	return true
}

// banksOf reads a set from the variable header, and reports whether it is one.
func banksOf(s *Set, format hypercall.VpSetFormat, valid uint64, c *hypercall.Call) bool {
	s.Format, s.ValidBanksMask = format, valid
	return (format == hypercall.VpSetSparse || format == hypercall.VpSetAll) && s.GetBanks(c.VariableHeader())
}

func flush(c *hypercall.Call, flags hypercall.FlushFlags, s *Set, valid bool) hypercall.Status {
	if !valid {
		return hypercall.StatusInvalidParameter
	}
	w := caller(c)
	o, status := w.Partition.Flush(w.VP, flags, s, w.Effects)
	return held(c, o, status)
}

// flushList flushes all elements of the list at once: the effects are the same for each.
func flushList(code hypercall.Code) hypercall.Handler {
	layout, _ := code.Layout()
	return hypercall.Handler{
		Code: code, Layout: layout,
		Rep: func(c *hypercall.Call, first, limit int) (int, hypercall.Status) {
			w := caller(c)
			var s Set
			var flags hypercall.FlushFlags
			ok := true
			if code == hypercall.CodeFlushVirtualAddressList {
				var in hypercall.FlushVirtualAddressInput
				in.Get(c.Header())
				flags = in.Flags
				maskOf(&s, in.ProcessorMask)
			} else {
				var in hypercall.FlushVirtualAddressExInput
				in.Get(c.Header())
				flags = in.Flags
				ok = banksOf(&s, in.SetFormat, in.ValidBanksMask, c)
			}
			if !ok {
				return 0, hypercall.StatusInvalidParameter
			}
			o, status := w.Partition.Flush(w.VP, flags, &s, w.Effects)
			if o != Done || status != hypercall.StatusSuccess {
				return 0, status
			}
			return limit - first, hypercall.StatusSuccess
		},
	}
}

func sendIPI(c *hypercall.Call, vector uint32, target hypercall.InputVTL, s *Set, valid bool) hypercall.Status {
	if !valid {
		return hypercall.StatusInvalidParameter
	}
	w := caller(c)
	return w.Partition.SendIPI(w.VP, vector, target, s, w.Effects)
}
