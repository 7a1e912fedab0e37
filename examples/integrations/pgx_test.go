package integrations

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
)

// github.com/jackc/pgx/v5, alone or with database/sql. In place of
//
//	config, err := pgx.ParseConfig("host=localhost user=gopher")
//	db := stdlib.OpenDB(*config)
//
// write
//
//	config, err := pgx.ParseConfig("host=localhost user=gopher")
//	config.DialFunc = ctnet.DialContext
//	db := stdlib.OpenDB(*config)
//
// or, if the server listens on a name,
//
//	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
//		return ctnet.DialContext(ctx, "ct", "svc/postgres")
//	}
//
// With pgxpool.ParseConfig it is config.ConnConfig.DialFunc.
//
// A PostgreSQL server listens on the kernel's sockets only. A relay before it, such
// as cmd/ctrelay, gives it a name, and the tests have one before a PostgreSQL
// server if there is one in PATH. In any case they have a server that speaks its
// protocol and knows the few statements that they use.

// postgresServers start servers that the tests run against. What they return
// serves PostgreSQL's protocol on a listener until the test ends.
var postgresServers = []struct {
	name  string
	start func(t testing.TB) (serve func(t testing.TB, ln net.Listener))
}{
	{"protocol", func(testing.TB) func(testing.TB, net.Listener) { return servePostgresProtocol }},
}

func eachPostgres(t *testing.T, test func(t *testing.T, config *pgx.ConnConfig)) {
	for _, s := range postgresServers {
		t.Run(s.name, func(t *testing.T) {
			serve := s.start(t)
			eachNetwork(t, func(t *testing.T, n *place) {
				ln := n.listen(t)
				serve(t, ln)
				config, err := pgx.ParseConfig("host=localhost dbname=postgres user=gopher sslmode=disable")
				require.NoError(t, err)
				if addr, ok := ln.Addr().(*net.TCPAddr); ok {
					config.Port = uint16(addr.Port)
				}
				config.DialFunc = ln.dial
				test(t, config)
			})
		})
	}
}

const (
	createTable = "create table blobs (id bigint primary key, sum text not null, data bytea not null)"
	dropTable   = "drop table blobs"
	insertBlob  = "insert into blobs values ($1, $2, $3)"
	selectBlobs = "select id, sum, data from blobs order by id"
	countBlobs  = "select count(*) from blobs"
	sleep       = "select pg_sleep(3600)"
)

func openDB(t testing.TB, config *pgx.ConnConfig) *sql.DB {
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() { db.Close() })
	return db
}

func requireCode(t testing.TB, code string, err error) {
	t.Helper()
	var e *pgconn.PgError
	require.ErrorAs(t, err, &e)
	require.Equal(t, code, e.Code)
}

func TestDatabaseSQL(t *testing.T) {
	eachPostgres(t, func(t *testing.T, config *pgx.ConnConfig) {
		ctx := t.Context()
		db := openDB(t, config)
		require.NoError(t, db.PingContext(ctx))
		_, err := db.ExecContext(ctx, createTable)
		require.NoError(t, err)
		defer db.Exec(dropTable)

		const writers, each = 4, 10
		insert, err := db.PrepareContext(ctx, insertBlob)
		require.NoError(t, err)
		defer insert.Close()
		inParallel(t, writers, func(w int) error {
			for i := range each {
				id := w*each + i
				seed, n := fmt.Sprint(id), id*2000
				r, err := insert.ExecContext(ctx, id, sum(random(seed, n)), randomBytes(seed, n))
				if err != nil {
					return err
				}
				if n, err := r.RowsAffected(); n != 1 || err != nil {
					return fmt.Errorf("insert: %d rows, %v", n, err)
				}
			}
			return nil
		})

		rows, err := db.QueryContext(ctx, selectBlobs)
		require.NoError(t, err)
		defer rows.Close()
		id := 0
		for ; rows.Next(); id++ {
			var gotID int
			var gotSum string
			var data sql.RawBytes
			require.NoError(t, rows.Scan(&gotID, &gotSum, &data))
			want := randomBytes(fmt.Sprint(id), id*2000)
			require.Equal(t, id, gotID)
			require.True(t, string(want) == string(data))
			require.Equal(t, sum(random(fmt.Sprint(id), id*2000)), gotSum)
		}
		require.NoError(t, rows.Err())
		require.Equal(t, writers*each, id)
		require.NoError(t, rows.Close())

		count := func(args ...any) (n int) {
			require.NoError(t, db.QueryRowContext(ctx, countBlobs, args...).Scan(&n))
			return n
		}
		for _, commit := range []bool{false, true} {
			before := count()
			tx, err := db.BeginTx(ctx, nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(ctx, insertBlob, 1000, "", []byte{})
			require.NoError(t, err)
			require.Equal(t, before, count())
			if commit {
				require.NoError(t, tx.Commit())
				require.Equal(t, before+1, count())
			} else {
				require.NoError(t, tx.Rollback())
				require.Equal(t, before, count())
			}
		}

		_, err = db.ExecContext(ctx, insertBlob, 1000, "", []byte{})
		requireCode(t, "23505", err) // unique_violation
		_, err = db.ExecContext(ctx, "selec 1")
		requireCode(t, "42601", err) // syntax_error
		require.Equal(t, writers*each+1, count(pgx.QueryExecModeSimpleProtocol))
	})
}

// TestPgxCancel has a query end because another connection asks for that.
func TestPgxCancel(t *testing.T) {
	eachPostgres(t, func(t *testing.T, config *pgx.ConnConfig) {
		conn, err := pgx.ConnectConfig(t.Context(), config)
		require.NoError(t, err)
		defer conn.Close(context.Background())
		ended := make(chan error, 1)
		go func() {
			_, err := conn.Exec(t.Context(), sleep)
			ended <- err
		}()
		for err = nil; err == nil; {
			// It may not have begun yet.
			require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
			select {
			case err = <-ended:
			default:
			}
		}
		requireCode(t, "57014", err) // query_canceled
		require.NoError(t, conn.Ping(t.Context()))
	})
}
