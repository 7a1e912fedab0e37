# What the places have in common. A place is a shell script that sources this file, and imitates
# the machine on which two programs meet: systemd, Docker or Kubernetes would set up the same
# namespaces, users and mounts.
#
# The place runs in network, mount, PID and IPC namespaces of its own, in which /tmp and /run are
# empty, and ends with all its processes, at the latest after PLACE_TIME, 30 seconds.
# By hand: sudo sh two-users.sh

set -eu
if [ -z "${IN_PLACE-}" ]; then
	if [ -z "${PROGRAMS-}" ]; then
		PROGRAMS=$(mktemp -d)
		trap 'rm -r "$PROGRAMS"' EXIT
		(cd "$(dirname "$0")/.." && CGO_ENABLED=0 go build -o "$PROGRAMS" ./way ./imitate)
	fi
	export PROGRAMS IN_PLACE=$$
	status=0
	timeout --foreground --signal=KILL "${PLACE_TIME:-30}" \
		unshare --net --mount --ipc --pid --fork --kill-child --mount-proc sh "$0" || status=$?
	for group in /sys/fs/cgroup/ctnet-$$-* /sys/fs/cgroup/memory/ctnet-$$-*; do
		[ ! -d "$group" ] || rmdir "$group"
	done
	exit $status
fi
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/bin /mnt/place
cp "$PROGRAMS/way" "$PROGRAMS/imitate" /mnt/bin
chmod 755 /mnt /mnt/bin /mnt/bin/* /mnt/place # all users may run them
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
PATH=/mnt/bin:$PATH
unset TMPDIR XDG_RUNTIME_DIR # of whom has started this
ip link set lo up

# as runs a command as a user and group.
as() {
	uid=$1
	shift
	setpriv --reuid="$uid" --regid="$uid" --clear-groups "$@"
}

# network makes two network namespaces with a cable between them: name, address, name, address.
network() {
	ip netns add "$1"
	ip netns add "$3"
	ip link add cable netns "$1" type veth peer name cable netns "$3"
	ip -n "$1" address add "$2" dev cable
	ip -n "$3" address add "$4" dev cable
	for name in "$1" "$3"; do
		ip -n "$name" link set lo up
		ip -n "$name" link set cable up
	done
}

# container runs a command in a network namespace that network has made, and in mount, PID, IPC and
# UTS namespaces of its own, with an empty /tmp, as the containers of a pod are.
container() {
	name=$1
	shift
	nsenter --net="/run/netns/$name" \
		unshare --mount --pid --ipc --uts --fork --kill-child --mount-proc \
		sh -c 'mount -t tmpfs -o mode=1777 tmpfs /tmp && exec "$@"' sh "$@"
}

# volume makes a directory that members of group 2000 may write to, as Kubernetes makes one with
# fsGroup: 2000. Its files can be removed by their owners only.
volume() {
	mkdir "$1"
	chown 0:2000 "$1"
	chmod 3770 "$1"
}

# memory_group makes a cgroup with 64 MiB of memory, and prints its path.
memory_group() {
	if [ -f /sys/fs/cgroup/cgroup.subtree_control ]; then
		group=/sys/fs/cgroup/ctnet-$IN_PLACE-$1 limit=memory.max
	else
		group=/sys/fs/cgroup/memory/ctnet-$IN_PLACE-$1 limit=memory.limit_in_bytes
	fi
	mkdir "$group"
	echo 67108864 >"$group/$limit"
	echo "$group"
}

# server starts a command in the background, and waits until it listens.
server() {
	mkfifo /mnt/place/served
	"$@" >/mnt/place/served 2>/mnt/place/listener &
	exec 3</mnt/place/served
	read -r line <&3 || {
		cat /mnt/place/listener >&2
		exit 1
	}
}

# client runs a command that makes requests, and prints what both sides say of their connection,
# and what they have logged. It is the last one of a place.
client() {
	if "$@" 2>/mnt/place/dialer; then
		read -r line <&3
		echo "server: $line"
	fi
	sed 's/^/dialer: /' /mnt/place/dialer
	sed 's/^/listener: /' /mnt/place/listener
}
