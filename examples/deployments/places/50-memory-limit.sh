# The server's memory is limited to 32 MiB by its control group, as with MemoryMax= or a pod's limit.
# now: shared-memory -
. ./lib.sh
serve tcp 127.0.0.1:0 "$TOOL" -memory 33554432 setpriv --reuid 1000 --regid 1000 --clear-groups
call user 1000
