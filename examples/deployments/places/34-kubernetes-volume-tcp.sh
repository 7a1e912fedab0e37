# Two pods with a volume, on network tcp: a TCP address belongs to a network namespace, whatever the
# directory is.
# now: kernel not-here
. ./lib.sh
sandbox; server=$sandbox
sandbox; client=$sandbox
mkdir "$run/volume"
export CTNET_DIR="$run/volume"
nsenter --target "$server" --net "$TOOL" -veth "eth0,eth0,$client" -up eth0=192.0.2.1/24 true
nsenter --target "$client" --net "$TOOL" -up eth0=192.0.2.2/24 true
serve tcp 192.0.2.1:0 nsenter --target "$server" --net
call nsenter --target "$client" --net
