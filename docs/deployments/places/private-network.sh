# place: PrivateNetwork= of the listener, socket file
# way: kernel's socket
# because: the names are in another network namespace; a socket file leads into it
# why: other-namespace:
# imitates: systemd/private-network.service: PrivateNetwork=yes, RuntimeDirectory=app
. "$(dirname "$0")/lib.sh"
mkdir -m 755 /run/app
chown 1000 /run/app
server unshare --net sh -c 'ip link set lo up
	exec setpriv --reuid=1000 --regid=1000 --clear-groups way serve unix:/run/app/app.sock'
client as 1000 way get unix:/run/app/app.sock
