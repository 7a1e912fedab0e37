# Two users, at a socket file: the server allows the client's user. The client trusts the file's owner.
# now: shared-memory -
. ./lib.sh
serve unix "$run/s" env CTNET_ALLOW=1337 setpriv --reuid 1000 --regid 1000 --clear-groups
chmod 777 "$run/s"
call user 1337
