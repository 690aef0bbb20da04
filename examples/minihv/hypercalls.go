package main

import (
	"slices"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// vendor is the hypervisor's name.
const vendor = "vtx minihv  "

// privileges are what the guest may do.
const privileges = hypercall.PrivilegeAccessHypercallMsrs | hypercall.PrivilegeAccessVpIndex | hypercall.PrivilegeAccessSynicRegs |
	hypercall.PrivilegeAccessIntrCtrlRegs | hypercall.PrivilegeAccessVSM | hypercall.PrivilegeAccessVpRegisters |
	hypercall.PrivilegeStartVirtualProcessor

// hypervisorLeaves are the leaves from 0x40000001 on, with the interface "Hv#1".
func hypervisorLeaves(vendor string, p hypercall.Privileges, processors uint32) (list []vmexit.CPUIDRegisters) {
	leaves := hypercall.NewLeaves(vendor, hypercall.LeafLimits)
	leaves.Features = hypercall.FeaturesLeaf{Privileges: p, Features: hypercall.FeatureSintPollingMode}
	leaves.Recommendations.SpinRetries = hypercall.NeverNotify
	leaves.Limits.VirtualProcessors = processors
	for n := hypercall.LeafInterface; n <= hypercall.LeafLimits; n++ {
		r, _ := leaves.CPUID(n)
		list = append(list, vmexit.CPUIDRegisters(r))
	}
	return list
}

// cpuidPolicy is what the guest is told: a processor without VMX, without vector registers
// and without SYSCALL, which are the host's; and a hypervisor with the interface "Hv#1".
func cpuidPolicy(native vmcs.CPUIDReader) *vmexit.CPUIDPolicy {
	all := ^uint32(0)
	return vmexit.SnapshotCPUID(native).HideUnemulated().PresentHypervisor(vendor, hypervisorLeaves(vendor, privileges, numProcessors)...).
		Mask(1, 0, vmexit.CPUIDRegisters{EAX: all, EBX: all,
			// SSE3, PCLMULQDQ, SSSE3, FMA, PCID, SSE4.1, SSE4.2, AESNI, XSAVE, OSXSAVE, AVX, F16C
			ECX: ^uint32(1<<0 | 1<<1 | 1<<9 | 1<<12 | 1<<17 | 1<<19 | 1<<20 | 1<<25 | 1<<26 | 1<<27 | 1<<28 | 1<<29),
			EDX: ^uint32(1<<24 | 1<<25 | 1<<26)}). // FXSR, SSE, SSE2
		Mask(7, 0, vmexit.CPUIDRegisters{}).
		Mask(0xd, 0, vmexit.CPUIDRegisters{}).
		Mask(0xd, 1, vmexit.CPUIDRegisters{}).
		Mask(0x80000001, 0, vmexit.CPUIDRegisters{EAX: all, EBX: all, ECX: all, EDX: ^uint32(1 << 11)}) // SYSCALL
}

// newDispatcher returns the dispatcher of hypercalls: those of trust levels, and one that
// does nothing.
func (m *vm) newDispatcher() (*hypercall.Dispatcher, error) {
	// This hypervisor has no interrupts for guests: it does not say that it has sent one.
	handlers := slices.DeleteFunc(vtl.Handlers(), func(h hypercall.Handler) bool {
		return h.Code == hypercall.CodeSendSyntheticClusterIpi || h.Code == hypercall.CodeSendSyntheticClusterIpiEx ||
			h.Code == hypercall.CodeAssertVirtualInterrupt
	})
	for i := range handlers {
		switch h := &handlers[i]; h.Code {
		case hypercall.CodeEnableVpVtl, hypercall.CodeStartVirtualProcessor:
			// A context with which the processor cannot be entered is refused, whoever gives it.
			below := h.Simple
			h.Simple = func(c *hypercall.Call) hypercall.Status {
				var in hypercall.EnableVpVtlInput // the other call has the same layout
				in.Get(c.Header())
				if image, err := m.domains[0].image(&in.Context); err != nil || !m.canRun(image) || needsPDPTEs(image) {
					return hypercall.StatusInvalidRegisterValue
				}
				return below(c)
			}
		case hypercall.CodeSetVpRegisters:
			below := h.Rep
			h.Rep = func(c *hypercall.Call, first, limit int) (int, hypercall.Status) {
				end := first
				for end < limit && m.canSet(c.Element(end)) {
					end++
				}
				done, s := 0, hypercall.StatusSuccess
				if end > first {
					done, s = below(c, first, end)
				}
				if s == hypercall.StatusSuccess && first+done == end && end < limit {
					s = hypercall.StatusInvalidRegisterValue
				}
				return done, s
			}
		}
	}
	spin, _ := hypercall.CodeNotifyLongSpinWait.Layout()
	handlers = append(handlers, hypercall.Handler{
		Code: hypercall.CodeNotifyLongSpinWait, Layout: spin,
		Simple: func(*hypercall.Call) hypercall.Status { return hypercall.StatusSuccess },
	})
	return hypercall.NewDispatcher(hypercall.Config{PhysicalBits: m.caps.CPU.PhysicalAddressBits}, handlers...)
}

// canSet tells whether the processor can do what an element of HvCallSetVpRegisters asks for.
func (m *vm) canSet(element []byte) bool {
	var a hypercall.RegisterAssoc
	a.Get(element)
	return m.canGuardTables() || a.Name != hypercall.RegisterCRInterceptControl || hypercall.CrInterceptControl(a.Value.Low)&guardedTables == 0
}

// synthetic is a rule for an MSR of the levels.
func synthetic(read func(*processor, *level) uint64, write func(*processor, *level, uint64) error) vmexit.MSRRule {
	r := vmexit.MSRRule{Read: func(x *vmexit.Exit, _ uint32) (uint64, bool) {
		p := processorOf(x)
		return read(p, p.current), true
	}}
	if write != nil {
		r.Write = func(x *vmexit.Exit, _ uint32, v uint64) bool {
			p := processorOf(x)
			return write(p, p.current, v) == nil
		}
	}
	return r
}

// syntheticMSRs adds the synthetic MSRs. Each level has its own.
func syntheticMSRs(policy *vmexit.MSRPolicy) *vmexit.MSRPolicy {
	set := func(msr hypercall.MSR, read func(*processor, *level) uint64, write func(*processor, *level, uint64) error) {
		policy.Set(uint32(msr), synthetic(read, write))
	}
	set(hypercall.MSRGuestOSID,
		func(_ *processor, l *level) uint64 { return uint64(l.guestOSID) },
		func(_ *processor, l *level, v uint64) error {
			if l.guestOSID = hypercall.GuestOSID(v); v == 0 { // there is no hypercall page without
				l.hypercall &^= hypercall.HypercallMSREnable
				return l.place(l.code, 0, false)
			}
			return nil
		})
	set(hypercall.MSRHypercall,
		func(_ *processor, l *level) uint64 { return uint64(l.hypercall) },
		func(_ *processor, l *level, v uint64) error {
			w := hypercall.HypercallMSR(v)
			if l.hypercall.Has(hypercall.HypercallMSRLocked) {
				return errPlace
			}
			if l.guestOSID == 0 {
				w &^= hypercall.HypercallMSREnable
			}
			err := l.place(l.code, w.GPN(), w.Has(hypercall.HypercallMSREnable))
			if err == nil {
				l.hypercall = w
			}
			return err
		})
	set(hypercall.MSRVPIndex, func(p *processor, _ *level) uint64 { return uint64(p.index) }, nil)
	set(hypercall.MSRVPAssistPage,
		func(p *processor, l *level) uint64 { return p.partition.AssistPage(p.index, l.number) },
		func(p *processor, l *level, v uint64) error {
			w := hypercall.VPAssistMSR(v)
			if p.partition.SetAssistPage(p.index, l.number, v) != vtl.Done {
				return errPlace // all is as it was
			}
			return l.place(l.assist, w.GPN(), w.Has(hypercall.VPAssistMSREnable))
		})
	set(hypercall.MSRSControl,
		func(_ *processor, l *level) uint64 { return uint64(l.control) },
		func(_ *processor, l *level, v uint64) error {
			l.control = hypercall.SControlMSR(v)
			return nil
		})
	set(hypercall.MSRSIMP,
		func(_ *processor, l *level) uint64 { return uint64(l.simp) },
		func(_ *processor, l *level, v uint64) error {
			w := hypercall.SIMPMSR(v)
			err := l.place(l.message, w.GPN(), w.Has(hypercall.SIMPMSREnable))
			if err == nil {
				l.simp = w
			}
			return err
		})
	set(hypercall.MSREOM, func(*processor, *level) uint64 { return 0 },
		func(*processor, *level, uint64) error { return nil }) // no message waits: see post
	for i := range uint32(hypercall.NumSints) {
		set(hypercall.MSRSINT0+hypercall.MSR(i),
			func(_ *processor, l *level) uint64 { return uint64(l.sint[i]) },
			func(_ *processor, l *level, v uint64) error {
				w := hypercall.SINTMSR(v)
				if !w.Has(hypercall.SINTMSRMasked) && !w.Has(hypercall.SINTMSRPolling) {
					return errPlace // this hypervisor has no interrupts for guests
				}
				l.sint[i] = w
				return nil
			})
	}
	return policy
}
