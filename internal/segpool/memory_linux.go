package segpool

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Seals of shared memory. An access to the mapping of a file that has shrunk is a fault.
const (
	fixed  = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	sealed = fixed | unix.F_SEAL_SEAL
)

// A Writer says which side writes to shared memory.
type Writer int

const (
	ByBoth  Writer = iota // both sides have it mapped writable
	ByMaker               // only the maker's mapping is writable
)

// Strict reports whether vm.overcommit_memory is 2. In this mode the kernel counts a page of a
// memfd when it is first touched, and if no page is left by then the access is a fault. So all
// pages are allocated before memory is used, and stay. The mode may change at any time, and
// holds for what is made or opened afterwards. A process that can't read it takes it for another
// mode.
func Strict() bool {
	if pretended := pretended.Load(); pretended != nil {
		return *pretended
	}
	// Raw system calls, as none of these waits for anything: many handshakes at once would
	// have a thread each in os.ReadFile.
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, unix.AT_FDCWD&(1<<bits.UintSize-1),
		uintptr(unsafe.Pointer(&overcommit[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return false
	}
	var mode [1]byte
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&mode[0])), 1)
	unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	return errno == 0 && n == 1 && mode[0] == '2'
}

var overcommit = []byte("/proc/sys/vm/overcommit_memory\x00")

var pretended atomic.Pointer[bool]

// PretendStrict has Strict return a value until undo. Tests call it, while other goroutines may make
// shared memory.
func PretendStrict(strict bool) (undo func()) {
	old := pretended.Swap(&strict)
	return func() { pretended.Store(old) }
}

// CreateShared makes memory that can be passed to another process: a mapping,
// and the file descriptor to pass, which the caller closes. If both sides write to it, it must
// not be used before [Memory.Secure].
func CreateShared(name string, size int, written Writer) (m *Memory, fd int, err error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err = unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // Linux before 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, -1, os.NewSyscallError("memfd_create", err)
	}
	if m, err = fill(fd, size, written); err != nil {
		unix.Close(fd)
		return nil, -1, err
	}
	return m, fd, nil
}

// CheckShared returns an error if this process can't make memory that can be passed to another one.
func CheckShared() error {
	m, fd, err := CreateShared("ctnet check", os.Getpagesize(), ByMaker)
	if err != nil {
		return err
	}
	m.Free()
	return unix.Close(fd)
}

// fill sets the size of a new memfd, maps it, and seals it. The seals come last, as
// F_SEAL_FUTURE_WRITE forbids new writable mappings.
func fill(fd, size int, written Writer) (*Memory, error) {
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, os.NewSyscallError("ftruncate", err)
	}
	m, err := mapFile(fd, size, true)
	if err != nil {
		return nil, err
	}
	strict := Strict()
	seals := sealed
	switch {
	case written == ByMaker:
		seals |= unix.F_SEAL_FUTURE_WRITE
	case strict:
		seals = fixed // Secure adds F_SEAL_FUTURE_WRITE
	}
	err = addSeals(fd, seals)
	// What only the maker writes to is so little that it is allocated in any mode. Then the
	// mode may change before others open it.
	if err == nil && (strict || written == ByMaker) {
		err = allocate(fd, size)
	}
	if err != nil {
		m.Free()
		return nil, err
	}
	if strict {
		m.keepPages()
	}
	return m, nil
}

// keepPages says that m was made or opened in strict mode.
func (m *Memory) keepPages() {
	m.kept = true
	m.trim = func([]byte) {} // the seal forbids it
}

// Secure makes sure that no access to m can fault. The caller has made m for both sides with
// [CreateShared], and the other side has mapped it. In strict mode Secure seals it, so that no page
// can be removed any more, and allocates those that the other side has removed before. If ctx ends
// first, it returns os.ErrDeadlineExceeded: the other side can hold the file's lock for as long as
// it likes, in a write from memory whose page faults it serves.
func (m *Memory) Secure(ctx context.Context, fd int) error {
	if !m.kept {
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl(F_DUPFD_CLOEXEC)", err)
	}
	size := len(m.Bytes)
	done := make(chan error, 1)
	go func() {
		err := addSeals(fd, unix.F_SEAL_FUTURE_WRITE)
		if err == nil {
			err = allocate(fd, size)
		}
		unix.Close(fd)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return os.ErrDeadlineExceeded
	}
}

func addSeals(fd, seals int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	return os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
}

// allocate allocates all pages that are not there.
func allocate(fd, size int) error {
	err := unix.Fallocate(fd, 0, 0, int64(size))
	for err == unix.EINTR {
		err = unix.Fallocate(fd, 0, 0, int64(size))
	}
	if err == unix.ENOSPC { // a memfd is on no device
		err = unix.ENOMEM
	}
	return os.NewSyscallError("fallocate", err)
}

// OpenShared maps memory that a peer made with [CreateShared]. The mapping is read-only if
// written is ByMaker. The file must have the seals and exactly the given size, so
// that no access can fault, now or later.
func OpenShared(fd, size int, written Writer) (*Memory, error) {
	writable, strict := written == ByBoth, Strict()
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err == unix.EINVAL {
		return nil, errors.New("shared memory is not a memfd")
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl(F_GET_SEALS)", err)
	}
	need := sealed
	if strict {
		need = fixed
		if !writable {
			need |= unix.F_SEAL_FUTURE_WRITE
		}
	}
	if seals&need != need || writable && seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0 {
		return nil, fmt.Errorf("shared memory has seals %#x", seals)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	// A memfd of huge pages has seals too, but huge pages can run out, which is a fault.
	if fs.Type != unix.TMPFS_MAGIC {
		return nil, errors.New("shared memory is not a memfd of ordinary pages")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Size != int64(size) {
		return nil, fmt.Errorf("shared memory has %d bytes, not %d", st.Size, size)
	}
	m, err := mapFile(fd, size, writable)
	if err != nil || !strict {
		return m, err
	}
	if err := secureOpened(fd, size, writable); err != nil {
		m.Free()
		return nil, err
	}
	m.keepPages()
	return m, nil
}

// secureOpened does in strict mode what [Memory.Secure] does at the other side. The maker must have
// allocated all pages: they count for the memory control group of the process that does it, and
// so this process would pay for what the maker can keep for as long as it likes.
func secureOpened(fd, size int, writable bool) error {
	if writable {
		err := addSeals(fd, unix.F_SEAL_FUTURE_WRITE)
		if errors.Is(err, unix.EPERM) {
			return errors.New("shared memory was not made for vm.overcommit_memory=2")
		}
		if err != nil {
			return err
		}
	}
	// A file can have pages beyond its end. This removes them, and changes nothing else, so
	// the pages that are left are those of the mapping.
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return os.NewSyscallError("ftruncate", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Blocks*512 < int64(size) {
		return fmt.Errorf("shared memory has pages for %d bytes of %d", st.Blocks*512, size)
	}
	// Huge pages can reach beyond the end, and be counted in place of others.
	return allocate(fd, size)
}

func mapFile(fd, size int, writable bool) (*Memory, error) {
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	return mmap(fd, size, prot, unix.MAP_SHARED, unix.MADV_REMOVE)
}

// CreatePrivate makes memory for use inside this process. It is outside the Go heap, where fifos
// would count towards the garbage collector's pace.
func CreatePrivate(size int) (*Memory, error) {
	return mmap(-1, size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE, unix.MADV_DONTNEED)
}

// mmap maps memory. trim is the advice that returns its pages to the system.
func mmap(fd, size, prot, flags, trim int) (*Memory, error) {
	// MmapPtr and not Mmap, which keeps a table of mappings under a lock.
	p, err := unix.MmapPtr(fd, 0, nil, uintptr(size), prot, flags)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &Memory{
		Bytes: unsafe.Slice((*byte)(p), size),
		trim:  func(b []byte) { unix.Madvise(b, trim) },
		free:  func(b []byte) { unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b))) },
	}, nil
}

// segmentBytes is the most bytes of data areas in a segment with more than one slot: 128 MiB, and
// 16 MiB on 32-bit systems, where addresses are scarce. A page occupies memory once it is
// touched. The larger size is VPP's minimum.
const segmentBytes = 16 << (20 + 3*(bits.UintSize/64))

// strictBytes is segmentBytes in strict mode, where each page occupies memory.
const strictBytes = 16 << 20

// SharedGeometry is [NewGeometry] for segments that are shared with another process.
func SharedGeometry(toServer, toClient int) (Geometry, error) {
	if Strict() {
		return newGeometry(toServer, toClient, strictBytes)
	}
	return NewGeometry(toServer, toClient)
}
