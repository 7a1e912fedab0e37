package segpool

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"cutthrough.example/internal/ring"
)

const strictSize = 16 * pageSize

// setStrict has vm.overcommit_memory be 2, or not.
func setStrict(t *testing.T, strict bool) {
	t.Cleanup(PretendStrict(strict))
}

func createShared(t *testing.T, written Writer) (*Memory, int) {
	m, fd, err := CreateShared("test", strictSize, written)
	require.NoError(t, err)
	t.Cleanup(func() {
		m.Free()
		unix.Close(fd)
	})
	return m, fd
}

func openShared(t *testing.T, fd int, written Writer) *Memory {
	m, err := OpenShared(fd, strictSize, written)
	require.NoError(t, err)
	t.Cleanup(m.Free)
	return m
}

// memfd makes a file as a peer may.
func memfd(t *testing.T, allocated int64, seals int) int {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	require.NoError(t, unix.Ftruncate(fd, strictSize))
	if allocated > 0 {
		require.NoError(t, unix.Fallocate(fd, 0, 0, allocated))
	}
	seal(t, fd, seals)
	return fd
}

func seal(t *testing.T, fd, seals int) {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	require.NoError(t, err)
}

func punch(fd int) error {
	return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, pageSize, 4*pageSize)
}

// allocatedBytes returns how much of the file has pages.
func allocatedBytes(t *testing.T, fd int) int64 {
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(fd, &st))
	return st.Blocks * 512
}

// requireSecured makes sure that all pages are there, and that nobody can remove one.
func requireSecured(t *testing.T, fd int, mappings ...*Memory) {
	t.Helper()
	require.EqualValues(t, strictSize, allocatedBytes(t, fd))
	require.ErrorIs(t, punch(fd), unix.EPERM)
	require.ErrorIs(t, unix.Ftruncate(fd, 0), unix.EPERM)
	for _, m := range mappings {
		require.ErrorIs(t, unix.Madvise(m.Bytes, unix.MADV_REMOVE), unix.EPERM)
		m.trim(m.Bytes)
		unix.Madvise(m.Bytes, unix.MADV_DONTNEED) // of the mapping only
	}
	require.EqualValues(t, strictSize, allocatedBytes(t, fd))
}

func TestStrict(t *testing.T) {
	setStrict(t, true)
	m, fd := createShared(t, ByBoth)
	m.trim(m.Bytes) // is not tried
	require.EqualValues(t, strictSize, allocatedBytes(t, fd))
	o := openShared(t, fd, ByBoth)
	requireSecured(t, fd, m, o) // as soon as the other side uses it
	require.NoError(t, m.Secure(t.Context(), fd))
	requireSecured(t, fd, m, o)
	m.Bytes[0], o.Bytes[strictSize-1] = 1, 2
	require.EqualValues(t, 1, o.Bytes[0])
	require.EqualValues(t, 2, m.Bytes[strictSize-1])

	m, fd = createShared(t, ByMaker)
	m.Bytes[0] = 3
	o = openShared(t, fd, ByMaker)
	requireSecured(t, fd, m)
	require.EqualValues(t, 3, o.Bytes[0])
}

// TestNotStrict makes sure that pages can be given back, and are not there before they are used.
func TestNotStrict(t *testing.T) {
	setStrict(t, false)
	m, fd := createShared(t, ByBoth)
	o := openShared(t, fd, ByBoth)
	require.NoError(t, m.Secure(t.Context(), fd))
	require.Zero(t, allocatedBytes(t, fd))
	for _, side := range []*Memory{m, o} {
		m.Bytes[0] = 1
		require.EqualValues(t, pageSize, allocatedBytes(t, fd))
		side.trim(side.Bytes)
		require.Zero(t, allocatedBytes(t, fd))
	}
}

// TestStrictChanges has the mode change between the maker and the other side: either that fails,
// or nothing can be missing.
func TestStrictChanges(t *testing.T) {
	for _, strict := range []bool{false, true} {
		setStrict(t, strict)
		_, both := createShared(t, ByBoth)
		m, own := createShared(t, ByMaker)
		setStrict(t, !strict)
		_, err := OpenShared(both, strictSize, ByBoth)
		require.Error(t, err)
		openShared(t, own, ByMaker)
		requireSecured(t, own, m)
	}
}

// TestStrictHostileMaker opens what a hostile peer has made.
func TestStrictHostileMaker(t *testing.T) {
	setStrict(t, true)
	const half = strictSize / 2
	refused := func(fd int, written Writer, text string) {
		t.Helper()
		before := allocatedBytes(t, fd)
		_, err := OpenShared(fd, strictSize, written)
		require.ErrorContains(t, err, text)
		require.LessOrEqual(t, allocatedBytes(t, fd), before, "the wrong side pays")
	}
	refused(memfd(t, strictSize, sealed), ByBoth, "not made for")
	refused(memfd(t, strictSize, fixed|unix.F_SEAL_FUTURE_WRITE), ByBoth, "seals")
	refused(memfd(t, strictSize, unix.F_SEAL_GROW), ByBoth, "seals")
	refused(memfd(t, strictSize, sealed), ByMaker, "seals")
	refused(memfd(t, 0, fixed), ByBoth, "pages for 0 bytes")
	refused(memfd(t, half, fixed), ByBoth, "pages for 32768 bytes")
	refused(memfd(t, half, sealed|unix.F_SEAL_FUTURE_WRITE), ByMaker, "pages for 32768 bytes")

	punched := memfd(t, strictSize, fixed)
	require.NoError(t, punch(punched))
	refused(punched, ByBoth, "pages for")

	beyond := memfd(t, half, 0) // as many pages as there should be, but elsewhere
	require.NoError(t, unix.Fallocate(beyond, unix.FALLOC_FL_KEEP_SIZE, strictSize, half))
	seal(t, beyond, fixed)
	require.EqualValues(t, strictSize, allocatedBytes(t, beyond))
	refused(beyond, ByBoth, "pages for 32768 bytes")
}

// TestStrictHostileOther has the other side do what it can before the maker's seal.
func TestStrictHostileOther(t *testing.T) {
	setStrict(t, true)
	m, fd := createShared(t, ByBoth)
	require.NoError(t, punch(fd))
	require.Less(t, allocatedBytes(t, fd), int64(strictSize))
	require.NoError(t, m.Secure(t.Context(), fd))
	requireSecured(t, fd, m)

	m, fd = createShared(t, ByBoth)
	seal(t, fd, unix.F_SEAL_SEAL)
	require.ErrorIs(t, m.Secure(t.Context(), fd), unix.EPERM)
}

// TestStrictSecureEnds has the other side hold the lock of the file.
func TestStrictSecureEnds(t *testing.T) {
	setStrict(t, true)
	m, fd := createShared(t, ByBoth)
	uffd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		t.Skipf("userfaultfd: %v", errno) // not for ordinary users
	}
	page, err := unix.MmapPtr(-1, 0, nil, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	require.NoError(t, err)
	serveFaults(t, int(uffd), uintptr(page))
	wrote := make(chan error, 1)
	go func() {
		_, _, errno := unix.Syscall(unix.SYS_WRITE, uintptr(fd), uintptr(page), pageSize)
		wrote <- os.NewSyscallError("write", errno)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	time.Sleep(100 * time.Millisecond) // for write
	require.ErrorIs(t, m.Secure(ctx, fd), os.ErrDeadlineExceeded)
	require.NoError(t, unix.Close(int(uffd))) // ends the fault
	<-wrote
	require.NoError(t, unix.MunmapPtr(page, pageSize))
}

func TestStrictGeometry(t *testing.T) {
	for _, size := range []int{ring.MinSize, 1 << 20, ring.MaxSize} {
		g, err := NewGeometry(size, size)
		require.NoError(t, err)
		setStrict(t, false)
		same, err := SharedGeometry(size, size)
		require.NoError(t, err)
		require.Equal(t, g, same)
		setStrict(t, true)
		s, err := SharedGeometry(size, size)
		require.NoError(t, err)
		require.LessOrEqual(t, s.Slots, g.Slots)
		if s.Slots > 1 {
			require.LessOrEqual(t, s.Slots*(s.ToServer+s.ToClient), strictBytes)
		}
		require.True(t, s.Slots == maxSegmentSlots || 2*s.Slots*(s.ToServer+s.ToClient) > strictBytes)
	}
}

func TestStrictIsTheMode(t *testing.T) {
	mode, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
	require.NoError(t, err)
	require.Equal(t, bytes.HasPrefix(mode, []byte("2")), Strict())
}

// serveFaults has faults of a page wait until uffd is closed.
func serveFaults(t *testing.T, uffd int, page uintptr) {
	t.Helper()
	const (
		api      = 0xaa
		missing  = 1
		ioAPI    = 0xc018aa3f
		ioRegist = 0xc020aa00
	)
	for _, call := range []struct {
		request uintptr
		arg     [4]uint64
	}{
		{ioAPI, [4]uint64{api}},
		{ioRegist, [4]uint64{uint64(page), pageSize, missing}},
	} {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(uffd), call.request, uintptr(unsafe.Pointer(&call.arg)))
		require.Zero(t, errno)
	}
}
