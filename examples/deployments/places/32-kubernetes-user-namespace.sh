# A pod with hostUsers: false, of two users: the containers have the same range of users.
# now: shared-memory -
. ./lib.sh
sandbox
serve tcp 127.0.0.1:0 nsenter --target "$sandbox" --net "$TOOL" -users 65536 setpriv --reuid 1000 --regid 1000 --clear-groups
call nsenter --target "$sandbox" --net "$TOOL" -users 65536 setpriv --reuid 1337 --regid 1337 --clear-groups
