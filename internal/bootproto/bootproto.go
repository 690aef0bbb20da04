// Package bootproto is the contract between the three parts that bring an
// ordinary Go program up in ring 0:
//
//   - internal/bootimage wraps the program's ELF file into a boot image,
//   - package ring0, linked into the program, is what the image jumps to,
//   - cmd/vtx runs the image and reads what comes out of it.
//
// Everything here is a number or a layout; there is no code but accessors, so
// that ring0 may use it before the Go runtime has started.
package bootproto

// A program that can boot carries this block, 8-byte aligned, in a loaded
// segment: 16 bytes of Mark, then the address of its 64-bit boot entry.
//
// The entry is called with paging on (0..4 GiB mapped to itself, readable,
// writable and executable), interrupts off, CS a 64-bit code segment, and
//
//	EDI  the multiboot magic: MultibootMagic or Multiboot2Magic
//	ESI  the physical address of the multiboot information
//	EDX  the physical address of the parameter block
const (
	Mark0     uint64 = 0x676e69722d787476 // "vtx-ring"
	Mark1     uint64 = 0x0100746f6f622d30 // "0-boot", and the version, 1
	MarkBytes        = 24                 // Mark0, Mark1, entry
)

// What a multiboot loader passes in EAX (Multiboot Specification 0.6.96,
// section 3.2; Multiboot2 Specification 2.0, section 3.3).
const (
	MultibootMagic  = 0x2badb002
	Multiboot2Magic = 0x36d76289
)

// Where the boot image puts its own code and the parameter block. The program
// itself lies at the addresses it was linked for, from 4 MiB up.
const (
	LoaderBase = 0x100000 // loader code and its page tables, up to ParamsBase
	ParamsBase = 0x120000 // the parameter block, up to LoaderEnd
	LoaderEnd  = 0x400000 // the first address that is not the loader's

	// The loader lies so many bytes below the parameter block, wherever they
	// are put: a hypervisor may choose another place for its guest's.
	LoaderBytes = ParamsBase - LoaderBase
)

// Offsets in the parameter block; every field is a little-endian uint64.
// Offsets held in fields count from the block's start. Strings end in a NUL
// byte and stand one behind the other: the working directory, the program's
// absolute path, argv, the environment, and the directories that exist.
const (
	ParamMagic    = 0   // ParamsMagic
	ParamSize     = 8   // bytes in the block, all included
	ParamFlags    = 16  // Flag...
	ParamTSC      = 24  // TSC ticks a second; 0: measure
	ParamEpoch    = 32  // Unix time at boot in seconds; 0: ask the clock chip
	ParamSeed     = 40  // 16 bytes that seed the random numbers
	ParamEntry    = 56  // the ELF file's e_entry
	ParamArgc     = 64  // number of arguments, argv[0] included
	ParamEnvc     = 72  // number of environment strings
	ParamDirc     = 80  // number of directories
	ParamStrings  = 88  // offset of the strings
	ParamSegments = 96  // offset of the segment table
	ParamSegc     = 104 // number of segments
	ParamModules  = 112 // offset of the module table
	ParamModc     = 120 // number of modules
	ParamHeader   = 128 // bytes up to here

	ParamsMagic uint64 = 0x316d726170787476 // "vtxparm1"
)

// The segment table's rows: the program's PT_LOADs in order of address.
const (
	SegmentAddr     = 0  // virtual address, which is the physical one too
	SegmentFileSize = 8  // bytes loaded from the file
	SegmentMemSize  = 16 // bytes in memory
	SegmentFlags    = 24 // ELF p_flags: 1 execute, 2 write, 4 read
	SegmentBytes    = 32
)

// The module table's rows.
const (
	ModuleAddr  = 0  // physical address, page-aligned
	ModuleSize  = 8  // bytes
	ModuleName  = 16 // offset of the NUL-terminated name
	ModuleBytes = 32
)

// ParamFlags.
const (
	FlagFramed   = 1 << 0 // write frames, not plain text, to the output port
	FlagSkipIdle = 1 << 1 // when every thread sleeps, jump to the next deadline
	FlagFixed    = 1 << 2 // draw random numbers from the seed alone: runs repeat

	// FlagLent: interrupts and devices are someone else's from the start, as
	// after ring0.LendInterrupts. The program touches no port but PortE9, which
	// it does not ask for first, and PortShutdown at its end, and tells the time
	// by the TSC alone: ParamTSC must say its rate unless CPUID leaf 15H does,
	// and without ParamEpoch the clock begins in 1970.
	FlagLent = 1 << 3
)

// A framed stream is a sequence of
//
//	4 bytes  FrameMark
//	1 byte   type
//	4 bytes  length of the payload, little-endian, at most FrameMax
//	n bytes  payload
//
// Whatever stands between frames is the machine's own chatter. The last frame
// is FrameExit.
const (
	FrameMark = "\xfevtx"
	FrameHead = 9
	FrameMax  = 1 << 20

	FrameStdout = 1 // bytes written to file descriptor 1
	FrameStderr = 2 // bytes written to file descriptor 2
	FrameFile   = 3 // a file begins: uint32 mode, then its path; ends the one before
	FrameData   = 4 // the next bytes of that file
	FrameExit   = 5 // uint32 exit status, then uint64s in the order of Stat...
	FrameBoot   = 6 // ring0 has taken over: no payload
	FrameKernel = 7 // a message of ring0 itself, for standard error
)

// The statistics behind the exit status in FrameExit, in this order.
const (
	StatTSC      = iota // TSC ticks from ring0's entry to its exit
	StatSyscalls        // Linux system calls served
	StatFaults          // page faults served
	StatTicks           // timer interrupts
	StatSwitches        // thread switches
	StatThreads         // threads made
	StatPages           // most physical pages in use at once
	StatSleep           // nanoseconds of sleep that were skipped
	Stats
)

// Output goes to PortE9 if reading it gives PortE9 back (Bochs' port_e9_hack,
// QEMU's debugcon), else to the first serial port. Writing ShutdownText to
// PortShutdown ends Bochs; writing to PortQEMUExit ends QEMU with
// isa-debug-exit.
const (
	PortE9       = 0xe9
	PortSerial   = 0x3f8
	PortShutdown = 0x8900
	PortQEMUExit = 0xf4
	ShutdownText = "Shutdown"
)
