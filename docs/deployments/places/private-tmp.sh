# place: PrivateTmp=, two users
# way: shared memory
# because: no directory is needed
# imitates: systemd/app.service: PrivateTmp=yes, User=1000
. "$(dirname "$0")/lib.sh"
server as 1000 way serve tcp:127.0.0.1:8080
client unshare --mount sh -c '
	mount -t tmpfs -o mode=1777 tmpfs /tmp
	mount -t tmpfs -o mode=1777 tmpfs /var/tmp
	exec setpriv --reuid=1337 --regid=1337 --clear-groups way get tcp:127.0.0.1:8080'
