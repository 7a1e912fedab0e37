# place: two pods of one node
# way: kernel's socket
# because: two network namespaces
# why: not-here:
# imitates: kubernetes/volume.yaml: name: app, name: client
. "$(dirname "$0")/lib.sh"
network server 192.0.2.1/24 client 192.0.2.2/24
server container server setpriv --reuid=1000 --regid=1000 --clear-groups way serve tcp:0.0.0.0:8080
client container client setpriv --reuid=1000 --regid=1000 --clear-groups way get tcp:192.0.2.1:8080
