# place: a socket unit, two users
# way: kernel's socket
# because: systemd has made the port, as root, so it does not vouch for the service's user
# why: not-trusted: permission denied: the listener belongs to user 1000
# imitates: systemd/app.socket: ListenStream=127.0.0.1:8080; systemd/activated.service: User=1000
. "$(dirname "$0")/lib.sh"
server imitate -listen 127.0.0.1:8080 \
	setpriv --reuid=1000 --regid=1000 --clear-groups way serve fd:3
client as 1337 way get tcp:127.0.0.1:8080
