//go:build race

package differential

// defaultScripts is how many scripts take some seconds.
const defaultScripts = 1000
