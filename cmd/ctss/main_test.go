package main

import (
	"strings"
	"testing"

	"cutthrough.example/ctnet"
	"github.com/stretchr/testify/require"
)

func TestShow(t *testing.T) {
	var b strings.Builder
	show(&b, []ctnet.Snapshot{{
		App: "5f3c0a1b9d2e4c71", PID: 42, Program: "echod",
		Conns: 1, Segments: 1, Bytes: 128 << 20,
		Listeners: []ctnet.ListenerInfo{{Network: "ct", Address: "svc/echo", Backlog: 4096, Waiting: 3}},
		Connections: []ctnet.ConnInfo{{
			State: ctnet.StateEstablished, Local: "svc/echo", Remote: "00000000000000aa:7",
			Peer: ctnet.Cred{PID: 43}, RecvQueue: 5, SendQueue: 6,
		}},
	}})
	require.Equal(t, `State        Recv-Q  Send-Q  Local     Remote              Peer  Process
LISTEN       3       4096    svc/echo  *                         echod/42
ESTABLISHED  5       6       svc/echo  00000000000000aa:7  43    echod/42

echod/42: 1 connections, 1 segments of 128 MiB together
`, b.String())
}
