# place: PrivateUsers= of both units, one user
# way: shared memory
# because: the one user has a number in both user namespaces
# imitates: systemd/private-users.service: PrivateUsers=yes, User=1000
. "$(dirname "$0")/lib.sh"
server imitate -users 0:0:1,1000:1000:1 \
	setpriv --reuid=1000 --regid=1000 --clear-groups way serve tcp:127.0.0.1:8080
client imitate -users 0:0:1,1000:1000:1 \
	setpriv --reuid=1000 --regid=1000 --clear-groups way get tcp:127.0.0.1:8080
