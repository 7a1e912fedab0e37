# Two users, on TCP: the client trusts the user who has the port, and the server lets all users connect.
# now: shared-memory -
. ./lib.sh
serve tcp 127.0.0.1:0 user 1000
call user 1337
