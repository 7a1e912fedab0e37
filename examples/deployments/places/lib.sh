# What all places use. A place runs the server, and then the client, behind the commands that make
# their surroundings.
set -eu
run=$(mktemp -d /tmp/ctnet-place-XXXXXX)
chmod 777 "$run"
leave() {
	trap '' TERM
	kill -TERM 0 # all that this script has started; it has a process group of its own
	wait
	rm -rf "$run"
}
trap leave EXIT

# serve NETWORK ADDRESS COMMAND... starts the server behind COMMAND, and waits until it is ready.
serve() {
	network=$1 at=$2
	shift 2
	mkfifo "$run/ready"
	"$@" "$PEER" -serve "$network" "$at" >"$run/ready" &
	read -r _ address <"$run/ready"
}

# call COMMAND... runs the client behind COMMAND.
call() { "$@" "$PEER" -seconds "${SECONDS_EACH:-0}" "$network" "$address"; }

# user UID COMMAND... runs COMMAND as a user, without any right of root's.
user() {
	uid=$1
	shift
	setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
}

# container PID COMMAND... runs COMMAND in the network namespace of a process, and otherwise in
# namespaces of its own, with a /tmp of its own and everything else read-only.
container() {
	pid=$1
	shift
	nsenter --target "$pid" --net unshare --mount --pid --ipc --uts --fork --kill-child --mount-proc \
		"$TOOL" -own-tmp -read-only "$@"
}

# sandbox starts a process that keeps a new network namespace, as the pause container of a pod does.
sandbox() {
	mkfifo "$run/sandbox"
	unshare --net "$TOOL" -up lo -hold >"$run/sandbox" &
	read -r sandbox <"$run/sandbox"
	rm "$run/sandbox"
}
