package pair

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestComplaints has an application complain without end. It logs a bounded number of lines, and
// says later how many it has left out.
func TestComplaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c complaints
		for range 3 {
			for n := range maxLines {
				ok, silent := c.due()
				require.True(t, ok)
				if n > 0 {
					require.Zero(t, silent)
				}
			}
			for range 1000 {
				ok, _ := c.due()
				require.False(t, ok)
			}
			time.Sleep(lineTime + time.Second)
		}
		ok, silent := c.due()
		require.True(t, ok)
		require.Equal(t, 1000, silent)
	})
}
