# place: rootless with --network host, to a program of another user
# way: kernel's socket
# because: the listener's user has no number in the container
# why: not-trusted: permission denied: the listener's user has no number in this user namespace
# imitates: rootless/host.sh: podman run --network host way get tcp:127.0.0.1:8080
. "$(dirname "$0")/lib.sh"
server as 1001 way serve tcp:127.0.0.1:8080
client imitate -users 0:1000:1,1:100000:65535 way get tcp:127.0.0.1:8080
