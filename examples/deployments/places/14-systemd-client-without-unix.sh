# The client has RestrictAddressFamilies=AF_INET AF_INET6.
# now: kernel unusable
# says: address family not supported
. ./lib.sh
serve tcp 127.0.0.1:0 user 1000
call "$TOOL" -no unix setpriv --reuid 1000 --regid 1000 --clear-groups
