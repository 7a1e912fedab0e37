// Package integrations shows what changes in programs that use other libraries
// when they come to use package ctnet. It consists of tests, a file for each
// library: the comment at its top has the lines that change, and the tests do
// with the library what programs do.
//
// Every test runs on each of the networks in networks_test.go, and once more on
// package net, which is how one knows that what the test expects is what the
// library does.
package integrations
