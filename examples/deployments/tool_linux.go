package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
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
var toolOptions = []string{"-own-tmp", "-read-only", "-proc", "-no", "-up", "-veth", "-hold", "-memory", "-listen", "-users"}

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
	group, users := "", 0
	f := flag.NewFlagSet("tool", flag.ContinueOnError)
	f.BoolFunc("own-tmp", "a /tmp of its own; the directory $KEEP stays", func(string) error { return ownTmp(os.Getenv("KEEP")) })
	f.BoolFunc("read-only", "the root directory is read-only", func(string) error {
		return unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	})
	f.Func("proc", "a /proc with these options", func(options string) error {
		return unix.Mount("proc", "/proc", "proc", 0, options)
	})
	f.Func("no", "unix or netlink: such sockets fail, as with systemd's RestrictAddressFamilies=; memfd: so does memfd_create", func(what string) error {
		switch what {
		case "unix":
			return forbid(unix.SYS_SOCKET, unix.AF_UNIX, unix.EAFNOSUPPORT)
		case "netlink":
			return forbid(unix.SYS_SOCKET, unix.AF_NETLINK, unix.EAFNOSUPPORT)
		case "memfd":
			return forbid(unix.SYS_MEMFD_CREATE, 0, unix.EPERM)
		}
		return errors.New("no such thing")
	})
	f.Func("listen", "listens on an address, and passes the socket on as descriptor 3, as systemd does", listen)
	f.Func("users", "a user namespace with 65,536 users, which begin at this one here", func(first string) (err error) {
		users, err = strconv.Atoi(first)
		return err
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
	if group != "" || users > 0 {
		return runChild(f.Args(), group, users)
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

// forbid has a system call fail in this process and what it becomes. Of socket, only calls with the
// first argument given fail.
func forbid(call, argument uint32, errno unix.Errno) error {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		end   = unix.BPF_RET | unix.BPF_K

		number, firstArgument = 0, 16 // in struct seccomp_data, little-endian
	)
	filter := []unix.SockFilter{{Code: load, K: number}, {Code: equal, Jf: 3, K: call}, {Code: load, K: firstArgument}, {Code: equal, Jf: 1, K: argument}}
	if call != unix.SYS_SOCKET {
		filter = []unix.SockFilter{{Code: load, K: number}, {Code: equal, Jf: 1, K: call}}
	}
	filter = append(filter, unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}, unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ALLOW})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// listen makes descriptor 3 a listener.
func listen(address string) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	return unix.Dup3(int(f.Fd()), 3, 0)
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

// runChild runs a command in the control group, which this process has entered, and then removes the
// group; or in a user namespace.
func runChild(args []string, group string, users int) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if users > 0 {
		all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: users, Size: 1 << 16}}
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = all, all
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		cmd.SysProcAttr.Credential = &syscall.Credential{}
	}
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
	if group != "" {
		os.WriteFile(filepath.Join(filepath.Dir(group), "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
		os.Remove(group)
	}
	return err
}
