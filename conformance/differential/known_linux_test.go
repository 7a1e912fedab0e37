package differential

// knownScripts have failed once, each with a title.
var knownScripts = []string{`
# CloseWrite during a Write
tcp 524288
a0 copyout
d0 write big &
d0 closewrite
`, `
# Close during a Write
unix 524288
a0 copyout
d0 write big &
d0 close
`, `
# the first Write after the peer's close
tcp 524288
a0 close
d0 write 0
d0 write 1
d0 write 1
d0 readall
`, `
# a write of nothing loses nothing
tcp 524288
a0 close
d0 write 0
d0 readall
`, `
# a copy of nothing to an end that can't write
unix 4096
d0 closewrite
d0 copyin 0
d0 wdeadline past
a0 wdeadline past
a0 copyin 0
a0 close
a0 copyin 0
`, `
# a source that waits is waited for
tcp 4096
d0 close
d0 copyin open
d0 feed err
`, `
# the peer closes while the source waits
unix 4096
d0 copyin open
a0 close
d0 feed 1
`, `
# the peer resets while the source waits
tcp 4096
d0 copyin 10
d0 copyin open
a0 close
d0 feed 1
`, `
# the deadline passes while the source waits
unix 4096
d0 copyin open
d0 wdeadline past
d0 feed 1
`, `
# what stops a copy is what is true after its source was asked
tcp 4096
d0 copyin open
d0 closewrite
d0 wdeadline past
d0 feed 1
d0 wdeadline none
d0 copyin open
d0 close
d0 feed 1
`, `
# a source at its end while the buffer is full
tcp 524288
d0 write big
d0 wdeadline past
d0 wdeadline none
d0 copyin 0
`, `
# closed and past its deadline
tcp 4096
a0 write 1
d0 copyout stall
d0 rdeadline past
d0 close
d0 unstall
`, `
# a writer whose peer closes while its sink is stalled
unix 4096
d0 copyin 10
a0 copyout stall
a0 close
d0 write 1
a0 unstall
`, `
# SetDeadline of a closed end
tcp 524288
d0 close
d0 deadline none
d0 rdeadline past
d0 wdeadline future
`, `
# Dials that are too late
unix 524288
d0 dial canceled
d0 dial expired
d0 dial timeout
d0 dial kerneltimeout
d0 dial kerneldeadline
d0 dial future
l accept
`, `
# a Write that is lost at the moment of the peer's close
unix 524288
d0 readfull 20000
d0 close &
a0 write 1
a0 write 0
a0 readall
`}
