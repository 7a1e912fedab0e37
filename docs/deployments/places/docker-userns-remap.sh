# place: Docker with userns-remap, network_mode: service:app, two users
# way: shared memory
# because: one network namespace, and both user namespaces have the same ranges
# imitates: docker/daemon.json: "userns-remap": "default"; docker/compose.yaml: network_mode: service:app
. "$(dirname "$0")/lib.sh"
server imitate -users 0:100000:65536 unshare --mount --pid --ipc --uts --fork --kill-child --mount-proc \
	setpriv --reuid=1000 --regid=1000 --clear-groups way serve tcp:127.0.0.1:8080
client imitate -users 0:100000:65536 unshare --mount --pid --ipc --uts --fork --kill-child --mount-proc \
	setpriv --reuid=1337 --regid=1337 --clear-groups way get tcp:127.0.0.1:8080
