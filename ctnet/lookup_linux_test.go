package ctnet

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestPresent follows listeners that come and go, with what is remembered between.
func TestPresent(t *testing.T) {
	requireNoLeaks(t)
	dir := useRunDir(t)
	a := newTestApp(t, AppConfig{})
	r := &newTestApp(t, AppConfig{}).a.remote
	key := ctTarget("x").keys[0]
	require.False(t, r.present(key))
	old := func() { // as if nothing had happened for long
		long := time.Now().Add(-time.Hour)
		require.NoError(t, os.Chtimes(dir, long, long))
	}
	for range 3 {
		old()
		require.False(t, r.present(key))
		require.Contains(t, r.absent.until, key)
		require.False(t, r.present(key))

		ln, err := listenAs(a, "x")
		require.NoError(t, err)
		require.True(t, r.present(key))
		r.distrust(key)
		require.False(t, r.present(key))
		r.absent.until[key] = time.Now().Add(-time.Second)
		require.True(t, r.present(key))
		r.distrust(key)
		require.NoError(t, ln.Close())
		ln, err = listenAs(a, "x")
		require.NoError(t, err)
		old() // a change, whatever the clock's steps
		require.True(t, r.present(key), "another one is not trusted")
		require.NoError(t, ln.Close())
		require.False(t, r.present(key))
	}
	// What is found just after a change is not relied on.
	now := time.Now()
	require.NoError(t, os.Chtimes(dir, now, now))
	require.False(t, r.present(key))
	require.NotContains(t, r.absent.until, key)

	t.Setenv("CTNET_DIR", dir+"/none")
	require.False(t, r.present(key))
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
