package vmcs_test

import (
	"slices"
	"strings"

	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
)

// A deviation is a case in which the processor of the tests, Bochs 2.7, does not
// do at a VM entry what the manual says. It either leaves out rules, or adds a
// check of its own.
type deviation struct {
	name     string
	section  string // of SDM Vol. 3C
	bochs    string // what Bochs does
	evidence string // where that is seen in Bochs' source

	// rules are those that are left out. If when is there, only if it holds.
	rules []string
	when  func(m *vmtest.Machine, image *vmcs.Image, rule string) bool

	// extra is a check that is added: whether it fails, when it is made, and what
	// it leads to.
	extra func(*vmtest.Machine, *vmcs.Image) bool
	order int
	leads vmcs.Outcome

	// only says which processors have the deviation; nil: all.
	only func(*vmtest.Machine) bool
}

// here tells whether this processor has the deviation.
func (d *deviation) here(m *vmtest.Machine) bool { return d.only == nil || d.only(m) }

func value(image *vmcs.Image, f vmcs.Field) uint64 { v, _ := image.Get(f); return v }

func has[C vmcs.Controls](image *vmcs.Image, f vmcs.Field, bits C) bool {
	return value(image, f)&uint64(bits) == uint64(bits)
}

func guest64(image *vmcs.Image) bool {
	return has(image, vmcs.VMEntryControls, vmcs.EntryIA32eModeGuest)
}

// code64 tells whether the guest begins in 64-bit code.
func code64(image *vmcs.Image) bool {
	return guest64(image) && value(image, vmcs.GuestCSAccessRights)>>13&1 != 0
}

func virtual8086(image *vmcs.Image) bool { return value(image, vmcs.GuestRFLAGS)>>17&1 != 0 }

// rights takes a segment's access rights apart.
func rights(image *vmcs.Image, f vmcs.Field) (kind, dpl uint64) {
	v := value(image, f)
	return v & 15, v >> 5 & 3
}

func rpl(image *vmcs.Image, f vmcs.Field) uint64 { return value(image, f) & 3 }

func canonical(m *vmtest.Machine, v uint64) bool {
	n := 64 - m.Caps.CPU.LinearAddressBits
	return uint64(int64(v<<n)>>n) == v
}

// hasCET and hasMTF tell which processor it is.
func hasCET(m *vmtest.Machine) bool { return vmtest.Has(m, vmcs.EntryLoadCETState) }

func hasNoMTF(m *vmtest.Machine) bool { return !vmtest.Has(m, vmcs.PrimaryMonitorTrapFlag) }

// The order in which Bochs comes to what ends a VM entry. In a row, it does not
// matter what comes first: the outcome is the same.
const (
	orderControls = iota
	orderHost
	orderGuest
	orderLink
	orderNonRegister
	orderPDPTE
	orderMSR
	orderNone
)

func orderOf(r *vmcs.Rule) int {
	switch {
	case r.Result.Kind == vmcs.FailValid && r.Result.Error == vmcs.EntryInvalidHostState:
		return orderHost
	case r.Result.Kind == vmcs.FailValid:
		return orderControls
	case r.Result.Reason == 34:
		return orderMSR
	case strings.HasPrefix(r.ID, "guest.link."):
		return orderLink
	case strings.HasPrefix(r.ID, "guest.pdpte."):
		return orderPDPTE
	case r.ID == "guest.rflags.if", strings.HasPrefix(r.ID, "guest.activity."), strings.HasPrefix(r.ID, "guest.interruptibility."), strings.HasPrefix(r.ID, "guest.pending."):
		return orderNonRegister
	}
	return orderGuest
}

// expect says what Bochs does where the manual says what report says, and which
// deviations that needs, if it is something else.
func expect(m *vmtest.Machine, image *vmcs.Image, report *vmcs.Report) (vmcs.Outcome, []*deviation) {
	var used []*deviation
	outcome, order := vmcs.Outcome{Kind: vmcs.Entered}, orderNone
	kept := 0
violations:
	for i := range report.Violations {
		rule := report.Violations[i].Rule
		for j := range deviations {
			d := &deviations[j]
			if slices.Contains(d.rules, rule.ID) && (d.when == nil || d.when(m, image, rule.ID)) && d.here(m) {
				used = append(used, d)
				continue violations
			}
		}
		if o := orderOf(rule); o < order {
			if kept > 0 {
				used = append(used, linkFirst)
			}
			only := vmcs.Report{Violations: report.Violations[i : i+1]}
			outcome, order = only.Outcome(), o
		}
		kept++
	}
	for j := range deviations {
		if d := &deviations[j]; d.extra != nil && d.order < order && d.here(m) && d.extra(m, image) {
			outcome, order = d.leads, d.order
			used = append(used, d)
		}
	}
	if outcome == report.Outcome() {
		return outcome, nil
	}
	return outcome, used
}

var (
	failControls = vmcs.Outcome{Kind: vmcs.FailValid, Error: vmcs.EntryInvalidControls}
	failGuest    = vmcs.Outcome{Kind: vmcs.EntryExit, Reason: 33}
)

// wraps tells that the end of an MSR area, worked out in 32 bits as Bochs does,
// has bits beyond the physical-address width; and whether it really has.
func wraps(m *vmtest.Machine, image *vmcs.Image, count, address vmcs.Field) (bochs, really bool) {
	n, a := value(image, count), value(image, address)
	width := m.Caps.CPU.PhysicalAddressBits
	if n == 0 || a&15 != 0 || a>>width != 0 {
		return false, false
	}
	return (a+uint64(uint32(n)*16)-1)>>width != 0, (a+n*16-1)>>width != 0
}

// areas are the MSR areas, by the rule on where each may lie.
var areas = map[string][2]vmcs.Field{
	"exit.msrstore": {vmcs.ExitMSRStoreCount, vmcs.ExitMSRStoreAddress},
	"exit.msrload":  {vmcs.ExitMSRLoadCount, vmcs.ExitMSRLoadAddress},
	"entry.msrload": {vmcs.EntryMSRLoadCount, vmcs.EntryMSRLoadAddress},
}

// dataRights are the access rights that the rules on DPL and RPL look at.
var dataRights = map[string]vmcs.Field{
	"guest.ds.dpl": vmcs.GuestDSAccessRights, "guest.es.dpl": vmcs.GuestESAccessRights,
	"guest.fs.dpl": vmcs.GuestFSAccessRights, "guest.gs.dpl": vmcs.GuestGSAccessRights,
}

// linkFirst is not a rule: which of several violations is reported.
var linkFirst = &deviations[0]

var deviations = []deviation{
	{
		name:     "of several violations, the VMCS link pointer's before those of other non-register state",
		section:  "27.3.1, 27.8 (the manual leaves the order open)",
		bochs:    "reports exit qualification 4",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: the link pointer is checked before pending debug exceptions, activity, interruptibility and what an injected event asks of them",
	},
	{
		name:     "IA32_DEBUGCTL is not checked",
		section:  "27.3.1.1",
		bochs:    "enters with reserved bits of guest IA32_DEBUGCTL",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: ia32_debugctl_msr is read and not used",
		rules:    []string{"guest.debugctl"},
	},
	{
		name:     "IA32_PERF_GLOBAL_CTRL is not checked",
		section:  "27.2.2, 27.3.1.1",
		bochs:    "enters with reserved bits of the host's and the guest's, and loads neither",
		evidence: "vmx.cc: VMCS_64BIT_GUEST_IA32_PERF_GLOBAL_CTRL and the host's are read nowhere",
		rules:    []string{"host.perfglobalctrl", "guest.perfglobalctrl"},
	},
	{
		name:     "bits 63:32 of pending debug exceptions are not checked",
		section:  "27.3.1.5",
		bochs:    "enters with any of them",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: tmpDR6 = (Bit32u) VMread_natural",
		rules:    []string{"guest.pending.reserved"},
		when: func(_ *vmtest.Machine, image *vmcs.Image, _ string) bool {
			return value(image, vmcs.GuestPendingDebugExceptions)&0xffffaff0 == 0
		},
	},
	{
		name:     "BS of pending debug exceptions is not checked",
		section:  "27.3.1.5",
		bochs:    "enters whether or not it is consistent with RFLAGS.TF and blocking",
		evidence: "vmx.cc, VMenterLoadCheckGuestState has no such check",
		rules:    []string{"guest.pending.bs"},
	},
	{
		name:     "injection into the HLT state is not checked",
		section:  "27.3.1.5",
		bochs:    "enters with any event",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: only wait-for-SIPI and shutdown are looked at",
		rules:    []string{"guest.activity.event"},
		when: func(_ *vmtest.Machine, image *vmcs.Image, _ string) bool {
			return value(image, vmcs.GuestActivityState) == 1
		},
	},
	{
		name:     "injection of vector 18 into the shutdown state",
		section:  "27.3.1.5",
		bochs:    "enters whatever the event's type is, not only for #MC",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: event_type != BX_NMI && vector != BX_MC_EXCEPTION",
		rules:    []string{"guest.activity.event"},
		when: func(_ *vmtest.Machine, image *vmcs.Image, _ string) bool {
			return value(image, vmcs.GuestActivityState) == 2 && value(image, vmcs.EntryInterruptionInformation)&0xff == 18
		},
	},
	{
		name:     "an error code is delivered with any event",
		section:  "27.2.1.3",
		bochs:    "with CET, it enters with an error code for what is no hardware exception, or for a guest in real mode",
		evidence: "vmx.cc, VMenterLoadCheckVmControls: push_error is only compared without BX_ISA_CET",
		rules:    []string{"event.errorcode.mustnot"},
		only:     hasCET,
	},
	{
		name:     "\"entry to SMM\" outside SMM is not checked",
		section:  "27.2.1.3",
		bochs:    "goes on, to fail in a check of guest state",
		evidence: "vmx.cc, VMenterLoadCheckVmControls: only VMX_VMENTRY_CTRL1_DEACTIVATE_DUAL_MONITOR_TREATMENT is looked at",
		rules:    []string{"entry.smm"},
		when: func(_ *vmtest.Machine, image *vmcs.Image, _ string) bool {
			return !has(image, vmcs.VMEntryControls, vmcs.EntryDeactivateDualMonitorTreatment)
		},
	},
	{
		name:     "NMI injection with virtual-NMI blocking is not checked",
		section:  "27.3.1.5",
		bochs:    "enters",
		evidence: "vmx.cc, VMenterLoadCheckVmControls: the check is there as a comment",
		rules:    []string{"guest.interruptibility.nmi.virtual"},
	},
	{
		name:     "the qualification of an NMI injected with blocking by STI is 0",
		section:  "27.8",
		bochs:    "reports 0, not 3",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: (interruptibility_state & 0x3) != 0 for BX_NMI",
		rules:    []string{"guest.interruptibility.nmi.sti"},
		extra: func(_ *vmtest.Machine, image *vmcs.Image) bool {
			info := value(image, vmcs.EntryInterruptionInformation)
			return info>>31 != 0 && info>>8&7 == 2 && value(image, vmcs.GuestInterruptibilityState)&1 != 0
		},
		order: orderNonRegister, leads: failGuest,
	},
	{
		name:     "the type of an event without the monitor trap flag is not checked",
		section:  "27.2.1.3",
		bochs:    "accepts type 7 with any vector, and stops if there is nothing else wrong",
		evidence: "vmx.cc, VMenterLoadCheckVmControls: case 7; VMenterInjectEvents: BX_PANIC",
		rules:    []string{"event.type", "event.vector", "event.length"},
		when: func(_ *vmtest.Machine, image *vmcs.Image, _ string) bool {
			return value(image, vmcs.EntryInterruptionInformation)>>8&7 == 7
		},
		only: hasNoMTF,
	},
	{
		name:     "IA-32e mode without paging is not refused",
		section:  "27.3.1.1",
		bochs:    "enters an unrestricted guest in IA-32e mode with CR0.PG 0",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: x86_64_guest is compared with CR4.PAE only",
		rules:    []string{"guest.ia32e.pg"},
	},
	{
		name:     "virtual-8086 mode in real mode is not refused",
		section:  "27.3.1.4",
		bochs:    "enters an unrestricted guest with RFLAGS.VM 1 and CR0.PE 0",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: v8086_guest is compared with x86_64_guest only",
		rules:    []string{"guest.rflags.vm"},
		when:     func(_ *vmtest.Machine, image *vmcs.Image, _ string) bool { return !guest64(image) },
	},
	{
		name:     "RIP of 64-bit code is not checked",
		section:  "27.3.1.4",
		bochs:    "enters, and the first fetch faults",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: only GET32H(guest.rip) outside 64-bit code",
		rules:    []string{"guest.rip.64"},
	},
	{
		name:     "SSP must be canonical, and have 32 bits outside IA-32e mode",
		section:  "27.3.1.4 (bit N-1 may differ from those above)",
		bochs:    "refuses it",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: !IsCanonical(guest.ssp) || (!x86_64_guest && GET32H(guest.ssp))",
		extra: func(m *vmtest.Machine, image *vmcs.Image) bool {
			ssp := value(image, vmcs.GuestSSP)
			return has(image, vmcs.VMEntryControls, vmcs.EntryLoadCETState) && (!canonical(m, ssp) || !guest64(image) && ssp>>32 != 0)
		},
		order: orderGuest, leads: failGuest,
		only: hasCET,
	},
	{
		name:     "CR4.CET without CR0.WP of the host is checked with \"load CET state\" only",
		section:  "27.2.2",
		bochs:    "enters",
		evidence: "vmx.cc, VMenterLoadCheckHostState: within VMX_VMEXIT_CTRL1_LOAD_HOST_CET_STATE",
		rules:    []string{"host.cr4.cet"},
		when: func(_ *vmtest.Machine, image *vmcs.Image, _ string) bool {
			return !has(image, vmcs.PrimaryVMExitControls, vmcs.ExitLoadCETState)
		},
		only: hasCET,
	},
	{
		name:     "DPL of CS is not compared with that of SS",
		section:  "27.3.1.2",
		bochs:    "compares it with RPL of CS, which is another thing for an unrestricted guest",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: CS checks",
		rules:    []string{"guest.cs.dpl"},
		when: func(_ *vmtest.Machine, image *vmcs.Image, _ string) bool {
			kind, _ := rights(image, vmcs.GuestCSAccessRights)
			return kind != 3
		},
	},
	{
		name:     "DPL of CS is compared with RPL of CS",
		section:  "27.3.1.2",
		bochs:    "refuses an unrestricted guest in which they differ (conforming code: RPL less than DPL)",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: CS checks",
		extra: func(_ *vmtest.Machine, image *vmcs.Image) bool {
			kind, dpl := rights(image, vmcs.GuestCSAccessRights)
			r := rpl(image, vmcs.GuestCSSelector)
			switch {
			case virtual8086(image):
				return false
			case kind == 9 || kind == 11:
				return r != dpl
			}
			return (kind == 13 || kind == 15) && r < dpl
		},
		order: orderGuest, leads: failGuest,
	},
	{
		name:     "SS of 64-bit code with a null selector is not checked",
		section:  "27.3.1.2",
		bochs:    "takes it for unusable, whatever bit 16 of its access rights says",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: SS is allowed to be NULL selector if going to 64-bit guest",
		rules:    []string{"guest.ss.base", "guest.ss.type", "guest.ss.s", "guest.ss.p", "guest.ss.reserved", "guest.ss.g"},
		when: func(_ *vmtest.Machine, image *vmcs.Image, _ string) bool {
			return code64(image) && value(image, vmcs.GuestSSSelector)>>2 == 0
		},
	},
	{
		name:     "readable non-conforming code in a data-segment register counts as conforming",
		section:  "27.3.1.2",
		bochs:    "does not compare DPL and RPL for type 11",
		evidence: "vmx.cc, VMenterLoadCheckGuestState: if (type < 11)",
		rules:    []string{"guest.ds.dpl", "guest.es.dpl", "guest.fs.dpl", "guest.gs.dpl"},
		when: func(_ *vmtest.Machine, image *vmcs.Image, rule string) bool {
			kind, _ := rights(image, dataRights[rule])
			return kind == 11
		},
	},
	{
		name:     "the end of an MSR area is worked out in 32 bits, and lies within the physical-address width",
		section:  "27.2.1.2, 27.2.1.3",
		bochs:    "accepts an area of 2^28 entries and more that is too long",
		evidence: "vmx.cc, VMenterLoadCheckVmControls: last_byte = addr + (cnt * 16) - 1 with a Bit32u cnt",
		rules:    []string{"exit.msrstore", "exit.msrload", "entry.msrload"},
		when: func(m *vmtest.Machine, image *vmcs.Image, rule string) bool {
			bochs, really := wraps(m, image, areas[rule][0], areas[rule][1])
			return really && !bochs
		},
	},
	{
		name:     "the VM-entry MSR-load area beyond all memory, accepted as above",
		section:  "27.4",
		bochs:    "fails the entry with exit reason 34: the first entry reads as ones",
		evidence: "vmx.cc, LoadMSRs",
		extra: func(m *vmtest.Machine, image *vmcs.Image) bool {
			a := areas["entry.msrload"]
			bochs, really := wraps(m, image, a[0], a[1])
			return really && !bochs
		},
		order: orderMSR, leads: vmcs.Outcome{Kind: vmcs.EntryExit, Reason: 34, Qualification: 1},
	},
	{
		name:     "the end of an MSR area is worked out in 32 bits, and wraps below 0",
		section:  "27.2.1.2, 27.2.1.3",
		bochs:    "refuses an area of 2^28 entries at address 0",
		evidence: "vmx.cc, VMenterLoadCheckVmControls: last_byte = addr + (cnt * 16) - 1 with a Bit32u cnt",
		extra: func(m *vmtest.Machine, image *vmcs.Image) bool {
			for _, a := range areas {
				if bochs, really := wraps(m, image, a[0], a[1]); bochs && !really {
					return true
				}
			}
			return false
		},
		order: orderControls, leads: failControls,
	},
}
