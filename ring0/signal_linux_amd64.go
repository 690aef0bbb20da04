package ring0

import "math/bits"

// Signals, as the Go runtime uses them: faults become panics, tgkill preempts.
// The frame is the one of Linux (arch/x86/include/uapi/asm/sigcontext.h).

const (
	sigILL  = 4
	sigTRAP = 5
	sigBUS  = 7
	sigFPE  = 8
	sigKILL = 9
	sigSEGV = 11
	sigCHLD = 17
	sigCONT = 18
	sigSTOP = 19
	sigURG  = 23
	sigWNCH = 28
	sigMax  = 64

	unblockable = 1<<(sigKILL-1) | 1<<(sigSTOP-1)

	// The flags that a signal handler may change, as on Linux: AC, OF, DF, TF,
	// SF, ZF, AF, PF, CF. Above all not NT, with which IRETQ would fault.
	handlerFlags = 0x40dd5

	saOnStack = 0x08000000
	saNoDefer = 0x40000000
)

// sigAction is what rt_sigaction passes; mask last, as in the kernel's ABI.
type sigAction struct{ handler, flags, restorer, mask uint64 }

var actions [sigMax + 1]sigAction

// Offsets in the frame. The handler's return pops pretcode, so rt_sigreturn
// finds SP at the ucontext.
const (
	sfPretcode = 0
	sfContext  = 8
	ucStack    = sfContext + 16
	ucRegs     = sfContext + 40
	ucMask     = ucRegs + 256
	sfInfo     = ucMask + 8
	sfBytes    = sfInfo + 128

	scRegs  = 18 // r8 .. rip, eflags in sigcontext's order
	scSegs  = ucRegs + 8*18
	scError = ucRegs + 8*19
	scTrap  = ucRegs + 8*20
	scMask  = ucRegs + 8*21
	scCR2   = ucRegs + 8*22
	scFPU   = ucRegs + 8*23
)

// register is the i-th register in the order of sigcontext.
func register(t *thread, i uint64) *uint64 {
	switch i {
	case 8:
		return &t.rdi
	case 9:
		return &t.rsi
	case 10:
		return &t.rbp
	case 11:
		return &t.rbx
	case 12:
		return &t.rdx
	case 13:
		return &t.rax
	case 14:
		return &t.rcx
	case 15:
		return &t.rsp
	case 16:
		return &t.rip
	case 17:
		return &t.rflags
	}
	return mem[uint64](addrOf(&t.r8) + 8*i)
}

// sendSignal makes sig pending for the thread at a and wakes it if it waits.
func sendSignal(a, sig uint64) {
	t := mem[thread](a)
	if isIgnored(sig) {
		return
	}
	t.pending |= 1 << (sig - 1)
	if t.state != running && t.sigmask>>(sig-1)&1 == 0 {
		if t.state == onPipe {
			t.rip += 2 // it was to make its call again
		}
		wake(a, -eINTR)
	}
}

// isIgnored reports whether nothing is to be done about a signal.
func isIgnored(sig uint64) bool {
	switch sig {
	case sigCHLD, sigCONT, sigURG, sigWNCH:
		return actions[sig].handler < 2
	}
	return actions[sig].handler == 1
}

// deliverPending starts the handlers of the current thread's pending signals.
func deliverPending(t *thread) {
	for {
		due := t.pending &^ t.sigmask
		if due == 0 {
			return
		}
		sig := uint64(bits.TrailingZeros64(due)) + 1
		t.pending &^= 1 << (sig - 1)
		switch {
		case isIgnored(sig):
		case actions[sig].handler == 0:
			killed(sig)
		default:
			pushFrame(t, sig, ^uint64(5), pid, 0, 0, 0) // SI_TKILL
		}
	}
}

// forceSignal delivers the signal of a fault at once.
func forceSignal(t *thread, sig, code, addr, trap, err uint64) {
	if actions[sig].handler < 2 || t.sigmask>>(sig-1)&1 != 0 || current == idleThread {
		begin()
		put("ring0: exception ")
		putUint(trap)
		put(", error code ")
		putHex(err)
		put(", at rip ")
		putHex(t.rip)
		put(", rsp ")
		putHex(t.rsp)
		put(", address ")
		putHex(addr)
		put(" and no signal handler\n")
		end()
		killed(sig)
	}
	pushFrame(t, sig, code, addr, trap, err, addr)
}

// killed ends the program as a signal with its default action does.
func killed(sig uint64) {
	begin()
	put("ring0: ended by signal ")
	putUint(sig)
	put("\n")
	end()
	exitGroup(128 + sig)
}

// onAltStack reports whether the thread runs on its alternate signal stack.
func onAltStack(t *thread) bool { return t.rsp-t.altBase-1 < t.altSize }

// pushFrame makes the thread enter the handler of sig.
func pushFrame(t *thread, sig, code, addr, trap, err, cr2 uint64) {
	act := &actions[sig]
	sp := t.rsp - 128 // the red zone
	onAlt := onAltStack(t)
	if act.flags&saOnStack != 0 && t.altSize != 0 && !onAlt {
		sp, onAlt = t.altBase+t.altSize, true
	}
	fpu := roundDown(sp-vectorBytes, 64)
	f := roundDown(fpu-sfBytes, 16) - 8 // as after a CALL
	if !present(f, sp-f, true) || onAlt && f-t.altBase >= t.altSize || act.handler >= userTop {
		begin()
		put("ring0: no room for a signal frame at ")
		putHex(f)
		put(", or no handler at ")
		putHex(act.handler)
		put(", for signal ")
		putUint(sig)
		put(" at rip ")
		putHex(t.rip)
		put("\n")
		end()
		killed(sigSEGV)
	}
	copyBytes(fpu, addrOf(t)+vectorOffset, vectorBytes)
	for i := uint64(0); i < sfBytes; i += 8 {
		store(f+i, 0)
	}
	store(f+sfPretcode, act.restorer)
	store(f+ucStack, t.altBase)
	store(f+ucStack+8, t.altFlags)
	store(f+ucStack+16, t.altSize)
	for i := range uint64(scRegs) {
		store(f+ucRegs+8*i, *register(t, i))
	}
	store(f+scSegs, t.cs|t.ss<<48)
	store(f+scError, err)
	store(f+scTrap, trap)
	store(f+scMask, t.sigmask)
	store(f+scCR2, cr2)
	store(f+scFPU, fpu)
	store(f+ucMask, t.sigmask)
	store32(f+sfInfo, uint32(sig))
	store32(f+sfInfo+8, uint32(code))
	store(f+sfInfo+16, addr)

	t.sigmask |= act.mask
	if act.flags&saNoDefer == 0 {
		t.sigmask |= 1 << (sig - 1)
	}
	t.rsp, t.rip = f, act.handler
	t.rdi, t.rsi, t.rdx, t.rax = sig, f+sfInfo, f+sfContext, 0
	t.rflags &^= 1<<10 | 1<<8 // DF, TF
}

func sysSigreturn(t *thread) {
	f := t.rsp - 8
	if !present(f, sfBytes, false) {
		killed(sigSEGV)
	}
	flags := t.rflags
	for i := range uint64(scRegs) {
		*register(t, i) = load(f + ucRegs + 8*i)
	}
	t.rflags = flags&^handlerFlags | t.rflags&handlerFlags
	t.sigmask = load(f+ucMask) &^ unblockable
	if fpu := load(f + scFPU); fpu != 0 && present(fpu, vectorBytes, false) {
		// XRSTOR faults on a header with bits that the processor does not know;
		// the program may have written any.
		copyBytes(addrOf(t)+vectorOffset, fpu, vectorBytes)
		header := addrOf(t) + vectorOffset + 512
		store(header, load(header)&hostXCR0)
		for i := uint64(8); i < 64; i += 8 {
			store(header+i, 0)
		}
		mxcsr := addrOf(t) + vectorOffset + 24
		store32(mxcsr, load32(mxcsr)&0xffff)
	}
	if t.rip >= userTop { // IRETQ would fault on what is not canonical
		t.rip = 0
	}
}
