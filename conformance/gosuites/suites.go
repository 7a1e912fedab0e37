//go:build unix

package main

// A suite is the tests of a package of Go's.
type suite struct {
	pkg  string
	run  string // -test.run: the tests that use networks; all if empty
	skip string // -test.skip: tests that need more than this machine
}

var suites = []suite{
	{pkg: "net", skip: "Lookup|Resolver|Interface|Google|DNS"},
	{pkg: "net/http", skip: "TestOmitHTTP2$"}, // it runs the suite once more
	{pkg: "net/http/cgi"},
	{pkg: "net/http/fcgi"},
	{pkg: "net/http/httptest"},
	{pkg: "net/http/httptrace"},
	{pkg: "net/http/httputil"},
	{pkg: "net/rpc"},
	{pkg: "net/rpc/jsonrpc"},
	{pkg: "net/smtp"},
	{pkg: "net/textproto"},
	{pkg: "crypto/tls", skip: "Bogo|TestVerifyHostname|TestRealResumption"},
	{pkg: "expvar"},
	{pkg: "log/syslog"},
	{pkg: "os", run: "SendFile|Splice|Copy|ReadFrom|WriteTo"},
	{pkg: "os/exec", run: "ExtraFiles"},
}

// helpers are packages without a suite that listen for packages with one.
var helpers = []string{"vendor/golang.org/x/net/nettest"}
