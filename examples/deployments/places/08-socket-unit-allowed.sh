# The same, and the client trusts the server's user.
# now: shared-memory -
. ./lib.sh
serve fd 3 "$TOOL" -listen 127.0.0.1:0 setpriv --reuid 1000 --regid 1000 --clear-groups
network=tcp
call env CTNET_ALLOW=1000 setpriv --reuid 1337 --regid 1337 --clear-groups
