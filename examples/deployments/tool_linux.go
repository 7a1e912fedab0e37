package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"cutthrough.example/internal/netif"
)

// The tool makes a part of a place's surroundings, and then becomes the command that follows. Each
// option is carried out as it is met.
var toolOptions = []string{"-own-tmp", "-read-only", "-proc", "-no", "-up", "-veth", "-hold", "-memory"}

func isTool(arg string) bool {
	for _, o := range toolOptions {
		if arg == o {
			return true
		}
	}
	return false
}

func tool(args []string) error {
	runtime.LockOSThread() // namespaces and filters are a thread's
	group := ""
	f := flag.NewFlagSet("tool", flag.ContinueOnError)
	f.BoolFunc("own-tmp", "a /tmp of its own; the directory $KEEP stays", func(string) error { return ownTmp(os.Getenv("KEEP")) })
	f.BoolFunc("read-only", "the root directory is read-only", func(string) error {
		return unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	})
	f.Func("proc", "a /proc with these options", func(options string) error {
		return unix.Mount("proc", "/proc", "proc", 0, options)
	})
	f.Func("no", "sockets of the family unix or netlink fail, as with systemd's RestrictAddressFamilies=", func(family string) error {
		number, ok := map[string]uint32{"unix": unix.AF_UNIX, "netlink": unix.AF_NETLINK}[family]
		if !ok {
			return errors.New("no such family")
		}
		return forbid(number)
	})
	f.Func("up", "brings an interface up: name, or name=address", func(s string) error {
		name, address, ok := strings.Cut(s, "=")
		if !ok {
			return netif.Up(name)
		}
		return netif.Up(name, address)
	})
	f.Func("veth", "a cable to another network namespace: name,name there,process", func(s string) error {
		part := strings.Split(s, ",")
		pid, err := strconv.Atoi(part[len(part)-1])
		if len(part) != 3 || err != nil {
			return errors.New("not name,name,process")
		}
		return netif.AddVeth(part[0], part[1], pid)
	})
	f.BoolFunc("hold", "says its process and stays", func(string) error {
		fmt.Println(os.Getpid())
		return unix.Pause() // until a signal ends it
	})
	f.Func("memory", "a control group with a limit of memory in bytes", func(s string) (err error) {
		group, err = limitMemory(s)
		return err
	})
	if err := f.Parse(args); err != nil {
		return err
	}
	if group != "" {
		return runIn(group, f.Args())
	}
	path, err := exec.LookPath(f.Arg(0))
	if err != nil {
		return err
	}
	return syscall.Exec(path, f.Args(), os.Environ())
}

// ownTmp mounts an empty /tmp. The directory keep, which is in the old one, is in it too.
func ownTmp(keep string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	fd := -1
	if keep != "" {
		var err error
		if fd, err = unix.Open(keep, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		defer unix.Close(fd)
	}
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777"); err != nil {
		return err
	}
	if keep == "" {
		return nil
	}
	if err := os.MkdirAll(keep, 0o755); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), keep, "", unix.MS_BIND|unix.MS_REC, "")
}

// forbid has sockets of a family fail with EAFNOSUPPORT in this process and what it becomes.
func forbid(family uint32) error {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		end   = unix.BPF_RET | unix.BPF_K

		number, firstArgument = 0, 16 // in struct seccomp_data, little-endian
	)
	filter := []unix.SockFilter{
		{Code: load, K: number},
		{Code: equal, Jf: 3, K: unix.SYS_SOCKET},
		{Code: load, K: firstArgument},
		{Code: equal, Jf: 1, K: family},
		{Code: end, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: end, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

const noGroup = "no control group with a limit of memory can be made here"

// limitMemory makes a control group below this process's, and enters it.
func limitMemory(limit string) (group string, err error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		field := strings.SplitN(strings.TrimSpace(line), ":", 3) // number:controllers:path
		if len(field) != 3 {
			continue
		}
		parent, file := filepath.Join("/sys/fs/cgroup", field[2]), "memory.max"
		if field[1] == "memory" {
			parent, file = filepath.Join("/sys/fs/cgroup/memory", field[2]), "memory.limit_in_bytes"
		} else if field[1] != "" {
			continue
		}
		if _, err := os.Stat(parent); err != nil {
			parent = filepath.Dir(strings.TrimSuffix(parent, field[2]) + "/x") // in a container: its own root
		}
		group = filepath.Join(parent, fmt.Sprintf("ctnet-place-%d", os.Getpid()))
		if err = os.Mkdir(group, 0o755); err != nil {
			continue
		}
		if err = os.WriteFile(filepath.Join(group, file), []byte(limit), 0); err == nil {
			err = os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
		}
		if err == nil {
			return group, nil
		}
		os.Remove(group)
	}
	return "", fmt.Errorf("%s: %w", noGroup, err)
}

// runIn runs a command in the control group, which this process has entered, and then removes it.
func runIn(group string, args []string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		<-stop
		cmd.Process.Signal(syscall.SIGTERM)
	}()
	err := cmd.Wait()
	os.WriteFile(filepath.Join(filepath.Dir(group), "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	os.Remove(group)
	return err
}
