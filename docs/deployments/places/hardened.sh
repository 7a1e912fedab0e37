# place: hardened units, two users
# way: shared memory
# because: AF_UNIX and memfd_create are allowed; without AF_NETLINK /proc/net/tcp says whose the port is
# imitates: systemd/hardened.service: RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6, SystemCallFilter=@system-service, SystemCallFilter=~@privileged @resources, MemoryDenyWriteExecute=yes, ProtectProc=invisible, ProcSubset=pid, CapabilityBoundingSet=, NoNewPrivileges=yes, ProtectSystem=strict, PrivateTmp=yes
. "$(dirname "$0")/lib.sh"
hardened='
	mount -t tmpfs -o mode=1777 tmpfs /tmp
	mount --bind / / && mount -o remount,bind,ro /
	mount -t proc -o subset=pid,hidepid=invisible proc /proc
	uid=$0
	exec setpriv --reuid=$uid --regid=$uid --clear-groups --no-new-privs --bounding-set=-all \
		imitate -service -families unix,inet,inet6 "$@"'
server unshare --mount sh -c "$hardened" 1000 way serve tcp:127.0.0.1:8080
client unshare --mount sh -c "$hardened" 1337 way get tcp:127.0.0.1:8080
