# The server has PrivateNetwork=yes, and a socket file that both can reach.
# now: kernel other-namespace
. ./lib.sh
serve unix "$run/s" unshare --net
call env
