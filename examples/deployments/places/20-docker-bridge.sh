# Two containers on a bridge: network namespaces of their own. To each the other is another host.
# now: kernel not-here
. ./lib.sh
sandbox; server=$sandbox
sandbox; client=$sandbox
nsenter --target "$server" --net "$TOOL" -veth "eth0,eth0,$client" -up eth0=192.0.2.1/24 true
nsenter --target "$client" --net "$TOOL" -up eth0=192.0.2.2/24 true
serve tcp 192.0.2.1:0 container "$server"
call container "$client"
