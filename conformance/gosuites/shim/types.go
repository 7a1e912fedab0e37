package net

import (
	"io"
	"net"
	"os"
	"time"
)

// A TCPConn is what tests ask of a connection that is to be a *net.TCPConn: the methods
// of that type that have a meaning without a socket.
type TCPConn interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
	CloseRead() error
	CloseWrite() error
	SetLinger(sec int) error
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

// A TCPListener is what tests ask of a listener that is to be a *net.TCPListener.
type TCPListener interface {
	net.Listener
	SetDeadline(t time.Time) error
	File() (*os.File, error)
}
