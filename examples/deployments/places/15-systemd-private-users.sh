# The server has PrivateUsers=yes: the client's user has no number in its user namespace, so it is not
# trusted there.
# now: kernel forbidden
. ./lib.sh
serve tcp 127.0.0.1:0 setpriv --reuid 1000 --regid 1000 --clear-groups unshare --user --map-root-user
call user 1337
