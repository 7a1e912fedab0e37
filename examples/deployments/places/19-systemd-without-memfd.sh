# The server has SystemCallFilter=~memfd_create: no memory can be shared.
# now: kernel failed
. ./lib.sh
serve tcp 127.0.0.1:0 "$TOOL" -no memfd setpriv --reuid 1000 --regid 1000 --clear-groups
call user 1000
