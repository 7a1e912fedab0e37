package stream

import (
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// kinds returns the kinds of the last events of an end.
func kinds(e *End) (all []EventKind) {
	for _, v := range e.Events() {
		all = append(all, v.Kind)
	}
	return all
}

// lastStall returns the last stall of an end.
func lastStall(t *testing.T, e *End) (last Event) {
	t.Helper()
	require.Contains(t, []EventKind{EventStallData, EventStallSpace}, kinds(e)[len(kinds(e))-1])
	return e.Events()[len(kinds(e))-1]
}

// about requires a time that is kept in steps.
func about(t *testing.T, want, got time.Duration) {
	t.Helper()
	require.InDelta(t, want, got, 1<<eventBits+float64(want)/1e6)
}

// TestEventsLast has 32 events kept, of which the oldest is dropped first, and then nothing allocated.
func TestEventsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := meeting{t, 4 << 10, true, nil}.connect()
		defer s.Close()
		defer c.Close()
		stall := func() {
			began := time.Since(epoch)
			time.Sleep(time.Second)
			c.wr.tally.wakes += 2
			c.stalled(writing, nap{began, time.Since(epoch) - began}, true)
		}
		require.NoError(t, c.CloseRead())
		for n := range 32 {
			require.Len(t, c.Events(), 2+n)
			require.Equal(t, EventReadClosed, c.Events()[1].Kind)
			stall()
		}
		for range 40 {
			all := c.Events()
			require.Len(t, all, 33)
			require.Equal(t, EventMade, all[0].Kind)
			about(t, time.Since(epoch)-c.made, all[0].Ago)
			for i, v := range all[1:] {
				require.Equal(t, EventStallSpace, v.Kind)
				require.Equal(t, StallCame, v.Ended)
				about(t, time.Duration(32-i)*time.Second, v.Ago)
				about(t, time.Second, v.For)
				require.EqualValues(t, 2, v.Wakes)
			}
			stall()
		}
		c.wr.tally.wakes += 1 << 20
		stall()
		require.EqualValues(t, 1<<16-1, lastStall(t, c).Wakes)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			c.stalled(reading, nap{}, true)
			c.note(EventReadClosed)
		}))
	})
}

// TestEventsSameTime has more events than are kept, all at one time: they are in the order in which they came.
func TestEventsSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := meeting{t, 4 << 10, true, nil}.connect()
		defer s.Close()
		defer c.Close()
		for n := range 40 {
			c.wr.tally.wakes += uint64(n)
			c.stalled(writing, nap{began: time.Since(epoch)}, true)
		}
		for i, v := range c.Events()[1:] {
			require.EqualValues(t, 8+i, v.Wakes)
		}
	})
}

// TestEventsFirst has two goroutines make the recorder at the same time: neither's event is lost.
func TestEventsFirst(t *testing.T) {
	for range 10_000 {
		var e End
		var two sync.WaitGroup
		for _, kind := range []EventKind{EventSevered, EventPeerGone} {
			two.Go(func() { e.note(kind) })
		}
		two.Wait()
		require.Len(t, keptKinds(&e), 2)
	}
}

// TestEventsOfNothing has an end that nothing has happened to keep nothing, though it is used, and though a
// goroutine sleeps for the first time; and so has one that is closed by the last one inside.
func TestEventsOfNothing(t *testing.T) {
	eachMeeting(t, 4<<10, func(t *testing.T, m meeting) {
		c, s := m.connect()
		for range 100 {
			_, err := c.Write([]byte("hello"))
			require.NoError(t, err)
			_, err = io.ReadFull(s, make([]byte, 5))
			require.NoError(t, err)
		}
		read := make(chan error, 1)
		go func() {
			_, err := s.Read(make([]byte, 1))
			read <- err
		}()
		awaitStatus(t, s, func(s Status) bool { return s.Recv.Asleep })
		require.Equal(t, []EventKind{EventMade, EventStallData}, kinds(s))
		require.Nil(t, s.recording())
		require.Equal(t, []EventKind{EventMade}, kinds(c))
		require.NoError(t, c.Close())
		require.Nil(t, c.recording())
		require.ErrorIs(t, <-read, io.EOF)
	})
}

// TestEventsStall has stalls that end in all ways, and before that are under way, by a clock that the test
// moves.
func TestEventsStall(t *testing.T) {
	read := func(e *End) { e.Read(make([]byte, 1)) }
	write := func(e *End) { e.Write(make([]byte, 5<<10)) }
	drain := func(e *End) { io.ReadFull(e, make([]byte, 4<<10)) }
	for name, c := range map[string]struct {
		wait func(e *End)
		stop func(e, peer *End)
		want StallEnd
	}{
		"data":            {read, func(_, peer *End) { peer.Write([]byte("x")) }, StallCame},
		"handoff":         {func(e *End) { e.Read(make([]byte, handoffLeast)) }, func(_, peer *End) { peer.Write(make([]byte, handoffLeast)) }, StallCame},
		"space":           {write, func(_, peer *End) { drain(peer) }, StallCame},
		"deadline":        {read, func(e, _ *End) { e.SetReadDeadline(time.Unix(1, 0)) }, StallDeadline},
		"write deadline":  {write, func(e, _ *End) { e.SetWriteDeadline(time.Unix(1, 0)) }, StallDeadline},
		"closed":          {read, func(e, _ *End) { e.Close() }, StallClosed},
		"writer closed":   {write, func(e, _ *End) { e.Close() }, StallClosed},
		"reading closed":  {read, func(e, _ *End) { e.CloseRead() }, StallClosed},
		"writing closed":  {write, func(e, _ *End) { e.CloseWrite() }, StallClosed},
		"fin":             {read, func(_, peer *End) { peer.CloseWrite() }, StallEnded},
		"reset":           {read, func(_, peer *End) { peer.Abort() }, StallEnded},
		"writer reset":    {write, func(_, peer *End) { peer.Abort() }, StallEnded},
		"severed":         {write, func(e, _ *End) { e.Sever() }, StallEnded},
		"peer gone":       {read, func(e, _ *End) { e.PeerGone() }, StallEnded},
		"nothing":         {read, func(e, _ *End) { e.Wake() }, StallNothing},
		"writer: nothing": {write, func(e, _ *End) { e.Wake() }, StallNothing},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, peer := meeting{t, 4 << 10, true, nil}.connect()
				var waiting sync.WaitGroup
				waiting.Go(func() { c.wait(e) })
				synctest.Wait()
				time.Sleep(time.Hour)
				under := lastStall(t, e)
				require.Equal(t, Event{Kind: under.Kind, Ago: time.Hour, For: time.Hour, Wakes: under.Wakes}, under)
				e.gate.enter() // so that it can be asked
				c.stop(e, peer)
				synctest.Wait()
				var ended []Event
				for _, v := range e.Events() {
					if v.Ended != StallGoesOn {
						ended = append(ended, v)
					}
				}
				require.Len(t, ended, 1)
				require.Equal(t, under.Kind, ended[0].Kind)
				require.Equal(t, c.want, ended[0].Ended)
				about(t, time.Hour, ended[0].Ago)
				about(t, time.Hour, ended[0].For)
				e.Leave()
				e.Close()
				peer.Close()
				waiting.Wait()
			})
		})
	}
}

// TestEventKinds has each kind happen, each once however often it is done, in the order of time.
func TestEventKinds(t *testing.T) {
	eachMeeting(t, 4<<10, func(t *testing.T, m meeting) {
		both := func(f func(c, s *End)) (c, s *End) {
			c, s = m.connect()
			c.gate.enter() // so that it can be asked when it is closed
			t.Cleanup(c.Leave)
			f(c, s)
			return c, s
		}
		look := func(e *End) { e.Read(make([]byte, 1)) }
		for range 2 {
			c, s := both(func(c, s *End) {
				for range 2 {
					require.NoError(t, c.CloseRead())
					require.NoError(t, c.CloseWrite())
					look(s)
				}
				require.NoError(t, c.Close())
			})
			require.Equal(t, []EventKind{EventMade, EventReadClosed, EventWriteClosed, EventFinSent, EventClosed}, kinds(c))
			require.Equal(t, []EventKind{EventMade, EventFinSeen}, kinds(s))
		}
		c, s := both(func(c, s *End) { c.Abort() })
		require.Equal(t, []EventKind{EventMade, EventClosed, EventResetSent}, kinds(c))
		look(s)
		require.Equal(t, []EventKind{EventMade, EventResetSeen}, kinds(s))

		// A Write finds it as well, or who looks.
		_, s = both(func(c, s *End) { c.Close() })
		s.Write([]byte("x"))
		require.Equal(t, []EventKind{EventFinSeen}, keptKinds(s))
		_, s = both(func(c, s *End) { c.Close() })
		status(t, s)
		require.Equal(t, []EventKind{EventFinSeen}, keptKinds(s))
		_, s = both(func(c, s *End) { c.Close() })
		require.Equal(t, []EventKind{EventMade, EventFinSeen}, kinds(s))

		// Bytes that the peer has not read.
		c, _ = both(func(c, s *End) {
			s.Write([]byte("x"))
			c.Close()
		})
		require.Equal(t, []EventKind{EventMade, EventClosed, EventResetSent}, kinds(c))

		c, _ = both(func(c, s *End) { c.Sever() })
		require.Equal(t, []EventKind{EventMade, EventSevered, EventResetSent}, kinds(c))
		c, _ = both(func(c, s *End) {
			c.PeerGone()
			c.PeerGone()
		})
		require.Equal(t, []EventKind{EventMade, EventPeerGone}, kinds(c))
		c, _ = both(func(c, s *End) {
			require.NoError(t, c.gate.lock(reading, &c.rd.Deadline))
			c.corrupt()
			c.unlock(reading)
		})
		require.Equal(t, []EventKind{EventMade, EventPeerBroke, EventResetSent}, kinds(c))
	})
}

// TestEventsFinSeen has the time at which a Read found the end, if a goroutine had slept before, and keeps
// nothing otherwise.
func TestEventsFinSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, slept := range []bool{false, true} {
			c, s := meeting{t, 4 << 10, true, nil}.connect()
			if slept {
				go s.Read(make([]byte, 1))
				synctest.Wait()
				c.Write([]byte("x"))
				synctest.Wait()
			}
			require.NoError(t, c.Close())
			time.Sleep(time.Hour)
			for range 2 {
				_, err := s.Read(make([]byte, 1))
				require.ErrorIs(t, err, io.EOF)
				time.Sleep(time.Minute)
			}
			require.Equal(t, slept, s.recording() != nil)
			all := s.Events()
			last := all[len(all)-1]
			require.Equal(t, EventFinSeen, last.Kind)
			if slept {
				about(t, 2*time.Minute, last.Ago)
			} else {
				about(t, 0, last.Ago)
			}
			s.Close()
		}
	})
}

// keptKinds returns the kinds of the events that an end has kept, without looking for more.
func keptKinds(e *End) (all []EventKind) {
	kept, _ := e.kept()
	for _, v := range kept {
		all = append(all, v.kind())
	}
	return all
}

// TestEventsAsAStallEnds asks at the moment at which a stall ends: it is there once.
func TestEventsAsAStallEnds(t *testing.T) {
	for range 500 {
		c, s := meeting{t, 4 << 10, true, nil}.connect()
		var reading sync.WaitGroup
		reading.Go(func() { s.Read(make([]byte, 1)) })
		for !status(t, s).Recv.Asleep {
			runtime.Gosched()
		}
		reading.Go(func() { c.Write([]byte("x")) })
		for ended := false; !ended; {
			all := s.Events()
			require.Len(t, all, 2)
			require.Equal(t, EventStallData, all[1].Kind)
			ended = all[1].Ended == StallCame
		}
		reading.Wait()
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
	}
}

// TestEventsBusy asks for events all the time while bytes move, goroutines stall, deadlines pass and
// connections end in all ways: the events are in order, and no stall is there twice.
func TestEventsBusy(t *testing.T) {
	eachMeeting(t, 4<<10, func(t *testing.T, m meeting) {
		for i := range 40 {
			c, s := m.connect()
			var busy sync.WaitGroup
			for _, e := range []*End{c, s} {
				busy.Go(func() { // until the connection ends
					for {
						if _, err := e.Write(make([]byte, 9<<10)); err != nil && err != os.ErrDeadlineExceeded {
							return
						}
					}
				})
				busy.Go(func() {
					for {
						e.SetReadDeadline(time.Now().Add(100 * time.Microsecond))
						if _, err := e.Read(make([]byte, 1<<10)); err != nil && err != os.ErrDeadlineExceeded {
							return
						}
					}
				})
			}
			end := []func(){
				func() { c.Close() }, c.Abort, func() { c.Sever() }, func() { c.CloseWrite(); c.CloseRead(); s.Close() }, c.PeerGone,
			}[i%5]
			for n := range 100 {
				for _, e := range []*End{c, s} {
					all := e.Events()
					require.LessOrEqual(t, len(all), 1+maxEvents+2)
					require.Equal(t, EventMade, all[0].Kind)
					last := map[EventKind]Event{}
					for i, v := range all[1:] {
						require.LessOrEqual(t, v.Ago, all[i].Ago)
						require.GreaterOrEqual(t, v.For, time.Duration(0))
						if v.Kind != EventStallData && v.Kind != EventStallSpace {
							continue
						}
						if before, ok := last[v.Kind]; ok {
							require.NotEqual(t, StallGoesOn, before.Ended)
							require.GreaterOrEqual(t, before.Ago-before.For+before.For/1e6+2<<eventBits, v.Ago, "it began before the end of the last one")
						}
						last[v.Kind] = v
					}
				}
				if n == 50 {
					end()
				}
			}
			c.Close()
			s.Close()
			busy.Wait()
		}
	})
}
