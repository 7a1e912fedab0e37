package integrations

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/redcon"
)

// github.com/redis/go-redis/v9. In place of
//
//	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
//
// write
//
//	client := redis.NewClient(&redis.Options{Addr: "localhost:6379", Dialer: ctnet.DialContext})
//
// or, if the server listens on a name,
//
//	client := redis.NewClient(&redis.Options{
//		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
//			return ctnet.DialContext(ctx, "ct", "svc/redis")
//		},
//	})
//
// The client looks at the descriptors of idle connections before it uses them, to see whether the
// server has closed them, and a connection through shared memory lets it.
//
// github.com/tidwall/redcon, the server here. In place of
//
//	err := redcon.ListenAndServe("localhost:6379", handler, accept, closed)
//
// write
//
//	ln, err := ctnet.Listen("tcp", "localhost:6379") // or "ct", "svc/redis"
//	err = redcon.Serve(ln, handler, accept, closed)

// A redisServer has the few commands that the tests use.
type redisServer struct {
	*redcon.Server
	pubsub redcon.PubSub
	hang   chan struct{}

	mu    sync.Mutex
	items map[string][]byte

	conns sync.WaitGroup
}

// serveRedis serves until the test ends, or stop is called.
func serveRedis(t testing.TB, ln net.Listener) (s *redisServer, stop func()) {
	s = &redisServer{hang: make(chan struct{}), items: make(map[string][]byte)}
	accept := func(redcon.Conn) bool { s.conns.Add(1); return true }
	closed := func(redcon.Conn, error) { s.conns.Done() }
	s.Server = redcon.NewServer("", s.serve, accept, closed)
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	stop = sync.OnceFunc(func() {
		ln.Close()
		require.NoError(t, <-done)
		s.conns.Wait()
	})
	t.Cleanup(stop)
	return s, stop
}

func (s *redisServer) serve(conn redcon.Conn, cmd redcon.Command) {
	args := make([]string, len(cmd.Args))
	for i, a := range cmd.Args {
		args[i] = string(a)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case args[0] == "ping" && len(args) == 1:
		conn.WriteString("PONG")
	case args[0] == "set" && len(args) == 3:
		s.items[args[1]] = []byte(args[2])
		conn.WriteString("OK")
	case args[0] == "get" && len(args) == 2:
		if b, ok := s.items[args[1]]; ok {
			conn.WriteBulk(b)
		} else {
			conn.WriteNull()
		}
	case args[0] == "hang":
		<-s.hang
		conn.WriteString("OK")
	case args[0] == "subscribe" && len(args) == 2:
		s.pubsub.Subscribe(conn, args[1])
	case args[0] == "publish" && len(args) == 3:
		conn.WriteInt(s.pubsub.Publish(args[1], args[2]))
	default:
		conn.WriteError(fmt.Sprintf("ERR unknown command %q", args))
	}
}

func newRedis(t testing.TB, ln *listener, o redis.Options) *redis.Client {
	o.Addr = ln.host
	o.Dialer = ln.dial
	o.PoolTimeout = time.Minute
	if o.ReadTimeout == 0 {
		o.ReadTimeout = time.Minute
	}
	client := redis.NewClient(&o)
	t.Cleanup(func() { client.Close() })
	return client
}

func TestRedis(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		serveRedis(t, ln)
		client := newRedis(t, ln, redis.Options{PoolSize: 4})
		require.NoError(t, client.Ping(t.Context()).Err())
		require.ErrorIs(t, client.Get(t.Context(), "nothing").Err(), redis.Nil)
		inParallel(t, 8, func(i int) error {
			for _, n := range []int{0, 1, 1000, 100_000 * i} {
				key := fmt.Sprint(i, n)
				want := string(randomBytes(key, n))
				if err := client.Set(t.Context(), key, want, 0).Err(); err != nil {
					return err
				}
				got, err := client.Get(t.Context(), key).Result()
				if err != nil || got != want {
					return fmt.Errorf("got %d bytes, %v, want %d others", len(got), err, n)
				}
			}
			return nil
		})

		const commands = 1000
		results, err := client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for i := range commands {
				p.Set(t.Context(), fmt.Sprint("key", i), randomBytes(fmt.Sprint(i), i), 0)
				p.Get(t.Context(), fmt.Sprint("key", i))
			}
			return nil
		})
		require.NoError(t, err)
		for i := range commands {
			require.Equal(t, string(randomBytes(fmt.Sprint(i), i)), results[2*i+1].(*redis.StringCmd).Val())
		}
	})
}

func TestRedisPubSub(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		serveRedis(t, ln)
		client := newRedis(t, ln, redis.Options{})
		sub := client.Subscribe(t.Context(), "news")
		defer sub.Close()
		_, err := sub.Receive(t.Context()) // the confirmation
		require.NoError(t, err)
		for i := range 100 {
			message := string(randomBytes(fmt.Sprint(i), 100*i))
			receivers, err := client.Publish(t.Context(), "news", message).Result()
			require.NoError(t, err)
			require.EqualValues(t, 1, receivers)
			m, err := sub.ReceiveMessage(t.Context())
			require.NoError(t, err)
			require.Equal(t, "news", m.Channel)
			require.Equal(t, message, m.Payload)
		}
	})
}

// TestRedisTimeout waits for an answer in vain.
func TestRedisTimeout(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		s, _ := serveRedis(t, ln)
		client := newRedis(t, ln, redis.Options{ReadTimeout: 20 * time.Millisecond, MaxRetries: -1})
		err := client.Do(context.Background(), "hang").Err()
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		close(s.hang)
	})
}

// TestRedisReplaced has one client of several servers, one after the other. It sends no command
// twice, so it must notice that a server has gone before it sends one.
func TestRedisReplaced(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		ln := n.listen(t)
		client := newRedis(t, ln, redis.Options{MaxRetries: -1})
		for i := range 5 {
			_, stop := serveRedis(t, ln)
			require.NoError(t, client.Set(t.Context(), "key", i, 0).Err())
			stop()
			if i < 4 {
				ln = n.listenOn(t, ln.Addr().String())
			}
		}
	})
}
