# place: rootless, two containers of one pod
# way: shared memory
# because: one network namespace, and one user namespace's users
# imitates: rootless/pod.sh: podman pod create --name app, podman run --pod app way get tcp:127.0.0.1:8080
. "$(dirname "$0")/lib.sh"
network pod 192.0.2.1/24 other 192.0.2.2/24
rootless=0:1000:1,1:100000:65535
server container pod imitate -users $rootless \
	setpriv --reuid=1000 --regid=1000 --clear-groups way serve tcp:0.0.0.0:8080
client container pod imitate -users $rootless way get tcp:127.0.0.1:8080
