package integrations

import (
	"bytes"
	"crypto/ed25519"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// golang.org/x/crypto/ssh. In place of
//
//	ln, err := net.Listen("tcp", "localhost:22")
//	client, err := ssh.Dial("tcp", "localhost:22", config)
//
// write
//
//	ln, err := ctnet.Listen("tcp", "localhost:22") // or "ct", "svc/ssh"
//
//	conn, err := ctnet.Dial("tcp", "localhost:22") // or "ct", "svc/ssh"
//	c, channels, requests, err := ssh.NewClientConn(conn, "localhost:22", config)
//	client := ssh.NewClient(c, channels, requests)

func newSigner(t testing.TB) ssh.Signer {
	_, key, err := ed25519.GenerateKey(crand.Reader)
	require.NoError(t, err)
	s, err := ssh.NewSignerFromKey(key)
	require.NoError(t, err)
	return s
}

// serveSSH has one user, whose sessions can run "cat" and "sum".
func serveSSH(t testing.TB, ln net.Listener, host ssh.Signer, user ssh.PublicKey) {
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if !bytes.Equal(key.Marshal(), user.Marshal()) {
				return nil, errors.New("unknown key")
			}
			return nil, nil
		},
	}
	config.RekeyThreshold = 1 << 20
	config.AddHostKey(host)
	acceptAll(t, ln, func(c net.Conn) {
		_, channels, requests, err := ssh.NewServerConn(c, config)
		if err != nil {
			return
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { ssh.DiscardRequests(requests) })
		for newChannel := range channels {
			if newChannel.ChannelType() != "session" {
				newChannel.Reject(ssh.UnknownChannelType, "sessions only")
				continue
			}
			channel, requests, err := newChannel.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveSession(channel, requests) })
		}
	})
}

func serveSession(channel ssh.Channel, requests <-chan *ssh.Request) {
	var commands sync.WaitGroup
	defer commands.Wait()
	for r := range requests {
		var exec struct{ Command string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &exec) != nil {
			r.Reply(false, nil)
			continue
		}
		r.Reply(true, nil)
		commands.Go(func() {
			var status struct{ Code uint32 }
			switch exec.Command {
			case "cat":
				io.Copy(channel, channel)
			case "sum":
				io.WriteString(channel, sum(channel))
			default:
				fmt.Fprintf(channel.Stderr(), "%s: not found", exec.Command)
				status.Code = 127
			}
			channel.SendRequest("exit-status", false, ssh.Marshal(status))
			channel.Close()
		})
	}
}

func dialSSH(t testing.TB, ln *listener, config *ssh.ClientConfig) (*ssh.Client, error) {
	c, channels, requests, err := ssh.NewClientConn(ln.connect(t), ln.Addr().String(), config)
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

func TestSSH(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		host, user := newSigner(t), newSigner(t)
		ln := n.listen(t)
		serveSSH(t, ln, host, user.PublicKey())
		config := &ssh.ClientConfig{
			User:            "gopher",
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(user)},
			HostKeyCallback: ssh.FixedHostKey(host.PublicKey()),
		}
		client, err := dialSSH(t, ln, config)
		require.NoError(t, err)
		defer client.Close()

		const size = 2 << 20
		inParallel(t, 3, func(i int) error {
			seed := fmt.Sprint(i)
			session, err := client.NewSession()
			if err != nil {
				return err
			}
			defer session.Close()
			session.Stdin = random(seed, size)
			out, err := session.Output("sum")
			if want := sum(random(seed, size)); err != nil || string(out) != want {
				return fmt.Errorf("sum: %q, %v, want %q", out, err, want)
			}

			session, err = client.NewSession()
			if err != nil {
				return err
			}
			defer session.Close()
			session.Stdin = random(seed, size)
			stdout, err := session.StdoutPipe()
			if err != nil {
				return err
			}
			if err := session.Start("cat"); err != nil {
				return err
			}
			if err := checkSum(stdout, seed, size); err != nil {
				return err
			}
			return session.Wait()
		})

		session, err := client.NewSession()
		require.NoError(t, err)
		defer session.Close()
		out, err := session.CombinedOutput("dog")
		var exit *ssh.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 127, exit.ExitStatus())
		require.Equal(t, "dog: not found", string(out))

		_, err = client.Dial("tcp", "localhost:80")
		var open *ssh.OpenChannelError
		require.ErrorAs(t, err, &open)
		require.Equal(t, ssh.UnknownChannelType, open.Reason)
	})
}

func TestSSHWrongKeys(t *testing.T) {
	eachNetwork(t, func(t *testing.T, n *place) {
		host, user, other := newSigner(t), newSigner(t), newSigner(t)
		ln := n.listen(t)
		serveSSH(t, ln, host, user.PublicKey())
		_, err := dialSSH(t, ln, &ssh.ClientConfig{
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(user)},
			HostKeyCallback: ssh.FixedHostKey(other.PublicKey()),
		})
		require.ErrorContains(t, err, "host key mismatch")
		_, err = dialSSH(t, ln, &ssh.ClientConfig{
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(other)},
			HostKeyCallback: ssh.FixedHostKey(host.PublicKey()),
		})
		require.ErrorContains(t, err, "unable to authenticate")
	})
}
