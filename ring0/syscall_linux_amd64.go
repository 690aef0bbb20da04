package ring0

import (
	"github.com/govtx/vtx/internal/bootproto"
)

// Linux errors (include/uapi/asm-generic/errno*.h).
const (
	ePERM        = 1
	eNOENT       = 2
	eSRCH        = 3
	eINTR        = 4
	eBADF        = 9
	eAGAIN       = 11
	eNOMEM       = 12
	eACCES       = 13
	eFAULT       = 14
	eBUSY        = 16
	eEXIST       = 17
	eNODEV       = 19
	eNOTDIR      = 20
	eISDIR       = 21
	eINVAL       = 22
	eNFILE       = 23
	eMFILE       = 24
	eNOTTY       = 25
	eFBIG        = 27
	eNOSPC       = 28
	eSPIPE       = 29
	ePIPE        = 32
	eRANGE       = 34
	eNAMETOOLONG = 36
	eNOSYS       = 38
	eNOTEMPTY    = 39
	eTIMEDOUT    = 110

	// kept says that the call's result is set already, or comes later.
	kept = -1 << 62
)

// Our own calls, far from Linux' numbers: what the package's functions use.
const (
	callAllocPages = 0x76747800 + iota
	callFreePages
	callTranslate
	callMapPhysical
	callWaitVector
	callSetGate
	callLendInterrupts
)

// kernelSyscall serves the system call of the current thread.
func kernelSyscall() {
	stats[bootproto.StatSyscalls]++
	t := self()
	if r := serve(t, t.rax, t.rdi, t.rsi, t.rdx, t.r10, t.r8); r != kept {
		t.rax = uint64(r)
	}
	leave()
}

func serve(t *thread, nr, a, b, c, d, e uint64) int64 {
	switch nr {
	case 0: // read
		return sysRead(a, b, c, never)
	case 1: // write
		return sysWrite(a, b, c, never)
	case 2: // open
		return sysOpen(a, b, c)
	case 3: // close
		return sysClose(a)
	case 4, 6: // stat, lstat
		return sysStat(atCWD, a, b)
	case 5: // fstat
		return sysFstat(a, b)
	case 8: // lseek
		return sysSeek(a, b, c)
	case 9: // mmap
		return sysMmap(a, b, c, d, e)
	case 10: // mprotect
		return sysRange(a, b, opProtect, c&7)
	case 11: // munmap
		if b == 0 {
			return -eINVAL
		}
		return sysRange(a, b, opRelease, 0)
	case 13: // rt_sigaction
		return sysSigaction(a, b, c, d)
	case 14: // rt_sigprocmask
		return sysSigprocmask(t, a, b, c, d)
	case 15: // rt_sigreturn
		sysSigreturn(t)
		return kept
	case 16: // ioctl
		if fileOf(a) == nil {
			return -eBADF
		}
		return -eNOTTY
	case 17, 18: // pread64, pwrite64
		if int64(d) < 0 {
			return -eINVAL
		}
		if nr == 17 {
			return sysRead(a, b, c, d)
		}
		return sysWrite(a, b, c, d)
	case 19: // readv
		return sysVector(a, b, c, false)
	case 20: // writev
		return sysVector(a, b, c, true)
	case 21: // access
		return sysAccess(atCWD, a)
	case 22: // pipe
		return sysPipe(a)
	case 24: // sched_yield
		t.rax = 0
		yield()
		return kept
	case 25: // mremap
		return -eNOMEM
	case 28: // madvise
		switch c {
		case 4, 8: // MADV_DONTNEED, MADV_FREE
			return sysRange(a, b, opDiscard, 0)
		}
		return 0
	case 32: // dup
		return sysDup(a, never)
	case 33, 292: // dup2, dup3
		if b >= maxFiles {
			return -eBADF
		}
		if a == b && nr == 292 {
			return -eINVAL
		}
		return sysDup(a, b)
	case 35: // nanosleep
		return sysSleep(a, 0, false)
	case 39, 110: // getpid, getppid
		return pid
	case 56: // clone
		return sysClone(t, a, b, d, e)
	case 60: // exit
		return sysExit(t)
	case 62: // kill
		if a != pid && int64(a) != -pid && a != 0 {
			return -eSRCH
		}
		return sysKill(t.tid, b)
	case 63: // uname
		return sysUname(a)
	case 72: // fcntl
		return sysFcntl(a, b, c)
	case 73, 74, 75, 92, 93, 94, 160, 162, 260:
		return 0 // flock, fsync, sync, owners, limits: accepted
	case 76: // truncate
		return sysTruncatePath(a, b)
	case 77: // ftruncate
		return sysTruncate(a, b)
	case 79: // getcwd
		return sysGetcwd(a, b)
	case 80: // chdir
		return sysChdir(a)
	case 81: // fchdir
		return sysFchdir(a)
	case 82: // rename
		return sysRename(atCWD, a, atCWD, b)
	case 83: // mkdir
		return sysMkdir(atCWD, a, b)
	case 84: // rmdir
		return sysUnlink(atCWD, a, true)
	case 87: // unlink
		return sysUnlink(atCWD, a, false)
	case 89: // readlink
		return sysReadlink(atCWD, a, b, c)
	case 90: // chmod
		return sysChmod(atCWD, a, b)
	case 91: // fchmod
		return sysFchmod(a, b)
	case 95: // umask
		old := umask
		umask = a & 0o777
		return int64(old)
	case 96: // gettimeofday
		return sysTimeOfDay(a)
	case 97: // getrlimit
		return sysLimit(a, b)
	case 98: // getrusage
		return sysUsage(b)
	case 102, 104, 107, 108: // getuid, getgid, geteuid, getegid
		return 0
	case 131: // sigaltstack
		return sysSigaltstack(t, a, b)
	case 157: // prctl
		return -eINVAL
	case 158: // arch_prctl
		if a != 0x1002 { // ARCH_SET_FS
			return -eINVAL
		}
		if b >= userTop {
			return -ePERM
		}
		t.fs = b
		return 0
	case 186: // gettid
		return int64(t.tid)
	case 200: // tkill
		return sysKill(a, b)
	case 201: // time
		return int64((epoch + now()) / second)
	case 202: // futex
		return sysFutex(a, b, c, d)
	case 203: // sched_setaffinity
		return 0
	case 204: // sched_getaffinity
		if b < 8 || b%8 != 0 {
			return -eINVAL
		}
		if !present(c, 8, true) {
			return -eFAULT
		}
		store(c, 1)
		return 8
	case 217: // getdents64
		return sysDirents(a, b, c)
	case 218: // set_tid_address
		t.clearTID = a
		return int64(t.tid)
	case 228: // clock_gettime
		return sysClock(a, b)
	case 229: // clock_getres
		if b != 0 {
			if !present(b, 16, true) {
				return -eFAULT
			}
			store(b, 0)
			store(b+8, 1)
		}
		return 0
	case 230: // clock_nanosleep
		return sysSleep(c, a, b&1 != 0)
	case 231: // exit_group
		exitGroup(a & 0xff)
	case 232, 281: // epoll_wait, epoll_pwait
		return sysEpollWait(a, b, c, d)
	case 233: // epoll_ctl
		return sysEpollCtl(a, b, c, d)
	case 234: // tgkill
		return sysKill(b, c)
	case 257: // openat
		return sysOpenAt(a, b, c)
	case 258: // mkdirat
		return sysMkdir(a, b, c)
	case 262: // newfstatat
		if d&0x1000 != 0 && present(b, 1, false) && load8(b) == 0 { // AT_EMPTY_PATH
			return sysFstat(a, c)
		}
		return sysStat(a, b, c)
	case 263: // unlinkat
		return sysUnlink(a, b, c&0x200 != 0) // AT_REMOVEDIR
	case 264, 316: // renameat, renameat2
		if nr == 316 && e != 0 {
			return -eINVAL // no flag is known
		}
		return sysRename(a, b, c, d)
	case 267: // readlinkat
		return sysReadlink(a, b, c, d)
	case 268, 452: // fchmodat, fchmodat2
		return sysChmod(a, b, c)
	case 269, 439: // faccessat, faccessat2
		return sysAccess(a, b)
	case 280: // utimensat
		return sysUtimes(a, b, c)
	case 284, 290: // eventfd, eventfd2
		return newFile(fileEvent, a&0xffffffff, oReadWrite)
	case 291, 213: // epoll_create1, epoll_create
		return newFile(fileEpoll, 0, oReadWrite)
	case 293: // pipe2
		return sysPipe(a)
	case 302: // prlimit64
		if d == 0 {
			return 0
		}
		return sysLimit(b, d)
	case 318: // getrandom
		return sysRandom(a, b)

	case callAllocPages:
		return sysAllocPages(a, b, c)
	case callFreePages:
		if !isGiven(a, b) {
			return -eINVAL
		}
		setFrames(givenBits, a/pageSize, a/pageSize+b, false)
		freeRange(a, b)
		return 0
	case callTranslate:
		if a >= userTop {
			return -eFAULT
		}
		if v, _ := lookup(a); v&ptePresent == 0 && !present(a, 1, false) {
			return -eFAULT
		}
		return int64(translate(a))
	case callMapPhysical:
		return sysMapPhysical(a, b)
	case callWaitVector:
		return sysWaitVector(a, b)
	case callSetGate:
		if a > 255 || b == 0 {
			return -eINVAL
		}
		if lent && a >= 32 {
			return -ePERM
		}
		ist := uint64(istTrap)
		if a == vectorNMI { // which can arrive while that stack is in use
			ist = istNMI
		}
		setGate(a, b, ist)
		return 0
	case callLendInterrupts:
		return sysLendInterrupts()
	}
	return -eNOSYS
}

// sysMapPhysical maps physical memory to itself as far as it is not yet.
func sysMapPhysical(a, n uint64) int64 {
	if n == 0 || n > physTop || a > physTop-n {
		return -eINVAL
	}
	start, end := max(roundDown(a, pageSize), mapTop), max(roundUp(a+n, pageSize), mapTop)
	if !isFree(start, end) {
		return -eEXIST
	}
	filled := uint64(levelSize(3)) // by the pages of one table
	if usePages1G {
		filled = levelSize(4)
	}
	if (end-start)/filled+spareFrames > freeFrames {
		return -eNOMEM
	}
	farMapped = farMapped || start < end
	mapPhysical(start, end, ptePresent|pteWrite)
	return 0
}

// exitGroup ends the program: its files go out, then its status.
func exitGroup(status uint64) {
	sendFiles()
	poweroff(status)
}

func sysMmap(addr, n, prot, flags, fd uint64) int64 {
	const shared, private, fixed, anonymous, noReplace = 1, 2, 0x10, 0x20, 0x100000
	if n == 0 || flags&(shared|private) == 0 {
		return -eINVAL
	}
	if n > userTop || freeFrames < tableFrames {
		return -eNOMEM
	}
	n = roundUp(n, pageSize)
	exact := flags&(fixed|noReplace) != 0
	if exact && addr%pageSize != 0 {
		return -eINVAL
	}
	addr = roundDown(addr, pageSize)

	var f *file
	if flags&anonymous == 0 {
		if f = fileOf(fd); f == nil {
			return -eBADF
		}
		if f.flags&oAccess == oWriteOnly {
			return -eACCES
		}
		// What one mapping writes nobody else would see.
		if f.kind != fileRegular || inodeAt(f.inode).kind == inodeDir || flags&shared != 0 && prot&protWrite != 0 {
			return -eNODEV
		}
		if self().r9%pageSize != 0 {
			return -eINVAL
		}
	}
	switch {
	case !inProgram(addr, n) && exact:
		return -ePERM
	case !inProgram(addr, n), !isFree(addr, addr+n):
		if flags&noReplace != 0 {
			return -eEXIST
		}
		if exact {
			if hasPhysical(addr, addr+n) {
				return -ePERM
			}
		} else if addr = findFree(n); addr == 0 {
			return -eNOMEM
		}
	}
	if f != nil {
		return mapFile(f.inode, addr, n, prot&7, self().r9)
	}
	changeRange(addr, addr+n, opReserve, prot&7)
	return int64(addr)
}

// mapFile maps a copy of a file's contents.
func mapFile(ino, addr, n, prot, offset uint64) int64 {
	m := uint64(0)
	if size := inodeAt(ino).size; offset < size {
		m = min(n, size-offset)
	}
	// Pages, and the tables they need.
	if pages := m / pageSize; pages+pages/512+2*spareFrames > freeFrames {
		return -eNOMEM
	}
	changeRange(addr, addr+n, opReserve, protRead|protWrite)
	if present(addr, m, true) {
		readInode(ino, addr, m, offset)
	}
	changeRange(addr, addr+n, opProtect, prot)
	return int64(addr)
}

// hasPhysical reports whether physical memory is mapped in a range above mapTop.
func hasPhysical(start, end uint64) bool {
	return farMapped && scan(rootTable, 4, start, end, arePhysical) != end
}

// sysRange applies munmap, mprotect or madvise; physical memory's mapping is
// not the program's to change.
func sysRange(a, n, op, prot uint64) int64 {
	if a%pageSize != 0 || n > userTop {
		return -eINVAL
	}
	if n == 0 {
		return 0
	}
	end := a + roundUp(n, pageSize)
	switch {
	case !inProgram(a, end-a), hasPhysical(a, end):
		return -eINVAL
	case freeFrames < tableFrames,
		op == opProtect && scan(rootTable, 4, a, end, areFree) != end:
		return -eNOMEM
	}
	changeRange(a, end, op, prot)
	return 0
}

func sysSigaction(sig, act, old, size uint64) int64 {
	if sig == 0 || sig > sigMax || size != 8 {
		return -eINVAL
	}
	if act != 0 && !present(act, 32, false) || old != 0 && !present(old, 32, true) {
		return -eFAULT
	}
	if act != 0 && (sig == sigKILL || sig == sigSTOP) {
		return -eINVAL
	}
	was := actions[sig]
	if act != 0 {
		actions[sig] = *mem[sigAction](act)
		actions[sig].mask &^= unblockable
	}
	if old != 0 {
		*mem[sigAction](old) = was
	}
	return 0
}

func sysSigprocmask(t *thread, how, set, old, size uint64) int64 {
	if size != 8 {
		return -eINVAL
	}
	if set != 0 && !present(set, 8, false) || old != 0 && !present(old, 8, true) {
		return -eFAULT
	}
	mask := t.sigmask
	if set != 0 {
		switch v := load(set); how {
		case 0:
			t.sigmask |= v
		case 1:
			t.sigmask &^= v
		case 2:
			t.sigmask = v
		default:
			return -eINVAL
		}
		t.sigmask &^= unblockable
	}
	if old != 0 {
		store(old, mask)
	}
	return 0
}

func sysSigaltstack(t *thread, set, old uint64) int64 {
	const disable, minSize = 2, 2048 // MINSIGSTKSZ
	if set != 0 && !present(set, 24, false) || old != 0 && !present(old, 24, true) {
		return -eFAULT
	}
	base, flags, size := t.altBase, t.altFlags, t.altSize
	if size == 0 {
		flags = disable
	}
	if set != 0 {
		newFlags, newSize := uint64(load32(set+8)), load(set+16)
		switch {
		case onAltStack(t):
			return -ePERM
		case newFlags == disable:
			t.altBase, t.altSize, t.altFlags = 0, 0, 0
		case newFlags > 1: // SS_ONSTACK means nothing here
			return -eINVAL
		case newSize < minSize:
			return -eNOMEM
		default:
			t.altBase, t.altSize, t.altFlags = load(set), newSize, 0
		}
	}
	if old != 0 {
		store(old, base)
		store(old+8, flags)
		store(old+16, size)
	}
	return 0
}

func sysClone(t *thread, flags, stack, childTID, tls uint64) int64 {
	const vm, thr, settls, childClear = 0x100, 0x10000, 0x80000, 0x200000
	if flags&vm == 0 || flags&thr == 0 {
		return -eNOSYS // one process is all there is
	}
	if flags&settls != 0 && tls >= userTop {
		return -ePERM
	}
	a := newThread()
	if a == 0 {
		return -eAGAIN
	}
	n := mem[thread](a)
	tid := n.tid
	*n = *t
	copyBytes(a+vectorOffset, current+vectorOffset, vectorBytes)
	n.tid, n.rax = tid, 0
	if stack != 0 {
		n.rsp = stack
	}
	n.next, n.pending, n.altBase, n.altSize, n.clearTID = 0, 0, 0, 0, 0
	if flags&settls != 0 {
		n.fs = tls
	}
	if flags&childClear != 0 {
		n.clearTID = childTID
	}
	n.allNext = threads
	threads = a
	stats[bootproto.StatThreads]++
	enqueue(a)
	return int64(tid)
}

func sysExit(t *thread) int64 {
	if t.clearTID != 0 && present(t.clearTID, 4, true) {
		store32(t.clearTID, 0)
		futexWake(t.clearTID, 1)
	}
	p := addrOf(&threads)
	for load(p) != current {
		p = addrOf(&mem[thread](load(p)).allNext)
	}
	store(p, t.allNext)
	freeFrame(current)
	if threads == 0 {
		exitGroup(0)
	}
	schedule()
	return kept
}

func sysKill(tid, sig uint64) int64 {
	if sig > sigMax {
		return -eINVAL
	}
	for a := threads; a != 0; a = mem[thread](a).allNext {
		if mem[thread](a).tid == tid {
			if sig != 0 {
				sendSignal(a, sig)
			}
			return 0
		}
	}
	return -eSRCH
}

func sysFutex(addr, op, val, timeout uint64) int64 {
	if addr%4 != 0 {
		return -eINVAL
	}
	switch op & 0x7f {
	case 0, 9: // FUTEX_WAIT, FUTEX_WAIT_BITSET
		if !present(addr, 4, false) {
			return -eFAULT
		}
		if load32(addr) != uint32(val) {
			return -eAGAIN
		}
		deadline := uint64(0)
		if timeout != 0 {
			d, err := readTime(timeout)
			if err != 0 {
				return err
			}
			if op&0x7f == 0 {
				deadline = after(d)
			} else {
				deadline = until(d, op&0x100 != 0) // FUTEX_CLOCK_REALTIME
			}
		}
		block(onFutex, addr, deadline)
		return kept
	case 1, 10: // FUTEX_WAKE, FUTEX_WAKE_BITSET
		return futexWake(addr, val&0xffffffff)
	}
	return -eNOSYS
}

// futexWake wakes up to n waiters, in no particular order.
func futexWake(addr, n uint64) int64 {
	woken := int64(0)
	for a := threads; a != 0 && uint64(woken) < n; a = mem[thread](a).allNext {
		if t := mem[thread](a); t.state == onFutex && t.wait == addr {
			wake(a, 0)
			woken++
		}
	}
	return woken
}

// readTime reads a timespec as nanoseconds.
func readTime(p uint64) (uint64, int64) {
	if !present(p, 16, false) {
		return 0, -eFAULT
	}
	s, ns := load(p), load(p+8)
	if int64(s) < 0 || ns >= second {
		return 0, -eINVAL
	}
	return min(s, farFuture/second)*second + ns, 0
}

// farFuture is 146 years: a deadline behind it is none, and the clock stays
// within what an int64 of nanoseconds holds.
const farFuture = 1 << 62

// after is the deadline d nanoseconds from now.
func after(d uint64) uint64 {
	t := now()
	if d >= farFuture || t+d >= farFuture {
		return 0
	}
	return max(t+d, 1)
}

// until is the deadline at time d of the monotonic clock, or the wall clock.
func until(d uint64, wall bool) uint64 {
	if wall {
		d = max(d, epoch) - epoch
	}
	if d >= farFuture {
		return 0
	}
	return max(d, 1)
}

func sysSleep(req, clock uint64, absolute bool) int64 {
	d, err := readTime(req)
	if err != 0 {
		return err
	}
	if absolute {
		d = until(d, clock == 0)
	} else {
		d = after(d)
	}
	block(onSleep, 0, d)
	return kept
}

func sysClock(clock, p uint64) int64 {
	if !present(p, 16, true) {
		return -eFAULT
	}
	t := now()
	switch clock {
	case 0, 5, 11: // REALTIME, REALTIME_COARSE, TAI
		t += epoch
	case 1, 2, 3, 4, 6, 7: // MONOTONIC and CPU time: the program is all there is
	default:
		return -eINVAL
	}
	store(p, t/second)
	store(p+8, t%second)
	return 0
}

func sysTimeOfDay(p uint64) int64 {
	if !present(p, 16, true) {
		return -eFAULT
	}
	t := epoch + now()
	store(p, t/second)
	store(p+8, t%second/1000)
	return 0
}

func sysUsage(p uint64) int64 {
	if !present(p, 144, true) {
		return -eFAULT
	}
	for i := uint64(0); i < 144; i += 8 {
		store(p+i, 0)
	}
	t := now() - skipped
	store(p, t/second)
	store(p+8, t%second/1000)
	store(p+32, stats[bootproto.StatPages]*4) // ru_maxrss in KiB
	return 0
}

func sysLimit(resource, p uint64) int64 {
	if !present(p, 16, true) {
		return -eFAULT
	}
	v := never
	switch resource {
	case 3: // RLIMIT_STACK
		v = 8 << 20
	case 7: // RLIMIT_NOFILE
		v = maxFiles
	}
	store(p, v)
	store(p+8, v)
	return 0
}

func sysUname(p uint64) int64 {
	if !present(p, 6*65, true) {
		return -eFAULT
	}
	for i := range uint64(6 * 65) {
		store8(p+i, 0)
	}
	for i, s := range [...]string{"Linux", "ring0", "5.10.0-ring0", "#1", "x86_64", ""} {
		for j := range len(s) {
			store8(p+65*uint64(i)+uint64(j), s[j])
		}
	}
	return 0
}

func sysRandom(p, n uint64) int64 {
	n = min(n, 1<<20)
	if !present(p, n, true) {
		return -eFAULT
	}
	fillRandom(p, n)
	return int64(n)
}

func fillRandom(p, n uint64) {
	for i := uint64(0); i < n; i += 8 {
		v := random()
		for j := range min(n-i, 8) {
			store8(p+i+j, uint8(v>>(8*j)))
		}
	}
}

func sysAllocPages(n, align, limit uint64) int64 {
	if align&(align-1) != 0 || n == 0 {
		return -eINVAL
	}
	a := allocRange(n, max(align, pageSize), limit)
	if a == 0 {
		return -eNOMEM
	}
	setFrames(givenBits, a/pageSize, a/pageSize+n, true)
	clearPages(a, n)
	return int64(a)
}

// sysWaitVector waits for an interrupt on a vector; timeout 0 polls, never
// waits for ever.
func sysWaitVector(vector, timeout uint64) int64 {
	if vector < 32 || vector > 255 {
		return -eINVAL
	}
	if lent {
		return -ePERM
	}
	if irq := vector - vectorIRQ; irq < 16 && irqMask>>irq&1 != 0 {
		unmaskIRQ(irq)
	}
	if n := interrupts[vector]; n != 0 {
		interrupts[vector] = 0
		return int64(n)
	}
	if timeout == 0 {
		return -eTIMEDOUT
	}
	deadline := uint64(0)
	if timeout != never {
		deadline = after(timeout)
	}
	block(onVector, vector, deadline)
	waiters++
	return kept
}

// A pipe is two pages or more: a header, then a ring of pipeSize bytes.
const pipeSize = 16 * pageSize

type pipe struct{ head, tail, readers, writers uint64 }

func sysPipe(p uint64) int64 {
	if !present(p, 8, true) {
		return -eFAULT
	}
	a := allocRange(1+pipeSize/pageSize, pageSize, 0)
	if a == 0 {
		return -eNOMEM
	}
	*mem[pipe](a) = pipe{}
	r := newFile(filePipeRead, a, oReadOnly)
	w := newFile(filePipeWrite, a, oWriteOnly)
	if r < 0 || w < 0 {
		if r >= 0 {
			dropFD(uint64(r))
		}
		freeRange(a, 1+pipeSize/pageSize)
		return -eMFILE
	}
	*mem[pipe](a) = pipe{readers: 1, writers: 1}
	store32(p, uint32(r))
	store32(p+4, uint32(w))
	return 0
}

// waitPipe makes the current thread call again when the pipe has changed.
func waitPipe(a uint64) int64 {
	self().rip -= 2 // SYSCALL is 0F 05; rax still holds its number
	block(onPipe, a, 0)
	return kept
}

func wakePipe(a uint64) {
	for t := threads; t != 0; t = mem[thread](t).allNext {
		if th := mem[thread](t); th.state == onPipe && th.wait == a {
			wake(t, int64(th.rax))
		}
	}
}

func readPipe(a, buf, n uint64) int64 {
	p := mem[pipe](a)
	have := p.tail - p.head
	if have == 0 {
		if p.writers == 0 || n == 0 {
			return 0
		}
		return waitPipe(a)
	}
	n = min(n, have)
	for done := uint64(0); done < n; {
		at := p.head % pipeSize
		m := min(n-done, pipeSize-at)
		copyBytes(buf+done, a+pageSize+at, m)
		p.head += m
		done += m
	}
	wakePipe(a)
	return int64(n)
}

func writePipe(a, buf, n uint64) int64 {
	p := mem[pipe](a)
	if p.readers == 0 {
		return -ePIPE
	}
	room := pipeSize - (p.tail - p.head)
	if n == 0 {
		return 0
	}
	if room == 0 || n <= pageSize && room < n { // writes of up to a page are whole
		return waitPipe(a)
	}
	n = min(n, room)
	for done := uint64(0); done < n; {
		at := p.tail % pipeSize
		m := min(n-done, pipeSize-at)
		copyBytes(a+pageSize+at, buf+done, m)
		p.tail += m
		done += m
	}
	wakePipe(a)
	return int64(n)
}

func closePipe(a uint64, reader bool) {
	p := mem[pipe](a)
	if reader {
		p.readers--
	} else {
		p.writers--
	}
	wakePipe(a) // a read or write begun before finds what has changed
	if p.readers == 0 && p.writers == 0 {
		freeRange(a, 1+pipeSize/pageSize)
	}
}

// Epoll, as far as the Go runtime needs it to wake its poller: an instance
// watches event descriptors. Files and pipes are refused as Linux refuses files,
// and the runtime then uses blocking calls on them.

func sysEpollCtl(ep, op, fd, event uint64) int64 {
	e, f := fileOf(ep), fileOf(fd)
	if e == nil || f == nil {
		return -eBADF
	}
	if e.kind != fileEpoll {
		return -eINVAL
	}
	if f.kind != fileEvent {
		return -ePERM
	}
	watched := e.inode == fd+1
	switch op {
	case 1, 3: // EPOLL_CTL_ADD, EPOLL_CTL_MOD
		if !present(event, 12, false) {
			return -eFAULT
		}
		switch {
		case op == 1 && watched:
			return -eEXIST
		case op == 1 && e.inode != 0:
			return -eNOSPC // one is all that the runtime needs
		case op == 3 && !watched:
			return -eNOENT
		}
		e.inode = fd + 1
		e.pos = load(event + 4) // the program's data; the event is packed
		return 0
	case 2: // EPOLL_CTL_DEL
		if !watched {
			return -eNOENT
		}
		e.inode = 0
		return 0
	}
	return -eINVAL
}

func sysEpollWait(ep, events, n, timeout uint64) int64 {
	e := fileOf(ep)
	if e == nil {
		return -eBADF
	}
	if e.kind != fileEpoll || int32(n) <= 0 {
		return -eINVAL
	}
	if !present(events, 12, true) {
		return -eFAULT
	}
	if f := fileOf(e.inode - 1); f != nil && f.kind == fileEvent && f.inode != 0 {
		storeEvent(events, e)
		return 1
	}
	switch ms := int64(int32(timeout)); {
	case ms == 0:
		return 0
	case ms < 0:
		block(onEpoll, ep, 0)
	default:
		block(onEpoll, ep, after(uint64(ms)*1_000_000))
	}
	return kept
}

func storeEvent(events uint64, e *file) {
	store32(events, 1) // EPOLLIN
	store(events+4, e.pos)
}

// signalEvent wakes the threads that wait for an event descriptor.
func signalEvent(fd uint64) {
	for a := threads; a != 0; a = mem[thread](a).allNext {
		t := mem[thread](a)
		if t.state != onEpoll {
			continue
		}
		if e := fileOf(t.wait); e != nil && e.kind == fileEpoll && e.inode == fd+1 {
			if !present(t.rsi, 12, true) { // it was when the call began
				wake(a, -eFAULT)
				continue
			}
			storeEvent(t.rsi, e)
			wake(a, 1)
		}
	}
}
