package main

import "cutthrough.example/ctnet"

// tellWhy has the dialer set why when it uses the kernel's socket.
func tellWhy(d *ctnet.Dialer, why *string) {
	d.Fallback = func(f *ctnet.Fallback) { *why = string(f.Reason) }
}
