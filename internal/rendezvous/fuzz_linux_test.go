package rendezvous

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"cutthrough.example/internal/rawpacket"
)

// socketPair returns a channel and the other end of it.
func socketPair(t testing.TB) (ch Channel, other int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(p[0]), "channel")
	defer f.Close()
	c, err := net.FileConn(f)
	require.NoError(t, err)
	return Channel{c.(*net.UnixConn)}, p[1]
}

// FuzzReceive has a peer send any packet with any number of descriptors, and has it checked as
// another kind with another number. All descriptors must be closed that the caller is not
// told of.
func FuzzReceive(f *testing.F) {
	good := func(kind uint16, errno uint32) []byte { return packetOf(Message{Kind: kind, Errno: errno}) }
	f.Add(good(KindHello, 0), uint8(3), uint16(KindHello), uint8(3))
	f.Add(good(KindWelcome, 13), uint8(2), uint16(KindWelcome), uint8(2))
	f.Add(good(KindAdd, 0)[:251], uint8(1), uint16(KindAdd), uint8(1))
	f.Add(append(good(KindAdd, 0), 0), uint8(4), uint16(KindAdd), uint8(1))
	f.Add([]byte{}, uint8(5), uint16(KindDrop), uint8(0))
	f.Fuzz(func(t *testing.T, packet []byte, n uint8, kind uint16, want uint8) {
		ch, other := socketPair(t)
		defer ch.Close()
		defer unix.Close(other)
		var pipe [2]int
		require.NoError(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
		defer unix.Close(pipe[0])
		fds := make([]int, n%250) // one message takes 253
		for i := range fds {
			fds[i] = pipe[1]
		}
		sendErr := rawpacket.Send(other, packet, fds...)
		unix.Close(pipe[1])
		if sendErr != nil {
			return // it is too large
		}
		m, got, err := ch.Receive()
		if err != nil {
			got.Close()
			good := len(packet) == MessageSize && len(fds) <= maxFDs &&
				binary.LittleEndian.Uint32(packet) == Magic && binary.LittleEndian.Uint16(packet[4:]) == Version
			require.False(t, good, "%v", err)
		} else {
			require.Len(t, packet, MessageSize)
			require.Equal(t, uint32(Magic), m.Magic)
			require.EqualValues(t, Version, m.Version)
			require.Len(t, got, len(fds))
			require.LessOrEqual(t, len(got), maxFDs+1) // there is room for whole words
			err = m.Check(kind, int(want), got)
			fits := m.Kind == kind && m.Errno == 0 && len(fds) == int(want)
			require.Equal(t, fits, err == nil)
			if m.Kind == kind && m.Errno != 0 {
				require.Equal(t, syscall.Errno(m.Errno), err)
			}
		}
		got.Close()
		// Nobody has the writing end any more.
		_, readErr := unix.Read(pipe[0], make([]byte, 1))
		require.NoError(t, readErr, "a descriptor is left")
	})
}

// packetOf returns a message as it goes over the wire.
func packetOf(m Message) []byte {
	m.Magic, m.Version = Magic, Version
	b := unsafe.Slice((*byte)(unsafe.Pointer(&m)), MessageSize) // all fields are aligned
	return append([]byte(nil), b...)
}

// FuzzNames has a key of any bytes, and a file of any name in the directory. Keys lead to files
// of their own in the directory, and other files are left alone.
func FuzzNames(f *testing.F) {
	f.Add("ct:svc/echo", "ct:svc", "x.sock")
	f.Add("tcp:net:[1]/[::1]:80", "tcp:net:[1]/*:80", ".sock")
	f.Add("unix:net:[1]/@\x00/../..", "", "*[.sock")
	f.Fuzz(func(t *testing.T, key, other, file string) {
		dir := t.TempDir()
		t.Setenv("CTNET_DIR", dir)
		path, err := socketPath(dir, key, 0)
		if err != nil {
			require.ErrorIs(t, err, syscall.ENAMETOOLONG)
			require.Greater(t, len(dir), 70)
			return
		}
		require.Less(t, len(path), 108)
		require.Equal(t, dir, filepath.Dir(path))
		require.True(t, strings.HasSuffix(path, socketSuffix))
		if second, err := socketPath(dir, other, 0); err == nil {
			require.Equal(t, key == other, path == second)
		}
		stranger := filepath.Join(dir, file)
		if filepath.Dir(stranger) != dir || os.WriteFile(stranger, []byte("x"), 0o600) != nil {
			stranger = "" // it is no name
		}
		s, err := Bind(t.Context(), key, false)
		require.NoError(t, err)
		ch, _, err := Dial(t.Context(), key, Trusted)
		require.NoError(t, err)
		ch.Close()
		if key != other {
			_, _, err = Dial(t.Context(), other, Trusted)
			require.True(t, errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENAMETOOLONG), "%v", err)
		}
		all, err := List()
		require.NoError(t, err)
		require.Contains(t, all, path)
		require.LessOrEqual(t, len(all), 2)
		s.Close()
		require.NoFileExists(t, path)
		if stranger != "" && stranger != path && !strings.HasSuffix(stranger, nextSuffix) {
			b, err := os.ReadFile(stranger)
			require.NoError(t, err)
			if stranger != lockPath(dir) {
				require.Equal(t, "x", string(b))
			}
		}
	})
}
