package ctnet

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAbsent follows listeners that come and go, with what is remembered between.
func TestAbsent(t *testing.T) {
	requireNoLeaks(t)
	dir := useRunDir(t)
	a, own := newTestApp(t, AppConfig{}), newTestApp(t, AppConfig{})
	r := &own.a.remote
	key := ctTarget("x").keys[0]
	old := func() { // as if nothing had happened for long
		long := time.Now().Add(-time.Hour)
		require.NoError(t, os.Chtimes(dir, long, long))
	}
	known := func(want bool) dirStamp {
		t.Helper()
		absent, stamp := r.absent("x")
		require.Equal(t, want, absent)
		return stamp
	}
	for range 3 {
		old()
		require.False(t, present(key))
		r.remember("x", known(false))
		known(true)

		// A listener of another application comes.
		ln, err := listenAs(a, "x")
		require.NoError(t, err)
		require.True(t, present(key))
		stamp := known(false)
		r.distrust("x", stamp)
		known(true)
		r.absences.until["x"] = time.Now().Add(-time.Second)
		known(false)
		r.distrust("x", stamp)
		known(true)
		// Another one comes in its place.
		require.NoError(t, ln.Close())
		ln, err = listenAs(a, "x")
		require.NoError(t, err)
		known(false)
		r.distrust("x", stamp) // by one who knows the other one only
		known(false)
		require.NoError(t, ln.Close())
		require.False(t, present(key))

		// One of this application.
		old()
		r.remember("x", known(false))
		known(true)
		lc := ListenConfig{App: own}
		l, err := lc.newListener(networkCT, &Addr{name: "y"})
		require.NoError(t, err)
		l.key = "y"
		require.NoError(t, own.a.addListener(l))
		known(false)
		require.NoError(t, l.Close())
	}
	// What is found just after a change is not relied on.
	now := time.Now()
	require.NoError(t, os.Chtimes(dir, now, now))
	r.remember("x", known(false))
	known(false)

	t.Setenv("CTNET_DIR", dir+"/none")
	require.False(t, present(key))
	known(false)
}

// TestUnixKey identifies files, whatever their paths.
func TestUnixKey(t *testing.T) {
	dir := useRunDir(t)
	requireNoLeaks(t)
	_, err := unixKey(dir + "/none")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = unixKey(dir)
	require.Error(t, err)
	var lc ListenConfig
	ln, err := lc.Kernel.Listen(t.Context(), "unix", dir+"/a")
	require.NoError(t, err)
	defer ln.Close()
	require.NoError(t, os.Symlink(dir+"/a", dir+"/b"))
	require.NoError(t, os.Link(dir+"/a", dir+"/c"))
	a, err := unixKey(dir + "/a")
	require.NoError(t, err)
	for _, same := range []string{"/b", "/c"} {
		b, err := unixKey(dir + same)
		require.NoError(t, err)
		require.Equal(t, a, b)
	}
	x, err := unixKey("@x")
	require.NoError(t, err)
	y, err := unixKey("@y")
	require.NoError(t, err)
	require.NotEqual(t, x, y)
}
