// Vault is the least that can be called a trustlet: a program for VTL1 of a partition, with a
// secret key, which answers VTL calls with HMACs. It is an ordinary Go program that imports
// package ring0; minihv puts it into the guest's memory beside a Linux kernel, and a loader in
// VTL0 enables VTL1 and calls it once, before the kernel starts. With that call vault takes all
// rights to its memory away from VTL0 and returns.
//
// A caller in VTL0 gives the guest-physical address of a page in RDX:
//
//	byte  bytes
//	0     4      what is asked for: an Op
//	4     4      length of the data
//	8     4      becomes the Status
//	16    4080   data; becomes the answer
//
// With the first of these calls VTL0's kernel is up, and vault guards registers that a kernel
// does not change any more. What else enters VTL1 are intercepts: VTL0 has tried what VTL1 has
// forbidden. Vault says so, and raises #GP where it was tried.
package main

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/ring0"
)

// Shared is what both levels have and VTL0 gets back as it was. The assembler knows its layout.
type shared struct {
	regs [16]uint64 // as in asm.Guest; RSP is not among them
	xcr0 uint64     // VTL0's
	own  uint64
	area uintptr // of XSAVE
}

type vault struct {
	shared
	keeper
	call     hypercall.Caller
	assist   hypercall.VpAssistPage
	messages hypercall.MessagePage
	open     bool // VTL0 keeps its rights to this level's memory
	guards   bool
}

func main() {
	top := flag.Uint64("top", 0, "the guest-physical `address` at which VTL0's memory ends")
	open := flag.Bool("unprotected", false, "leave out the call that hides this program: the attacks are successful")
	flag.Parse()
	status, err := run(*top, *open)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func run(top uint64, open bool) (int, error) {
	if !ring0.Active() {
		return 0, errors.New("this program runs in VTL1: build it with CGO_ENABLED=0 and give it to minihv -vtl1")
	}
	runtime.LockOSThread()
	v := &vault{keeper: keeper{out: os.Stdout, top: top}, open: open}
	if err := v.setUp(); err != nil {
		return 0, err
	}
	for {
		v.assist.SetReturnRegisters(v.regs[asm.RAX], v.regs[asm.RCX])
		leave(&v.shared)
		switch v.assist.EntryReason() {
		case hypercall.VtlEntryVtlCall:
			if done, status, err := v.serve(); done || err != nil {
				return status, err
			}
		default:
			if err := v.refuse(); err != nil {
				return 0, err
			}
		}
	}
}

// setUp makes the key, tells the hypervisor where this level's pages are, and hides what is
// its own.
func (v *vault) setUp() error {
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return err
	}
	v.keep(key)

	const pages = 6
	p, err := ring0.AllocPages(pages)
	if err != nil {
		return err
	}
	page := func(i int) ([]byte, uint64) {
		return p.Bytes()[i*pageSize:][:pageSize], p.Phys() + uint64(i*pageSize)
	}
	_, code := page(0)
	asm.WRMSR(uint32(hypercall.MSRGuestOSID), 1<<63)
	asm.WRMSR(uint32(hypercall.MSRHypercall), code|1)
	b, at := page(1)
	v.assist, err = hypercall.VpAssistPageOf(b)
	asm.WRMSR(uint32(hypercall.MSRVPAssistPage), at|1)
	b, at = page(2)
	var err2 error
	v.messages, err2 = hypercall.MessagePageOf(b)
	asm.WRMSR(uint32(hypercall.MSRSIMP), at|1)
	asm.WRMSR(uint32(hypercall.MSRSINT0), uint64(hypercall.SINTMSRPolling))
	asm.WRMSR(uint32(hypercall.MSRSControl), 1)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	v.call = hypercall.Caller{Trap: trap, Mode: hypercall.Mode64}
	v.call.Input.Bytes, v.call.Input.GPA = page(3)
	v.call.Output.Bytes, v.call.Output.GPA = page(4)
	b, at = page(5)
	binary.LittleEndian.PutUint32(b[24:], 0x1f80) // MXCSR, as after reset
	v.area = uintptr(at)
	v.shared.own = asm.XGETBV(0)
	v.xcr0 = v.shared.own

	config := (hypercall.VsmPartitionConfigEnableVtlProtection | hypercall.VsmPartitionConfigDenyLowerVtlStartup).
		WithDefaultVtlProtectionMask(hypercall.MapAccess)
	if err := v.set(hypercall.InputVTL(0), register(hypercall.RegisterVsmPartitionConfig, uint64(config))); err != nil {
		return fmt.Errorf("protection cannot be turned on: %w", err)
	}
	n, err := v.hide()
	if err != nil {
		return err
	}
	fmt.Printf("VTL0 has lost all rights to %d pages; SHA-256 of the key there is %x\n", n, v.sum)
	return nil
}

// hide takes all rights to this level's memory away from VTL0: to all RAM that it was told of.
func (v *vault) hide() (pages int, err error) {
	in := hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, TargetVTL: hypercall.TargetVTL(0)}
	const most = (pageSize - hypercall.ModifyVtlProtectionMaskInputSize) / 8
	list := make([]byte, 0, pageSize)
	flush := func() error {
		reps := len(list)/8 - in.Size()/8
		if reps <= 0 {
			return nil
		}
		_, err := v.call.Do(hypercall.Input(hypercall.CodeModifyVtlProtectionMask).WithReps(reps), list, nil)
		list = list[:in.Size()]
		return err
	}
	list = list[:in.Size()]
	in.Put(list)
	for _, r := range ring0.MemoryMap() {
		if r.Kind != ring0.Usable {
			continue
		}
		v.mine = append(v.mine, r)
		if v.open {
			continue
		}
		for page := r.Start >> pageShift; page < r.End>>pageShift; page++ {
			list = binary.LittleEndian.AppendUint64(list, page)
			if pages++; len(list)/8-in.Size()/8 == most {
				if err := flush(); err != nil {
					return pages, fmt.Errorf("pages up to %#x cannot be protected: %w", page, err)
				}
			}
		}
	}
	if err := flush(); err != nil {
		return pages, fmt.Errorf("the last pages cannot be protected: %w", err)
	}
	return pages, nil
}

// guard has the hypervisor tell this level of writes by VTL0 to registers that an attacker
// would like to change, and that a kernel which has started does not.
func (v *vault) guard() error {
	return v.set(hypercall.InputVTL(0),
		register(hypercall.RegisterCRInterceptControl, uint64(hypercall.CrInterceptCr0Write|hypercall.CrInterceptCr4Write|
			hypercall.CrInterceptMsrLstarWrite|hypercall.CrInterceptMsrStarWrite|hypercall.CrInterceptMsrSysenterEipWrite|
			hypercall.CrInterceptMsrEferWrite|hypercall.CrInterceptApicBaseMsrWrite)),
		register(hypercall.RegisterCRInterceptCR0Mask, asm.CR0WP|asm.CR0PG|asm.CR0PE),
		register(hypercall.RegisterCRInterceptCR4Mask, asm.CR4SMEP|asm.CR4SMAP|asm.CR4UMIP|asm.CR4PAE))
}

func register(name hypercall.Register, v uint64) hypercall.RegisterAssoc {
	return hypercall.RegisterAssoc{Name: name, Value: hypercall.RegisterValue{Low: v}}
}

// set sets registers of a level of this processor.
func (v *vault) set(level hypercall.InputVTL, list ...hypercall.RegisterAssoc) error {
	in := hypercall.VpRegistersInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: level}
	b := make([]byte, in.Size())
	in.Put(b)
	for i := range list {
		e := make([]byte, list[i].Size())
		list[i].Put(e)
		b = append(b, e...)
	}
	_, err := v.call.Do(hypercall.Input(hypercall.CodeSetVpRegisters).WithReps(len(list)), b, nil)
	return err
}

// trap does what the code in the hypercall page does.
func trap(r *hypercall.CallRegisters) {
	c := asm.CallRegs{
		RAX: r.General[asm.RAX], RBX: r.General[asm.RBX], RCX: r.General[asm.RCX], RDX: r.General[asm.RDX],
		RSI: r.General[asm.RSI], RDI: r.General[asm.RDI], R8: r.General[asm.R8], R9: r.General[asm.R9],
	}
	asm.VMCALL(&c)
	r.General[asm.RAX] = c.RAX
}

// serve answers the VTL call in hand, and tells whether it was the last one.
func (v *vault) serve() (done bool, status int, err error) {
	at := v.regs[asm.RDX]
	if at == 0 { // the loader's first call is for nothing but to begin
		return false, 0, nil
	}
	if !v.guards {
		v.guards = true
		if err := v.guard(); err != nil {
			return false, 0, fmt.Errorf("registers cannot be guarded: %w", err)
		}
		fmt.Println("guards CR0, CR4, IA32_LSTAR, IA32_STAR, IA32_SYSENTER_EIP, IA32_EFER and IA32_APIC_BASE of VTL0")
	}
	if !v.usable(at) {
		return false, 0, v.note("VTL call with a page at %#x", at)
	}
	page, err := ring0.Physical(at, pageSize)
	if err != nil {
		return false, 0, err
	}
	done, status = v.answer(page)
	return done, status, nil
}

// refuse notes what VTL0 has tried, and has it take #GP.
func (v *vault) refuse() error {
	var m hypercall.Message
	ok, more := v.messages.Take(0, &m)
	if more {
		asm.WRMSR(uint32(hypercall.MSREOM), 0)
	}
	if !ok {
		return nil // the slot was full when it was to be told: the instruction runs again
	}
	if err := v.note("%s", nameOf(&m)); err != nil {
		return err
	}
	event := hypercall.PendingException{
		Header: hypercall.PendingEventHeaderEventPending.WithEventType(hypercall.PendingEventException),
		Flags:  hypercall.PendingExceptionFlagsDeliverErrorCode, Vector: 13,
	}
	if err := v.set(hypercall.TargetVTL(0), hypercall.RegisterAssoc{Name: hypercall.RegisterPendingEvent0, Value: event.Value()}); err != nil {
		return fmt.Errorf("VTL0 cannot be made to take #GP: %w", err)
	}
	return nil
}
