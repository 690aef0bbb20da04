package ring0

import (
	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/bootproto"
)

// exitKernel is the exit status when the kernel itself gives up.
const exitKernel = 125

var (
	framed    bool
	debugPort bool
	head      [bootproto.FrameHead]byte
	line      [1024]byte
	lineLen   uint64
)

func initConsole() {
	debugPort = lent || asm.IN8(bootproto.PortE9) == bootproto.PortE9
	if debugPort {
		return
	}
	// 115,200 baud, 8 data bits, no parity, one stop bit, FIFO on.
	for _, w := range [...][2]uint8{{1, 0}, {3, 0x80}, {0, 1}, {1, 0}, {3, 3}, {2, 7}, {4, 3}} {
		asm.OUT8(bootproto.PortSerial+uint16(w[0]), w[1])
	}
}

// output sends bytes to the debug port or the serial line.
func output(addr, n uint64) {
	if debugPort {
		outString(bootproto.PortE9, addr, n)
		return
	}
	for i := range n {
		c := load8(addr + i)
		if c == '\n' && !framed {
			outputSerial('\r') // a terminal wants both
		}
		outputSerial(c)
	}
}

func outputSerial(c uint8) {
	for range 1 << 20 { // without a port, go on
		if asm.IN8(bootproto.PortSerial+5)&0x20 != 0 {
			break
		}
	}
	asm.OUT8(bootproto.PortSerial, c)
}

// frame sends one frame, or several where the payload is too long for one.
// Without framing, what is for people goes out as it is.
func frame(kind uint8, addr, n uint64) {
	if !framed {
		switch kind {
		case bootproto.FrameStdout, bootproto.FrameStderr, bootproto.FrameKernel:
			output(addr, n)
		}
		return
	}
	for {
		m := min(n, bootproto.FrameMax)
		for i := range len(bootproto.FrameMark) {
			head[i] = bootproto.FrameMark[i]
		}
		head[4] = kind
		store32(addrOf(&head)+5, uint32(m))
		output(addrOf(&head), bootproto.FrameHead)
		output(addr, m)
		addr += m
		n -= m
		if n == 0 {
			return
		}
	}
}

// A message is put together in line, from begin to end.

func begin() { lineLen = 0 }

func put(s string) {
	for i := range len(s) {
		if lineLen < uint64(len(line)) {
			line[lineLen] = s[i]
			lineLen++
		}
	}
}

func putUint(v uint64) {
	var digits [20]byte
	i := len(digits)
	for {
		i--
		digits[i] = '0' + byte(v%10)
		if v /= 10; v == 0 {
			break
		}
	}
	putBytes(addrOf(&digits)+uint64(i), uint64(len(digits)-i))
}

func putHex(v uint64) {
	put("0x")
	for shift := 60; shift >= 0; shift -= 4 {
		d := v >> shift & 15
		if v>>shift == 0 && shift != 0 {
			continue
		}
		put("0123456789abcdef"[d : d+1])
	}
}

func putBytes(addr, n uint64) {
	for i := range n {
		if lineLen < uint64(len(line)) {
			line[lineLen] = load8(addr + i)
			lineLen++
		}
	}
}

func end() { frame(bootproto.FrameKernel, addrOf(&line), lineLen) }

// die reports why the kernel cannot go on, and stops.
func die(why string) {
	begin()
	put(why)
	put("\n")
	end()
	poweroff(exitKernel)
}

// poweroff sends the exit status and the statistics, and ends the machine; on
// one that has no switch for it, it halts.
func poweroff(status uint64) {
	if framed {
		var b [4 + 8*bootproto.Stats]byte
		stats[bootproto.StatTSC] = asm.RDTSC() - bootTSC
		stats[bootproto.StatSleep] = skipped
		p := addrOf(&b)
		store32(p, uint32(status))
		for i, v := range stats {
			store(p+4+8*uint64(i), v)
		}
		frame(bootproto.FrameExit, p, uint64(len(b)))
	}
	for i := range len(bootproto.ShutdownText) {
		asm.OUT8(bootproto.PortShutdown, bootproto.ShutdownText[i])
	}
	if bootFlags&bootproto.FlagLent == 0 {
		asm.OUT8(bootproto.PortQEMUExit, uint8(status))
	}
	haltForever()
}
