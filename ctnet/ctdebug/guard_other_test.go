//go:build !linux

package ctdebug

import "net/http"

// wantStatus is what a request over TCP gets: the kernel does not say who asks.
const wantStatus = http.StatusForbidden
