# Two containers with networks of their own, and a volume: network ct with CTNET_DIR there. See
# ../docker/compose.yaml.
# now: shared-memory -
. ./lib.sh
sandbox; server=$sandbox
sandbox; client=$sandbox
mkdir "$run/volume"
export CTNET_DIR="$run/volume" KEEP="$run"
serve ct svc/hello container "$server"
call container "$client"
