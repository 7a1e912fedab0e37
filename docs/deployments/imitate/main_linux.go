//go:build amd64 || arm64 || 386

// Command imitate starts a program as systemd or a container's runtime would, in those ways for
// which there is no command in util-linux: with filters of system calls, with user namespaces of
// more than one range, and with a listener that it inherits.
//
//	imitate -families inet,inet6 way serve tcp::8080          RestrictAddressFamilies=
//	imitate -service way serve tcp::8080                      SystemCallFilter=@system-service and others
//	imitate -no-memfd way get tcp:127.0.0.1:8080              SystemCallFilter=~memfd_create
//	imitate -users 0:0:1,1000:1000:1 way serve tcp::8080      PrivateUsers=
//	imitate -listen 127.0.0.1:8080 way serve fd:3             a socket unit
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("imitate: ")
	families := flag.String("families", "", "the address `families` that sockets may have: unix, inet, inet6, netlink")
	service := flag.Bool("service", false, "kill the program if it makes a system call of those that hardened services may not make")
	noMemfd := flag.Bool("no-memfd", false, "forbid memfd_create")
	users := flag.String("users", "", "make a user namespace with these users: `inside:outside:number`, ...")
	listen := flag.String("listen", "", "have the program inherit a listener on this TCP `address` as descriptor 3")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	var f filter
	if *noMemfd {
		f.denyCall(unix.SYS_MEMFD_CREATE)
	}
	if *service {
		f.denyServiceCalls()
	}
	if *families != "" {
		if err := f.allowFamilies(strings.Split(*families, ",")); err != nil {
			log.Fatal(err)
		}
	}
	log.Fatal(run(flag.Args(), f, *users, *listen))
}

// run runs a command in place of this one, or as its child if there is a new user namespace, and
// returns only if it fails.
func run(args []string, f filter, users, listen string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	if listen != "" {
		if err := inherit(listen); err != nil {
			return err
		}
	}
	runtime.LockOSThread() // of which the filter is
	if len(f) > 0 {
		if err := f.install(); err != nil {
			return err
		}
	}
	if users == "" {
		return syscall.Exec(path, args, os.Environ())
	}
	ids, err := parseIDs(users)
	if err != nil {
		return err
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{}, // root inside
	}
	if err := cmd.Run(); err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

// inherit makes a listener descriptor 3, which is not closed by exec.
func inherit(address string) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	if f.Fd() == 3 {
		_, err = unix.FcntlInt(3, unix.F_SETFD, 0)
		return err
	}
	return unix.Dup3(int(f.Fd()), 3, 0)
}

func parseIDs(text string) (ids []syscall.SysProcIDMap, err error) {
	for part := range strings.SplitSeq(text, ",") {
		var m syscall.SysProcIDMap
		if _, err := fmt.Sscanf(part, "%d:%d:%d", &m.ContainerID, &m.HostID, &m.Size); err != nil {
			return nil, fmt.Errorf("%q: %w", part, err)
		}
		ids = append(ids, m)
	}
	return ids, nil
}

// A filter is a program of seccomp's, which the kernel runs at each system call. Each part leaves
// the number of the call in the accumulator.
type filter []unix.SockFilter

// Offsets in struct seccomp_data, on little-endian machines.
const (
	numberAt   = 0
	argumentAt = 16
)

const (
	allow = 0x7fff0000 // SECCOMP_RET_ALLOW
	fail  = 0x00050000 // SECCOMP_RET_ERRNO, to which the errno is added
	kill  = 0x80000000 // SECCOMP_RET_KILL_PROCESS
)

func load(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
}

func answer(with uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: with}
}

// skipUnless skips n instructions unless the accumulator has a value.
func skipUnless(value uint32, n int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(n), K: value}
}

func (f *filter) add(instructions ...unix.SockFilter) { *f = append(*f, instructions...) }

// denyCall has a call fail with EPERM.
func (f *filter) denyCall(number uint32) {
	f.add(load(numberAt), skipUnless(number, 1), answer(fail|uint32(unix.EPERM)))
}

// denyServiceCalls does what systemd does for
//
//	SystemCallFilter=@system-service
//	SystemCallFilter=~@privileged @resources
//	MemoryDenyWriteExecute=yes
//
// These are the calls outside of what systemd 252 then allows, as systemd-analyze syscall-filter
// lists it, as far as all architectures have them. systemd would have a call fail where the unit has
// SystemCallErrorNumber=.
func (f *filter) denyServiceCalls() {
	f.add(load(numberAt))
	for _, number := range []uint32{
		unix.SYS_ACCT, unix.SYS_ADJTIMEX, unix.SYS_BPF, unix.SYS_CACHESTAT, unix.SYS_CAPSET, unix.SYS_CHROOT,
		unix.SYS_CLOCK_ADJTIME, unix.SYS_CLOCK_SETTIME, unix.SYS_DELETE_MODULE, unix.SYS_FANOTIFY_INIT,
		unix.SYS_FANOTIFY_MARK, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_FINIT_MODULE, unix.SYS_FSCONFIG,
		unix.SYS_FSMOUNT, unix.SYS_FSOPEN, unix.SYS_FSPICK, unix.SYS_FUTEX_REQUEUE, unix.SYS_FUTEX_WAIT,
		unix.SYS_FUTEX_WAKE, unix.SYS_INIT_MODULE, unix.SYS_IOPRIO_SET,
		unix.SYS_KEXEC_LOAD, unix.SYS_LANDLOCK_ADD_RULE, unix.SYS_LANDLOCK_CREATE_RULESET,
		unix.SYS_LANDLOCK_RESTRICT_SELF, unix.SYS_MBIND, unix.SYS_MIGRATE_PAGES,
		unix.SYS_MINCORE, unix.SYS_MOUNT, unix.SYS_MOUNT_SETATTR, unix.SYS_MOVE_MOUNT, unix.SYS_MOVE_PAGES,
		unix.SYS_NFSSERVCTL, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_OPEN_TREE, unix.SYS_PERF_EVENT_OPEN,
		unix.SYS_PIDFD_GETFD, unix.SYS_PIVOT_ROOT, unix.SYS_PKEY_ALLOC, unix.SYS_PKEY_FREE,
		unix.SYS_PKEY_MPROTECT, unix.SYS_PROCESS_MRELEASE, unix.SYS_PTRACE, unix.SYS_QUOTACTL,
		unix.SYS_QUOTACTL_FD, unix.SYS_REBOOT, unix.SYS_SCHED_SETAFFINITY, unix.SYS_SCHED_SETATTR,
		unix.SYS_SCHED_SETPARAM, unix.SYS_SCHED_SETSCHEDULER, unix.SYS_SECCOMP, unix.SYS_SET_MEMPOLICY,
		unix.SYS_SETDOMAINNAME, unix.SYS_SETFSUID, unix.SYS_SETGROUPS, unix.SYS_SETHOSTNAME,
		unix.SYS_SETPRIORITY, unix.SYS_SETRESUID, unix.SYS_SETREUID, unix.SYS_SETRLIMIT,
		unix.SYS_SETTIMEOFDAY, unix.SYS_SETUID, unix.SYS_SWAPOFF, unix.SYS_SWAPON, unix.SYS_SYSLOG,
		unix.SYS_UMOUNT2, unix.SYS_VHANGUP,
	} {
		f.add(skipUnless(number, 1), answer(kill))
	}
	const protection = argumentAt + 2*8 // the third argument
	for _, part := range []struct{ number, bits uint32 }{
		{unix.SYS_MMAP, unix.PROT_WRITE | unix.PROT_EXEC},
		{unix.SYS_MPROTECT, unix.PROT_EXEC},
	} {
		f.add(
			skipUnless(part.number, 5),
			load(protection),
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: part.bits},
			skipUnless(part.bits, 1),
			answer(fail|uint32(unix.EPERM)),
			load(numberAt),
		)
	}
}

// allowFamilies has socket fail for all families but some. Like systemd's filter, it leaves
// socketpair alone.
func (f *filter) allowFamilies(names []string) error {
	f.add(load(numberAt), skipUnless(unix.SYS_SOCKET, 2+2*len(names)), load(argumentAt))
	for _, name := range names {
		family, ok := map[string]uint32{
			"unix": unix.AF_UNIX, "inet": unix.AF_INET, "inet6": unix.AF_INET6, "netlink": unix.AF_NETLINK,
		}[name]
		if !ok {
			return errors.New("no such address family: " + name)
		}
		f.add(skipUnless(family, 1), answer(allow))
	}
	f.add(answer(fail | uint32(unix.EAFNOSUPPORT)))
	return nil
}

// install has the filter decide about the calls of this thread, and of the program that it runs.
func (f filter) install() error {
	f.add(answer(allow))
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return os.NewSyscallError("seccomp", unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0))
}
