# Two containers with one network, as with network_mode: "service:app" or "host". See
# ../docker/compose.yaml.
# now: shared-memory -
. ./lib.sh
sandbox
serve tcp 127.0.0.1:0 container "$sandbox"
call container "$sandbox"
