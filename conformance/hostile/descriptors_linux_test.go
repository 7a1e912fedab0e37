package hostile

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/segpool"
)

// A descriptor is something that can be passed in place of what should be. The makers close
// what they make but for the descriptor itself, so that the victim's is the last one.
type descriptor struct {
	name string
	make func() (int, error)
}

const allSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// descriptors are files of all kinds that this system has.
var descriptors = sync.OnceValue(func() (all []descriptor) {
	for _, d := range []descriptor{
		{"pipe, reading end", func() (int, error) { return pipe(0) }},
		{"pipe, writing end", func() (int, error) { return pipe(1) }},
		{"full pipe that blocks", fullPipe},
		{"directory", func() (int, error) { return unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) }},
		{"path", func() (int, error) { return unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0) }},
		{"/dev/null", func() (int, error) { return unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0) }},
		{"/dev/zero", func() (int, error) { return unix.Open("/dev/zero", unix.O_RDWR|unix.O_CLOEXEC, 0) }},
		{"/proc/self/mem", func() (int, error) { return unix.Open("/proc/self/mem", unix.O_RDWR|unix.O_CLOEXEC, 0) }},
		{"file", tmpFile},
		{"listening TCP socket", listeningTCP},
		{"TCP socket that lingers", lingeringTCP},
		{"listening unix socket", listeningUnix},
		{"unix socket with descriptors in its queue", queuedUnix},
		{"unix socket in its own queue", ownQueueUnix},
		{"full unix socket that blocks", fullUnix},
		{"UDP socket", func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) }},
		{"netlink socket", func() (int, error) { return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) }},
		{"epoll", func() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) }},
		{"epoll that waits for much", fullEpoll},
		{"eventfd", func() (int, error) { return unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) }},
		{"eventfd of 0 that blocks", func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }},
		{"semaphore", func() (int, error) { return unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_SEMAPHORE) }},
		{"full eventfd that blocks", jammedEventfd},
		{"eventfd that others change", changingEventfd},
		{"doorbell", wholeBell},
		{"timer", func() (int, error) { return unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC) }},
		{"inotify", func() (int, error) { return unix.InotifyInit1(unix.IN_CLOEXEC) }},
		{"signals", func() (int, error) { return unix.Signalfd(-1, &unix.Sigset_t{}, unix.SFD_CLOEXEC) }},
		{"process", func() (int, error) { return unix.PidfdOpen(os.Getpid(), 0) }},
		{"unsealed memory", func() (int, error) { return memory(sleepSize, 0) }},
		{"memory that can shrink", func() (int, error) { return memory(sleepSize, allSeals&^unix.F_SEAL_SHRINK) }},
		{"memory that shrinks", shrinkingMemory},
		{"memory that can grow", func() (int, error) { return memory(sleepSize, allSeals&^unix.F_SEAL_GROW) }},
		{"memory that can be sealed", func() (int, error) { return memory(sleepSize, allSeals&^unix.F_SEAL_SEAL) }},
		{"short memory", func() (int, error) { return memory(sleepSize-1, allSeals) }},
		{"empty memory", func() (int, error) { return memory(0, allSeals) }},
		{"long memory", func() (int, error) { return memory(sleepSize+4096, allSeals) }},
		{"a terabyte of memory", func() (int, error) { return memory(1<<40, allSeals) }},
		{"huge pages", hugePages},
		{"sealed block", func() (int, error) { return memory(blockSize, allSeals|unix.F_SEAL_WRITE) }},
		{"block for the future", func() (int, error) { return memory(blockSize, allSeals|unix.F_SEAL_FUTURE_WRITE) }},
		{"block to be read", readOnlyBlock},
		{"block", func() (int, error) { return memory(blockSize, allSeals) }},
		{"sleep words", func() (int, error) { return memory(sleepSize, allSeals|unix.F_SEAL_FUTURE_WRITE) }},
		{"segment", func() (int, error) { return memory(int64(smallGeometry.Size()), allSeals) }},
	} {
		fd, err := d.make()
		if err != nil {
			continue // this system has none
		}
		go unix.Close(fd) // which may take its time
		all = append(all, d)
	}
	return all
})

// smallGeometry is that of the pairs that attackers ask for.
var smallGeometry = func() segpool.Geometry {
	g, err := segpool.NewGeometry(4096, 4096)
	if err != nil {
		panic(err)
	}
	return g
}()

func pipe(end int) (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, err
	}
	unix.Close(p[1-end])
	return p[end], nil
}

// fullPipe returns a pipe, open both ways, to which no more can be written.
func fullPipe() (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, err
	}
	defer unix.Close(p[0])
	both, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", p[1]), unix.O_RDWR|unix.O_CLOEXEC, 0)
	for b := make([]byte, 4096); err == nil; {
		_, writeErr := unix.Write(p[1], b)
		if writeErr != nil {
			break
		}
	}
	unix.Close(p[1])
	return both, err
}

func tmpFile() (int, error) {
	return unix.Open(os.TempDir(), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
}

func listeningTCP() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Listen(fd, 8)
	}
	return fd, err
}

// lingerTime is how long the kernel lets the one wait who closes a lingering socket.
const lingerTime = 4 * time.Second

// lingeringTCP returns a socket with bytes that its peer does not take, of which close waits
// until that has taken them.
func lingeringTCP() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return -1, err
	}
	defer ln.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	addr := ln.Addr().(*net.TCPAddr)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return -1, err
	}
	peer, err := ln.Accept()
	if err != nil {
		return -1, err
	}
	keep(peer)
	for b := make([]byte, 64<<10); ; {
		if err := unix.Sendto(fd, b, unix.MSG_DONTWAIT, nil); err != nil {
			break
		}
	}
	return fd, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(lingerTime / time.Second)})
}

var kept struct {
	mu  sync.Mutex
	all []any
}

// keep has something stay until the process ends.
func keep(v any) {
	kept.mu.Lock()
	kept.all = append(kept.all, v)
	kept.mu.Unlock()
}

func listeningUnix() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{}) // a name that the kernel chooses
	}
	if err == nil {
		err = unix.Listen(fd, 8)
	}
	return fd, err
}

func socketPair(kind int) (p [2]int, err error) {
	return unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
}

// queuedUnix returns a socket in whose queue there are as many descriptors as it takes, some of
// them of sockets with descriptors in their queues.
func queuedUnix() (int, error) {
	inner := -1
	for range 3 {
		p, err := socketPair(unix.SOCK_STREAM)
		if err != nil {
			return -1, err
		}
		if inner < 0 {
			if inner, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
				return -1, err
			}
		}
		for range 20 {
			unix.Sendmsg(p[1], []byte{0}, unix.UnixRights(inner, inner, inner, inner), nil, unix.MSG_DONTWAIT)
		}
		unix.Close(inner)
		unix.Close(p[1])
		inner = p[0]
	}
	return inner, nil
}

// ownQueueUnix returns a socket whose queue has the socket itself.
func ownQueueUnix() (int, error) {
	p, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		return -1, err
	}
	unix.Sendmsg(p[1], []byte{0}, unix.UnixRights(p[0], p[1]), nil, unix.MSG_DONTWAIT)
	unix.Close(p[1])
	return p[0], nil
}

// fullUnix returns a socket through which nothing more goes, and which is not meant to say so.
func fullUnix() (int, error) {
	p, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		return -1, err
	}
	keep(p[1])
	return p[0], jam(p[0])
}

// fullEpoll returns an epoll instance that waits for a hundred others.
func fullEpoll() (int, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	for range 100 {
		if err != nil {
			break
		}
		var bell int
		if bell, err = unix.Eventfd(1, unix.EFD_CLOEXEC); err == nil {
			err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(bell)})
			unix.Close(bell)
		}
	}
	return fd, err
}

func jammedEventfd() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err == nil {
		err = jam(fd)
	}
	return fd, err
}

// changing is an eventfd whose counter and mode change all the time.
var changing = sync.OnceValues(func() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	go func() {
		for b := make([]byte, 8); err == nil; pause() {
			jam(fd)
			unix.SetNonblock(fd, true)
			unix.Read(fd, b)
			unix.SetNonblock(fd, false)
		}
	}()
	return fd, err
})

func changingEventfd() (int, error) {
	fd, err := changing()
	if err != nil {
		return -1, err
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

// wholeBell returns what a doorbell should be, of which nobody holds the other side.
func wholeBell() (int, error) {
	fd, closeBell, err := newBell()
	if err != nil {
		return -1, err
	}
	defer closeBell()
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

func memory(size int64, seals int) (int, error) {
	fd, err := unix.MemfdCreate("ctnet test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err == nil {
		err = unix.Ftruncate(fd, size)
	}
	if err == nil && seals != 0 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	return fd, err
}

// shrinking is memory whose size changes all the time.
var shrinking = sync.OnceValues(func() (int, error) {
	fd, err := memory(sleepSize, 0)
	go func() {
		for n := int64(0); err == nil; pause() {
			unix.Ftruncate(fd, n)
			n = sleepSize - n
		}
	}()
	return fd, err
})

func shrinkingMemory() (int, error) {
	fd, err := shrinking()
	if err != nil {
		return -1, err
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

func hugePages() (int, error) {
	fd, err := unix.MemfdCreate("ctnet test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_HUGETLB)
	if err == nil {
		err = unix.Ftruncate(fd, 2<<20)
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, allSeals)
	}
	return fd, err
}

func readOnlyBlock() (int, error) {
	fd, err := memory(blockSize, allSeals)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}
