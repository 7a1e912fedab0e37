package ctnet

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"cutthrough.example/internal/leakcheck"
)

// TestUnixKey identifies files, whatever their paths.
func TestUnixKey(t *testing.T) {
	dir := useRunDir(t)
	leakcheck.Check(t)
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
