//go:build unix

package main

// A suite is the tests of a module, or of some of its packages.
type suite struct {
	module, version string
	// pkgs are patterns as of go list, below the module's directory; all packages if empty.
	pkgs []string
	// skip is -test.skip: tests that need more than this machine.
	skip string
	// also are modules that listen and dial for this one, and use the shim too: those whose
	// names are in the list, in the version that the suite uses.
	also []string
}

// patterns returns the patterns of the packages.
func (s suite) patterns() []string {
	if len(s.pkgs) == 0 {
		return []string{"./..."}
	}
	return s.pkgs
}

// suites are the suites with the versions on which they are known to run.
var suites = []suite{
	{module: "github.com/libp2p/go-libp2p", version: "v0.51.0",
		pkgs: []string{"./p2p/transport/tcp/...", "./p2p/transport/tcpreuse/...", "./p2p/net/reuseport"},
		also: []string{"github.com/multiformats/go-multiaddr", "github.com/libp2p/go-reuseport"}},
	{module: "github.com/hashicorp/raft", version: "v1.8.0", pkgs: []string{"."}},
	{module: "github.com/miekg/dns", version: "v1.1.73"},
	{module: "github.com/valyala/fasthttp", version: "v1.78.0", pkgs: []string{".", "./fasthttputil", "./reuseport", "./tcplisten"}},
	{module: "github.com/cloudflare/tableflip", version: "v1.2.3"},
	{module: "github.com/emersion/go-smtp", version: "v0.25.1"},
	{module: "github.com/apache/thrift", version: "v0.25.0", pkgs: []string{"./lib/go/thrift"}},
	{module: "github.com/nats-io/nats-server/v2", version: "v2.15.3", pkgs: []string{"./test"},
		also: []string{"github.com/nats-io/nats.go"}},
	{module: "github.com/hashicorp/go-plugin", version: "v1.8.0"},
	{module: "github.com/cloudwego/hertz", version: "v0.10.4"},
	{module: "github.com/soheilhy/cmux", version: "v0.1.5"},
	{module: "github.com/armon/go-socks5", version: "v0.0.0-20160902184237-e75332964ef5"},
	{module: "github.com/xtaci/smux", version: "v1.5.58"},
	{module: "github.com/containerd/ttrpc", version: "v1.2.10", pkgs: []string{"."}},
	{module: "github.com/gobwas/ws", version: "v1.5.0"},
	{module: "github.com/emersion/go-imap", version: "v1.2.1"},
	{module: "github.com/gliderlabs/ssh", version: "v0.3.8"},
	{module: "github.com/hashicorp/memberlist", version: "v0.7.0"},
	{module: "github.com/mochi-mqtt/server/v2", version: "v2.7.9"},
	{module: "github.com/eclipse/paho.mqtt.golang", version: "v1.5.1", pkgs: []string{"."},
		skip: `^Test_(Start|Disconnect.*|Publish.*|Subscribe|(Binary_)?Will|CleanSession|p\ds\d|CallbackOverrun|` +
			`MultipleURLs|ping1_idle5|autoreconnect|cleanUpMids.*|ConnectRetry.*|ResumeSubs.*|OverLengthTopic|` +
			`Ack_After_Disconnect)$`}, // they need a broker on port 1883
	{module: "github.com/bradfitz/gomemcache", version: "v0.0.0-20260422231931-4d751bb6e37c"},
	{module: "github.com/rakyll/hey", version: "v0.1.5"},
	{module: "connectrpc.com/connect", version: "v1.21.1"},
	{module: "github.com/tsenart/vegeta/v12", version: "v12.13.0"},
}
