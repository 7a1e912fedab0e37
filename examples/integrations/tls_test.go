package integrations

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// crypto/tls. In place of
//
//	ln, err := tls.Listen("tcp", "localhost:8443", config)
//	conn, err := tls.Dial("tcp", "localhost:8443", config)
//
// write
//
//	ln, err := ctnet.Listen("tcp", "localhost:8443") // or "ct", "svc/secret"
//	ln = tls.NewListener(ln, config)
//
//	c, err := ctnet.Dial("tcp", "localhost:8443") // or "ct", "svc/secret"
//	conn := tls.Client(c, config) // config has a ServerName

// serveTLS echoes what clients send until they end their direction.
func serveTLS(t testing.TB, ln net.Listener, config *tls.Config) {
	acceptAll(t, tls.NewListener(ln, config), func(c net.Conn) {
		io.Copy(c, c)
		c.(*tls.Conn).CloseWrite()
		io.Copy(io.Discard, c) // until the client closes its end
	})
}

func TestTLS(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			serverConfig, clientConfig := certificate(t)
			clientConfig.MaxVersion = version
			clientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			ln := n.listen(t)
			serveTLS(t, ln, serverConfig)
			for i := range 3 {
				conn := tls.Client(ln.connect(t), clientConfig)
				const size = 2 << 20
				go func() {
					io.Copy(conn, random("tls", size))
					conn.CloseWrite()
				}()
				require.NoError(t, checkSum(conn, "tls", size))
				require.Equal(t, version, conn.ConnectionState().Version)
				require.Equal(t, i > 0, conn.ConnectionState().DidResume)
				require.NoError(t, conn.Close())
			}
		}
	})
}

// TestTLSWrongName has a client that wants another name than the server's.
func TestTLSWrongName(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		serverConfig, clientConfig := certificate(t)
		clientConfig.ServerName = "elsewhere"
		ln := n.listen(t)
		serveTLS(t, ln, serverConfig)
		conn := tls.Client(ln.connect(t), clientConfig)
		var wrong x509.HostnameError
		require.ErrorAs(t, conn.HandshakeContext(t.Context()), &wrong)
	})
}

// TestTLSTruncated has a server that closes the connection in the midst of a record.
func TestTLSTruncated(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		serverConfig, clientConfig := certificate(t)
		ln := n.listen(t)
		acceptAll(t, ln, func(c net.Conn) {
			s := tls.Server(c, serverConfig)
			io.ReadFull(s, make([]byte, 5))
			io.WriteString(s, "half")
			io.WriteString(c, "\x17\x03\x03\x00\x64")
		})
		conn := tls.Client(ln.connect(t), clientConfig)
		io.WriteString(conn, "hello")
		b, err := io.ReadAll(conn)
		require.Equal(t, "half", string(b))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
}
