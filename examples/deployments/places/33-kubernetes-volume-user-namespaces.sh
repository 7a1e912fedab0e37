# Two pods with hostUsers: false and a volume: each has a range of users of its own, and so the users of
# one have no numbers in the other.
# now: kernel not-trusted
. ./lib.sh
sandbox; server=$sandbox
sandbox; client=$sandbox
mkdir "$run/volume"
chmod 1777 "$run/volume"
export CTNET_DIR="$run/volume"
serve unix "$run/volume/s" nsenter --target "$server" --net "$TOOL" -users 65536 setpriv --reuid 1000 --regid 1000 --clear-groups
chmod 777 "$run/volume/s"
call nsenter --target "$client" --net "$TOOL" -users 131072 setpriv --reuid 1000 --regid 1000 --clear-groups
