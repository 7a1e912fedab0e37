package integrations

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// A postgres answers the statements of pgx_test.go as PostgreSQL does.
type postgres struct {
	mu       sync.Mutex
	blobs    map[int64]blob
	sessions map[uint32]*session
}

type blob struct {
	id   int64
	sum  string
	data []byte
}

// A session is one connection.
type session struct {
	*postgres
	*pgproto3.Backend
	pid      uint32
	canceled chan struct{}

	status     byte   // of the transaction
	inserted   []blob // in it
	statements map[string]*statement
	portals    map[string]*portal
}

// A statement is one that the server knows.
type statement struct {
	parameters []uint32
	columns    []column
	// run returns the rows and the tag, or an error's code.
	run func(s *session, args []any) (rows [][]any, tag, code string)
}

type column struct {
	name string
	oid  uint32
}

// A portal is a statement that is about to run.
type portal struct {
	*statement
	args    []any
	formats []int16
}

var statements = map[string]*statement{
	"-- ping": {},
	createTable: {run: func(s *session, _ []any) ([][]any, string, string) {
		s.blobs = make(map[int64]blob)
		return nil, "CREATE TABLE", ""
	}},
	dropTable: {run: func(s *session, _ []any) ([][]any, string, string) {
		s.blobs = nil
		return nil, "DROP TABLE", ""
	}},
	insertBlob: {
		parameters: []uint32{pgtype.Int8OID, pgtype.TextOID, pgtype.ByteaOID},
		run: func(s *session, args []any) ([][]any, string, string) {
			b := blob{args[0].(int64), args[1].(string), args[2].([]byte)}
			if _, ok := s.blobs[b.id]; ok {
				return nil, "", "23505"
			}
			if s.status == 'T' {
				s.inserted = append(s.inserted, b)
			} else {
				s.blobs[b.id] = b
			}
			return nil, "INSERT 0 1", ""
		},
	},
	selectBlobs: {
		columns: []column{{"id", pgtype.Int8OID}, {"sum", pgtype.TextOID}, {"data", pgtype.ByteaOID}},
		run: func(s *session, _ []any) (rows [][]any, tag, code string) {
			for _, b := range slices.SortedFunc(maps.Values(s.blobs), func(a, b blob) int { return cmp.Compare(a.id, b.id) }) {
				rows = append(rows, []any{b.id, b.sum, b.data})
			}
			return rows, fmt.Sprintf("SELECT %d", len(rows)), ""
		},
	},
	countBlobs: {
		columns: []column{{"count", pgtype.Int8OID}},
		run: func(s *session, _ []any) ([][]any, string, string) {
			return [][]any{{int64(len(s.blobs))}}, "SELECT 1", ""
		},
	},
	sleep: {
		columns: []column{{"pg_sleep", 2278}},
		run: func(s *session, _ []any) ([][]any, string, string) {
			canceled := make(chan struct{})
			s.canceled = canceled
			s.mu.Unlock()
			<-canceled
			s.mu.Lock()
			return nil, "", "57014"
		},
	},
	"begin": {run: func(s *session, _ []any) ([][]any, string, string) {
		s.status = 'T'
		return nil, "BEGIN", ""
	}},
	"commit": {run: func(s *session, _ []any) ([][]any, string, string) {
		for _, b := range s.inserted {
			s.blobs[b.id] = b
		}
		s.status, s.inserted = 'I', nil
		return nil, "COMMIT", ""
	}},
	"rollback": {run: func(s *session, _ []any) ([][]any, string, string) {
		s.status, s.inserted = 'I', nil
		return nil, "ROLLBACK", ""
	}},
}

func servePostgresProtocol(t testing.TB, ln net.Listener) {
	p := &postgres{sessions: make(map[uint32]*session)}
	acceptAll(t, ln, func(c net.Conn) {
		s := &session{
			postgres:   p,
			Backend:    pgproto3.NewBackend(c, c),
			status:     'I',
			statements: make(map[string]*statement),
			portals:    make(map[string]*portal),
		}
		if s.start() {
			for s.next() {
			}
			p.mu.Lock()
			delete(p.sessions, s.pid)
			p.mu.Unlock()
		}
	})
}

var secret = []byte("1234")

// start reports whether the connection is there for statements.
func (s *session) start() bool {
	m, err := s.ReceiveStartupMessage()
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m := m.(type) {
	case *pgproto3.StartupMessage:
		s.pid = uint32(len(s.sessions) + 1)
		for s.sessions[s.pid] != nil {
			s.pid++
		}
		s.sessions[s.pid] = s
		s.Send(&pgproto3.AuthenticationOk{})
		s.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
		s.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
		s.Send(&pgproto3.BackendKeyData{ProcessID: s.pid, SecretKey: secret})
		s.Send(&pgproto3.ReadyForQuery{TxStatus: s.status})
		return s.Flush() == nil
	case *pgproto3.CancelRequest:
		if other := s.sessions[m.ProcessID]; other != nil && other.canceled != nil && string(m.SecretKey) == string(secret) {
			close(other.canceled)
			other.canceled = nil
		}
	}
	return false
}

// next answers a message, and reports whether there may be another one.
func (s *session) next() bool {
	m, err := s.Receive()
	if err != nil {
		return false
	}
	code := ""
	switch m := m.(type) {
	case *pgproto3.Query:
		for text := range strings.SplitSeq(m.String, ";") {
			statement := statements[strings.TrimSpace(text)]
			if statement == nil {
				code = "42601"
			} else {
				if statement.columns != nil {
					s.describe(statement, nil)
				}
				code = s.execute(&portal{statement: statement})
			}
			if code != "" {
				s.fail(code)
				break
			}
		}
		s.Send(&pgproto3.ReadyForQuery{TxStatus: s.status})
		return s.Flush() == nil
	case *pgproto3.Parse:
		if s.statements[m.Name] = statements[m.Query]; s.statements[m.Name] == nil {
			code = "42601"
			break
		}
		s.Send(&pgproto3.ParseComplete{})
	case *pgproto3.Bind:
		p := &portal{statement: s.statements[m.PreparedStatement], formats: slices.Clone(m.ResultFormatCodes)}
		for i, b := range m.Parameters {
			p.args = append(p.args, decode(p.parameters[i], format(m.ParameterFormatCodes, i), b))
		}
		s.portals[m.DestinationPortal] = p
		s.Send(&pgproto3.BindComplete{})
	case *pgproto3.Describe:
		if m.ObjectType == 'S' {
			s.Send(&pgproto3.ParameterDescription{ParameterOIDs: s.statements[m.Name].parameters})
			s.describe(s.statements[m.Name], nil)
		} else {
			s.describe(s.portals[m.Name].statement, s.portals[m.Name].formats)
		}
	case *pgproto3.Execute:
		code = s.execute(s.portals[m.Portal])
	case *pgproto3.Close:
		s.Send(&pgproto3.CloseComplete{})
	case *pgproto3.Sync:
		s.Send(&pgproto3.ReadyForQuery{TxStatus: s.status})
		return s.Flush() == nil
	case *pgproto3.Flush:
		return s.Flush() == nil
	default: // such as Terminate
		return false
	}
	if code == "" {
		return true
	}
	s.fail(code)
	for {
		switch m, err := s.Receive(); m.(type) {
		case nil:
			return false
		case *pgproto3.Sync:
			s.Send(&pgproto3.ReadyForQuery{TxStatus: s.status})
			return s.Flush() == nil
		default:
			if err != nil {
				return false
			}
		}
	}
}

func (s *session) fail(code string) {
	if s.status == 'T' {
		s.status = 'E'
	}
	s.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: code, Message: "failed"})
}

func (s *session) describe(st *statement, formats []int16) {
	if st.columns == nil {
		s.Send(&pgproto3.NoData{})
		return
	}
	var d pgproto3.RowDescription
	for i, c := range st.columns {
		d.Fields = append(d.Fields, pgproto3.FieldDescription{
			Name: []byte(c.name), DataTypeOID: c.oid, DataTypeSize: -1, TypeModifier: -1, Format: format(formats, i),
		})
	}
	s.Send(&d)
}

func (s *session) execute(p *portal) (code string) {
	if p.run == nil {
		s.Send(&pgproto3.EmptyQueryResponse{})
		return ""
	}
	s.mu.Lock()
	rows, tag, code := p.run(s, p.args)
	s.mu.Unlock()
	if code != "" {
		return code
	}
	for _, row := range rows {
		var r pgproto3.DataRow
		for i, v := range row {
			r.Values = append(r.Values, encode(v, format(p.formats, i)))
		}
		s.Send(&r)
	}
	s.Send(&pgproto3.CommandComplete{CommandTag: []byte(tag)})
	return ""
}

// format returns the format of value i: none given is text, and one stands for all.
func format(formats []int16, i int) int16 {
	switch len(formats) {
	case 0:
		return pgproto3.TextFormat
	case 1:
		return formats[0]
	}
	return formats[i]
}

func encode(v any, format int16) []byte {
	switch v := v.(type) {
	case int64:
		if format == pgproto3.BinaryFormat {
			return binary.BigEndian.AppendUint64(nil, uint64(v))
		}
		return strconv.AppendInt(nil, v, 10)
	case []byte:
		if format == pgproto3.TextFormat {
			return hex.AppendEncode([]byte(`\x`), v)
		}
		return v
	}
	return []byte(v.(string))
}

func decode(oid uint32, format int16, b []byte) any {
	switch {
	case oid == pgtype.Int8OID && format == pgproto3.BinaryFormat:
		return int64(binary.BigEndian.Uint64(b))
	case oid == pgtype.Int8OID:
		n, err := strconv.ParseInt(string(b), 10, 64)
		check(err)
		return n
	case oid == pgtype.ByteaOID && format == pgproto3.BinaryFormat:
		return slices.Clone(b)
	case oid == pgtype.ByteaOID:
		b, err := hex.DecodeString(strings.TrimPrefix(string(b), `\x`))
		check(err)
		return b
	}
	return string(b)
}
