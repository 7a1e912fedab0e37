package hostile

import (
	"context"
	"encoding/binary"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"cutthrough.example/conformance/internal/harness"
	"cutthrough.example/ctnet"
	"cutthrough.example/internal/foreign"
	"cutthrough.example/internal/leakcheck"
	"cutthrough.example/internal/rawpacket"
	"cutthrough.example/internal/rendezvous"
	"cutthrough.example/internal/segpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A fuzzed listener is one of this process, which its own fuzzer attacks.
type fuzzed struct {
	app    *ctnet.App
	before leakcheck.Usage
}

// theFuzzed makes it once, as a listener is not made for each attack either.
var theFuzzed = sync.OnceValue(func() *fuzzed {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	harness.Check(err)
	lc := ctnet.ListenConfig{App: app, ReadBuffer: ctnet.MinBuffer, WriteBuffer: ctnet.MinBuffer}
	ln, err := lc.Listen(background, "ct", "fuzzed")
	harness.Check(err)
	go func() {
		for {
			c, err := ln.Accept()
			harness.Check(err)
			go echo(c)
		}
	}()
	f := &fuzzed{app: app}
	quickDescriptors()
	harness.Check(f.visit())
	f.settle()
	f.before = leakcheck.Now()
	return f
})

// settle waits until there is no pair.
func (f *fuzzed) settle() {
	for end := time.Now().Add(limit); leakcheck.Mappings("ctnet events") > 0; pause() {
		if time.Now().After(end) {
			panic("a pair stays")
		}
	}
}

// visit does what an honest client does.
func (f *fuzzed) visit() error {
	app, err := ctnet.NewApp(ctnet.AppConfig{})
	if err != nil {
		return err
	}
	defer app.Close()
	d := ctnet.Dialer{App: app, Timeout: limit}
	c, err := d.Dial("ct", "fuzzed")
	if err != nil {
		return err
	}
	defer c.Close()
	h := &honest{}
	return h.exchange(c).trip(64)
}

// quickDescriptors are those that nobody has to wait for.
var quickDescriptors = sync.OnceValue(func() []descriptor {
	return slices.DeleteFunc(slices.Clone(descriptors()), func(d descriptor) bool {
		return slices.Contains([]string{"TCP socket that lingers", "eventfd that others change", "memory that shrinks",
			"full unix socket that blocks"}, d.name)
	})
})

// FuzzDoor has a client say several things, with descriptors of all kinds. Each packet takes
// eight bytes: the kind, the field that is changed, the value, how many descriptors there
// are, and of which kinds. A kind of descriptor above those that there are is the one that
// should be there.
func FuzzDoor(f *testing.F) {
	const right = 0xff
	f.Add([]byte{1, 0, 0, 0, 3, right, right, right, 3, 0, 0, 0, 1, right, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0, 3, 1, right, right})
	f.Add([]byte{1, 0, 0, 0, 3, right, 2, right})
	f.Add([]byte{1, 0, 0, 0, 3, right, right, 3})
	f.Add([]byte{7, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 4, 64, 0, 3, right, right, right, 3, 5, 255, 255, 1, right, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		v := theFuzzed()
		ch, err := dial("fuzzed")
		require.NoError(t, err)
		c, fds, err := prepare(ch)
		require.NoError(t, err)
		c.geo = smallGeometry
		mem, segment, err := c.newSegment()
		require.NoError(t, err)
		mem.Free()
		for ; len(ops) >= 8; ops = ops[8:] {
			m := hello("fuzzed")
			if m.Kind = uint16(ops[0]) % 13; m.Kind != rendezvous.KindHello {
				m = rendezvous.Message{Kind: m.Kind}
			}
			m.Magic, m.Version = rendezvous.Magic, rendezvous.Version
			fields := reflect.ValueOf(&m).Elem()
			if at := int(ops[1]) % (fields.NumField() + 3); ops[1] > 0 && at < fields.NumField()-1 {
				x := uint64(binary.LittleEndian.Uint16(ops[2:]))
				fields.Field(at).SetUint(x | x<<20&(1<<fields.Field(at).Type().Bits()-1))
			}
			var passed, made []int
			for i, k := range ops[5 : 5+ops[4]%4] {
				all := quickDescriptors()
				switch {
				case int(k) < len(all):
					fd, err := all[k].make()
					if err != nil {
						continue
					}
					made = append(made, fd)
					passed = append(passed, fd)
				case m.Kind == rendezvous.KindAdd:
					passed = append(passed, segment)
				default:
					passed = append(passed, fds[i])
				}
			}
			rawpacket.SendOn(ch, packet(m), passed...)
			foreign.FDs(made).Close()
		}
		ch.CloseWrite()
		awaitEnd(ch)
		unix.Close(segment)
		c.leave()
		require.NoError(t, v.visit())
		leakcheck.RequireBack(t, v.before)
		s := v.app.Snapshot()
		require.Equal(t, [3]int64{}, [3]int64{s.Conns, s.Segments, s.Bytes})
	})
}

// FuzzInspect has a listener answer who asks for its snapshot: with any bytes, which it may say
// to be more or fewer than they are, or with another kind of message, or descriptor. If that is taken for
// a snapshot, it answers so once more to who asks for the events of a connection.
func FuzzInspect(f *testing.F) {
	f.Add([]byte(`{"App":"1","PID":1,"Conns":-1,"Connections":[{"State":"x","RecvQueue":9e99}]}`), uint32(0), uint16(rendezvous.KindSnapshot), uint32(0), uint8(0xff))
	f.Add([]byte(`{}`), uint32(1<<31), uint16(rendezvous.KindSnapshot), uint32(0), uint8(0xff))
	f.Add([]byte(`[[[[`), uint32(0), uint16(rendezvous.KindWelcome), uint32(13), uint8(3))
	f.Add([]byte(``), uint32(0), uint16(rendezvous.KindSnapshot), uint32(0), uint8(0))
	f.Add([]byte(`{"App":"1","Connections":[{"ID":"1.0.0.1","Events":[{"Kind":"x","At":"2026-11-26T12:00:00Z","For":-1,"Ended":"y","Wakes":-1}]}]}`), uint32(0), uint16(rendezvous.KindSnapshot), uint32(0), uint8(0xff))
	f.Add([]byte(`{"Connections":[{"ID":"1.0.0.1","Events":[{"At":"+999999-01-01T00:00:00Z"}],"Events":[0]},{"ID":"1.0.0.1","ID":1}]}`), uint32(0), uint16(rendezvous.KindSnapshot), uint32(0), uint8(0xff))
	f.Fuzz(func(t *testing.T, snapshot []byte, off uint32, kind uint16, errno uint32, what uint8) {
		useDir(t)
		quickDescriptors()
		socket, err := rendezvous.Bind(background, key("inspected"), false)
		require.NoError(t, err)
		before := leakcheck.Now()
		var answering sync.WaitGroup
		answerOne := func() {
			ch, err := socket.Accept()
			if err != nil {
				return
			}
			defer ch.Close()
			ch.SetDeadline(time.Now().Add(limit))
			if _, _, err := ch.Receive(); err != nil {
				return
			}
			fd := -1
			if all := quickDescriptors(); int(what) < len(all) {
				fd, _ = all[what].make()
			} else if mem, memFD, err := segpool.CreateShared("ctnet snapshot", max(len(snapshot), 1), segpool.ByMaker); err == nil {
				copy(mem.Bytes, snapshot)
				mem.Free()
				fd = memFD
			}
			m := rendezvous.Message{Kind: kind, Errno: errno, Size: uint32(len(snapshot)) + off}
			if fd < 0 {
				ch.Send(m)
				return
			}
			ch.Send(m, fd)
			unix.Close(fd)
		}
		ctx, cancel := context.WithTimeout(background, limit)
		defer cancel()
		answering.Go(answerOne)
		all, err := ctnet.Inspect(ctx)
		require.NoError(t, ctx.Err())
		require.True(t, err != nil || len(all) <= 1)
		for _, s := range all {
			for _, c := range s.Connections {
				_ = c.State + c.Local
			}
		}
		answering.Wait()
		for _, s := range all {
			answering.Go(answerOne)
			ends, err := s.Events(ctx, "1.0.0.1")
			require.NoError(t, ctx.Err())
			require.True(t, err != nil || len(ends) <= 2)
			for _, e := range ends {
				require.Equal(t, "1.0.0.1", e.ID)
				require.LessOrEqual(t, len(e.Events), 64)
			}
			answering.Wait()
		}
		leakcheck.RequireBack(t, before)
		socket.Close()
	})
}
