# The client is in a root directory of its own, without /proc: its network namespace can't be
# determined.
# now: kernel unusable
# says: is /proc mounted?
. ./lib.sh
serve tcp 127.0.0.1:0 user 1000
mkdir "$run/root"
cp "$PEER" "$run/root/peer"
PEER=/peer
call chroot "$run/root"
