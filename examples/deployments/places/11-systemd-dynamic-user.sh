# Two units with DynamicUser=yes: users that nobody knows beforehand, and a /tmp of their own.
# now: shared-memory -
. ./lib.sh
serve tcp 127.0.0.1:0 unshare --mount "$TOOL" -own-tmp setpriv --reuid 61184 --regid 61184 --clear-groups --no-new-privs
call unshare --mount "$TOOL" -own-tmp setpriv --reuid 65519 --regid 65519 --clear-groups --no-new-privs
