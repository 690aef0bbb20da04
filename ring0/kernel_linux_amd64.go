package ring0

// The kernel side of this package serves the Linux system calls of the program
// it is linked into, in ring 0, in the program's own address space. It is Go,
// but not ordinary Go, because it runs below the Go runtime:
//
//   - It runs on its own stack with a g of zeros, so stack checks always pass
//     and nothing ever yields.
//   - It allocates nothing and stores no pointer anywhere but in locals: an
//     address at rest is a uint64, which needs no write barrier. The collector
//     never sees its stack.
//   - It must not panic. What comes from the program is checked first; a fault
//     in the kernel ends the machine with a report.
//   - Interrupts are off throughout and there is one processor, so there are no
//     locks. No call keeps a kernel stack while it waits: a thread that blocks is
//     just its saved registers, and is completed or made to call again later.

import (
	"math/bits"
	"unsafe"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/bootproto"
)

// thread is the kernel's view of one, at the start of a page of its own. The
// vector state lies at vectorOffset in the same page.
type thread struct {
	rax, rbx, rcx, rdx, rsi, rdi, rbp    uint64
	r8, r9, r10, r11, r12, r13, r14, r15 uint64
	rip, cs, rflags, rsp, ss             uint64 // in the order of IRETQ
	fs                                   uint64

	tid, state    uint64
	next, allNext uint64 // run queue, all threads
	wait          uint64 // what it waits for: an address, or a vector
	deadline      uint64 // on the monotonic clock; 0: none

	sigmask, pending           uint64
	altBase, altSize, altFlags uint64
	clearTID                   uint64
}

const (
	vectorOffset = 512
	vectorBytes  = pageSize - vectorOffset

	selCode = 0x08 // SYSCALL loads CS from here and SS from the next
	selData = 0x10
	selTSS  = 0x18
)

// Thread states.
const (
	running = iota // on the processor or in the run queue
	onFutex
	onSleep
	onEpoll
	onPipe
	onVector
)

// Both arrays must fit the page.
var _ [vectorOffset - unsafe.Sizeof(thread{})]byte
var _ [vectorBytes - 2696]byte // XSAVE area with AVX-512 and PKRU

// What assembly reads and calls. The functions are reached through variables
// because assembly outside the runtime cannot name an ABIInternal function.
var (
	mainFn        = kernelMain
	syscallFn     = kernelSyscall
	trapFn        = kernelTrap
	kernelFaultFn = kernelFault

	bootMagic, bootInfo, bootTSC uint64
	params                       uint64 // the parameter block
	scratch                      uint64
	current                      uint64 // the running thread
	hostXCR0                     uint64
	haveXSAVE                    bool
)

var (
	active    uint64 // 1 once the kernel runs: the program is in ring 0
	bootFlags uint64
	stats     [bootproto.Stats]uint64
)

//go:noescape
func outString(port, addr, n uint64)

//go:noescape
func clearPages(addr, n uint64)

//go:noescape
func copyBytes(dst, src, n uint64)

func haltForever()
func rdrand() uint64
func loadSegments()
func bootBlockAddr() uint64
func symbols() (syscallEntry, trapEntry, nmiEntry, idle, trapStack, nmiStack, faultStack, idleStack uint64)

// mem is the address space as the kernel sees it.
func mem[T any](addr uint64) *T { return *(**T)(unsafe.Pointer(&addr)) }

func load(addr uint64) uint64       { return *mem[uint64](addr) }
func load32(addr uint64) uint32     { return *mem[uint32](addr) }
func load8(addr uint64) uint8       { return *mem[uint8](addr) }
func store(addr, v uint64)          { *mem[uint64](addr) = v }
func store32(addr uint64, v uint32) { *mem[uint32](addr) = v }
func store16(addr uint64, v uint16) { *mem[uint16](addr) = v }
func store8(addr uint64, v uint8)   { *mem[uint8](addr) = v }

func self() *thread { return mem[thread](current) }

// addrOf is the address of a variable that does not move.
func addrOf[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

func roundUp(v, to uint64) uint64   { return (v + to - 1) &^ (to - 1) }
func roundDown(v, to uint64) uint64 { return v &^ (to - 1) }

// kernelMain runs once, from boot. On return the first thread is current.
func kernelMain() {
	if load(params+bootproto.ParamMagic) == bootproto.ParamsMagic {
		bootFlags = load(params + bootproto.ParamFlags)
	}
	lent = bootFlags&bootproto.FlagLent != 0
	initConsole()
	if load(params+bootproto.ParamMagic) != bootproto.ParamsMagic {
		die("ring0: no parameter block; build the boot image with 'vtx boot -machine none -image FILE'")
	}
	framed = bootFlags&bootproto.FlagFramed != 0
	frame(bootproto.FrameBoot, 0, 0)

	initMemory()
	initTraps()
	initClock()
	initFiles()
	active = 1
	initProcess()
	initTimer()
}

// SYSCALL's registers, and the tables that the processor reads.
var (
	gdt [8]uint64
	tss [13]uint64 // 104 bytes: no I/O bitmap, since everything is in ring 0
	idt [512]uint64
)

const (
	msrEFER  = 0xc0000080
	msrSTAR  = 0xc0000081
	msrLSTAR = 0xc0000082
	msrFMASK = 0xc0000084

	flagIF = 1 << 9

	// What SYSCALL clears in RFLAGS: TF, IF, DF, and NT, with which IRETQ would
	// fault (SDM Vol. 2A, IRET).
	clearedFlags = 1<<8 | flagIF | 1<<10 | 1<<14

	istTrap  = 1
	istNMI   = 2
	istFault = 3

	vectorNMI         = 2
	vectorDoubleFault = 8
	vectorPageFault   = 14
	vectorIRQ         = 0x20 // the first PIC's, remapped; the second's follow
)

// hasErrorCode has a bit for each exception that pushes one (SDM Vol. 3A,
// table 6-1): #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP.
const hasErrorCode = 1<<8 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<17 | 1<<21

func setGate(vector, handler, ist uint64) {
	// A 64-bit interrupt gate, present, DPL 0 (SDM Vol. 3A 6.14.1).
	idt[2*vector] = handler&0xffff | selCode<<16 | ist<<32 | 0x8e<<40 | (handler>>16&0xffff)<<48
	idt[2*vector+1] = handler >> 32
}

func initTraps() {
	syscallEntry, trapEntry, nmiEntry, _, trapStack, nmiStack, faultStack, _ := symbols()

	gdt[selCode/8] = 0x00209b0000000000 // 64-bit code, accessed
	gdt[selData/8] = 0x00cf93000000ffff // flat data, accessed
	base, limit := addrOf(&tss), uint64(unsafe.Sizeof(tss)-1)
	gdt[selTSS/8] = limit | (base&0xffffff)<<16 | 0x89<<40 | (base>>24&0xff)<<56
	gdt[selTSS/8+1] = base >> 32

	// RSP0 and the interrupt stack table sit at offsets that are 4 modulo 8
	// (SDM Vol. 3A 8.7). The I/O map base points past the limit.
	t := addrOf(&tss)
	for i, sp := range [...]uint64{istTrap: trapStack, istNMI: nmiStack, istFault: faultStack} {
		store32(t+0x1c+8*uint64(i), uint32(sp))
		store32(t+0x20+8*uint64(i), uint32(sp>>32))
	}
	store16(t+0x66, uint16(unsafe.Sizeof(tss)))

	asm.LGDT(asm.DescriptorTable{Limit: uint16(unsafe.Sizeof(gdt) - 1), Base: addrOf(&gdt)})
	loadSegments()
	asm.LTR(selTSS)

	// Each gate gets 16 bytes of code that pushes what the processor did not
	// and the vector, and jumps; within the 2 GiB that a jump can reach.
	stubs := allocRange(1, pageSize, 1<<31)
	if stubs == 0 {
		outOfMemory()
	}
	for v := range uint64(256) {
		p := stubs + 16*v
		if v >= 32 || hasErrorCode>>v&1 == 0 {
			store8(p, 0x6a) // PUSH imm8
			store8(p+1, 0)
			p += 2
		}
		store8(p, 0x68) // PUSH imm32
		store32(p+1, uint32(v))
		store8(p+5, 0xe9) // JMP rel32
		store32(p+6, uint32(trapEntry-(p+10)))
		setGate(v, stubs+16*v, istTrap)
	}
	setGate(vectorNMI, nmiEntry, istNMI)
	idt[2*vectorDoubleFault] = idt[2*vectorDoubleFault]&^(7<<32) | istFault<<32
	asm.LIDT(asm.DescriptorTable{Limit: uint16(unsafe.Sizeof(idt) - 1), Base: addrOf(&idt)})

	asm.WRMSR(msrEFER, asm.RDMSR(msrEFER)|1) // SCE
	asm.WRMSR(msrSTAR, selCode<<32)
	asm.WRMSR(msrLSTAR, syscallEntry)
	asm.WRMSR(msrFMASK, clearedFlags)
}

// kernelTrap handles an exception or interrupt of the current thread.
func kernelTrap(vector, code uint64) {
	t := self()
	switch {
	case vector == vectorPageFault:
		addr := asm.ReadCR2()
		result := pageFault(addr, code)
		if result == faultServed {
			stats[bootproto.StatFaults]++
			break
		}
		if fixup(t, vector, code) {
			break
		}
		if result == faultNoMemory {
			outOfMemory()
		}
		segvCode := uint64(1) // SEGV_MAPERR
		if code&1 != 0 {
			segvCode = 2 // SEGV_ACCERR
		}
		forceSignal(t, sigSEGV, segvCode, addr, vector, code)
	case vector < 32:
		if fixup(t, vector, code) {
			break
		}
		fault(t, vector, code)
	default:
		interrupt(t, vector)
	}
	leave()
}

// fixup sends a fault in one of asm's instruction stubs to the code that turns
// it into a Go error or panic; see asm.Fixup.
func fixup(t *thread, vector, code uint64) bool {
	target, ok := asm.Fixup(t.rip)
	if !ok || !present(t.rsp-8, 8, true) {
		return false
	}
	t.rsp -= 8
	store(t.rsp, t.rip)
	t.rax, t.rbx, t.rcx, t.rip = vector, code, t.rip, target
	return true
}

// fault turns an exception into the signal that Linux sends for it
// (arch/x86/kernel/traps.c).
func fault(t *thread, vector, code uint64) {
	sig, si, addr := uint64(sigSEGV), uint64(0x80), uint64(0) // SI_KERNEL
	switch vector {
	case 0: // #DE
		sig, si, addr = sigFPE, 1, t.rip
	case 1, 3: // #DB, #BP
		sig, si, addr = sigTRAP, 1, t.rip
	case 6: // #UD
		sig, si, addr = sigILL, 2, t.rip
	case 16, 19: // #MF, #XM
		sig, si, addr = sigFPE, 7, t.rip
	case 11, 12: // #NP, #SS
		sig = sigBUS
	case 17: // #AC
		sig, si = sigBUS, 1
	}
	forceSignal(t, sig, si, addr, vector, code)
}

// leave is the end of each visit to the kernel: it picks who runs next and what
// signals that thread takes first.
func leave() {
	for self().state != running {
		schedule()
	}
	deliverPending(self())
	if lent {
		self().rflags &^= flagIF // whatever the program did to it
	}
}

// kernelFault reports a fault of the kernel's own and stops.
func kernelFault(vector, code, rip, rsp uint64) {
	begin()
	put("ring0: the kernel itself faulted: vector ")
	putUint(vector)
	put(", error code ")
	putHex(code)
	put(", rip ")
	putHex(rip)
	put(", rsp ")
	putHex(rsp)
	put(", cr2 ")
	putHex(asm.ReadCR2())
	put("\n")
	end()
	poweroff(exitKernel)
}

// Threads.

var (
	threads          uint64 // all of them, linked by allNext
	runHead, runTail uint64
	idleThread       uint64
	nextTID          uint64 = 1
	waiters          uint64 // threads in onVector: time must not jump ahead of devices
)

const pid = 1

// newThread makes a thread with the vector state of a new process.
func newThread() uint64 {
	a := allocZeroed(1)
	if a == 0 {
		return 0
	}
	t := mem[thread](a)
	t.tid = nextTID
	nextTID++
	t.cs, t.ss, t.rflags = selCode, selData, 2 // bit 1 is always set
	if !lent {
		t.rflags |= flagIF
	}
	store32(a+vectorOffset, 0x37f)     // FCW
	store32(a+vectorOffset+24, 0x1f80) // MXCSR
	return a
}

func enqueue(a uint64) {
	mem[thread](a).next = 0
	if runHead == 0 {
		runHead = a
	} else {
		mem[thread](runTail).next = a
	}
	runTail = a
}

// wake makes a blocked thread run again, with the result of its system call.
func wake(a uint64, result int64) {
	t := mem[thread](a)
	if t.state == onVector {
		waiters--
	}
	t.state, t.wait, t.deadline = running, 0, 0
	t.rax = uint64(result)
	enqueue(a)
}

// block puts the current thread to sleep until wake; deadline 0 means for ever.
func block(state, wait, deadline uint64) {
	t := self()
	t.state, t.wait, t.deadline = state, wait, deadline
	if deadline != 0 && deadline < nextDeadline {
		nextDeadline = deadline
	}
}

const never = ^uint64(0)

// nextDeadline is a lower bound of every sleeper's deadline.
var nextDeadline uint64 = never

// expire wakes the sleepers that are due and finds the next deadline.
func expire() {
	if nextDeadline == never || now() < nextDeadline {
		return
	}
	t := now()
	nextDeadline = never
	for a := threads; a != 0; a = mem[thread](a).allNext {
		th := mem[thread](a)
		if th.state == running || th.deadline == 0 {
			continue
		}
		if th.deadline > t {
			nextDeadline = min(nextDeadline, th.deadline)
			continue
		}
		result := int64(0)
		if th.state == onFutex || th.state == onVector {
			result = -eTIMEDOUT
		}
		wake(a, result)
	}
}

// schedule makes the first thread of the run queue current. The one that was
// current is not put back; see yield.
func schedule() {
	expire()
	for runHead == 0 {
		if bootFlags&bootproto.FlagSkipIdle != 0 && waiters == 0 && nextDeadline != never {
			if d, t := nextDeadline, now(); d > t {
				skipped += d - t
			}
			expire()
			continue
		}
		if nextDeadline == never && waiters == 0 {
			die("ring0: every thread waits for another and none has a deadline: the program can never go on")
		}
		if lent {
			asm.PAUSE() // no interrupt would end a HLT
			expire()
			continue
		}
		switchTo(idleThread)
		return
	}
	a := runHead
	runHead = mem[thread](a).next
	if runHead == 0 {
		runTail = 0
	}
	switchTo(a)
}

func switchTo(a uint64) {
	if a != current {
		stats[bootproto.StatSwitches]++
		current = a
	}
}

// yield lets the other runnable threads have a turn.
func yield() {
	expire()
	if current == idleThread {
		if runHead != 0 {
			schedule()
		}
		return
	}
	if runHead != 0 {
		enqueue(current)
		schedule()
	}
}

// The clock.

var (
	tscMult uint64 // nanoseconds per tick, with 32 fraction bits
	tscHz   uint64
	epoch   uint64 // nanoseconds of Unix time at clock 0
	skipped uint64 // nanoseconds of sleep jumped over
)

// now is the monotonic clock in nanoseconds since boot.
func now() uint64 { return ticksToTime(asm.RDTSC()-bootTSC) + skipped }

func ticksToTime(ticks uint64) uint64 {
	hi, lo := bits.Mul64(ticks, tscMult)
	return hi<<32 | lo>>32
}

const nanosecond = 1
const second = 1_000_000_000 * nanosecond

// pitHz is the rate of the 8254's counters; counter 2 measures the TSC when the
// boot image does not say its rate.
const pitHz = 1193182

func initClock() {
	tscHz = load(params + bootproto.ParamTSC)
	if tscHz == 0 {
		tscHz = measureTSC()
	}
	tscMult = second << 32 / max(tscHz, 1)
	epoch = load(params+bootproto.ParamEpoch) * second
	if epoch == 0 && !lent {
		epoch = readRTC() * second
	}
}

// measureTSC counts TSC ticks while the 8254's counter 2 runs for 10 ms, unless
// CPUID tells the rate (SDM Vol. 2A, CPUID, leaf 15H).
func measureTSC() uint64 {
	if top, _, _, _ := asm.CPUID(0, 0); top >= 0x15 {
		den, num, crystal, _ := asm.CPUID(0x15, 0)
		if den != 0 && num != 0 && crystal != 0 {
			return uint64(crystal) * uint64(num) / uint64(den)
		}
	}
	if lent {
		die("ring0: interrupts and clocks are lent, and neither the parameter block nor CPUID leaf 15H tells the rate of the TSC: whoever placed the program must")
	}
	const count = pitHz / 100
	control := asm.IN8(0x61)
	asm.OUT8(0x61, control&^3|1) // gate on, speaker off
	asm.OUT8(0x43, 0xb0)         // counter 2, both bytes, mode 0
	asm.OUT8(0x42, count&0xff)
	asm.OUT8(0x42, count>>8)
	start := asm.RDTSC()
	for range 1 << 20 { // a machine without an 8254 must not hang here
		if asm.IN8(0x61)&0x20 != 0 {
			break
		}
	}
	ticks := asm.RDTSC() - start
	asm.OUT8(0x61, control)
	return ticks * 100
}

// readRTC is the CMOS clock's time as Unix seconds, taken as UTC.
func readRTC() uint64 {
	var r [10]uint64
	for range 1 << 16 {
		if cmos(0xa)&0x80 == 0 {
			break
		}
	}
	format := cmos(0xb)
	for i := range r {
		r[i] = cmos(uint8(i))
		if format&4 == 0 { // BCD
			r[i] = r[i]>>4*10 + r[i]&15
		}
	}
	sec, minute, hour, day, month, year := r[0], r[2], r[4], r[7], r[8], 2000+r[9]
	if month < 1 || month > 12 || day < 1 || day > 31 {
		return 0
	}
	// Days since 1970 in the proleptic Gregorian calendar, with years that
	// begin in March.
	if month <= 2 {
		year--
		month += 12
	}
	days := 365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 1 - 719468
	return days*86400 + hour*3600 + minute*60 + sec
}

func cmos(reg uint8) uint64 {
	asm.OUT8(0x70, reg|0x80)
	return uint64(asm.IN8(0x71))
}

// Interrupts.

var (
	interrupts [256]uint64 // arrivals that nobody has waited for yet
	irqMask    uint64      = 0xffff
)

// What the firmware left in the 8259s and the 8254, as far as it can be read.
var (
	firmwareMask uint64
	firmwarePIT  uint8 // counter 0: access, mode and BCD, as in a control word
)

// irqFirmware are the vectors that firmware gives the first 8259 and the second.
const irqFirmware1, irqFirmware2 = 0x08, 0x70

func initTimer() {
	if lent {
		return
	}
	firmwareMask = uint64(asm.IN8(0x21)) | uint64(asm.IN8(0xa1))<<8
	asm.OUT8(0x43, 0xe2) // read-back: the status of counter 0
	firmwarePIT = asm.IN8(0x40) & 0x3f
	init8259s(vectorIRQ, vectorIRQ+8, irqMask)
	unmaskIRQ(0)

	// Counter 0 as a rate generator. Where time is counted in instructions the
	// slowest rate is enough: 65,536 counts are 55 thousand instructions.
	count := uint16(pitHz / 500)
	if bootFlags&bootproto.FlagSkipIdle != 0 {
		count = 0
	}
	initPIT(0x34, count)
}

// init8259s sets both 8259s up (ICW1 to ICW4: edge-triggered, cascade on line 2,
// 8086 mode), with their first vectors and the mask of all 16 lines.
func init8259s(first, second uint8, mask uint64) {
	for _, w := range [...][2]uint8{
		{0x20, 0x11}, {0xa0, 0x11}, {0x21, first}, {0xa1, second},
		{0x21, 4}, {0xa1, 2}, {0x21, 1}, {0xa1, 1},
		{0x21, uint8(mask)}, {0xa1, uint8(mask >> 8)},
	} {
		asm.OUT8(uint16(w[0]), w[1])
	}
}

// initPIT starts counter 0 of the 8254; count 0 means 65,536.
func initPIT(control uint8, count uint16) {
	asm.OUT8(0x43, control)
	asm.OUT8(0x40, uint8(count))
	asm.OUT8(0x40, uint8(count>>8))
}

// lent says that interrupts and the devices that make them belong to someone
// else, from the start (bootproto.FlagLent) or since sysLendInterrupts. IF is then
// 0 in every thread, so a thread runs until it waits, sleeps or yields, and only
// the TSC tells the time.
var lent bool

// sysLendInterrupts gives the 8259s and the 8254 back as the firmware left them.
func sysLendInterrupts() int64 {
	if lent {
		return 0
	}
	lent = true
	for a := threads; a != 0; a = mem[thread](a).allNext {
		if mem[thread](a).state == onVector {
			wake(a, -ePERM)
		}
	}
	control := uint8(0x36) // both bytes, mode 3
	if firmwarePIT>>4 == 3 {
		control = firmwarePIT
	}
	initPIT(control, 0) // a count cannot be read back; firmware has 65,536, 18.2 a second
	init8259s(irqFirmware1, irqFirmware2, firmwareMask)
	return 0
}

func unmaskIRQ(irq uint64) {
	irqMask &^= 1 << irq
	if irq >= 8 {
		irqMask &^= 1 << 2 // the cascade
	}
	asm.OUT8(0x21, uint8(irqMask))
	asm.OUT8(0xa1, uint8(irqMask>>8))
}

// interrupt acknowledges an interrupt, hands it to whoever waits for it, and
// lets the next thread run.
func interrupt(t *thread, vector uint64) {
	if lent {
		begin()
		put("ring0: an interrupt on vector ")
		putUint(vector)
		put(" at rip ")
		putHex(t.rip)
		put(", but interrupts are lent (LendInterrupts) and RFLAGS.IF must stay 0: no STI or INT may be executed outside the guest\n")
		end()
		poweroff(exitKernel)
	}
	irq := vector - vectorIRQ
	if irq < 16 && !acknowledge(irq) {
		return
	}
	if irq == 0 {
		stats[bootproto.StatTicks]++
	} else if !wakeOne(vector) {
		interrupts[vector]++
	}
	yield()
}

// acknowledge ends an interrupt at the 8259s. It reports whether there was one:
// a request that goes away before the processor takes it comes as line 7 of its
// chip, which then has nothing in service and must not be told of an end.
func acknowledge(irq uint64) bool {
	genuine := true
	if irq&7 == 7 {
		port := uint16(0x20 + irq>>3<<7)
		asm.OUT8(port, 0x0b) // OCW3: the next read gives the in-service register
		genuine = asm.IN8(port)&0x80 != 0
	}
	if irq >= 8 && genuine {
		asm.OUT8(0xa0, 0x20)
	}
	if irq >= 8 || genuine {
		asm.OUT8(0x20, 0x20) // a spurious line 15 did come through line 2
	}
	return genuine
}

// wakeOne wakes a thread that waits for an interrupt on vector.
func wakeOne(vector uint64) bool {
	for a := threads; a != 0; a = mem[thread](a).allNext {
		if t := mem[thread](a); t.state == onVector && t.wait == vector {
			wake(a, 1)
			return true
		}
	}
	return false
}

// The first thread.

func initProcess() {
	_, _, _, idle, _, _, _, idleStack := symbols()
	idleThread = newThread()
	t := mem[thread](idleThread)
	t.rip, t.rsp = idle, idleStack

	a := newThread()
	if idleThread == 0 || a == 0 {
		outOfMemory()
	}
	threads, current = a, a
	stats[bootproto.StatThreads] = 1
	t = mem[thread](a)
	t.rip = load(params + bootproto.ParamEntry)

	// The stack: 8 MiB as on Linux, of which the runtime's g0 takes 64 KiB. The
	// top holds the random bytes, the auxiliary vector, and the pointers to the
	// strings.
	const stackSize = 8 << 20
	base := findFree(stackSize)
	changeRange(base, base+stackSize, opReserve, protRead|protWrite)

	// Where the strings begin: behind the working directory and the program's
	// path (see bootproto).
	argc, envc := load(params+bootproto.ParamArgc), load(params+bootproto.ParamEnvc)
	s := params + load(params+bootproto.ParamStrings)
	s += strlen(s) + 1
	exePath = s
	s += strlen(s) + 1

	aux := [...]uint64{
		6, pageSize, // AT_PAGESZ
		25, base + stackSize - 16, // AT_RANDOM
		0, 0,
	}
	words := 1 + argc + 1 + envc + 1 + uint64(len(aux))
	sp := roundDown(base+stackSize-16-8*words, 16)
	if sp < base+1<<20 || !present(sp, base+stackSize-sp, true) {
		die("ring0: the arguments and environment do not fit the stack")
	}
	p := sp
	push := func(v uint64) { store(p, v); p += 8 }
	push(argc)
	for range argc {
		push(s)
		s += strlen(s) + 1
	}
	push(0)
	for range envc {
		push(s)
		s += strlen(s) + 1
	}
	push(0)
	for _, v := range aux {
		push(v)
	}
	seedRandom()
	store(base+stackSize-16, random())
	store(base+stackSize-8, random())
	t.rsp = sp
}

// Random numbers: from RDRAND where there is one, unless runs must repeat; then
// from the seed alone, by SplitMix64. They are not for secrets in that case.

var randomState uint64
var haveRDRAND bool

func seedRandom() {
	randomState = load(params+bootproto.ParamSeed) ^ load(params+bootproto.ParamSeed+8)
	if bootFlags&bootproto.FlagFixed == 0 {
		_, _, c, _ := asm.CPUID(1, 0)
		haveRDRAND = c>>30&1 != 0
		randomState ^= asm.RDTSC()
	}
}

func random() uint64 {
	randomState += 0x9e3779b97f4a7c15
	z := randomState
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	if haveRDRAND {
		z ^= rdrand()
	}
	return z
}

func strlen(a uint64) uint64 {
	n := uint64(0)
	for load8(a+n) != 0 {
		n++
	}
	return n
}
