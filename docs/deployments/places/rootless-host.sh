# place: rootless with --network host, to a program of the same user
# way: shared memory
# because: the user is the container's root
# imitates: rootless/host.sh: podman run --network host way get tcp:127.0.0.1:8080
. "$(dirname "$0")/lib.sh"
server as 1000 way serve tcp:127.0.0.1:8080
client imitate -users 0:1000:1,1:100000:65535 way get tcp:127.0.0.1:8080
