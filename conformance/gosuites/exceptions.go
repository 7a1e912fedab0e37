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
	{"net", regexp.MustCompile("^(TestFile|TestSplice|TestMultiPathTCP$|TestUnixUnlink/(Listen|FileListener|SecondClose)$)"),
		"need package net's own type, or a file of a connection"},
	{"net", regexp.MustCompile("^(TestRawConnReadWrite($|/TCP$)|TestTCPConnKeepAlive)"),
		"write to a connection's descriptor, or ask it for options of TCP"},
	{"net", regexp.MustCompile("^TestDialTimeout/(-|0s/-)"),
		"look for package net's own type of error; ctnet's is an os.ErrDeadlineExceeded besides"},
	{"net", regexp.MustCompile("^TestDialTimeout/(0s/1ms|1ms/)"),
		"wait for a Dial that is too late for a timeout of microseconds; ctnet's is done by then"},
	{"os", regexp.MustCompile("^(TestSendFile|TestSpliceFile)"),
		"look into package net, for the system calls that it makes"},
	{"net/http", regexp.MustCompile(`^\(the process\)$`),
		"looks for goroutines at its end; those of a pair without connections stay for two seconds"},
}

// exceptionOf returns why a test may differ, or "".
func exceptionOf(pkg, test string) string {
	for _, e := range exceptions {
		if e.pkg == pkg && e.tests.MatchString(test) {
			return e.reason
		}
	}
	return ""
}
