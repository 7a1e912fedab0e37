# Two users, at a name of network ct: both must allow the other.
# now: shared-memory -
. ./lib.sh
serve ct "svc/$$" env CTNET_ALLOW=1337 setpriv --reuid 1000 --regid 1000 --clear-groups
call env CTNET_ALLOW=1000 setpriv --reuid 1337 --regid 1337 --clear-groups
