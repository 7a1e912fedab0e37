//go:build unix

package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"

	"cutthrough.example/conformance/internal/rewrite"
)

// The tests of package net are inside it, where nothing that imports package net can
// be imported. So they call variables, which a file beside them sets: one of package
// net_test, which may import the shim.

// inNet is what package net's tests call for package net's functions and methods.
const inNet = `package net

import (
	"context"
	"net/netip"
	"os"
	"syscall"
	"time"
)

var (
	CtDial   func(ctx context.Context, d *Dialer, network, address string) (Conn, error)
	CtListen func(ctx context.Context, lc *ListenConfig, network, address string) (Listener, error)
)

type (
	ctDialer       Dialer
	ctListenConfig ListenConfig
)

func ctDial(network, address string) (Conn, error) {
	return CtDial(context.Background(), &Dialer{}, network, address)
}

func ctDialTimeout(network, address string, timeout time.Duration) (Conn, error) {
	return CtDial(context.Background(), &Dialer{Timeout: timeout}, network, address)
}

func ctListen(network, address string) (Listener, error) {
	return CtListen(context.Background(), &ListenConfig{}, network, address)
}

func (d *ctDialer) Dial(network, address string) (Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d *ctDialer) DialContext(ctx context.Context, network, address string) (Conn, error) {
	return CtDial(ctx, (*Dialer)(d), network, address)
}

func (d *ctDialer) DialTCP(ctx context.Context, network string, local, remote netip.AddrPort) (*TCPConn, error) {
	return (*Dialer)(d).DialTCP(ctx, network, local, remote)
}

func (d *ctDialer) DialUDP(ctx context.Context, network string, local, remote netip.AddrPort) (*UDPConn, error) {
	return (*Dialer)(d).DialUDP(ctx, network, local, remote)
}

func (d *ctDialer) DialIP(ctx context.Context, network string, local, remote netip.Addr) (*IPConn, error) {
	return (*Dialer)(d).DialIP(ctx, network, local, remote)
}

func (d *ctDialer) DialUnix(ctx context.Context, network string, local, remote *UnixAddr) (*UnixConn, error) {
	return (*Dialer)(d).DialUnix(ctx, network, local, remote)
}

func (d *ctDialer) MultipathTCP() bool       { return (*Dialer)(d).MultipathTCP() }
func (d *ctDialer) SetMultipathTCP(use bool) { (*Dialer)(d).SetMultipathTCP(use) }

func (lc *ctListenConfig) Listen(ctx context.Context, network, address string) (Listener, error) {
	return CtListen(ctx, (*ListenConfig)(lc), network, address)
}

func (lc *ctListenConfig) ListenPacket(ctx context.Context, network, address string) (PacketConn, error) {
	return (*ListenConfig)(lc).ListenPacket(ctx, network, address)
}

func (lc *ctListenConfig) MultipathTCP() bool       { return (*ListenConfig)(lc).MultipathTCP() }
func (lc *ctListenConfig) SetMultipathTCP(use bool) { (*ListenConfig)(lc).SetMultipathTCP(use) }

// What the tests ask a connection and a listener to be, in place of *TCPConn and so on.
type (
	ctTCPConn interface {
		ctUnixConn
		SetLinger(sec int) error
	}
	ctUnixConn interface {
		Conn
		CloseRead() error
		CloseWrite() error
		SyscallConn() (syscall.RawConn, error)
		SetReadBuffer(bytes int) error
		SetWriteBuffer(bytes int) error
	}
	ctTCPListener  interface{ ctUnixListener }
	ctUnixListener interface {
		Listener
		SetDeadline(t time.Time) error
		SyscallConn() (syscall.RawConn, error)
		File() (*os.File, error)
	}
)

// ctSocket returns a listener as package net has it, on the same socket.
func ctSocket(ln any) *TCPListener {
	if ln, ok := ln.(*TCPListener); ok {
		return ln
	}
	f, err := ln.(ctUnixListener).File()
	if err != nil {
		panic(err)
	}
	defer f.Close()
	dup, err := FileListener(f)
	if err != nil {
		panic(err)
	}
	return dup.(*TCPListener)
}
`

// besideNet lets package net's tests use the shim.
const besideNet = `package net_test

import (
	"context"
	"net"

	_ "` + "internal/" + gluePath + `"
	shim "` + "internal/" + shimPath + `"
)

func init() {
	net.CtDial = func(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
		return (*shim.Dialer)(d).DialContext(ctx, network, address)
	}
	net.CtListen = func(ctx context.Context, lc *net.ListenConfig, network, address string) (net.Listener, error) {
		return (*shim.ListenConfig)(lc).Listen(ctx, network, address)
	}
}
`

// needsSocket are files whose tests need what ctnet does not have: they go on asking for
// package net's types.
var needsSocket = map[string]bool{
	"file_test.go":             true,
	"file_unix_test.go":        true,
	"mptcpsock_linux_test.go":  true,
	"unixsock_readmsg_test.go": true,
	"unixsock_test.go":         true,
}

// addNet makes the tests of package net use the shim.
func (t *tree) addNet() error {
	files, err := filepath.Glob(filepath.Join(t.goroot, "src/net/*_test.go"))
	if err != nil {
		return err
	}
	for _, name := range files {
		if filepath.Base(name) == "write_unix_test.go" {
			// Its one test looks into a connection.
			if err := os.Remove(filepath.Join(t.dir, "src/net/write_unix_test.go")); err != nil {
				return err
			}
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		edited, err := editNetTest(filepath.Base(name), b)
		if err != nil {
			return err
		}
		if !bytes.Equal(b, edited) {
			if err := t.put("net/"+filepath.Base(name), edited); err != nil {
				return err
			}
		}
	}
	if err := t.put("net/ct_test.go", []byte(inNet)); err != nil {
		return err
	}
	return t.put("net/ct_x_test.go", []byte(besideNet))
}

// editNetTest makes one file of package net's tests use what inNet declares.
func editNetTest(name string, src []byte) ([]byte, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "", src, 0)
	if err != nil {
		return nil, err
	}
	if f.Name.Name != "net" {
		return shimFor(src)
	}
	own := map[string]string{
		"Dial": "ctDial", "DialTimeout": "ctDialTimeout", "Dialer": "ctDialer",
		"Listen": "ctListen", "ListenConfig": "ctListenConfig",
	}
	kinds := map[string]string{
		"TCPConn": "ctTCPConn", "UnixConn": "ctUnixConn", "TCPListener": "ctTCPListener", "UnixListener": "ctUnixListener",
	}
	if needsSocket[name] {
		kinds = nil
	}
	// kind returns what stands for a pointer to one of package net's types, or "".
	kind := func(e ast.Expr) string {
		if star, ok := e.(*ast.StarExpr); ok {
			if id, ok := star.X.(*ast.Ident); ok {
				return kinds[id.Name]
			}
		}
		return ""
	}
	var e rewrite.Edits
	var visit func(n ast.Node) bool
	visit = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			if to := own[n.Name]; to != "" {
				e.Replace(fset, n, to)
			}
		case *ast.KeyValueExpr:
			// The name of a field. A Dialer in a sysDialer has package net's type.
			if id, ok := n.Key.(*ast.Ident); ok && own[id.Name] != "" {
				if id.Name == "Dialer" {
					e.Insert(fset, n.Value.Pos(), "Dialer(")
					e.Insert(fset, n.Value.End(), ")")
				}
				ast.Inspect(n.Value, visit)
				return false
			}
		case *ast.SelectorExpr:
			if a, ok := n.X.(*ast.TypeAssertExpr); ok && kind(a.Type) != "" && !strings.Contains(inNet, "\t"+n.Sel.Name+"(") {
				// More than ctnet has.
				if kind(a.Type) == "ctTCPListener" {
					e.Insert(fset, a.Pos(), "ctSocket(")
					e.Replace(fset, &ast.BadExpr{From: a.X.End(), To: a.End()}, ")")
				}
				ast.Inspect(a.X, visit)
				return false
			}
			ast.Inspect(n.X, visit)
			return false
		case *ast.TypeAssertExpr:
			if to := kind(n.Type); to != "" {
				e.Replace(fset, n.Type, to)
			}
		case *ast.CaseClause:
			for _, x := range n.List {
				if to := kind(x); to != "" {
					e.Replace(fset, x, to)
				}
			}
		case *ast.FuncType:
			if n.Params != nil && len(n.Params.List) == 1 {
				if to := kind(n.Params.List[0].Type); to == "ctTCPConn" {
					e.Replace(fset, n.Params.List[0].Type, to)
				}
			}
		}
		return true
	}
	ast.Inspect(f, visit)
	return e.Apply(src), nil
}
