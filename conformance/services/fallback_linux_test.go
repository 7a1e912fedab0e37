package services

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/rendezvous"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A journal is a slog.Handler that keeps what is logged.
type journal chan slog.Record

func (j journal) Enabled(context.Context, slog.Level) bool      { return true }
func (j journal) Handle(_ context.Context, r slog.Record) error { j <- r; return nil }
func (j journal) WithAttrs([]slog.Attr) slog.Handler            { return j }
func (j journal) WithGroup(string) slog.Handler                 { return j }
func newJournal() (j journal)                                   { return make(journal, 100) }
func (j journal) app(t *testing.T, c ctnet.AppConfig) (app *ctnet.App) {
	t.Helper()
	c.Logger = slog.New(j)
	app, err := ctnet.NewApp(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, app.Close()) })
	return app
}

// one returns the attributes of the only line, which has a level.
func (j journal) one(t *testing.T, level slog.Level) map[string]string {
	t.Helper()
	r := <-j
	require.Equal(t, level, r.Level)
	require.Empty(t, j, "logged again")
	attrs := make(map[string]string)
	r.Attrs(func(a slog.Attr) bool {
		attrs[a.Key] = a.Value.String()
		return true
	})
	return attrs
}

// requireReason dials an address several times, and requires that the kernel's socket is used for
// one reason: as the Dial tells, and the application's snapshot and log.
func requireReason(t *testing.T, j journal, d ctnet.Dialer, network, address string, reason ctnet.Reason, level slog.Level) *ctnet.Fallback {
	t.Helper()
	var told []*ctnet.Fallback
	d.Fallback = func(f *ctnet.Fallback) { told = append(told, f) }
	const dials = 3
	for range dials {
		c, err := d.Dial(network, address)
		require.NoError(t, err)
		require.Equal(t, "kernel", wayOf(c))
		hangUp(c)
	}
	require.Len(t, told, dials)
	f := told[0]
	for _, other := range told {
		require.Equal(t, reason, other.Reason, other)
		require.Equal(t, network, other.Network)
		require.Equal(t, f.Address, other.Address)
		require.Equal(t, f.Looked, other.Looked)
		require.Equal(t, f.UID, other.UID)
	}
	all := d.App.Snapshot().Fallbacks
	require.Len(t, all, 1)
	info := all[0]
	require.WithinRange(t, info.Last, info.Last.Add(-1), info.Last)
	require.Equal(t, ctnet.FallbackInfo{Op: "dial", Network: network, Address: f.Address, Reason: reason, UID: f.UID,
		Count: dials, Last: info.Last, Error: f.Err.Error()}, info)
	totals := d.App.Snapshot().Totals
	require.Equal(t, map[ctnet.Reason]uint64{reason: dials}, totals.DialFallbacks)
	require.Empty(t, totals.ListenFallbacks)
	said := j.one(t, level)
	require.Equal(t, map[string]string{"network": network, "address": f.Address, "reason": string(reason), "error": f.Err.Error()}, said)

	// Who has no other way is told the same.
	d.Path = ctnet.CutThrough
	if reason == ctnet.ReasonHasLocalAddr {
		return f
	}
	_, err := d.Dial(network, address)
	var asError *ctnet.Fallback
	require.ErrorAs(t, err, &asError)
	require.Len(t, told, dials, "told of a connection that there is not")
	require.Equal(t, reason, asError.Reason)
	require.Equal(t, f.UID, asError.UID)
	require.Equal(t, f.Looked, asError.Looked)
	return f
}

// plainServer listens without ctnet.
func plainServer(t *testing.T, network, address string) string {
	t.Helper()
	ln, err := net.Listen(network, address)
	require.NoError(t, err)
	s := serveEcho(t, ln, "plain")
	t.Cleanup(func() { s.drain() })
	return ln.Addr().String()
}

// TestReasons has Dials use the kernel's socket for one reason after the other.
func TestReasons(t *testing.T) {
	const fault, normal = slog.LevelWarn, slog.LevelDebug
	for name, test := range map[string]func(t *testing.T, j journal){
		"absent": func(t *testing.T, j journal) {
			at := plainServer(t, "tcp", "127.0.0.1:0")
			f := requireReason(t, j, ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}, "tcp", at, ctnet.ReasonAbsent, normal)
			require.Len(t, f.Looked, 3)
			require.ErrorIs(t, f, syscall.ECONNREFUSED)
			require.Contains(t, f.Error(), f.Looked[0])
		},
		"absent under a name": func(t *testing.T, j journal) {
			at := plainServer(t, "tcp", "127.0.0.1:0")
			_, port, err := net.SplitHostPort(at)
			require.NoError(t, err)
			f := requireReason(t, j, ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}, "tcp", "localhost:"+port, ctnet.ReasonAbsent, normal)
			require.Equal(t, at, f.Address)
		},
		"absent at all addresses": func(t *testing.T, j journal) {
			at := plainServer(t, "tcp4", "127.0.0.1:0")
			_, port, err := net.SplitHostPort(at)
			require.NoError(t, err)
			f := requireReason(t, j, ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}, "tcp4", ":"+port, ctnet.ReasonAbsent, normal)
			require.Equal(t, at, f.Address)
		},
		"absent file": func(t *testing.T, j journal) {
			at := plainServer(t, "unix", filepath.Join(t.TempDir(), "s"))
			f := requireReason(t, j, ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}, "unix", at, ctnet.ReasonAbsent, normal)
			require.Len(t, f.Looked, 1)
		},
		"not trusted": func(t *testing.T, j journal) {
			ln := listenEcho(t, harness.NewApp(t), "tcp", "127.0.0.1:0", "real")
			defer ln.drain()
			d := ctnet.Dialer{App: j.app(t, ctnet.AppConfig{}), Allow: func(ctnet.Cred) bool { return false }}
			f := requireReason(t, j, d, "tcp", ln.ln.Addr().String(), ctnet.ReasonNotTrusted, fault)
			require.Equal(t, os.Geteuid(), f.UID)
			require.ErrorIs(t, f, syscall.EACCES)
		},
		"forbidden": func(t *testing.T, j journal) {
			lc := ctnet.ListenConfig{App: harness.NewApp(t), Allow: func(ctnet.Cred) bool { return false }}
			ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer serveEcho(t, ln, "real").drain()
			requireReason(t, j, ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}, "tcp", ln.Addr().String(), ctnet.ReasonForbidden, fault)
		},
		"limit reached": func(t *testing.T, j journal) {
			ln := listenEcho(t, harness.NewApp(t), "tcp", "127.0.0.1:0", "real")
			defer ln.drain()
			d := ctnet.Dialer{App: j.app(t, ctnet.AppConfig{MaxConns: 1})}
			c := hold(t, "cut real", d.App, "tcp", ln.ln.Addr().String())
			defer c.Close()
			requireReason(t, j, d, "tcp", ln.ln.Addr().String(), ctnet.ReasonLimitReached, fault)
		},
		"handed on": func(t *testing.T, j journal) {
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			lc := ctnet.ListenConfig{App: harness.NewApp(t)}
			ln, err := lc.NewListener(inner)
			require.NoError(t, err)
			defer ln.Close()
			file, err := ln.(*ctnet.Listener).File()
			require.NoError(t, err)
			other, err := net.FileListener(file)
			file.Close()
			require.NoError(t, err)
			defer serveEcho(t, other, "other").drain()
			requireReason(t, j, ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}, "tcp", ln.Addr().String(), ctnet.ReasonHandedOn, normal)
		},
		"silent": func(t *testing.T, j journal) {
			p := startPuppet(t, nil)
			at := p.do("listen", "ctnet", "tcp", "127.0.0.1:0", "real", "echo")
			p.freeze()
			defer p.thaw()
			d := ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}
			requireReason(t, j, d, "tcp", at, ctnet.ReasonSilent, fault)
		},
		"other version": func(t *testing.T, j journal) {
			at := plainServer(t, "tcp", "127.0.0.1:0")
			stopped := answerAll(t, at, rendezvous.Version+1, rendezvous.KindWelcome)
			defer stopped()
			requireReason(t, j, ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}, "tcp", at, ctnet.ReasonOtherVersion, fault)
		},
		"broke the protocol": func(t *testing.T, j journal) {
			at := plainServer(t, "tcp", "127.0.0.1:0")
			stopped := answerAll(t, at, rendezvous.Version, rendezvous.KindHello)
			defer stopped()
			requireReason(t, j, ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}, "tcp", at, ctnet.ReasonBrokeProtocol, fault)
		},
		"unusable": func(t *testing.T, j journal) {
			at := plainServer(t, "unix", filepath.Join(t.TempDir(), "s"))
			t.Setenv("CTNET_DIR", "relative")
			f := requireReason(t, j, ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}, "unix", at, ctnet.ReasonUnusable, fault)
			require.ErrorContains(t, f, "relative")
		},
		"local address": func(t *testing.T, j journal) {
			ln := listenEcho(t, harness.NewApp(t), "tcp", "127.0.0.1:0", "real")
			defer ln.drain()
			d := ctnet.Dialer{App: j.app(t, ctnet.AppConfig{}), Kernel: net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}}
			requireReason(t, j, d, "tcp", ln.ln.Addr().String(), ctnet.ReasonHasLocalAddr, normal)
		},
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			test(t, newJournal())
		})
	}
}

// TestReasonInNetwork is the first of TestReasons without a directory.
func TestReasonInNetwork(t *testing.T) {
	inNetwork(t)
	leaveNothing(t)
	j := newJournal()
	at := plainServer(t, "tcp", "127.0.0.1:0")
	f := requireReason(t, j, ctnet.Dialer{App: j.app(t, ctnet.AppConfig{})}, "tcp", at, ctnet.ReasonAbsent, slog.LevelDebug)
	_, port, err := net.SplitHostPort(at)
	require.NoError(t, err)
	require.Equal(t, tcpSeat(t, 0, port), f.Looked[0])
}

// answerAll answers all that come to the door of a listener on an address of the loopback, with one
// message.
func answerAll(t *testing.T, at string, version, kind uint16) (stop func()) {
	t.Helper()
	netns, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	name := rendezvous.NewLookup("tcp:" + netns + "/" + at).Name()
	ln, err := net.Listen("unixpacket", name)
	require.NoError(t, err)
	if rendezvous.Dir() == "" {
		beacon, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		require.NoError(t, err)
		t.Cleanup(func() { beacon.Close() })
	}
	var message bytes.Buffer
	require.NoError(t, binary.Write(&message, binary.LittleEndian, rendezvous.Message{Magic: rendezvous.Magic, Version: version, Kind: kind}))
	attend(t, ln, func(c net.Conn) {
		c.Read(make([]byte, 1)) // the hello
		c.Write(message.Bytes())
		c.Read(make([]byte, 1))
	})
	return func() { ln.Close() }
}

// TestReasonsOfProcesses is TestReasons in processes in a place of their own.
func TestReasonsOfProcesses(t *testing.T) {
	t.Run("switched off", func(t *testing.T) {
		leaveNothing(t)
		p := startPuppet(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "CTNET_KERNEL_ONLY=1") })
		ln := listenEcho(t, harness.NewApp(t), "tcp", "127.0.0.1:0", "real")
		defer ln.drain()
		at := ln.ln.Addr().String()
		require.Equal(t, "kernel switched-off -1 1", p.do("why", "tcp", at))
		require.Equal(t, "kernel switched-off -1 2", p.do("why", "tcp", at))
	})
	t.Run("not trusted", func(t *testing.T) {
		requireRoot(t)
		inNetwork(t)
		leaveNothing(t)
		name := fmt.Sprintf("@reason-%d", os.Getpid())
		server, client := startAs(t, alice), startAs(t, bob)
		server.do("listen", "ctnet", "unix", name, "real", "echo")
		require.Equal(t, fmt.Sprintf("kernel not-trusted %d 1", alice), client.do("why", "unix", name))
	})
	t.Run("other namespace", func(t *testing.T) {
		inNetwork(t)
		leaveNothing(t)
		server, client := startPuppet(t, nil), startApart(t, unix.CLONE_NEWNET, nil)
		socket := filepath.Join(t.TempDir(), "s")
		server.do("listen", "ctnet", "unix", socket, "real", "echo")
		for i := range 3 {
			require.Equal(t, fmt.Sprintf("kernel other-namespace -1 %d", i+1), client.do("why", "unix", socket))
		}
	})
	t.Run("other host", func(t *testing.T) {
		leaveNothing(t)
		a := startApart(t, unix.CLONE_NEWNET, nil)
		b := a.start(unix.CLONE_NEWNET)
		b.do("up", "lo")
		a.do("veth", "cable0", "cable1", strconv.Itoa(b.pid))
		a.do("up", "cable0", "192.0.2.1/24")
		b.do("up", "cable1", "192.0.2.2/24")
		at := b.do("listen", "ctnet", "tcp", "192.0.2.2:0", "b", "echo")
		require.Equal(t, "kernel not-here -1 1", a.do("why", "tcp", at))
		require.Equal(t, "kernel not-here -1 2", a.do("why", "tcp", at))
	})
}

// why dials through the process's own application. It returns the way, the reason, the listener's
// user, and how often the snapshot has counted that.
func why(network, address string) (string, error) {
	var f *ctnet.Fallback
	d := ctnet.Dialer{Fallback: func(got *ctnet.Fallback) { f = got }}
	c, err := d.Dial(network, address)
	if err != nil {
		return "", err
	}
	defer hangUp(c)
	if f == nil {
		return wayOf(c), nil
	}
	count := uint64(0)
	var own *ctnet.App
	for _, info := range own.Snapshot().Fallbacks {
		if info.Op == "dial" && info.Address == f.Address && info.Reason == f.Reason && info.UID == f.UID {
			count += info.Count
		}
	}
	return fmt.Sprintf("%s %s %d %d", wayOf(c), f.Reason, f.UID, count), nil
}

// TestReasonInBubble dials in a synctest bubble, where network tcp is the kernel's.
func TestReasonInBubble(t *testing.T) {
	leaveNothing(t)
	at := plainServer(t, "tcp", "127.0.0.1:0")
	j := newJournal()
	app := j.app(t, ctnet.AppConfig{})
	var f *ctnet.Fallback
	synctest.Test(t, func(t *testing.T) {
		d := ctnet.Dialer{App: app, Fallback: func(got *ctnet.Fallback) { f = got }}
		c, err := d.Dial("tcp", at)
		require.NoError(t, err)
		hangUp(c)
	})
	require.Equal(t, ctnet.ReasonInBubble, f.Reason)
	require.Equal(t, "in-bubble", j.one(t, slog.LevelDebug)["reason"])
}

// TestReasonOnCT dials a name that nobody has, which has no other way.
func TestReasonOnCT(t *testing.T) {
	leaveNothing(t)
	told := false
	d := ctnet.Dialer{App: harness.NewApp(t), Fallback: func(*ctnet.Fallback) { told = true }}
	_, err := d.Dial("ct", t.Name())
	var f *ctnet.Fallback
	require.ErrorAs(t, err, &f)
	require.Equal(t, ctnet.ReasonAbsent, f.Reason)
	require.Equal(t, []string{rendezvous.NewLookup("ct:" + t.Name()).Name()}, f.Looked)
	require.ErrorContains(t, err, f.Looked[0])
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.False(t, told)

	ln := listenEcho(t, harness.NewApp(t), "ct", t.Name(), "real")
	defer ln.drain()
	d.Allow = func(ctnet.Cred) bool { return false }
	_, err = d.Dial("ct", t.Name())
	require.ErrorAs(t, err, &f)
	require.Equal(t, ctnet.ReasonNotTrusted, f.Reason)
	require.Equal(t, os.Geteuid(), f.UID)
	require.ErrorIs(t, err, syscall.EACCES)
	require.False(t, told)
}

// TestPathKernelIsNoFallback dials with Path Kernel, as the program wants it.
func TestPathKernelIsNoFallback(t *testing.T) {
	leaveNothing(t)
	at := plainServer(t, "tcp", "127.0.0.1:0")
	j := newJournal()
	d := ctnet.Dialer{App: j.app(t, ctnet.AppConfig{}), Path: ctnet.Kernel, Fallback: func(f *ctnet.Fallback) { t.Error(f) }}
	c, err := d.Dial("tcp", at)
	require.NoError(t, err)
	hangUp(c)
	require.Empty(t, d.App.Snapshot().Fallbacks)
	require.Empty(t, j)
}

// TestFallbackAtMany dials more addresses than are counted one by one.
func TestFallbackAtMany(t *testing.T) {
	leaveNothing(t)
	_, port, err := net.SplitHostPort(plainServer(t, "tcp4", "0.0.0.0:0"))
	require.NoError(t, err)
	app, err := ctnet.NewApp(ctnet.AppConfig{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer app.Close()
	d := ctnet.Dialer{App: app}
	const addresses, most = 1100, 1024
	for i := range addresses {
		c, err := d.Dial("tcp", fmt.Sprintf("127.0.%d.%d:%s", 1+i/250, 1+i%250, port))
		require.NoError(t, err)
		hangUp(c)
	}
	all := app.Snapshot().Fallbacks
	require.Len(t, all, most+1)
	require.Equal(t, "", all[0].Address, "the most frequent come first")
	require.EqualValues(t, addresses-most, all[0].Count)
	for _, f := range all[1:] {
		require.EqualValues(t, 1, f.Count)
		require.NotEmpty(t, f.Address)
	}
}

// TestUnusableIsSaidOnce starts a process whose directory is none: it says so once, whatever it does
// then, and goes on with the kernel's sockets.
func TestUnusableIsSaidOnce(t *testing.T) {
	leaveNothing(t)
	said := new(bytes.Buffer)
	p := startPuppet(t, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "CTNET_DIR=/dev/null")
		cmd.Stderr = said
	})
	at := p.do("listen", "ctnet", "tcp", "127.0.0.1:0", "real", "echo")
	for range 3 {
		require.Equal(t, "kernel real", p.do("dial", "any", "tcp", at))
	}
	p.do("close", "real")
	p.end()
	require.Equal(t, 1, strings.Count(said.String(), "\n"), said.String())
	require.Contains(t, said.String(), "/dev/null must be a directory")
}

// TestListenersFallback has listeners without a cut-through: they are counted and logged.
func TestListenersFallback(t *testing.T) {
	leaveNothing(t)
	t.Setenv("CTNET_DIR", "/dev/null")
	j := newJournal()
	lc := ctnet.ListenConfig{App: j.app(t, ctnet.AppConfig{})}
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	all := lc.App.Snapshot().Fallbacks
	require.Len(t, all, 1)
	require.Equal(t, "listen", all[0].Op)
	require.Equal(t, ctnet.ReasonUnusable, all[0].Reason)
	require.Equal(t, ln.Addr().String(), all[0].Address)
	require.Equal(t, ln.Addr().String(), j.one(t, slog.LevelWarn)["address"])

	lc.Path = ctnet.CutThrough
	_, err = lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.ErrorIs(t, err, syscall.ENOTDIR)
	require.ErrorContains(t, err, "/dev/null")
}

// TestHandlerThatDials has the log's handler dial, with a lock that a Dial of its own is made under.
func TestHandlerThatDials(t *testing.T) {
	leaveNothing(t)
	at := plainServer(t, "tcp", "127.0.0.1:0")
	h := &dialingHandler{at: at, journal: newJournal(), lock: make(chan struct{}, 1)}
	app, err := ctnet.NewApp(ctnet.AppConfig{Logger: slog.New(h)})
	require.NoError(t, err)
	defer app.Close()
	h.d.App = app
	require.NoError(t, h.Handle(t.Context(), slog.Record{}))
	require.Equal(t, "absent", h.one(t, slog.LevelDebug)["reason"])
}

type dialingHandler struct {
	journal
	lock chan struct{}
	d    ctnet.Dialer
	at   string
}

func (h *dialingHandler) Handle(ctx context.Context, r slog.Record) error {
	h.lock <- struct{}{}
	defer func() { <-h.lock }()
	c, err := h.d.DialContext(ctx, "tcp", h.at)
	if err != nil {
		return err
	}
	hangUp(c)
	if r.Message == "" {
		return nil
	}
	return errors.Join(h.journal.Handle(ctx, r))
}
