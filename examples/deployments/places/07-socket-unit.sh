# The port is a socket unit's, so the kernel says that it is root's, and the server's user is not the
# client's. See ../systemd/activated.socket.
# now: kernel not-trusted
. ./lib.sh
serve fd 3 "$TOOL" -listen 127.0.0.1:0 setpriv --reuid 1000 --regid 1000 --clear-groups
network=tcp
call user 1337
