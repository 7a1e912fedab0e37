# place: rootless, container to host
# way: kernel's socket
# because: two network namespaces
# why: not-here:
# imitates: rootless/bridge.sh: podman run way get tcp:host.containers.internal:8080
. "$(dirname "$0")/lib.sh"
network host 192.0.2.1/24 container 192.0.2.2/24
server nsenter --net=/run/netns/host \
	setpriv --reuid=1000 --regid=1000 --clear-groups way serve tcp:0.0.0.0:8080
client container container imitate -users 0:1000:1,1:100000:65535 way get tcp:192.0.2.1:8080
