# place: DynamicUser=, read-only file system
# way: shared memory
# because: the listener's user has the port
# imitates: systemd/dynamic.service: DynamicUser=yes, ProtectSystem=strict, ProtectHome=yes, PrivateTmp=yes
. "$(dirname "$0")/lib.sh"
dynamic=$(awk 'BEGIN { srand(); print 61184 + int(rand() * 4336) }') # as systemd chooses one
server unshare --mount sh -c '
	mount -t tmpfs -o mode=1777 tmpfs /tmp
	mount --bind / / && mount -o remount,bind,ro /
	mount -t tmpfs -o ro,mode=000 tmpfs /root
	exec setpriv --reuid=$0 --regid=$0 --clear-groups --no-new-privs --bounding-set=-all way serve tcp:127.0.0.1:8080' "$dynamic"
client as 1000 way get tcp:127.0.0.1:8080
