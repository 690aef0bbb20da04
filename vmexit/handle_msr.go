package vmexit

import (
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// MSRs with rules of their own (SDM Vol. 4).
const (
	msrTSC            = 0x10
	msrFeatureControl = 0x3a
	msrSysenterCS     = 0x174
	msrSysenterESP    = 0x175
	msrSysenterEIP    = 0x176
	msrDebugCtl       = 0x1d9
	msrPAT            = 0x277
	msrVMXFirst       = 0x480
	msrVMXLast        = 0x493
	msrEFER           = 0xc0000080
	msrFSBase         = 0xc0000100
	msrGSBase         = 0xc0000101
)

// An MSRRule says what a guest's RDMSR and WRMSR of an MSR do. A function that is nil,
// or returns false, makes the instruction raise #GP. To end the run a function calls
// [Exit.Fail].
type MSRRule struct {
	Read  func(x *Exit, msr uint32) (value uint64, ok bool)
	Write func(x *Exit, msr uint32, value uint64) (ok bool)

	pass vmcs.MSRAccess // what a processor can do by itself: FillBitmap
}

// DenyMSR is the rule for an MSR that does not exist: #GP.
func DenyMSR() MSRRule { return MSRRule{} }

// AllowMSR is the rule for the processor's own MSR, whose faults become the guest's. The
// MSR must be the guest's while the hypervisor runs: that of the host, and of all
// guests on the processor. For the MSRs that the VMCS holds it is the field in the
// VMCS.
func AllowMSR() MSRRule { return MSRRule{readMSR, writeMSR, vmcs.MSRReadWrite} }

// ReadMSR is the rule for the processor's own MSR, of which writes raise #GP.
func ReadMSR() MSRRule { return MSRRule{Read: readMSR, pass: vmcs.MSRRead} }

// whole returns the rule with functions in the place of nil, for which handlers then need
// not look.
func (r MSRRule) whole() MSRRule {
	if r.Read == nil {
		r.Read = func(*Exit, uint32) (uint64, bool) { return 0, false }
	}
	if r.Write == nil {
		r.Write = func(*Exit, uint32, uint64) bool { return false }
	}
	return r
}

func readMSR(x *Exit, msr uint32) (uint64, bool) {
	v, err := asm.RDMSRSafe(msr)
	return v, err == nil
}

func writeMSR(x *Exit, msr uint32, v uint64) bool { return asm.WRMSRSafe(msr, v) == nil }

// ValueMSR is the rule for an MSR that has a value; writes raise #GP.
func ValueMSR(v uint64) MSRRule {
	return MSRRule{Read: func(*Exit, uint32) (uint64, bool) { return v, true }}
}

// IgnoreMSR is the rule for an MSR that has a value, and of which writes do nothing.
func IgnoreMSR(v uint64) MSRRule {
	r := ValueMSR(v)
	r.Write = func(*Exit, uint32, uint64) bool { return true }
	return r
}

// FieldMSR is the rule for an MSR that a field of the VMCS holds. Valid has the bits
// that can be 1; others raise #GP.
func FieldMSR(f vmcs.Field, valid uint64) MSRRule {
	return fieldMSR(f, func(_ *Exit, v uint64) bool { return v&^valid == 0 })
}

func fieldMSR(f vmcs.Field, ok func(*Exit, uint64) bool) MSRRule {
	return MSRRule{
		Read: func(x *Exit, _ uint32) (uint64, bool) { return x.Read(f), true },
		Write: func(x *Exit, _ uint32, v uint64) bool {
			if !ok(x, v) {
				return false
			}
			x.Write(f, v)
			return true
		},
		pass: vmcs.MSRReadWrite,
	}
}

// intercepted returns the rule for an MSR that the processor has the guest's value of only
// if controls say so: FillBitmap does not let it through.
func (r MSRRule) intercepted() MSRRule {
	r.pass = 0
	return r
}

// canonical tells whether an address is, for the processor's paging mode: 48 bits, or
// 57 with CR4.LA57 (SDM Vol. 1 3.3.7.1).
func (x *Exit) canonical(v uint64) bool {
	return Addressing{LA57: x.guestCR4Has(asm.CR4LA57)}.canonical(v)
}

// validPAT tells whether a value can be written to IA32_PAT: eight memory types
// (SDM Vol. 3A 12.12.2). It looks at all at once, being on the way of an exit: bits 7:3 must
// be 0, and bit 1 comes with bit 2 only, which leaves out 2 and 3.
func validPAT(_ *Exit, v uint64) bool {
	const each = 0x01010101_01010101
	return v&(0xf8*each) == 0 && v&(2*each)&^(v>>1) == 0
}

// inVMCS are the rules of MSRs that every VMCS has, or the processor keeps there while
// the controls that load and save it are 1.
func inVMCS(msr uint32) (MSRRule, bool) {
	switch msr {
	case msrSysenterCS:
		return fieldMSR(vmcs.GuestSysenterCS, func(*Exit, uint64) bool { return true }), true
	case msrSysenterESP:
		return fieldMSR(vmcs.GuestSysenterESP, (*Exit).canonical), true
	case msrSysenterEIP:
		return fieldMSR(vmcs.GuestSysenterEIP, (*Exit).canonical), true
	case msrFSBase:
		return fieldMSR(vmcs.GuestFSBase, (*Exit).canonical), true
	case msrGSBase:
		return fieldMSR(vmcs.GuestGSBase, (*Exit).canonical), true
	case msrDebugCtl:
		const lbr, btf = 1 << 0, 1 << 1
		return FieldMSR(vmcs.GuestDebugCtl, lbr|btf).intercepted(), true
	case msrPAT:
		return fieldMSR(vmcs.GuestPAT, validPAT).intercepted(), true
	}
	return MSRRule{}, false
}

// An MSRPolicy says what a guest's RDMSR and WRMSR do. The first 0x2000 MSRs from 0,
// 0x40000000, 0x80000000 and 0xc0000000 on can have rules of their own; all others go by
// the default. Change it before the first guest uses it; after that, any number of
// processors can.
type MSRPolicy struct {
	byDefault *MSRRule
	rules     [4 * msrGroup]*MSRRule // by bits 31:30 and 12:0
}

const (
	msrGroup = 0x2000
	msrNone  = 1<<30 - msrGroup // bits of an MSR that has no rule of its own
	msrShift = 30 - 13
	msrHigh  = 0xc0000000
)

// NewMSRPolicy returns a policy of one rule.
func NewMSRPolicy(rule MSRRule) *MSRPolicy {
	rule = rule.whole()
	p := &MSRPolicy{byDefault: &rule}
	for i := range p.rules {
		p.rules[i] = &rule
	}
	return p
}

func (p *MSRPolicy) slot(msr uint32) **MSRRule {
	return &p.rules[(msr>>msrShift|msr%msrGroup)%(4*msrGroup)]
}

func (p *MSRPolicy) rule(msr uint32) *MSRRule {
	if msr&msrNone != 0 {
		return p.byDefault
	}
	return *p.slot(msr)
}

// Set gives an MSR a rule. It panics if the MSR can have none: that is the
// program's mistake.
func (p *MSRPolicy) Set(msr uint32, rule MSRRule) *MSRPolicy {
	return p.SetRange(msr, msr, rule)
}

// SetRange gives the MSRs first to last, inclusive, a rule.
func (p *MSRPolicy) SetRange(first, last uint32, rule MSRRule) *MSRPolicy {
	if first&msrNone != 0 || last&msrNone != 0 || last < first || last-first >= msrGroup {
		panic(fmt.Sprintf("vmexit: MSRs 0x%x to 0x%x cannot have a rule: the first 0x2000 from 0, 0x40000000, 0x80000000 and 0xc0000000 on can", first, last))
	}
	rule = rule.whole()
	for n := range last - first + 1 {
		msr, r := first+n, &rule
		if own, ok := inVMCS(msr); ok && rule.pass != 0 {
			if rule.pass&vmcs.MSRWrite == 0 {
				own.Write = rule.Write
			}
			own.pass &= rule.pass
			r = &own
		}
		*p.slot(msr) = r
	}
	return p
}

// HideVMX makes the MSRs of VMX those of a processor that lacks it: they do not exist,
// and neither does IA32_FEATURE_CONTROL, which comes with VMX, SMX, SGX and others.
func (p *MSRPolicy) HideVMX() *MSRPolicy {
	return p.Set(msrFeatureControl, DenyMSR()).SetRange(msrVMXFirst, msrVMXLast, DenyMSR())
}

// Rule returns the rule of an MSR.
func (p *MSRPolicy) Rule(msr uint32) MSRRule { return *p.rule(msr) }

// FillBitmap makes a bitmap let through what the policy leaves to the processor, and
// intercept the rest.
func (p *MSRPolicy) FillBitmap(m *vmcs.MSRBitmap) error {
	m.InterceptAll()
	for _, first := range [...]uint32{0, msrHigh} {
		for msr := first; msr < first+msrGroup; msr++ {
			if a := p.rule(msr).pass; a != 0 {
				if err := m.Pass(msr, a); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// RDMSR returns the handler of RDMSR exits.
//
//go:noinline
func (p *MSRPolicy) RDMSR() Handler {
	return func(x *Exit) Outcome {
		msr := uint32(x.Guest.Regs[asm.RCX])
		v, ok := p.rule(msr).Read(x, msr)
		if !ok {
			return x.Raise(vmcs.VectorGP, 0)
		}
		x.setEDXEAX(v)
		return Resume
	}
}

// WRMSR returns the handler of WRMSR exits.
//
//go:noinline
func (p *MSRPolicy) WRMSR() Handler {
	return func(x *Exit) Outcome {
		msr := uint32(x.Guest.Regs[asm.RCX])
		if !p.rule(msr).Write(x, msr, x.edxEAX()) {
			return x.Raise(vmcs.VectorGP, 0)
		}
		return Resume
	}
}
