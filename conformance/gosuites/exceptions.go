package main

// An exception is tests that may differ, and why.
type exception struct {
	pkg    string
	tests  []string
	reason string
}

var exceptions = []exception{}
