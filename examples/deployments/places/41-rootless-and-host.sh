# A rootless container with the host's network: the client is in a user namespace, in which the
# server's user has no number.
# now: kernel not-trusted
. ./lib.sh
serve tcp 127.0.0.1:0 user 1337
call user 1000 unshare --user --map-root-user
