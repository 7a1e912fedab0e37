# place: PrivateUsers= of the listener, two users
# way: kernel's socket
# because: the dialer's user has no number in the listener's user namespace
# why: forbidden:
# imitates: systemd/private-users.service: PrivateUsers=yes, User=1000
. "$(dirname "$0")/lib.sh"
server imitate -users 0:0:1,1000:1000:1 \
	setpriv --reuid=1000 --regid=1000 --clear-groups way serve tcp:127.0.0.1:8080
client as 1337 way get tcp:127.0.0.1:8080
