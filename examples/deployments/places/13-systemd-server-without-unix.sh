# The server has RestrictAddressFamilies=AF_INET AF_INET6: it can't make the sockets by which it is
# found, and says so.
# now: kernel absent
# says: address family not supported
. ./lib.sh
serve tcp 127.0.0.1:0 "$TOOL" -no unix setpriv --reuid 1000 --regid 1000 --clear-groups
call user 1000
