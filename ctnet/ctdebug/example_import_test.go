package ctdebug_test

import "net/http"

import _ "cutthrough.example/ctnet/ctdebug"

// To import the package is enough for a program that serves http.DefaultServeMux.
func Example() {
	go http.ListenAndServe("localhost:6060", nil)
}
