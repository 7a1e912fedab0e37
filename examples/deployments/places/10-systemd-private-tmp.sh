# Two units with PrivateTmp=yes: each has a /tmp of its own. See ../systemd/hello.service.
# now: shared-memory -
. ./lib.sh
serve tcp 127.0.0.1:0 unshare --mount "$TOOL" -own-tmp setpriv --reuid 1000 --regid 1000 --clear-groups
call unshare --mount "$TOOL" -own-tmp setpriv --reuid 1000 --regid 1000 --clear-groups
