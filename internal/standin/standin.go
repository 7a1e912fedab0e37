// Package standin has a socket that stands in for the descriptor that a connection through shared
// memory does not have. Programs read from it, poll it, and look whether it is at its end.
//
// A [Socket] is one of a pair of unix sockets. The stream puts bytes into the other one for a
// moment, while the program looks, and takes back what the program has left. So it holds no bytes
// between two looks. Nothing can be written to it: a write fails with EPIPE.
package standin
