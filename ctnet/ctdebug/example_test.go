package ctdebug_test

import (
	"net/http"

	"cutthrough.example/ctnet"
	"cutthrough.example/ctnet/ctdebug"
)

func ExampleHandler() {
	app, mux := new(ctnet.App), http.NewServeMux()
	mux.Handle("/debug/ctnet/", ctdebug.Handler(app))
}

// The server tells ctdebug which user asks over a unix socket.
func ExampleConnContext() {
	mux := http.NewServeMux()
	s := &http.Server{Handler: mux, ConnContext: ctdebug.ConnContext}
	defer s.Close()
}

// The program decides who sees the page.
func ExampleGuarded() {
	app, mux := new(ctnet.App), http.NewServeMux()
	isAdmin := func(r *http.Request) bool { return r.Header.Get("Authorization") != "" }
	mux.Handle("/debug/ctnet/", ctdebug.Guarded(app, func(r *http.Request) bool { return isAdmin(r) }))
}
