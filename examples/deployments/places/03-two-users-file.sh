# Two users, at a socket file, nothing configured: a server lets only its own user and root use
# shared memory there.
# now: kernel forbidden
. ./lib.sh
serve unix "$run/s" user 1000
chmod 777 "$run/s"
call user 1337
