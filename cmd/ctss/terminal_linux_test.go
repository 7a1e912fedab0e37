package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// openTerminal returns both sides of a new terminal of this size.
func openTerminal(t *testing.T, columns, lines uint16) (control, terminal *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { control.Close() })
	fd := int(control.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { terminal.Close() })
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: lines}))
	return control, terminal
}

// TestWatchTerminal has the live view drawn in a narrow and low terminal, and interrupts it. It draws
// in place, fits, and leaves the terminal as it was.
func TestWatchTerminal(t *testing.T) {
	meet(t)
	const columns, lines = 60, 6
	control, terminal := openTerminal(t, columns, lines)
	cmd := command(t, "-wanp")
	cmd.Stdout = terminal
	require.NoError(t, cmd.Start())
	terminal.Close()
	var text strings.Builder
	interrupted := false
	for b := make([]byte, 4096); ; {
		n, err := control.Read(b)
		text.Write(b[:n])
		if err != nil {
			break // EIO: it has closed the terminal
		}
		if !interrupted && strings.Count(text.String(), goHome) == 2 {
			interrupted = true
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
		}
	}
	require.NoError(t, cmd.Wait())
	require.True(t, strings.HasPrefix(text.String(), enterView), text.String())
	require.True(t, strings.HasSuffix(text.String(), leaveView), text.String())
	for frame := range strings.SplitSeq(strings.TrimPrefix(text.String(), enterView+goHome), goHome) {
		require.Contains(t, frame, "1 applications, ")
		require.LessOrEqual(t, strings.Count(frame, "\n"), lines-1)
		for line := range strings.SplitSeq(frame, clearLine) {
			require.LessOrEqual(t, utf8.RuneCountInString(strings.Trim(line, "\r\n")), columns+len(clearBelow+leaveView), line)
		}
	}
}
