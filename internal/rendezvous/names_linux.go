package rendezvous

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/hostnet"
)

// Names in the network namespace. There is no file, so nothing is left behind and nothing can be
// cleared away, and the applications of two namespaces can't meet, as over TCP.
//
// Under each name a listener has two sockets. Dialers connect to the SOCK_SEQPACKET one. The
// SOCK_DGRAM one, the beacon, only says that the listener is there: connecting a datagram
// socket to it costs a tenth of what making and connecting a SOCK_SEQPACKET socket does, and most
// Dials ask for names that nobody has.

// namePrefix begins each name. The @ stands for the NUL of an abstract name.
const namePrefix = "@ctnet/"

// maxSeats is how many names a key has. A listener uses the first one that no other user has.
const maxSeats = 8

// nameOf returns the name of a seat. It shows the key, or a hash of it if it is too long or has
// bytes that tools would not show as they are.
func nameOf(key string, seat int) string {
	shown := key
	if len(key) > 90 || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		sum := sha256.Sum256([]byte(key))
		shown = "#" + hex.EncodeToString(sum[:16])
	}
	return namePrefix + strconv.Itoa(seat) + "/" + shown
}

// The probe is a datagram socket with which dialers look for beacons, or -1. Each connect replaces
// the last one, so all goroutines can use it.
var probe = sync.OnceValue(func() (fd int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, ok := hostnet.NetNamespace(); !ok || !hostnet.OneNamespace() {
		return -1 // the socket could be in another namespace than those who look with it
	}
	fd, err := newProbe()
	if err != nil {
		return -1
	}
	return fd
})

func newProbe() (fd int, err error) {
	return unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}

// lit reports whether there is a beacon under a name. If that can't be found out, it returns true. It
// is a large part of the cost of a Dial that finds no listener.
func lit(name *hostnet.RawName) bool {
	fd := -1
	if hostnet.OneNamespace() {
		fd = probe()
	}
	if fd < 0 {
		own, err := newProbe()
		if err != nil {
			return true
		}
		defer unix.Close(own)
		fd = own
	}
	return name.Connect(fd) != unix.ECONNREFUSED
}

// occupy binds the sockets of a name. The error is EADDRINUSE if somebody has it.
func occupy(name string) (door, error) {
	ln, err := listenPacket(name)
	if err != nil {
		return door{}, err
	}
	// Last: who sees the beacon finds the other socket listening.
	beacon, err := light(name)
	if err != nil {
		ln.Close()
		return door{}, err
	}
	return door{ln: ln, name: name, beacon: beacon}, nil
}

// light binds a beacon. Nothing can be sent to it.
func light(name string) (fd int, err error) {
	fd, err = newProbe()
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err = unix.Shutdown(fd, unix.SHUT_RDWR); err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: name})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listenPacket listens on a name, or on the path of a new file. An error is an errno.
func listenPacket(name string) (*net.UnixListener, error) {
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: name, Net: "unixpacket"})
	if err != nil {
		return nil, errnoOf(err)
	}
	ln.SetUnlinkOnClose(false)
	return ln, nil
}

// Applications that do not listen have sockets too, at which they can be asked what they do. Their
// names are in the network namespace also if CTNET_DIR is set, so that none is left behind: then
// the name has a hash of the directory.
const (
	ownPrefix    = namePrefix + "0/app:"
	ownDirPrefix = ownPrefix + "dir-"
)

// ownNames returns what the names of applications' own sockets begin with in a place.
func ownNames(dir string) string {
	if dir == "" {
		return ownPrefix
	}
	sum := sha256.Sum256([]byte(dir))
	return ownDirPrefix + hex.EncodeToString(sum[:12]) + "-"
}

// Show makes the own socket of an application with this number. It has no beacon: nobody dials it.
func Show(id uint64) (*Socket, error) {
	name := fmt.Sprintf("%s%016x", ownNames(Dir()), id)
	ln, err := listenPacket(name)
	if err != nil {
		return nil, err
	}
	s := newSocket(place{}, "")
	s.open(door{ln: ln, name: name, beacon: -1})
	return s, nil
}

// listNames returns the names on which somebody listens in the network namespace.
func listNames() ([]string, error) {
	b, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		// Num RefCount Protocol Flags Type St Inode Path
		f := strings.Fields(line)
		const listening, seqpacket = "00010000", "0005"
		if len(f) == 8 && f[3] == listening && f[4] == seqpacket && strings.HasPrefix(f[7], namePrefix) {
			names = append(names, f[7])
		}
	}
	return names, nil
}
