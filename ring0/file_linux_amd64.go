package ring0

import "github.com/govtx/vtx/internal/bootproto"

// Files live in memory: a flat table of inodes, each with its whole path. The
// directories that the boot image names exist from the start, the modules are
// read-only files, and every regular file that is left when the program ends is
// sent to the host.

const (
	maxFiles  = 1024
	maxPath   = 760
	maxName   = 255
	maxCopy   = 1 << 20    // bytes that one read or write moves
	atCWD     = 0xffffff9c // AT_FDCWD as an int32
	inodeSize = 1024
	maxInodes = 4096
	fileLimit = 1 << 30 // bytes in a file: two levels of 512 pages
)

// inode kinds, which are Linux' S_IFMT values, and modules.
const (
	inodeNone   = 0
	inodeDir    = 0x4000
	inodeFile   = 0x8000
	inodeDevice = 0x2000
	inodeModule = 0x8001 // its root is the module's address
)

type inode struct {
	kind, size uint64
	root       uint64 // page of page-table pages, or of nothing
	mode       uint64
	mtime      uint64
	refs       uint64 // open files
	linked     uint64 // 0: removed, gone with the last open file
	pathLen    uint64
	path       [maxPath]byte
}

// A file is an open file description; descriptors point at it.
type file struct {
	kind, refs uint64
	inode      uint64 // inode number; a pipe's address; an event's count
	pos, flags uint64
}

const (
	fileNone = iota
	fileRegular
	fileOut
	fileErr
	fileNull // reads end at once, writes vanish
	fileZero
	fileRandom
	filePipeRead
	filePipeWrite
	fileEvent
	fileEpoll
)

var (
	inodePages [maxInodes * inodeSize / pageSize]uint64
	inodeCount uint64
	files      [maxFiles]file
	fds        [maxFiles]uint64 // index in files plus 1; 0: closed
	cwd        uint64           // the working directory's inode
	umask      uint64           = 0o22
	exePath    uint64
	pathBuf    [2][maxPath]byte // resolved paths
	pathLen    [2]uint64

	endsInSlash bool // the path that was resolved last
)

const (
	devNull = 1 + iota
	devZero
	devRandom
)

func inodeAt(i uint64) *inode {
	return mem[inode](inodePages[i*inodeSize/pageSize] + i*inodeSize%pageSize)
}

func initFiles() {
	newFile(fileNull, 0, oReadOnly)
	newFile(fileOut, 0, oWriteOnly)
	newFile(fileErr, 0, oWriteOnly)

	makeInode("/", inodeDir, 0)
	makeInode("/dev", inodeDir, 0)
	makeInode("/tmp", inodeDir, 0)
	makeInode("/dev/null", inodeDevice, devNull)
	makeInode("/dev/zero", inodeDevice, devZero)
	makeInode("/dev/random", inodeDevice, devRandom)
	makeInode("/dev/urandom", inodeDevice, devRandom)

	s := params + load(params+bootproto.ParamStrings)
	if load8(s) == '/' {
		cwd = makeDirs(s)
	}
	inodeAt(cwd).refs++
	for range 2 + load(params+bootproto.ParamArgc) + load(params+bootproto.ParamEnvc) {
		s += strlen(s) + 1
	}
	for range load(params + bootproto.ParamDirc) {
		makeDirs(s)
		s += strlen(s) + 1
	}
	for i := range moduleCount {
		m := &modules[i]
		if resolve(0, atCWD, m.name) != 0 || pathLen[0] < 2 {
			continue
		}
		makeParents()
		if find(0) == never {
			if ino := newInode(inodeModule, 0o444); ino != never {
				inodeAt(ino).root, inodeAt(ino).size = m.addr, m.size
			}
		}
	}
}

// makeInode makes a file with a path of ours.
func makeInode(path string, kind, root uint64) {
	for i := range len(path) {
		pathBuf[0][i] = path[i]
	}
	pathLen[0] = uint64(len(path))
	if ino := newInode(kind, 0o777); ino != never {
		inodeAt(ino).root = root
	}
}

// makeDirs makes a directory and those above it. It gives the directory, or the
// root where that cannot be had.
func makeDirs(s uint64) uint64 {
	if resolve(0, atCWD, s) != 0 {
		return 0
	}
	makeParents()
	ino := find(0)
	if ino == never {
		ino = newInode(inodeDir, 0o777)
	}
	if ino == never || inodeAt(ino).kind != inodeDir {
		return 0
	}
	return ino
}

// makeParents makes the directories above the path in buffer 0.
func makeParents() {
	whole := pathLen[0]
	for i := uint64(1); i < whole; i++ {
		if pathBuf[0][i] == '/' {
			pathLen[0] = i
			if find(0) == never {
				newInode(inodeDir, 0o777)
			}
		}
	}
	pathLen[0] = whole
}

// resolve puts the absolute path of the NUL-terminated s into buffer b, without
// ".", ".." and doubled slashes. dir is where relative paths begin. All that
// stands before the last name must be directories.
func resolve(b, dir, s uint64) int64 {
	const longest = 4096 // PATH_MAX
	if !present(s, 1, false) {
		return -eFAULT
	}
	if load8(s) == 0 {
		return -eNOENT
	}
	buf, n := &pathBuf[b], uint64(0)
	if load8(s) != '/' {
		from := inodeAt(cwd)
		if uint32(dir) != atCWD {
			f := fileOf(dir)
			if f == nil {
				return -eBADF
			}
			if f.kind != fileRegular || inodeAt(f.inode).kind != inodeDir {
				return -eNOTDIR
			}
			from = inodeAt(f.inode)
		}
		if from.linked == 0 {
			return -eNOENT
		}
		copyBytes(addrOf(buf), addrOf(&from.path), from.pathLen)
		if n = from.pathLen; n == 1 {
			n = 0 // the root's slash comes with the first name
		}
	}
	endsInSlash = false
	for end := s + longest; ; {
		// One name of the path at a time. What comes before it must be there.
		start, m := s, uint64(0)
		for c := load8(s); c != 0 && (c != '/' || m == 0); c = load8(s) {
			if c == '/' {
				start, endsInSlash = s+1, true
			} else {
				m++
			}
			s++
			if s == end {
				return -eNAMETOOLONG
			}
			if s%pageSize == 0 && !present(s, 1, false) {
				return -eFAULT
			}
		}
		if m > 0 || endsInSlash {
			if err := isDir(b, n); err != 0 && (m > 0 || err == -eNOTDIR) {
				return err
			}
		}
		switch {
		case m == 0:
			if n == 0 {
				buf[0], n = '/', 1
			}
			pathLen[b] = n
			return 0
		case m == 1 && load8(start) == '.':
		case m == 2 && load8(start) == '.' && load8(start+1) == '.':
			for n > 0 {
				n--
				if buf[n] == '/' {
					break
				}
			}
		default:
			if m > maxName || n+1+m >= maxPath {
				return -eNAMETOOLONG
			}
			buf[n] = '/'
			copyBytes(addrOf(buf)+n+1, start, m)
			n += 1 + m
		}
		endsInSlash = false
	}
}

// isDir checks that the first n bytes in buffer b name a directory. While the
// machine boots, directories are made behind what they hold.
func isDir(b, n uint64) int64 {
	if n == 0 || active == 0 {
		return 0
	}
	ino := findPrefix(b, n)
	if ino == never {
		return -eNOENT
	}
	if inodeAt(ino).kind != inodeDir {
		return -eNOTDIR
	}
	return 0
}

func samePath(ino, b, n uint64) bool {
	p := inodeAt(ino)
	if p.pathLen != n {
		return false
	}
	// Paths differ at the end far more often than at the beginning.
	for i := n; i > 0; i-- {
		if p.path[i-1] != pathBuf[b][i-1] {
			return false
		}
	}
	return true
}

// find looks the path in buffer b up.
func find(b uint64) uint64 { return findPrefix(b, pathLen[b]) }

func findPrefix(b, n uint64) uint64 {
	for i := range inodeCount {
		if p := inodeAt(i); p.kind != inodeNone && p.linked != 0 && samePath(i, b, n) {
			return i
		}
	}
	return never
}

// parentLen is the length of the path's directory part, 1 for the root.
func parentLen(path *[maxPath]byte, n uint64) uint64 {
	for n > 1 {
		n--
		if path[n] == '/' {
			break
		}
	}
	return max(n, 1)
}

// lookupPath finds the file that a path names.
func lookupPath(dir, path uint64) (uint64, int64) {
	if err := resolve(0, dir, path); err != 0 {
		return 0, err
	}
	ino := find(0)
	if ino == never {
		return 0, -eNOENT
	}
	return ino, 0
}

// newInode makes an inode for the path in buffer 0.
func newInode(kind, mode uint64) uint64 {
	ino := uint64(0)
	for ino < inodeCount && inodeAt(ino).kind != inodeNone {
		ino++
	}
	if ino == maxInodes {
		return never
	}
	if ino == inodeCount {
		if page := ino * inodeSize / pageSize; inodePages[page] == 0 {
			if inodePages[page] = allocZeroed(1); inodePages[page] == 0 {
				return never
			}
		}
		inodeCount++
	}
	p := inodeAt(ino)
	p.kind, p.size, p.root, p.mode, p.refs, p.linked = kind, 0, 0, mode, 0, 1
	p.mtime = epoch + now()
	p.pathLen = pathLen[0]
	copyBytes(addrOf(&p.path), addrOf(&pathBuf), p.pathLen)
	return ino
}

// dropInode frees an inode that has neither a path nor an open file.
func dropInode(ino uint64) {
	p := inodeAt(ino)
	if p.linked != 0 || p.refs != 0 {
		return
	}
	truncate(ino, 0)
	p.kind = inodeNone
}

// spareFrame takes a frame of zeros for a file, if the program has enough left.
func spareFrame() uint64 {
	if freeFrames < spareFrames {
		return 0
	}
	return allocZeroed(1)
}

// pageOf gives the page that holds the byte at off, making it if make is set; 0
// if there is none.
func pageOf(p *inode, off uint64, make bool) uint64 {
	slot := addrOf(&p.root)
	for _, i := range [...]uint64{off >> 21, off >> 12 & 511} {
		if load(slot) == 0 {
			if !make {
				return 0
			}
			f := spareFrame()
			if f == 0 {
				return 0
			}
			store(slot, f)
		}
		slot = load(slot) + 8*i
	}
	if load(slot) == 0 && make {
		store(slot, spareFrame())
	}
	return load(slot)
}

// readInode copies n bytes at off, which lie within the file.
func readInode(ino, buf, n, off uint64) {
	p := inodeAt(ino)
	if p.kind == inodeModule {
		copyBytes(buf, p.root+off, n)
		return
	}
	for n > 0 {
		m := min(n, pageSize-off%pageSize)
		if f := pageOf(p, off, false); f != 0 {
			copyBytes(buf, f+off%pageSize, m)
		} else {
			clearBytes(buf, m)
		}
		buf, off, n = buf+m, off+m, n-m
	}
}

var zeroPage [pageSize]byte

func clearBytes(a, n uint64) {
	for n > 0 {
		m := min(n, pageSize)
		copyBytes(a, addrOf(&zeroPage), m)
		a, n = a+m, n-m
	}
}

// writeInode copies n bytes to off and gives the number that found room.
func writeInode(ino, buf, n, off uint64) uint64 {
	p := inodeAt(ino)
	done := uint64(0)
	for done < n && off < fileLimit {
		m := min(n-done, pageSize-off%pageSize)
		f := pageOf(p, off, true)
		if f == 0 {
			break
		}
		copyBytes(f+off%pageSize, buf+done, m)
		done, off = done+m, off+m
	}
	if done > 0 {
		p.size = max(p.size, off)
		p.mtime = epoch + now()
	}
	return done
}

// truncate sets the size of a file; what is cut off is freed.
func truncate(ino, size uint64) int64 {
	p := inodeAt(ino)
	switch {
	case p.kind == inodeDir:
		return -eISDIR
	case p.kind == inodeModule:
		return -eACCES
	case p.kind != inodeFile || int64(size) < 0:
		return -eINVAL
	case size > fileLimit:
		return -eFBIG
	}
	if tail := size % pageSize; tail != 0 && size < p.size {
		if f := pageOf(p, size, false); f != 0 {
			clearBytes(f+tail, pageSize-tail)
		}
	}
	if p.root != 0 && size < p.size {
		for i := range uint64(512) {
			t := load(p.root + 8*i)
			if t == 0 {
				continue
			}
			for j := range uint64(512) {
				f := load(t + 8*j)
				if f != 0 && i<<21+j<<12 >= size {
					freeFrame(f)
					store(t+8*j, 0)
				}
			}
			if i<<21 >= size {
				freeFrame(t)
				store(p.root+8*i, 0)
			}
		}
		if size == 0 {
			freeFrame(p.root)
			p.root = 0
		}
	}
	p.size = size
	p.mtime = epoch + now()
	return 0
}

// Descriptors.

func fileOf(fd uint64) *file {
	if fd >= maxFiles || fds[fd] == 0 {
		return nil
	}
	return &files[fds[fd]-1]
}

// newFile opens a file of the given kind on the lowest free descriptor.
func newFile(kind, ino, flags uint64) int64 {
	f := uint64(0)
	for f < maxFiles && files[f].kind != fileNone {
		f++
	}
	if f == maxFiles {
		return -eNFILE
	}
	fd := lowestFD(0)
	if fd < 0 {
		return fd
	}
	files[f] = file{kind: kind, refs: 1, inode: ino, flags: flags}
	fds[fd] = f + 1
	return fd
}

func lowestFD(from uint64) int64 {
	for fd := from; fd < maxFiles; fd++ {
		if fds[fd] == 0 {
			return int64(fd)
		}
	}
	return -eMFILE
}

// dropFD forgets a descriptor and its description without closing anything.
func dropFD(fd uint64) {
	files[fds[fd]-1] = file{}
	fds[fd] = 0
}

func sysClose(fd uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	f.refs--
	if f.refs == 0 {
		switch f.kind {
		case fileRegular:
			inodeAt(f.inode).refs--
			dropInode(f.inode)
		case filePipeRead:
			closePipe(f.inode, true)
		case filePipeWrite:
			closePipe(f.inode, false)
		}
		f.kind = fileNone
	}
	fds[fd] = 0
	return 0
}

func sysDup(fd, to uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	if to == never {
		n := lowestFD(0)
		if n < 0 {
			return n
		}
		to = uint64(n)
	}
	if to >= maxFiles {
		return -eBADF
	}
	if to == fd {
		return int64(fd)
	}
	f.refs++
	if fds[to] != 0 {
		sysClose(to)
	}
	fds[to] = fds[fd]
	return int64(to)
}

func sysFcntl(fd, cmd, arg uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	switch cmd {
	case 0, 1030: // F_DUPFD, F_DUPFD_CLOEXEC
		n := lowestFD(arg)
		if n < 0 {
			return n
		}
		return sysDup(fd, uint64(n))
	case 3: // F_GETFL
		return int64(f.flags & (oAccess | oAppend))
	case 4: // F_SETFL
		f.flags = f.flags&^oAppend | arg&oAppend
		return 0
	case 1, 2, 5, 6, 7: // F_GETFD, F_SETFD, locks
		return 0
	}
	return -eINVAL
}

const (
	oReadOnly  = 0
	oWriteOnly = 1
	oReadWrite = 2
	oAccess    = 3
	oCreat     = 0x40
	oExcl      = 0x80
	oTrunc     = 0x200
	oAppend    = 0x400
	oDirectory = 0x10000
)

func sysOpen(path, flags, mode uint64) int64 {
	return openPath(atCWD, path, flags, mode)
}

func sysOpenAt(dir, path, flags uint64) int64 {
	return openPath(dir, path, flags, self().r10)
}

func openPath(dir, path, flags, mode uint64) int64 {
	if fd := lowestFD(0); fd < 0 {
		return fd
	}
	if err := resolve(0, dir, path); err != 0 {
		return err
	}
	ino := find(0)
	if ino == never {
		if flags&oCreat == 0 {
			return -eNOENT
		}
		if endsInSlash {
			return -eISDIR
		}
		if ino = newInode(inodeFile, mode&0o777&^umask); ino == never {
			return -eNOSPC
		}
	} else if flags&(oCreat|oExcl) == oCreat|oExcl {
		return -eEXIST
	}
	p := inodeAt(ino)
	kind := uint64(fileRegular)
	writing := flags&oAccess != 0 || flags&oTrunc != 0
	switch {
	case p.kind == inodeDir && (writing || flags&oCreat != 0):
		return -eISDIR
	case p.kind != inodeDir && flags&oDirectory != 0:
		return -eNOTDIR
	case p.kind == inodeModule && writing:
		return -eACCES
	case p.kind == inodeDevice:
		kind = [...]uint64{devNull: fileNull, devZero: fileZero, devRandom: fileRandom}[p.root]
	}
	fd := newFile(kind, ino, flags)
	if fd >= 0 && kind == fileRegular {
		p.refs++
		if flags&oTrunc != 0 {
			truncate(ino, 0)
		}
	}
	return fd
}

func sysRead(fd, buf, n, at uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	n = min(n, maxCopy)
	if f.flags&oAccess == oWriteOnly {
		return -eBADF
	}
	if at != never && isStream(f) {
		return -eSPIPE
	}
	// Only as much of the buffer as will be filled is made present.
	pos := at
	if at == never {
		pos = f.pos
	}
	switch f.kind {
	case fileNull:
		n = 0
	case filePipeRead:
		p := mem[pipe](f.inode)
		n = min(n, max(p.tail-p.head, 1))
	case fileEvent:
		if n < 8 {
			return -eINVAL
		}
		n = 8
	case fileRegular:
		p := inodeAt(f.inode)
		if p.kind == inodeDir {
			return -eISDIR
		}
		n = min(n, p.size-min(pos, p.size))
	case fileZero, fileRandom:
	default:
		return -eINVAL
	}
	if !present(buf, n, true) {
		return -eFAULT
	}
	switch f.kind {
	case fileZero:
		clearBytes(buf, n)
	case fileRandom:
		fillRandom(buf, n)
	case filePipeRead:
		return readPipe(f.inode, buf, n)
	case fileEvent:
		if f.inode == 0 {
			return -eAGAIN
		}
		store(buf, f.inode)
		f.inode = 0
	case fileRegular:
		readInode(f.inode, buf, n, pos)
		if at == never {
			f.pos += n
		}
	}
	return int64(n)
}

// isStream reports whether a file has no position.
func isStream(f *file) bool {
	switch f.kind {
	case fileRegular, fileNull, fileZero, fileRandom:
		return false
	}
	return true
}

func sysWrite(fd, buf, n, at uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	if f.flags&oAccess == oReadOnly {
		return -eBADF
	}
	if at != never && isStream(f) {
		return -eSPIPE
	}
	// Callers go on where a write falls short, as they must.
	n = min(n, maxCopy)
	if f.kind == filePipeWrite {
		n = min(n, pipeSize)
	}
	if !present(buf, n, false) {
		return -eFAULT
	}
	switch f.kind {
	case fileOut:
		frame(bootproto.FrameStdout, buf, n)
		return int64(n)
	case fileErr:
		frame(bootproto.FrameStderr, buf, n)
		return int64(n)
	case fileNull, fileZero, fileRandom:
		return int64(n)
	case filePipeWrite:
		return writePipe(f.inode, buf, n)
	case fileEvent:
		if n != 8 || load(buf) == never {
			return -eINVAL
		}
		if load(buf) >= never-f.inode {
			return -eAGAIN
		}
		f.inode += load(buf)
		for i := range uint64(maxFiles) {
			if fds[i] != 0 && &files[fds[i]-1] == f {
				signalEvent(i)
			}
		}
		return 8
	case fileRegular:
		pos := at
		if at == never {
			pos = f.pos
		}
		if f.flags&oAppend != 0 {
			pos = inodeAt(f.inode).size
		}
		if n != 0 && pos >= fileLimit {
			return -eFBIG
		}
		done := writeInode(f.inode, buf, n, pos)
		if at == never && n != 0 {
			f.pos = pos + done
		}
		if done == 0 && n != 0 {
			return -eNOSPC
		}
		return int64(done)
	}
	return -eINVAL
}

// sysVector is readv or writev: one call for each buffer until one falls short.
func sysVector(fd, vec, count uint64, write bool) int64 {
	if fileOf(fd) == nil {
		return -eBADF
	}
	if count > 1024 {
		return -eINVAL
	}
	if !present(vec, 16*count, false) {
		return -eFAULT
	}
	total := int64(0)
	for i := range count {
		base, n := load(vec+16*i), load(vec+16*i+8)
		if n == 0 {
			continue
		}
		var r int64
		if f := fileOf(fd); f != nil && total > 0 && (f.kind == filePipeRead || f.kind == filePipeWrite) {
			return total // a second pipe call might wait, with the first one done
		}
		if write {
			r = sysWrite(fd, base, n, never)
		} else {
			r = sysRead(fd, base, n, never)
		}
		if r == kept || r < 0 && total == 0 {
			return r
		}
		if r < 0 {
			break
		}
		total += r
		if uint64(r) < n {
			break
		}
	}
	return total
}

func sysSeek(fd, off, whence uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	if isStream(f) {
		return -eSPIPE
	}
	if f.kind != fileRegular {
		return 0 // a device takes any position, and has none
	}
	switch whence {
	case 0:
	case 1:
		off += f.pos
	case 2:
		off += inodeAt(f.inode).size
	default:
		return -eINVAL
	}
	if int64(off) < 0 {
		return -eINVAL
	}
	f.pos = off
	return int64(off)
}

func sysTruncate(fd, size uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	if f.kind != fileRegular || f.flags&oAccess == oReadOnly {
		return -eINVAL
	}
	return truncate(f.inode, size)
}

func sysTruncatePath(path, size uint64) int64 {
	ino, err := lookupPath(atCWD, path)
	if err != 0 {
		return err
	}
	return truncate(ino, size)
}

// storeStat fills in a struct stat.
func storeStat(p, ino, mode, size, mtime uint64) {
	for i := uint64(0); i < 144; i += 8 {
		store(p+i, 0)
	}
	store(p+8, ino+1)
	store(p+16, 1)
	store32(p+24, uint32(mode))
	store(p+48, size)
	store(p+56, pageSize)
	store(p+64, roundUp(size, 512)/512)
	for _, at := range [...]uint64{72, 88, 104} {
		store(p+at, mtime/second)
		store(p+at+8, mtime%second)
	}
}

func statInode(ino, p uint64) int64 {
	if !present(p, 144, true) {
		return -eFAULT
	}
	n := inodeAt(ino)
	storeStat(p, ino, n.kind&0xf000|n.mode, n.size, n.mtime)
	return 0
}

func sysStat(dir, path, p uint64) int64 {
	ino, err := lookupPath(dir, path)
	if err != 0 {
		return err
	}
	return statInode(ino, p)
}

func sysFstat(fd, p uint64) int64 {
	if uint32(fd) == atCWD {
		return statInode(cwd, p)
	}
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	if f.kind == fileRegular {
		return statInode(f.inode, p)
	}
	if !present(p, 144, true) {
		return -eFAULT
	}
	mode := uint64(inodeDevice | 0o620)
	if f.kind == filePipeRead || f.kind == filePipeWrite {
		mode = 0x1000 | 0o600 // S_IFIFO
	}
	storeStat(p, maxInodes+fd, mode, 0, epoch)
	return 0
}

func sysAccess(dir, path uint64) int64 {
	_, err := lookupPath(dir, path)
	return err
}

func sysChmod(dir, path, mode uint64) int64 {
	ino, err := lookupPath(dir, path)
	if err != 0 {
		return err
	}
	inodeAt(ino).mode = mode & 0o7777
	return 0
}

func sysFchmod(fd, mode uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	if f.kind == fileRegular {
		inodeAt(f.inode).mode = mode & 0o7777
	}
	return 0
}

// sysUtimes sets the time of the last change; there is no other.
func sysUtimes(dir, path, times uint64) int64 {
	const timeNow, timeOmit = 1<<30 - 1, 1<<30 - 2 // UTIME_NOW, UTIME_OMIT
	ino := never
	if f := fileOf(dir); path == 0 && f == nil {
		return -eBADF
	} else if path != 0 {
		var err int64
		if ino, err = lookupPath(dir, path); err != 0 {
			return err
		}
	} else if f.kind == fileRegular {
		ino = f.inode
	}
	t := epoch + now()
	if times != 0 {
		if !present(times, 32, false) {
			return -eFAULT
		}
		switch s, ns := load(times+16), load(times+24); {
		case ns == timeOmit:
			return 0
		case ns == timeNow:
		case ns >= second:
			return -eINVAL
		default:
			t = min(s, farFuture/second)*second + ns
		}
	}
	if ino != never {
		inodeAt(ino).mtime = t
	}
	return 0
}

func sysGetcwd(buf, n uint64) int64 {
	p := inodeAt(cwd)
	if p.linked == 0 {
		return -eNOENT
	}
	if n < p.pathLen+1 {
		return -eRANGE
	}
	if !present(buf, p.pathLen+1, true) {
		return -eFAULT
	}
	copyBytes(buf, addrOf(&p.path), p.pathLen)
	store8(buf+p.pathLen, 0)
	return int64(p.pathLen + 1)
}

func sysChdir(path uint64) int64 {
	ino, err := lookupPath(atCWD, path)
	if err != 0 {
		return err
	}
	return enterDir(ino)
}

func sysFchdir(fd uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	if f.kind != fileRegular {
		return -eNOTDIR
	}
	return enterDir(f.inode)
}

func enterDir(ino uint64) int64 {
	if inodeAt(ino).kind != inodeDir {
		return -eNOTDIR
	}
	inodeAt(ino).refs++
	inodeAt(cwd).refs--
	dropInode(cwd)
	cwd = ino
	return 0
}

func sysMkdir(dir, path, mode uint64) int64 {
	if err := resolve(0, dir, path); err != 0 {
		return err
	}
	if find(0) != never {
		return -eEXIST
	}
	if newInode(inodeDir, mode&0o777&^umask) == never {
		return -eNOSPC
	}
	return 0
}

// child gives the first inode from i on that lies directly in the directory
// dir; below counts deeper ones too.
func child(dir, i uint64, below bool) uint64 {
	d := inodeAt(dir)
	n := d.pathLen
	if n == 1 {
		n = 0
	}
	if d.linked == 0 {
		return never // another directory may have its path now
	}
next:
	for ; i < inodeCount; i++ {
		p := inodeAt(i)
		if p.kind == inodeNone || p.linked == 0 || p.pathLen <= n+1 || p.path[n] != '/' {
			continue
		}
		for j := range n {
			if p.path[j] != d.path[j] {
				continue next
			}
		}
		if !below && max(parentLen(&p.path, p.pathLen), n) != max(n, 1) {
			continue
		}
		return i
	}
	return never
}

func sysUnlink(dir, path uint64, wantDir bool) int64 {
	ino, err := lookupPath(dir, path)
	if err != 0 {
		return err
	}
	p := inodeAt(ino)
	switch {
	case wantDir && p.kind != inodeDir:
		return -eNOTDIR
	case !wantDir && p.kind == inodeDir:
		return -eISDIR
	case pathLen[0] == 1:
		return -eBUSY
	case p.kind == inodeDevice:
		return -ePERM
	case wantDir && child(ino, 0, true) != never:
		return -eNOTEMPTY
	}
	p.linked = 0
	dropInode(ino)
	return 0
}

func sysRename(oldDir, oldPath, newDir, newPath uint64) int64 {
	if err := resolve(1, oldDir, oldPath); err != 0 {
		return err
	}
	if err := resolve(0, newDir, newPath); err != 0 {
		return err
	}
	if pathLen[0] == 1 || pathLen[1] == 1 {
		return -eBUSY
	}
	ino := find(1)
	if ino == never {
		return -eNOENT
	}
	old := find(0)
	if old == ino {
		return 0
	}
	p := inodeAt(ino)
	if p.kind != inodeDir && endsInSlash {
		return -eNOTDIR
	}
	from, to := pathLen[1], pathLen[0]
	if p.kind == inodeDir {
		// A directory takes everything in it along, unless that is itself.
		if to > from && pathBuf[0][from] == '/' && samePath(ino, 0, from) {
			return -eINVAL
		}
		if old != never && inodeAt(old).kind != inodeDir {
			return -eNOTDIR
		}
		if old != never && child(old, 0, true) != never {
			return -eNOTEMPTY
		}
		for i := child(ino, 0, true); i != never; i = child(ino, i+1, true) {
			if inodeAt(i).pathLen-from+to >= maxPath {
				return -eNAMETOOLONG
			}
		}
		for i := child(ino, 0, true); i != never; i = child(ino, i+1, true) {
			c := inodeAt(i)
			for j := from; j < c.pathLen; j++ {
				pathBuf[0][to+j-from] = c.path[j]
			}
			c.pathLen += to - from
			copyBytes(addrOf(&c.path), addrOf(&pathBuf), c.pathLen)
		}
	} else if old != never && inodeAt(old).kind == inodeDir {
		if from > to && pathBuf[1][to] == '/' && samePath(old, 1, to) {
			return -eNOTEMPTY // the file itself is in it
		}
		return -eISDIR
	}
	if old != never {
		inodeAt(old).linked = 0
		dropInode(old)
	}
	p.pathLen = to
	copyBytes(addrOf(&p.path), addrOf(&pathBuf), to)
	return 0
}

// sysReadlink knows one link, the program's own file.
func sysReadlink(dir, path, buf, n uint64) int64 {
	const exe = "/proc/self/exe\x00"
	same := present(path, uint64(len(exe)), false)
	for i := 0; same && i < len(exe); i++ {
		same = load8(path+uint64(i)) == exe[i]
	}
	if !same {
		if _, err := lookupPath(dir, path); err != 0 {
			return err
		}
		return -eINVAL
	}
	n = min(n, strlen(exePath))
	if !present(buf, n, true) {
		return -eFAULT
	}
	copyBytes(buf, exePath, n)
	return int64(n)
}

// sysDirents fills buf with struct linux_dirent64; the file's position is the
// number of the next inode to look at.
func sysDirents(fd, buf, n uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	if f.kind != fileRegular || inodeAt(f.inode).kind != inodeDir {
		return -eNOTDIR
	}
	n = min(n, 1<<20)
	if !present(buf, n, true) {
		return -eFAULT
	}
	done := uint64(0)
	for {
		i := child(f.inode, f.pos, false)
		if i == never {
			f.pos = inodeCount
			return int64(done)
		}
		p := inodeAt(i)
		start := parentLen(&p.path, p.pathLen)
		if p.path[start] == '/' {
			start++
		}
		name := p.pathLen - start
		size := roundUp(19+name+1, 8)
		if done+size > n {
			if done == 0 {
				return -eINVAL
			}
			return int64(done)
		}
		e := buf + done
		store(e, i+1)
		store(e+8, i+1)
		store16(e+16, uint16(size))
		store8(e+18, uint8(p.kind>>12))
		copyBytes(e+19, addrOf(&p.path)+start, name)
		store8(e+19+name, 0)
		done += size
		f.pos = i + 1
	}
}

// sendFiles hands every regular file to the host.
func sendFiles() {
	if !framed {
		return
	}
	for i := range inodeCount {
		p := inodeAt(i)
		if p.kind != inodeFile || p.linked == 0 {
			continue
		}
		// The payload of FrameFile: mode, path.
		store32(addrOf(&line), uint32(p.mode))
		copyBytes(addrOf(&line)+4, addrOf(&p.path), p.pathLen)
		frame(bootproto.FrameFile, addrOf(&line), 4+p.pathLen)
		for off := uint64(0); off < p.size; off += pageSize {
			m := min(p.size-off, pageSize)
			f := pageOf(p, off, false)
			if f == 0 {
				f = addrOf(&zeroPage)
			}
			frame(bootproto.FrameData, f, m)
		}
	}
}
