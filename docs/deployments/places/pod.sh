# place: a pod, app as 1000 and sidecar as 1337
# way: shared memory
# because: the containers share the network namespace, and the listener's user has the port
# imitates: kubernetes/pod.yaml: runAsUser: 1000, runAsUser: 1337, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, drop: [ALL]
. "$(dirname "$0")/lib.sh"
network pod 192.0.2.1/24 other 192.0.2.2/24
restricted='
	mount -t tmpfs -o mode=1777 tmpfs /tmp
	mount --bind / / && mount -o remount,bind,ro /
	uid=$0
	exec setpriv --reuid=$uid --regid=$uid --clear-groups --no-new-privs --bounding-set=-all "$@"'
server container pod sh -c "$restricted" 1000 way serve tcp:0.0.0.0:8080
client container pod sh -c "$restricted" 1337 way get tcp:127.0.0.1:8080
