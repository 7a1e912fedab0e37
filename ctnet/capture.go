package ctnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"unicode"

	"cutthrough.example/internal/pcapng"
	"cutthrough.example/internal/tap"
)

// A CaptureConfig says what [Snapshot.CaptureConn] writes.
type CaptureConfig struct {
	SnapLen int    // the most bytes of a packet that are kept, with its headers; 0 means all
	Count   uint64 // the number of packets after which the capture ends; 0 means never
}

// CaptureCounts are what a capture has come to.
type CaptureCounts struct {
	Packets        uint64 // written, with those that only acknowledge others
	Dropped        uint64 // packets with data that are missing, because they were not taken fast enough
	Sent, Received uint64 // bytes of the connection that have passed meanwhile, with those that are missing
}

// A captured says what a capture is of. It is the first record's data, as JSON.
type captured struct {
	Network, Local, Remote string
	Dialed                 bool   // by this end
	Sent, Received         uint64 // before the capture
}

// capture has t record what flows over the connection with an ID, until release is called.
func (a *app) capture(id string, t *tap.Tap) (about []byte, release func(), err error) {
	err = syscall.ESRCH
	for _, c := range a.conns() {
		if c.id != id {
			continue
		}
		if c.halfOpen {
			return nil, nil, syscall.ENOTCONN
		}
		// Of a connection inside this application the first end is captured that is open.
		what := captured{Network: c.remote.Network(), Local: c.local.String(), Remote: c.remote.String(), Dialed: c.dialed}
		if what.Sent, what.Received, err = c.end.Capture(t); err == nil {
			about, _ = json.Marshal(what) // it has only strings and numbers
			return about, func() { c.end.EndCapture(t) }, nil
		}
		if err != syscall.ESRCH {
			break
		}
	}
	return nil, nil, err
}

// A captureFile makes a file of the blocks of a capture, which may be a hostile process's.
type captureFile struct {
	w      io.Writer
	config CaptureConfig
	about  string // the connection's ID and process

	begun captured     // what the first record says
	flow  *pcapng.Flow // nil before that
	last  int64        // the time of the last record
	buf   []byte
}

// A writeError is an error of the Writer that the file is written to.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// write writes the packets of a block, in one call of the Writer. It reports whether no more are to come. An
// error that is no writeError says what is wrong with the block.
func (f *captureFile) write(block []byte) (done bool, err error) {
	for len(block) > 0 && !done && err == nil {
		var r tap.Record
		if r, block, err = tap.Cut(block); err == nil {
			done, err = f.add(r)
		}
	}
	return done, errors.Join(err, f.flush())
}

// flush writes what has been made.
func (f *captureFile) flush() error {
	if len(f.buf) == 0 {
		return nil
	}
	_, err := f.w.Write(f.buf)
	f.buf = f.buf[:0]
	if err != nil {
		return writeError{err}
	}
	return nil
}

// add makes the packets of a record. It reports whether no more are to come.
func (f *captureFile) add(r tap.Record) (done bool, err error) {
	f.last = r.Time
	switch {
	case f.flow == nil && r.Kind == tap.Start:
		return false, f.begin(r)
	case f.flow == nil || r.Kind == tap.Start:
		return false, errors.New("the first record is missing, or comes twice")
	}
	switch r.Kind {
	case tap.Sent:
		f.buf, err = f.flow.Data(f.buf, pcapng.FromLocal, r.Pos, r.Data, r.Time, r.Dropped)
	case tap.Received:
		f.buf, err = f.flow.Data(f.buf, pcapng.FromRemote, r.Pos, r.Data, r.Time, r.Dropped)
	case tap.SentFin:
		f.buf, err = f.flow.Fin(f.buf, pcapng.FromLocal, r.Pos, r.Time, r.Dropped)
	case tap.ReceivedFin:
		f.buf, err = f.flow.Fin(f.buf, pcapng.FromRemote, r.Pos, r.Time, r.Dropped)
	case tap.SentReset:
		f.buf, err = f.flow.Reset(f.buf, pcapng.FromLocal, r.Pos, r.Time, r.Dropped)
	case tap.ReceivedReset:
		f.buf, err = f.flow.Reset(f.buf, pcapng.FromRemote, r.Pos, r.Time, r.Dropped)
	case tap.Over:
		f.flow.Missed(r.Dropped)
		return true, nil
	}
	return f.flow.Full(), err
}

// begin begins the file. If nothing has flowed before, the connection begins in it too.
func (f *captureFile) begin(r tap.Record) error {
	if err := json.Unmarshal(r.Data, &f.begun); err != nil {
		return err
	}
	w := &f.begun
	local, remote, invented := w.addresses()
	text := fmt.Sprintf("network %s, local address %s, remote address %s", printable(w.Network), printable(w.Local), printable(w.Remote))
	if invented {
		text += fmt.Sprintf("; in the packets the local address is %s and the remote one %s", local, remote)
	}
	f.buf = pcapng.AppendHead(f.buf, "ctnet", pcapng.Interface{
		Name:        "ctnet",
		Description: text,
		Comment:     f.about + ". All headers of IP and TCP are made up: these bytes went through shared memory.",
		SnapLen:     f.config.SnapLen,
	})
	f.flow = pcapng.NewFlow(local, remote, pcapng.Limits(f.config), w.Sent, w.Received)
	if w.Sent == 0 && w.Received == 0 {
		from := pcapng.FromRemote
		if w.Dialed {
			from = pcapng.FromLocal
		}
		f.buf = f.flow.Open(f.buf, from, r.Time)
	}
	return nil
}

// end ends the file.
func (f *captureFile) end() error {
	if f.flow == nil {
		return nil
	}
	comment := ""
	if f.flow.Dropped > 0 {
		comment = fmt.Sprintf("%d packets are missing: they were not taken fast enough", f.flow.Dropped)
	}
	f.buf = pcapng.AppendTail(f.buf, f.last, f.flow.Packets, f.flow.Dropped, comment)
	return f.flush()
}

// counts returns what the file has.
func (f *captureFile) counts() CaptureCounts {
	if f.flow == nil {
		return CaptureCounts{}
	}
	sent, received := f.flow.Positions()
	return CaptureCounts{Packets: f.flow.Packets, Dropped: f.flow.Dropped, Sent: sent - f.begun.Sent, Received: received - f.begun.Received}
}

// Where there are no addresses of IP the packets have these, of a network for documentation (RFC 5737), and
// ports that readers do not take for those of some protocol.
var (
	inventedDialer   = netip.MustParseAddrPort("192.0.2.1:60001")
	inventedListener = netip.MustParseAddrPort("192.0.2.2:60002")
)

// addresses returns the addresses for the packets, of one family, and whether they are made up.
func (c *captured) addresses() (local, remote netip.AddrPort, invented bool) {
	local, err := netip.ParseAddrPort(c.Local)
	remote, remoteErr := netip.ParseAddrPort(c.Remote)
	switch {
	case c.Network == "tcp" && err == nil && remoteErr == nil:
	case c.Dialed:
		return inventedDialer, inventedListener, true
	default:
		return inventedListener, inventedDialer, true
	}
	l, r := local.Addr().Unmap().WithZone(""), remote.Addr().Unmap().WithZone("")
	if l.Is4() != r.Is4() {
		l, r = netip.AddrFrom16(l.As16()), netip.AddrFrom16(r.As16())
	}
	return netip.AddrPortFrom(l, local.Port()), netip.AddrPortFrom(r, remote.Port()), false
}

// printable returns text that may be anything without control characters.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
