# Rootless containers of one user: a user namespace, and in it a network namespace that both share.
# now: shared-memory -
exec setpriv --reuid 1000 --regid 1000 --clear-groups unshare --user --map-root-user --net "$TOOL" -up lo sh -c '
. ./lib.sh
serve tcp 127.0.0.1:0 unshare --mount --uts --ipc "$TOOL" -own-tmp
call unshare --mount --uts --ipc "$TOOL" -own-tmp
'
