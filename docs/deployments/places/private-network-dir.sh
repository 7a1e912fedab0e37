# place: PrivateNetwork= of the listener, socket file, CTNET_DIR in RuntimeDirectory=
# way: shared memory
# because: both have the directory, and one user
# imitates: systemd/private-network.service: PrivateNetwork=yes, RuntimeDirectory=app, Environment=CTNET_DIR=/run/app/ctnet
. "$(dirname "$0")/lib.sh"
mkdir -m 755 /run/app
chown 1000 /run/app
server unshare --net sh -c 'ip link set lo up
	exec setpriv --reuid=1000 --regid=1000 --clear-groups \
		env CTNET_DIR=/run/app/ctnet way serve unix:/run/app/app.sock'
client as 1000 env CTNET_DIR=/run/app/ctnet way get unix:/run/app/app.sock
