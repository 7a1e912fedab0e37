package segpool

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sealed has the seals that every memfd of a peer must have: an access to the mapping of a file
// that has shrunk is a fault.
const sealed = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// A Writer says which side writes to shared memory.
type Writer int

const (
	ByBoth  Writer = iota // both sides have it mapped writable
	ByMaker               // only the maker's mapping is writable
)

// CreateShared makes memory that can be passed to another process: a mapping,
// and the file descriptor to pass, which the caller closes.
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
	seals := sealed
	if written == ByMaker {
		seals |= unix.F_SEAL_FUTURE_WRITE
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		m.Free()
		return nil, os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return m, nil
}

// OpenShared maps memory that a peer made with [CreateShared]. The mapping is read-only if
// written is ByMaker. The file must have the seals and exactly the given size, so
// that no access can fault, now or later.
func OpenShared(fd, size int, written Writer) (*Memory, error) {
	writable := written == ByBoth
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err == unix.EINVAL {
		return nil, errors.New("shared memory is not a memfd")
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl(F_GET_SEALS)", err)
	}
	if seals&sealed != sealed || writable && seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0 {
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
	return mapFile(fd, size, writable)
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
