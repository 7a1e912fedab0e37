package main

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"sync"
)

// services are the names of TCP ports, as /etc/services has them.
var services = sync.OnceValue(func() map[int]string {
	names := make(map[int]string)
	f, err := os.Open("/etc/services")
	if err != nil {
		return names
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		text, _, _ := strings.Cut(s.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		number, isTCP := strings.CutSuffix(fields[1], "/tcp")
		if port, err := strconv.Atoi(number); isTCP && err == nil && names[port] == "" {
			names[port] = fields[0]
		}
	}
	return names
})
