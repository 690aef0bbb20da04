package ring0

import "github.com/govtx/vtx/internal/bootproto"

// Files live in memory: a flat table of inodes, each with its whole path. The
// directories that the boot image names exist from the start, the modules are
// read-only files, and every regular file that is left when the program ends is
// sent to the host.

const (
	maxFiles  = 1024
	maxPath   = 760
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
	cwd        [maxPath]byte
	cwdLen     uint64
	exePath    uint64
	pathBuf    [2][maxPath]byte // resolved paths
	pathLen    [2]uint64
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
	for i := range uint64(3) {
		files[i] = file{kind: fileNull, refs: 1}
		fds[i] = i + 1
	}
	files[1].kind, files[2].kind = fileOut, fileErr

	makeInode("/", inodeDir, 0)
	makeInode("/dev", inodeDir, 0)
	makeInode("/tmp", inodeDir, 0)
	makeInode("/dev/null", inodeDevice, devNull)
	makeInode("/dev/zero", inodeDevice, devZero)
	makeInode("/dev/random", inodeDevice, devRandom)
	makeInode("/dev/urandom", inodeDevice, devRandom)

	s := params + load(params+bootproto.ParamStrings)
	n := min(strlen(s), maxPath)
	cwd[0], cwdLen = '/', 1
	if n > 0 && load8(s) == '/' {
		copyBytes(addrOf(&cwd), s, n)
		cwdLen = n
	}
	makeDirs(s)
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

// makeDirs makes a directory and those above it.
func makeDirs(s uint64) {
	if resolve(0, atCWD, s) != 0 {
		return
	}
	makeParents()
	if find(0) == never {
		newInode(inodeDir, 0o777)
	}
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
// ".", ".." and doubled slashes. dir is where relative paths begin.
func resolve(b, dir, s uint64) int64 {
	if !present(s, 1, false) {
		return -eFAULT
	}
	if load8(s) == 0 {
		return -eNOENT
	}
	buf, n := &pathBuf[b], uint64(0)
	if load8(s) != '/' {
		from, fromLen := addrOf(&cwd), cwdLen
		if uint32(dir) != atCWD {
			f := fileOf(dir)
			if f == nil || f.kind != fileRegular {
				return -eBADF
			}
			if inodeAt(f.inode).kind != inodeDir {
				return -eNOTDIR
			}
			from, fromLen = addrOf(&inodeAt(f.inode).path), inodeAt(f.inode).pathLen
		}
		copyBytes(addrOf(buf), from, fromLen)
		if n = fromLen; n == 1 {
			n = 0 // the root's slash comes with the first name
		}
	}
	for {
		// One name of the path at a time.
		for load8(s) == '/' {
			s++
			if !present(s, 1, false) {
				return -eFAULT
			}
		}
		start := s
		for load8(s) != 0 && load8(s) != '/' {
			s++
			if !present(s, 1, false) {
				return -eFAULT
			}
		}
		m := s - start
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
			if n+1+m >= maxPath {
				return -eNAMETOOLONG
			}
			buf[n] = '/'
			copyBytes(addrOf(buf)+n+1, start, m)
			n += 1 + m
		}
	}
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

// block gives the page that holds the byte at off, making it if make is set; 0
// if there is none.
func pageOf(p *inode, off uint64, make bool) uint64 {
	slot := addrOf(&p.root)
	for _, i := range [...]uint64{off >> 21, off >> 12 & 511} {
		if load(slot) == 0 {
			if !make {
				return 0
			}
			f := allocZeroed(1)
			if f == 0 {
				return 0
			}
			store(slot, f)
		}
		slot = load(slot) + 8*i
	}
	if load(slot) == 0 && make {
		store(slot, allocZeroed(1))
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
			for i := range m {
				store8(buf+i, 0)
			}
		}
		buf, off, n = buf+m, off+m, n-m
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
	p.size = max(p.size, off)
	p.mtime = epoch + now()
	return done
}

// truncate sets the size of a file; what is cut off is freed.
func truncate(ino, size uint64) int64 {
	p := inodeAt(ino)
	if p.kind != inodeFile {
		return -eINVAL
	}
	if size > fileLimit {
		return -eNOSPC
	}
	if tail := size % pageSize; tail != 0 && size < p.size {
		if f := pageOf(p, size, false); f != 0 {
			for i := tail; i < pageSize; i++ {
				store8(f+i, 0)
			}
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
func newFile(kind, ino uint64) int64 {
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
	files[f] = file{kind: kind, refs: 1, inode: ino}
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
		switch f.kind {
		case fileNull, filePipeRead:
			return int64(f.flags &^ 3)
		case fileOut, fileErr, filePipeWrite:
			return int64(f.flags&^3 | 1)
		}
		return int64(f.flags)
	case 1, 2, 4, 5, 6, 7: // F_GETFD, F_SETFD, F_SETFL, locks
		return 0
	}
	return -eINVAL
}

const (
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
	if err := resolve(0, dir, path); err != 0 {
		return err
	}
	ino := find(0)
	if ino == never {
		if flags&oCreat == 0 {
			return -eNOENT
		}
		if err := checkParent(0); err != 0 {
			return err
		}
		if ino = newInode(inodeFile, mode&0o777); ino == never {
			return -eNOSPC
		}
	} else if flags&(oCreat|oExcl) == oCreat|oExcl {
		return -eEXIST
	}
	p := inodeAt(ino)
	kind := uint64(fileRegular)
	writing := flags&oAccess != 0
	switch {
	case p.kind == inodeDir && writing:
		return -eISDIR
	case p.kind != inodeDir && flags&oDirectory != 0:
		return -eNOTDIR
	case p.kind == inodeModule && writing:
		return -eACCES
	case p.kind == inodeDevice:
		kind = [...]uint64{devNull: fileNull, devZero: fileZero, devRandom: fileRandom}[p.root]
	}
	fd := newFile(kind, ino)
	if fd < 0 {
		return fd
	}
	fileOf(uint64(fd)).flags = flags
	if kind == fileRegular {
		p.refs++
		if flags&oTrunc != 0 && writing {
			truncate(ino, 0)
		}
	}
	return fd
}

// checkParent checks that the path in buffer b lies in a directory.
func checkParent(b uint64) int64 {
	p := findPrefix(b, parentLen(&pathBuf[b], pathLen[b]))
	if p == never {
		return -eNOENT
	}
	if inodeAt(p).kind != inodeDir {
		return -eNOTDIR
	}
	return 0
}

func sysRead(fd, buf, n, at uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	n = min(n, 1<<30)
	if !present(buf, n, true) {
		return -eFAULT
	}
	switch f.kind {
	case fileNull:
		return 0
	case fileZero:
		for i := range n {
			store8(buf+i, 0)
		}
		return int64(n)
	case fileRandom:
		fillRandom(buf, n)
		return int64(n)
	case filePipeRead:
		return readPipe(f.inode, buf, n)
	case fileEvent:
		if n < 8 {
			return -eINVAL
		}
		if f.inode == 0 {
			return -eAGAIN
		}
		store(buf, f.inode)
		f.inode = 0
		return 8
	case fileRegular:
		p := inodeAt(f.inode)
		if p.kind == inodeDir {
			return -eISDIR
		}
		if f.flags&oAccess == 1 {
			return -eBADF
		}
		pos := at
		if at == never {
			pos = f.pos
		}
		if pos >= p.size {
			return 0
		}
		n = min(n, p.size-pos)
		readInode(f.inode, buf, n, pos)
		if at == never {
			f.pos += n
		}
		return int64(n)
	}
	return -eBADF
}

func sysWrite(fd, buf, n, at uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	n = min(n, 1<<30)
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
		if n != 8 {
			return -eINVAL
		}
		f.inode += load(buf)
		for i := range uint64(maxFiles) {
			if fds[i] != 0 && &files[fds[i]-1] == f {
				signalEvent(i)
			}
		}
		return 8
	case fileRegular:
		if f.flags&oAccess == 0 {
			return -eBADF
		}
		pos := at
		if at == never {
			pos = f.pos
			if f.flags&oAppend != 0 {
				pos = inodeAt(f.inode).size
			}
		}
		done := writeInode(f.inode, buf, n, pos)
		if at == never {
			f.pos = pos + done
		}
		if done == 0 && n != 0 {
			return -eNOSPC
		}
		return int64(done)
	}
	return -eBADF
}

// sysVector is readv or writev: one call for each buffer until one falls short.
func sysVector(fd, vec, count uint64, write bool) int64 {
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
	if f.kind != fileRegular {
		return -eSPIPE
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
	if f.kind != fileRegular || f.flags&oAccess == 0 {
		return -eINVAL
	}
	return grow(f.inode, size)
}

func sysTruncatePath(path, size uint64) int64 {
	if err := resolve(0, atCWD, path); err != 0 {
		return err
	}
	ino := find(0)
	if ino == never {
		return -eNOENT
	}
	return grow(ino, size)
}

func grow(ino, size uint64) int64 {
	if int64(size) < 0 {
		return -eINVAL
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
	if err := resolve(0, dir, path); err != 0 {
		return err
	}
	ino := find(0)
	if ino == never {
		return -eNOENT
	}
	return statInode(ino, p)
}

func sysFstat(fd, p uint64) int64 {
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
	if err := resolve(0, dir, path); err != 0 {
		return err
	}
	if find(0) == never {
		return -eNOENT
	}
	return 0
}

func sysGetcwd(buf, n uint64) int64 {
	if n < cwdLen+1 {
		return -eRANGE
	}
	if !present(buf, cwdLen+1, true) {
		return -eFAULT
	}
	copyBytes(buf, addrOf(&cwd), cwdLen)
	store8(buf+cwdLen, 0)
	return int64(cwdLen + 1)
}

func sysChdir(path uint64) int64 {
	if err := resolve(0, atCWD, path); err != 0 {
		return err
	}
	ino := find(0)
	if ino == never {
		return -eNOENT
	}
	if inodeAt(ino).kind != inodeDir {
		return -eNOTDIR
	}
	return enterDir(ino)
}

func sysFchdir(fd uint64) int64 {
	f := fileOf(fd)
	if f == nil {
		return -eBADF
	}
	if f.kind != fileRegular || inodeAt(f.inode).kind != inodeDir {
		return -eNOTDIR
	}
	return enterDir(f.inode)
}

func enterDir(ino uint64) int64 {
	p := inodeAt(ino)
	cwdLen = p.pathLen
	copyBytes(addrOf(&cwd), addrOf(&p.path), cwdLen)
	return 0
}

func sysMkdir(dir, path uint64) int64 {
	if err := resolve(0, dir, path); err != 0 {
		return err
	}
	if find(0) != never {
		return -eEXIST
	}
	if err := checkParent(0); err != 0 {
		return err
	}
	if newInode(inodeDir, 0o755) == never {
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
	if err := resolve(0, dir, path); err != 0 {
		return err
	}
	ino := find(0)
	if ino == never {
		return -eNOENT
	}
	p := inodeAt(ino)
	switch {
	case wantDir && p.kind != inodeDir:
		return -eNOTDIR
	case !wantDir && p.kind == inodeDir:
		return -eISDIR
	case p.kind == inodeDevice || pathLen[0] == 1:
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
	ino := find(1)
	if ino == never {
		return -eNOENT
	}
	if err := checkParent(0); err != 0 {
		return err
	}
	old := find(0)
	if old == ino {
		return 0
	}
	p := inodeAt(ino)
	from, to := pathLen[1], pathLen[0]
	if p.kind == inodeDir {
		// A directory takes everything in it along, unless that is itself.
		if to > from && pathBuf[0][from] == '/' && samePath(ino, 0, from) {
			return -eINVAL
		}
		if old != never && (inodeAt(old).kind != inodeDir || child(old, 0, true) != never) {
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

func sysReadlink(dir, path, buf, n uint64) int64 {
	if err := resolve(0, dir, path); err != 0 {
		return err
	}
	const exe = "/proc/self/exe"
	if pathLen[0] == uint64(len(exe)) {
		same := true
		for i := range len(exe) {
			same = same && pathBuf[0][i] == exe[i]
		}
		if same {
			n = min(n, strlen(exePath))
			if !present(buf, n, true) {
				return -eFAULT
			}
			copyBytes(buf, exePath, n)
			return int64(n)
		}
	}
	if find(0) == never {
		return -eNOENT
	}
	return -eINVAL
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

var zeroPage [pageSize]byte
