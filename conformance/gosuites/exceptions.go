//go:build unix

package main

import "regexp"

// An exception is tests that may differ.
type exception struct {
	pkg    string
	tests  *regexp.Regexp
	reason string
}

var exceptions = []exception{
	{"net", regexp.MustCompile("^(TestBuffers_WriteTo|TestSendfile|TestDialerKeepAlive$|TestDialContextCancelRace$)"),
		"look into package net, for the system calls that it makes"},
	{"net", regexp.MustCompile("^(TestFile|TestSplice|TestRawConn|TestTCPConnKeepAlive|TestMultiPathTCP$|TestUnixUnlink/Listen$)"),
		"need a socket: SyscallConn, File, or package net's own type"},
}

// exception returns why the difference may be, or "".
func (d difference) exception() string {
	for _, e := range exceptions {
		if e.pkg == d.suite.pkg && e.tests.MatchString(d.test) {
			return e.reason
		}
	}
	return ""
}
