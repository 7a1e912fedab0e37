# place: a pod with hostUsers: false, two users
# way: shared memory
# because: the containers' user namespaces have the same range
# imitates: kubernetes/pod-user-namespace.yaml: hostUsers: false
. "$(dirname "$0")/lib.sh"
network pod 192.0.2.1/24 other 192.0.2.2/24
server container pod imitate -users 0:65536:65536 \
	setpriv --reuid=1000 --regid=1000 --clear-groups way serve tcp:0.0.0.0:8080
client container pod imitate -users 0:65536:65536 \
	setpriv --reuid=1337 --regid=1337 --clear-groups way get tcp:127.0.0.1:8080
