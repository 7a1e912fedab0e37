package integrations

import (
	"bufio"
	"context"
	"crypto/tls"
	"database/sql"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/rpc"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cutthrough.example/ctgrpc"
	"cutthrough.example/ctnet"
	"github.com/armon/go-socks5"
	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/redcon"
	"golang.org/x/net/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// The code blocks of docs/recipes.md are parts of this file, to the letter: TestDocCode in
// conformance makes sure of that, and the examples and tests here that they do what they should.

// hello is what the examples serve.
var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") })

// printPage prints the body of an answer.
func printPage(resp *http.Response, err error) {
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	io.Copy(os.Stdout, resp.Body)
}

// cut reports whether there is a connection to an address that goes through shared memory.
func cut(addr string) bool {
	conns := new(ctnet.App).Snapshot().Connections
	return slices.ContainsFunc(conns, func(c ctnet.ConnInfo) bool { return c.Remote == addr })
}

func Example_netHTTP() {
	addr := "localhost:0"
	server := &http.Server{Handler: hello}

	ln, err := ctnet.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	go server.Serve(ln)

	defer server.Close()
	addr = ln.Addr().String()

	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = ctnet.DialContext
	client := &http.Client{Transport: transport}

	defer client.CloseIdleConnections()
	printPage(client.Get("http://" + addr))
	fmt.Println(cut(addr))
	// Output:
	// hello
	// true
}

func Example_netHTTPName() {
	ln, err := ctnet.Listen("ct", "svc/web")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: hello}
	go server.Serve(ln)
	defer server.Close()

	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "web:80" { // the host and port of the URL
			return ctnet.DialContext(ctx, "ct", "svc/web")
		}
		return ctnet.DialContext(ctx, network, addr)
	}
	client := &http.Client{Transport: transport}
	resp, err := client.Get("http://web/")

	defer client.CloseIdleConnections()
	printPage(resp, err)
	// Output: hello
}

func Example_reverseProxy() {
	back, err := ctnet.Listen("tcp", "localhost:0")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: hello}
	go server.Serve(back)
	defer server.Close()
	backend := &url.URL{Scheme: "http", Host: back.Addr().String()}

	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = ctnet.DialContext
	transport.MaxIdleConnsPerHost = 64
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(backend) },
	}

	front, err := ctnet.Listen("tcp", "localhost:0")
	if err != nil {
		log.Fatal(err)
	}
	proxyServer := &http.Server{Handler: proxy}
	go proxyServer.Serve(front)
	defer proxyServer.Close()
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // a browser, say
	printPage(client.Get("http://" + front.Addr().String()))
	fmt.Println(cut(back.Addr().String()))
	// Output:
	// hello
	// true
}

func Example_grpc() {
	addr := "localhost:0"
	server := grpc.NewServer()
	testpb.RegisterTestServiceServer(server, grpcService{})

	ln, err := ctnet.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	go server.Serve(ln)

	defer server.Stop()
	addr = ln.Addr().String()

	conn, err := grpc.NewClient(addr, ctgrpc.WithDialer(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}

	defer conn.Close()
	r, err := testpb.NewTestServiceClient(conn).UnaryCall(context.Background(),
		&testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte("hello")}})
	fmt.Printf("%s %v\n", r.GetPayload().GetBody(), err)
	fmt.Println(cut(addr))
	// Output:
	// hello <nil>
	// true
}

// openDatabase is in docs/recipes.md.
func openDatabase(dsn string) (*sql.DB, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.DialFunc = ctnet.DialContext
	return stdlib.OpenDB(*config), nil
}

// openPool is in docs/recipes.md.
func openPool(ctx context.Context, dsn string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.DialFunc = ctnet.DialContext
	return pgxpool.NewWithConfig(ctx, config)
}

func TestRecipesSQL(t *testing.T) {
	p := &place{network: network{kind: "tcp"}}
	ln := p.listen(t)
	accepted := make(chan net.Conn, 2)
	servePostgresProtocol(t, &tapped{ln.Listener, accepted})
	host, port, err := net.SplitHostPort(ln.host)
	require.NoError(t, err)
	dsn := fmt.Sprintf("host=%s port=%s dbname=postgres user=gopher sslmode=disable", host, port)

	db, err := openDatabase(dsn)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec(createTable)
	require.NoError(t, err)
	require.IsType(t, &ctnet.Conn{}, <-accepted)

	pool, err := openPool(t.Context(), dsn)
	require.NoError(t, err)
	defer pool.Close()
	var n int64
	require.NoError(t, pool.QueryRow(t.Context(), countBlobs).Scan(&n))
	require.Zero(t, n)
	require.IsType(t, &ctnet.Conn{}, <-accepted)
}

// A tapped listener shows what it accepts.
type tapped struct {
	net.Listener
	accepted chan<- net.Conn
}

func (l *tapped) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- c
	}
	return c, err
}

func Example_redis() {
	addr := "localhost:0"
	handler := func(conn redcon.Conn, cmd redcon.Command) {
		if string(cmd.Args[0]) != "ping" {
			conn.WriteError("ERR unknown command")
			return
		}
		conn.WriteString("hello")
	}
	accept, closed := func(redcon.Conn) bool { return true }, func(redcon.Conn, error) {}

	ln, err := ctnet.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	go redcon.Serve(ln, handler, accept, closed)

	defer ln.Close()
	addr = ln.Addr().String()

	client := redis.NewClient(&redis.Options{Addr: addr, Dialer: ctnet.DialContext})

	defer client.Close()
	fmt.Println(client.Do(context.Background(), "ping").Text())
	fmt.Println(cut(addr))
	// Output:
	// hello <nil>
	// true
}

// Greeter is a service of net/rpc.
type Greeter struct{}

func (Greeter) Greet(name string, greeting *string) error {
	*greeting = "hello, " + name
	return nil
}

func Example_rpc() {
	addr := "localhost:0"
	server := rpc.NewServer()
	server.Register(Greeter{})

	ln, err := ctnet.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	go server.Accept(ln)

	addr = ln.Addr().String()

	conn, err := ctnet.Dial("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	client := rpc.NewClient(conn)

	defer client.Close()
	var greeting string
	err = client.Call("Greeter.Greet", "gopher", &greeting)
	fmt.Println(greeting, err)
	fmt.Println(cut(addr))
	// Output:
	// hello, gopher <nil>
	// true
}

func TestRecipeTLS(t *testing.T) {
	addr := "localhost:0"
	serverConfig, clientConfig := certificate(t)

	ln, err := ctnet.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	ln = tls.NewListener(ln, serverConfig)

	defer ln.Close()
	addr = ln.Addr().String()
	go func() {
		c, err := ln.Accept()
		if err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()

	conn, err := ctnet.Dial("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	secure := tls.Client(conn, clientConfig) // it has a ServerName

	defer secure.Close()
	require.IsType(t, &ctnet.Conn{}, conn)
	fmt.Fprintln(secure, "hello")
	line, err := bufio.NewReader(secure).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)
}

func TestRecipeHTTPS(t *testing.T) {
	serverConfig, clientConfig := certificate(t)
	ln, err := ctnet.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	server := &http.Server{Handler: hello, TLSConfig: serverConfig}
	go server.ServeTLS(ln, "", "")
	defer server.Close()

	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = ctnet.DialContext
	transport.TLSClientConfig = clientConfig
	transport.ForceAttemptHTTP2 = true

	client := newClient(t, transport)
	resp, err := client.Get("https://" + ln.Addr().String())
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "HTTP/2.0", resp.Proto)
	require.True(t, cut(ln.Addr().String()))
}

func Example_websocket() {
	ln, err := ctnet.Listen("tcp", "localhost:0")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: websocketHandler(websocket.CompressionDisabled)}
	go server.Serve(ln)
	defer server.Close()
	ctx, addr := context.Background(), ln.Addr().String()

	client := &http.Client{Transport: &http.Transport{DialContext: ctnet.DialContext}}
	conn, _, err := websocket.Dial(ctx, "ws://"+addr, &websocket.DialOptions{HTTPClient: client})

	if err != nil {
		log.Fatal(err)
	}
	defer conn.CloseNow()
	conn.Write(ctx, websocket.MessageText, []byte("hello"))
	_, message, err := conn.Read(ctx)
	fmt.Printf("%s %v\n", message, err)
	fmt.Println(cut(addr))
	// Output:
	// hello <nil>
	// true
}

func Example_socks() {
	addr, socksAddr := "localhost:0", "localhost:0"
	web, err := ctnet.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	webServer := &http.Server{Handler: hello}
	go webServer.Serve(web)
	defer webServer.Close()
	addr = web.Addr().String()

	server, err := socks5.New(&socks5.Config{Dial: ctnet.DialContext})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := ctnet.Listen("tcp", socksAddr)
	if err != nil {
		log.Fatal(err)
	}
	go server.Serve(ln)

	defer ln.Close()
	socksAddr = ln.Addr().String()

	dialer, err := proxy.SOCKS5("tcp", socksAddr, nil, &ctnet.Dialer{})
	if err != nil {
		log.Fatal(err)
	}
	conn, err := dialer.Dial("tcp", addr)

	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	_, page, _ := strings.Cut(string(answer), "\r\n\r\n")
	fmt.Print(page)
	fmt.Println(cut(socksAddr))
	// Output:
	// hello
	// true
}

func Example_socksHTTP() {
	web, err := ctnet.Listen("tcp", "localhost:0")
	if err != nil {
		log.Fatal(err)
	}
	webServer := &http.Server{Handler: hello}
	go webServer.Serve(web)
	defer webServer.Close()
	server, err := socks5.New(&socks5.Config{Dial: ctnet.DialContext})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := ctnet.Listen("tcp", "localhost:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go server.Serve(ln)
	socksAddr := ln.Addr().String()

	transport := &http.Transport{
		DialContext: ctnet.DialContext, // to the proxy
		Proxy:       http.ProxyURL(&url.URL{Scheme: "socks5", Host: socksAddr}),
	}

	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	printPage(client.Get("http://" + web.Addr().String()))
	fmt.Println(cut(socksAddr))
	fmt.Println(cut(web.Addr().String()))
	// Output:
	// hello
	// true
	// true
}

// The test in docs/recipes.md of a server without a port.
func TestHello(t *testing.T) {
	t.Parallel()
	ln, err := ctnet.Listen("ct", "") // a name that nobody has
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	server := &http.Server{Handler: hello}
	go server.Serve(ln)
	defer server.Close()

	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctnet.DialContext(ctx, "ct", ln.Addr().String())
		},
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://any/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "hello\n" {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestRecipeHTTPTest(t *testing.T) {
	ln, err := ctnet.Listen("ct", "")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(hello)
	server.Listener.Close()
	server.Listener = ln
	server.Start()
	defer server.Close()

	client := server.Client()
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return ctnet.DialContext(ctx, "ct", ln.Addr().String())
	}

	resp, err := client.Get("http://any/")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(body))
}

func Example_pair() {
	pair := func() (client, server net.Conn, err error) {
		ln, err := ctnet.Listen("ct", "")
		if err != nil {
			return nil, nil, err
		}
		defer ln.Close()
		client, err = ctnet.Dial("ct", ln.Addr().String())
		if err != nil {
			return nil, nil, err
		}
		server, err = ln.Accept()
		return client, server, err
	}

	client, server, err := pair()
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	fmt.Fprint(client, "hello") // net.Pipe would wait for a Read here
	client.Close()
	b, err := io.ReadAll(server)
	fmt.Printf("%s %v\n", b, err)
	// Output: hello <nil>
}

func Example_unixSocket() {
	dir, err := os.MkdirTemp("", "ctnet-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "web.sock")
	server := &http.Server{Handler: hello}

	ln, err := ctnet.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	go server.Serve(ln)

	defer server.Close()

	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctnet.DialContext(ctx, "unix", path)
		},
	}}

	defer client.CloseIdleConnections()
	printPage(client.Get("http://web/"))
	fmt.Println(cut(path))
	// Output:
	// hello
	// true
}
