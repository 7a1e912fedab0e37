package hostnet

import (
	"fmt"
	"os"
	"sync"
)

// PortRange is a range of ports that the kernel leaves to programs.
type PortRange struct{ First, Last uint32 }

// Ports are ranges of ports.
type Ports []PortRange

// NonEphemeralPorts returns the ports from 1024 that are not the kernel's to choose.
var NonEphemeralPorts = sync.OnceValue(func() (free Ports) {
	lo, hi := uint32(32768), uint32(60999) // as Linux has it by default
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(b), &lo, &hi)
	}
	if lo > 1024 {
		free = append(free, PortRange{1024, lo - 1})
	}
	if hi < 65535 {
		free = append(free, PortRange{hi + 1, 65535})
	}
	return free
})

// Count returns how many ports there are.
func (rs Ports) Count() (n int) {
	for _, r := range rs {
		n += int(r.Last - r.First + 1)
	}
	return n
}

// At returns the i-th port.
func (rs Ports) At(i int) uint32 {
	for _, r := range rs {
		if n := int(r.Last - r.First + 1); i >= n {
			i -= n
			continue
		}
		return r.First + uint32(i)
	}
	panic("hostnet: no such port") // i is less than count
}
