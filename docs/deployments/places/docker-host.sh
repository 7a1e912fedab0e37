# place: Docker, network_mode: host, to a program of the host
# way: shared memory
# because: the host's network namespace, and the listener's user has the port
# imitates: docker/compose.yaml: on-host:, network_mode: host
. "$(dirname "$0")/lib.sh"
server as 1000 way serve tcp:127.0.0.1:8080
client unshare --mount --pid --ipc --uts --fork --mount-proc way get tcp:127.0.0.1:8080
