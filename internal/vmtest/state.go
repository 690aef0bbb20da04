package vmtest

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
)

// A State is a VMCS with which VM entry succeeds and an exit follows soon.
type State struct {
	Name    string
	Kind    Kind
	Feature bool // an optional control is in use
	Image   vmcs.Image
}

// States are one state of every kind that this processor can run, and variants
// with another activity state, with events to inject, and with each optional
// control in use. [Machine.Launch] takes their images.
//
// Guests with EPT can read and execute their memory, and cannot write it. All
// have the VMX-preemption timer at 0 if there is one, so that they exit before
// their first instruction if nothing inhibits that.
func (m *Machine) States() []*State {
	m.Helper()
	o := m.prepare()
	var states []*State
	add := func(name string, k Kind, change func(image *vmcs.Image)) *State {
		s := &State{Name: k.String(), Kind: k, Image: *o.base(m, k)}
		if name != "" {
			s.Name += ", " + name
		}
		if change != nil {
			change(&s.Image)
		}
		states = append(states, s)
		return s
	}
	for _, k := range m.Kinds() {
		add("", k, nil)
		for _, e := range events {
			if !e.mtf || Has(m, vmcs.PrimaryMonitorTrapFlag) {
				add(e.name, k, func(image *vmcs.Image) { e.inject(image, k) })
			}
		}
	}
	for _, f := range features {
		if f.possible(m) {
			add(f.name, f.kind, func(image *vmcs.Image) { f.use(m, image, o) }).Feature = true
		}
	}
	return states
}

// Full is the plain state of a kind: all fields of a VMCS, for Launch.
func (m *Machine) Full(k Kind) *vmcs.Image {
	m.Helper()
	image := *m.prepare().base(m, k)
	return &image
}

// prepare makes what states need, once.
func (m *Machine) prepare() *objects {
	m.Helper()
	if m.launcher == nil {
		m.launcher = m.newLauncher()
	}
	if m.objects == nil {
		m.objects = m.newObjects()
	}
	return m.objects
}

// An event is one to inject (SDM Vol. 3C 25.8.3).
type event struct {
	name         string
	vector, kind uint64
	code         bool // has an error code, in protected mode
	length       uint64
	interrupts   bool // RFLAGS.IF must be 1
	mtf          bool
}

var events = []event{
	{name: "external interrupt", vector: 0x31, kind: 0, interrupts: true},
	{name: "NMI", vector: 2, kind: 2},
	{name: "#UD", vector: 6, kind: 3},
	{name: "#GP", vector: 13, kind: 3, code: true},
	{name: "#PF", vector: 14, kind: 3, code: true},
	{name: "software interrupt", vector: 0x40, kind: 4, length: 2},
	{name: "INT1", vector: 1, kind: 5, length: 1},
	{name: "INT3", vector: 3, kind: 6, length: 1},
	{name: "MTF", vector: 0, kind: 7, mtf: true},
}

func (e *event) inject(image *vmcs.Image, k Kind) {
	info := 1<<31 | e.kind<<8 | e.vector
	if e.code && k.Mode != ModeReal {
		info |= 1 << 11
	}
	image.Set(vmcs.EntryInterruptionInformation, info)
	image.Set(vmcs.EntryInstructionLength, e.length)
	if e.interrupts {
		flags, _ := image.Get(vmcs.GuestRFLAGS)
		image.Set(vmcs.GuestRFLAGS, flags|1<<9)
	}
}

// A feature is a set of optional controls, and the fields that they need.
type feature struct {
	name      string
	kind      Kind
	pin       vmcs.PinControls
	primary   vmcs.PrimaryControls
	secondary vmcs.SecondaryControls
	functions vmcs.VMFunctions
	exit      vmcs.ExitControls
	entry     vmcs.EntryControls
	fields    func(set func(vmcs.Field, uint64), o *objects)
}

// possible tells whether the processor has the feature.
func (f *feature) possible(m *Machine) bool {
	return slices.Contains(m.Kinds(), f.kind) && Has(m, f.pin) && Has(m, f.primary) && Has(m, f.secondary) &&
		Has(m, f.functions) && Has(m, f.exit) && Has(m, f.entry)
}

func (f *feature) use(m *Machine, image *vmcs.Image, o *objects) {
	Controls(m, image, f.pin)
	Controls(m, image, f.primary)
	if f.secondary != 0 {
		Controls(m, image, f.secondary)
	}
	if f.functions != 0 {
		Controls(m, image, f.functions)
	}
	Controls(m, image, f.exit)
	Controls(m, image, f.entry)
	if f.fields != nil {
		f.fields(func(field vmcs.Field, v uint64) {
			if image.Has(field) {
				image.Set(field, v)
			}
		}, o)
	}
}

// objects is the memory that VMCS fields point to.
type objects struct {
	bases   map[Kind]*vmcs.Image
	pages   ring0.Pages // one of each of the pages below
	top     uint64      // no RAM from here on
	last    uint64      // no physical address from here on
	hostCR4 uint64
	page0   []byte // the machine's
}

// A page is one of the pages of objects.
type page int

const (
	pageZero   page = iota // stays zero
	pageZero2              // the same
	pageWrite              // the processor may write it
	pageWrite2             // the same
	pageGood               // MSR areas: entries that can be loaded and stored
	pageStore              // the same
	pageMixed              // MSR areas: every other entry cannot be loaded
	pageShadow             // a shadow VMCS
	pageVMCS               // an ordinary VMCS
	pageEPTPs              // an EPTP list
	pageGuard              // stays zero; ends the MSR areas before it
	pages
)

func (o *objects) addr(p page) uint64 { return o.pages.Phys() + uint64(p)*pageSize }

func (o *objects) bytes(p page) []byte { return o.pages.Bytes()[p*pageSize:][:pageSize] }

// badMSRs are entries that no MSR area may load: the MSR with what is above it,
// and the value (SDM Vol. 3C 27.4).
var badMSRs = [][2]uint64{
	{msrFSBase, 0}, {msrGSBase, 0}, // the VMCS has fields for them
	{0x800, 0}, {0x80b, 0}, {0x8ff, 0}, // x2APIC
	{msrKernelGSBase | 1<<32, 0}, // reserved bits
	{0x9e, 0},                    // IA32_SMBASE
	{msrVMXBasic, 0},             // read-only
	{msrPAT, 2}, {msrEFER, 1 << 63}, {msrKernelGSBase, 1 << 63}, {msrSysenterESP, 1 << 63},
}

func (m *Machine) newObjects() *objects {
	m.Helper()
	o := &objects{bases: map[Kind]*vmcs.Image{}, pages: m.Pages(int(pages)), page0: m.readPage0(), hostCR4: asm.ReadCR4(), last: 1 << m.Caps.CPU.PhysicalAddressBits}
	revision := binary.LittleEndian.Uint32(m.launcher.region.Bytes())
	binary.LittleEndian.PutUint32(o.bytes(pageVMCS), revision)
	binary.LittleEndian.PutUint32(o.bytes(pageShadow), revision|1<<31)
	for i := range uint64(pageSize / 16) {
		binary.LittleEndian.PutUint64(o.bytes(pageGood)[16*i:], msrKernelGSBase)
		binary.LittleEndian.PutUint64(o.bytes(pageStore)[16*i:], msrKernelGSBase)
		entry := [2]uint64{msrKernelGSBase, 0}
		if i%2 == 1 {
			entry = badMSRs[i/2%uint64(len(badMSRs))]
		}
		binary.LittleEndian.PutUint64(o.bytes(pageMixed)[16*i:], entry[0])
		binary.LittleEndian.PutUint64(o.bytes(pageMixed)[16*i+8:], entry[1])
	}
	for _, r := range ring0.MemoryMap() {
		if r.Kind == ring0.Usable {
			o.top = max(o.top, r.End)
		}
	}
	return o
}

// base is the plain state of a kind, with memory of its own.
func (o *objects) base(m *Machine, k Kind) *vmcs.Image {
	m.Helper()
	if image := o.bases[k]; image != nil {
		return image
	}
	mem := newMemory(m, k, nil)
	var ept *EPT
	if k.EPT {
		ept = m.NewEPT()
		for at := uint64(0); at < MemorySize; at += pageSize {
			ept.Map(at, mem.pages.Phys()+at, EPTRead|EPTExecute)
		}
		binary.LittleEndian.PutUint64(o.bytes(pageEPTPs), ept.Pointer())
	}
	image := m.image(k, mem, ept)
	for f, v := range m.launcher.host.All() {
		if f.Type() == vmcs.HostState {
			image.Set(f, v)
		}
	}
	// The guest runs with the host's NXE and SCE: an exit that does not load
	// IA32_EFER keeps them.
	if image.Has(vmcs.GuestEFER) {
		guest, _ := image.Get(vmcs.GuestEFER)
		host, _ := image.Get(vmcs.HostEFER)
		image.Set(vmcs.GuestEFER, guest|host&^(asm.EFERLME|asm.EFERLMA))
	}
	wish(m, image, vmcs.PinActivateVMXPreemptionTimer)
	o.bases[k] = image
	return image
}

func (s *State) String() string { return fmt.Sprintf("state %q", s.Name) }

var features = []feature{
	{name: "I/O bitmaps", primary: vmcs.PrimaryUseIOBitmaps,
		fields: func(set func(vmcs.Field, uint64), o *objects) {
			set(vmcs.IOBitmapA, o.addr(pageZero))
			set(vmcs.IOBitmapB, o.addr(pageZero2))
		}},
	{name: "MSR bitmaps", primary: vmcs.PrimaryUseMSRBitmaps,
		fields: func(set func(vmcs.Field, uint64), o *objects) { set(vmcs.MSRBitmaps, o.addr(pageZero)) }},
	{name: "TPR shadow", primary: vmcs.PrimaryUseTPRShadow,
		fields: func(set func(vmcs.Field, uint64), o *objects) { set(vmcs.VirtualAPICAddress, o.addr(pageWrite)) }},
	{name: "APIC accesses", kind: Long, primary: vmcs.PrimaryUseTPRShadow, secondary: vmcs.SecondaryVirtualizeAPICAccesses,
		fields: func(set func(vmcs.Field, uint64), o *objects) {
			set(vmcs.VirtualAPICAddress, o.addr(pageWrite))
			set(vmcs.APICAccessAddress, o.addr(pageWrite2))
			set(vmcs.TPRThreshold, 0)
		}},
	{name: "x2APIC mode", kind: Long, primary: vmcs.PrimaryUseTPRShadow, secondary: vmcs.SecondaryVirtualizeX2APICMode,
		fields: func(set func(vmcs.Field, uint64), o *objects) { set(vmcs.VirtualAPICAddress, o.addr(pageWrite)) }},
	{name: "virtual interrupts", kind: Long, pin: vmcs.PinExternalInterruptExiting, primary: vmcs.PrimaryUseTPRShadow,
		secondary: vmcs.SecondaryVirtualInterruptDelivery | vmcs.SecondaryAPICRegisterVirtualization,
		fields:    func(set func(vmcs.Field, uint64), o *objects) { set(vmcs.VirtualAPICAddress, o.addr(pageWrite)) }},
	{name: "posted interrupts", kind: Long, pin: vmcs.PinExternalInterruptExiting | vmcs.PinProcessPostedInterrupts,
		primary: vmcs.PrimaryUseTPRShadow, secondary: vmcs.SecondaryVirtualInterruptDelivery, exit: vmcs.ExitAcknowledgeInterruptOnExit,
		fields: func(set func(vmcs.Field, uint64), o *objects) {
			set(vmcs.VirtualAPICAddress, o.addr(pageWrite))
			set(vmcs.PostedInterruptDescriptorAddress, o.addr(pageWrite2))
			set(vmcs.PostedInterruptNotificationVector, 0xf2)
		}},
	{name: "VPID", kind: Long, secondary: vmcs.SecondaryEnableVPID,
		fields: func(set func(vmcs.Field, uint64), o *objects) { set(vmcs.VPID, 7) }},
	{name: "EPTP switching", kind: Long, secondary: vmcs.SecondaryEnableVMFunctions, functions: vmcs.VMFuncEPTPSwitching,
		fields: func(set func(vmcs.Field, uint64), o *objects) { set(vmcs.EPTPListAddress, o.addr(pageEPTPs)) }},
	{name: "PML", kind: Long, secondary: vmcs.SecondaryEnablePML,
		fields: func(set func(vmcs.Field, uint64), o *objects) {
			set(vmcs.PMLAddress, o.addr(pageWrite))
			set(vmcs.PMLIndex, 511)
		}},
	{name: "VMCS shadowing", kind: Long, secondary: vmcs.SecondaryVMCSShadowing,
		fields: func(set func(vmcs.Field, uint64), o *objects) {
			set(vmcs.VMREADBitmap, o.addr(pageZero))
			set(vmcs.VMWRITEBitmap, o.addr(pageZero2))
			set(vmcs.VMCSLinkPointer, o.addr(pageShadow))
		}},
	{name: "VMCS link",
		fields: func(set func(vmcs.Field, uint64), o *objects) { set(vmcs.VMCSLinkPointer, o.addr(pageVMCS)) }},
	{name: "#VE", kind: Long, secondary: vmcs.SecondaryEPTViolationVE,
		fields: func(set func(vmcs.Field, uint64), o *objects) {
			set(vmcs.VirtualizationExceptionAddress, o.addr(pageWrite))
		}},
	{name: "TSC scaling", kind: Long, secondary: vmcs.SecondaryUseTSCScaling, primary: vmcs.PrimaryUseTSCOffsetting,
		fields: func(set func(vmcs.Field, uint64), o *objects) {
			set(vmcs.TSCMultiplier, 1<<48)
			set(vmcs.TSCOffset, ^uint64(0))
		}},
	{name: "sub-page permissions", kind: Long, secondary: vmcs.SecondarySubPageWritePermissionsForEPT,
		fields: func(set func(vmcs.Field, uint64), o *objects) { set(vmcs.SubPagePermissionTable, o.addr(pageZero)) }},
	{name: "virtual NMIs", pin: vmcs.PinNMIExiting | vmcs.PinVirtualNMIs, primary: vmcs.PrimaryNMIWindowExiting},
	{name: "interrupt window", pin: vmcs.PinExternalInterruptExiting, primary: vmcs.PrimaryInterruptWindowExiting,
		fields: func(set func(vmcs.Field, uint64), o *objects) { set(vmcs.GuestRFLAGS, 0x202) }},
	{name: "saved timer", pin: vmcs.PinActivateVMXPreemptionTimer, exit: vmcs.ExitSaveVMXPreemptionTimerValue},
	{name: "CR3 targets", primary: vmcs.PrimaryCR3LoadExiting | vmcs.PrimaryCR3StoreExiting,
		fields: func(set func(vmcs.Field, uint64), o *objects) { set(vmcs.CR3TargetCount, 4) }},
	{name: "MSR areas",
		fields: func(set func(vmcs.Field, uint64), o *objects) {
			set(vmcs.ExitMSRStoreAddress, o.addr(pageStore))
			set(vmcs.ExitMSRStoreCount, 3)
			set(vmcs.ExitMSRLoadAddress, o.addr(pageGood))
			set(vmcs.ExitMSRLoadCount, 2)
			set(vmcs.EntryMSRLoadAddress, o.addr(pageGood)+16)
			set(vmcs.EntryMSRLoadCount, 4)
		}},
	{name: "idle MSR areas at the top", fields: func(set func(vmcs.Field, uint64), o *objects) {
		for _, f := range []vmcs.Field{vmcs.ExitMSRStoreAddress, vmcs.ExitMSRLoadAddress, vmcs.EntryMSRLoadAddress} {
			set(f, o.last-pageSize)
		}
	}},
	{name: "PAT", exit: vmcs.ExitSaveIA32PAT | vmcs.ExitLoadIA32PAT, entry: vmcs.EntryLoadIA32PAT},
	{name: "IA32_PERF_GLOBAL_CTRL", exit: vmcs.ExitLoadIA32PerfGlobalCtrl, entry: vmcs.EntryLoadIA32PerfGlobalCtrl},
	{name: "CET", exit: vmcs.ExitLoadCETState, entry: vmcs.EntryLoadCETState},
	{name: "CET", kind: Kind{Mode: ModeCompatibility}, exit: vmcs.ExitLoadCETState, entry: vmcs.EntryLoadCETState},
	{name: "CET", kind: Kind{Mode: ModePAE}, entry: vmcs.EntryLoadCETState},
	{name: "CR4.CET of the host", entry: vmcs.EntryLoadCETState, fields: func(set func(vmcs.Field, uint64), o *objects) {
		set(vmcs.HostCR4, o.hostCR4|1<<23)
	}},
	{name: "PKRS", exit: vmcs.ExitLoadPKRS, entry: vmcs.EntryLoadPKRS},
	{name: "exits of instructions", kind: Long, secondary: vmcs.SecondaryDescriptorTableExiting | vmcs.SecondaryWBINVDExiting |
		vmcs.SecondaryPAUSELoopExiting | vmcs.SecondaryRDRANDExiting | vmcs.SecondaryRDSEEDExiting,
		primary: vmcs.PrimaryINVLPGExiting | vmcs.PrimaryMWAITExiting | vmcs.PrimaryRDPMCExiting | vmcs.PrimaryRDTSCExiting |
			vmcs.PrimaryCR8LoadExiting | vmcs.PrimaryCR8StoreExiting | vmcs.PrimaryMOVDRExiting | vmcs.PrimaryUnconditionalIOExiting |
			vmcs.PrimaryMONITORExiting | vmcs.PrimaryPAUSEExiting},

	// Guest state that is not the usual one.
	{name: "HLT", fields: sets(vmcs.GuestActivityState, activityHLT)},
	{name: "HLT and NMI", fields: sets(vmcs.GuestActivityState, activityHLT, vmcs.EntryInterruptionInformation, 1<<31|2<<8|2)},
	{name: "HLT and #DB", kind: Kind{Mode: ModePAE}, fields: sets(vmcs.GuestActivityState, activityHLT, vmcs.EntryInterruptionInformation, 1<<31|3<<8|1)},
	{name: "shutdown and #MC", fields: sets(vmcs.GuestActivityState, activityShutdown, vmcs.EntryInterruptionInformation, 1<<31|3<<8|18)},
	{name: "shutdown and #MC", kind: Kind{Mode: ModePAE}, fields: sets(vmcs.GuestActivityState, activityShutdown,
		vmcs.EntryInterruptionInformation, 1<<31|3<<8|18, vmcs.GuestRFLAGS, 0x202)},
	{name: "interrupts on", kind: Real, fields: sets(vmcs.GuestRFLAGS, 0x202)},
	{name: "blocked by STI", fields: sets(vmcs.GuestInterruptibilityState, blockedBySTI, vmcs.GuestRFLAGS, 0x202)},
	{name: "blocked by MOV SS, single step", kind: Long,
		fields: sets(vmcs.GuestInterruptibilityState, blockedByMOVSS, vmcs.GuestRFLAGS, 0x102, vmcs.GuestPendingDebugExceptions, 1<<14)},
	{name: "NMI as virtual NMI", pin: vmcs.PinNMIExiting | vmcs.PinVirtualNMIs, fields: sets(vmcs.EntryInterruptionInformation, 1<<31|2<<8|2)},
	{name: "NMI with RFLAGS.IF", fields: sets(vmcs.EntryInterruptionInformation, 1<<31|2<<8|2, vmcs.GuestRFLAGS, 0x202)},
	{name: "blocked by virtual NMI", pin: vmcs.PinNMIExiting | vmcs.PinVirtualNMIs, fields: sets(vmcs.GuestInterruptibilityState, blockedByNMI)},
	{name: "privilege level 3", fields: sets(vmcs.GuestCSSelector, SelectorUser, vmcs.GuestCSAccessRights, 0xa0fb, vmcs.GuestSSSelector, 0x13,
		vmcs.GuestSSAccessRights, 0xc0f3)},
	{name: "conforming code", fields: sets(vmcs.GuestCSAccessRights, 0xa09f)},
	{name: "conforming code", kind: Kind{Mode: ModePAE, EPT: true, Unrestricted: true}, fields: sets(vmcs.GuestCSAccessRights, 0xc09f)},
	{name: "code for data", fields: sets(vmcs.GuestDSAccessRights, 0xa09b, vmcs.GuestESAccessRights, 0xa09b, vmcs.GuestFSAccessRights, 0xa09b,
		vmcs.GuestGSAccessRights, 0xa09b)},
	{name: "conforming code for data", kind: Kind{Mode: ModePAE}, fields: sets(vmcs.GuestDSAccessRights, 0xc09f, vmcs.GuestDSSelector, SelectorData|3)},
	{name: "data for code", kind: Kind{Mode: ModeProtected, EPT: true, Unrestricted: true}, fields: sets(vmcs.GuestCSAccessRights, 0xc093)},
	{name: "no stack segment", fields: sets(vmcs.GuestSSSelector, 0, vmcs.GuestSSAccessRights, 1<<16)},
	{name: "null stack segment", fields: sets(vmcs.GuestSSSelector, 0)},
	{name: "LDT", fields: sets(vmcs.GuestLDTRAccessRights, 0x82, vmcs.GuestLDTRLimit, 0xfff, vmcs.GuestLDTRBase, Free)},
	{name: "16-bit TSS", kind: Kind{Mode: ModePaged}, fields: sets(vmcs.GuestTRAccessRights, 0x83)},
}

const (
	activityHLT      = 1
	activityShutdown = 2

	blockedBySTI   = 1 << 0
	blockedByMOVSS = 1 << 1
	blockedByNMI   = 1 << 3
)

// sets sets fields: a field, its value, and so on.
func sets(list ...vmcs.Field) func(set func(vmcs.Field, uint64), o *objects) {
	return func(set func(vmcs.Field, uint64), _ *objects) {
		for i := 0; i < len(list); i += 2 {
			set(list[i], uint64(list[i+1]))
		}
	}
}

// Addresses are physical addresses of pages that serve as what VMCS fields can
// point to: some are right for a field, some wrong, and none does harm.
func (m *Machine) Addresses() (list []uint64) {
	for p := range pages {
		list = append(list, m.objects.addr(p))
	}
	return append(list, m.launcher.region.Phys(), m.VMXON)
}

// in tells whether n bytes from addr on are within these pages.
func (o *objects) in(addr, n uint64, list ...page) bool {
	for _, p := range list {
		if a := o.addr(p); addr >= a && n <= pageSize && addr+n <= a+pageSize {
			return true
		}
	}
	return false
}

// beyond tells that there is nothing at an address: reads give ones, writes are
// lost.
func (o *objects) beyond(addr uint64) bool { return addr >= max(o.top, 4<<30) }

// Unsafe says why a VM entry that leads to a VM exit would not come back, or
// leave its traces in memory that is not the test's; "" if it is safe. Entered
// says that the guest is to be entered, and not refused with a VM exit.
func (m *Machine) Unsafe(image *vmcs.Image, entered bool) string {
	get := func(f vmcs.Field) uint64 { v, _ := image.Get(f); return v }
	o, host := m.objects, &m.launcher.host
	exit := vmcs.ExitControls(get(vmcs.PrimaryVMExitControls))
	entry := vmcs.EntryControls(get(vmcs.VMEntryControls))

	// What comes after the exit.
	const physical = 0x000ffffffffff000
	hostCR3, _ := host.Get(vmcs.HostCR3)
	hostRIP, _ := host.Get(vmcs.HostRIP)
	efer := uint64(asm.EFERNXE)
	switch {
	case exit&vmcs.ExitLoadIA32EFER != 0:
		efer = get(vmcs.HostEFER)
	case entry&vmcs.EntryLoadIA32EFER != 0:
		efer = get(vmcs.GuestEFER)
	}
	switch {
	case get(vmcs.HostRIP) != hostRIP:
		return "HOST_RIP leads elsewhere"
	case (get(vmcs.HostCR3)^hostCR3)&physical != 0:
		return "HOST_CR3 has other page tables"
	case efer&asm.EFERNXE == 0:
		return "the host's page tables need IA32_EFER.NXE"
	}
	if n := get(vmcs.ExitMSRLoadCount); n != 0 && !o.in(get(vmcs.ExitMSRLoadAddress), 16*n, pageGood, pageStore) {
		return "VMX abort, or strange MSRs: the VM-exit MSR-load area is not one of the good ones"
	}
	if !entered {
		return ""
	}

	// What the processor writes.
	if n := get(vmcs.ExitMSRStoreCount); n != 0 && !o.in(get(vmcs.ExitMSRStoreAddress), 16*n, pageStore) {
		return "VMX abort, or a write: the VM-exit MSR-store area is not the good one"
	}
	primary := vmcs.PrimaryControls(get(vmcs.PrimaryProcessorBasedControls))
	secondary := vmcs.SecondaryControls(get(vmcs.SecondaryProcessorBasedControls))
	if primary&vmcs.PrimaryActivateSecondaryControls == 0 {
		secondary = 0
	}
	for _, w := range []struct {
		used  bool
		field vmcs.Field
	}{
		{primary&vmcs.PrimaryUseTPRShadow != 0, vmcs.VirtualAPICAddress},
		{secondary&vmcs.SecondaryEnablePML != 0, vmcs.PMLAddress},
		{secondary&vmcs.SecondaryEPTViolationVE != 0, vmcs.VirtualizationExceptionAddress},
		{vmcs.PinControls(get(vmcs.PinBasedControls))&vmcs.PinProcessPostedInterrupts != 0, vmcs.PostedInterruptDescriptorAddress},
	} {
		if a := get(w.field); w.used && !o.in(a, 1, pageWrite, pageWrite2) && !o.beyond(a) {
			return fmt.Sprintf("%v leads to memory that shall not be written", w.field)
		}
	}

	// What the guest does. Either it exits before its first instruction, except
	// that an event is delivered first or an instruction is let through; or it
	// runs on memory that it cannot leave.
	atOnce := vmcs.PinControls(get(vmcs.PinBasedControls))&vmcs.PinActivateVMXPreemptionTimer != 0 && get(vmcs.PreemptionTimerValue) == 0
	info := get(vmcs.EntryInterruptionInformation)
	inject := info>>31 != 0
	switch activity := get(vmcs.GuestActivityState); {
	case activity == waitForSIPI:
		return "nothing ends the wait-for-SIPI state"
	case activity != 0 && !inject && !atOnce:
		return "nothing ends the inactive state"
	}
	if entry&vmcs.EntryIA32eModeGuest != 0 && get(vmcs.GuestCR0)&asm.CR0PE == 0 {
		return "the emulator stops in IA-32e mode without protected mode, which it does not refuse"
	}
	if inject && info>>8&7 == 7 && !Has(m, vmcs.PrimaryMonitorTrapFlag) {
		return "the emulator stops if a monitor trap flag VM exit is injected that it does not have"
	}
	if secondary&vmcs.SecondaryEnableEPT != 0 {
		if a := get(vmcs.EPTPointer) & physical; !o.ept(a) && !o.in(a, 1, pageZero, pageZero2, pageGuard) && !o.beyond(a) {
			return "the guest has other memory than its own"
		}
		return ""
	}
	cr3 := get(vmcs.GuestCR3) & physical
	own := o.root(cr3)
	switch {
	case !own && !o.in(cr3, 1, pageZero, pageZero2, pageGuard) && !o.beyond(cr3):
		return "the guest has other page tables than its own"
	case own && !atOnce && !inject && (get(vmcs.GuestRIP) != Code || get(vmcs.GuestCSBase) != 0):
		return "the guest runs code that is not its own"
	}
	return ""
}

const waitForSIPI = 3 // activity state

// ept and root tell whether addr is the root of tables that States made.
func (o *objects) ept(addr uint64) bool {
	for k, image := range o.bases {
		if v, _ := image.Get(vmcs.EPTPointer); k.EPT && v&^0xfff == addr {
			return true
		}
	}
	return false
}

func (o *objects) root(addr uint64) bool {
	for k, image := range o.bases {
		if v, _ := image.Get(vmcs.GuestCR3); !k.EPT && v == addr {
			return true
		}
	}
	return false
}

// ReadPhysical returns 8 bytes of physical memory as the processor sees them:
// package vmcs' Memory. What is neither RAM nor far above it may be a device,
// and is refused.
func (m *Machine) ReadPhysical(addr uint64) (uint64, error) {
	switch o := m.objects; {
	case addr%8 != 0:
		return 0, fmt.Errorf("vmtest: address 0x%x is not a multiple of 8", addr)
	case addr < pageSize:
		return binary.LittleEndian.Uint64(o.page0[addr:]), nil
	case o.beyond(addr):
		return ^uint64(0), nil
	}
	for _, r := range ring0.MemoryMap() {
		if r.Kind == ring0.Usable && addr >= r.Start && addr+8 <= r.End {
			b, err := ring0.Physical(addr, 8)
			if err != nil {
				return 0, err
			}
			return binary.LittleEndian.Uint64(b), nil
		}
	}
	return 0, fmt.Errorf("vmtest: at 0x%x is no RAM", addr)
}

// readPage0 reads physical page 0, which ring0 does not map, through a guest.
func (m *Machine) readPage0() []byte {
	m.Helper()
	g := m.NewGuest(Long,
		0xbe, 0x00, 0x20, 0x01, 0x00, // MOV ESI, Free
		0xbf, 0x00, 0xc0, 0x00, 0x00, // MOV EDI, Data
		0xb9, 0x00, 0x10, 0x00, 0x00, // MOV ECX, 4096
		0xf3, 0xa4, // REP MOVSB
	)
	g.EPT.Map(Free, 0, EPTRead)
	g.Require(reasonVMCALL)
	return g.Memory[Data:][:pageSize]
}

const reasonVMCALL = 18
