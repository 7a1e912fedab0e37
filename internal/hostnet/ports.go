package hostnet

import (
	"fmt"
	"os"
	"sync"
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint32 }

// Ports are ranges of ports.
type Ports []PortRange

// NonEphemeralPorts returns the ports from 1024 that are outside the kernel's range of ephemeral
// ports: the kernel never chooses them for a connection.
var NonEphemeralPorts = sync.OnceValue(func() (ports Ports) {
	lo, hi := uint32(32768), uint32(60999) // Linux's default
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(b), &lo, &hi)
	}
	if lo > 1024 {
		ports = append(ports, PortRange{1024, lo - 1})
	}
	if hi < 65535 {
		ports = append(ports, PortRange{hi + 1, 65535})
	}
	return ports
})

// Count returns how many ports there are.
func (rs Ports) Count() (n int) {
	for _, r := range rs {
		n += int(r.Last - r.First + 1)
	}
	return n
}

// Has reports whether a port is one of them.
func (rs Ports) Has(port uint16) bool {
	for _, r := range rs {
		if r.First <= uint32(port) && uint32(port) <= r.Last {
			return true
		}
	}
	return false
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
	panic("hostnet: no such port") // i must be less than Count
}
