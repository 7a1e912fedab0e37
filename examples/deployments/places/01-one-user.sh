# One host and one user: two programs, nothing configured.
# now: shared-memory -
. ./lib.sh
serve tcp 127.0.0.1:0 user 1000
call user 1000
