# place: a socket unit, two users, CTNET_ALLOW at the dialer
# way: shared memory
# because: the dialer was told
# imitates: systemd/app.socket: ListenStream=127.0.0.1:8080; systemd/activated.service: User=1000; systemd/client.service: Environment=CTNET_ALLOW=1000
. "$(dirname "$0")/lib.sh"
server imitate -listen 127.0.0.1:8080 \
	setpriv --reuid=1000 --regid=1000 --clear-groups way serve fd:3
client as 1337 env CTNET_ALLOW=1000 way get tcp:127.0.0.1:8080
