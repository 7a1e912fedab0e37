# place: Docker, network_mode: service:app
# way: shared memory
# because: one network namespace, and both are root
# imitates: docker/compose.yaml: sidecar:, network_mode: service:app
. "$(dirname "$0")/lib.sh"
network server 192.0.2.1/24 other 192.0.2.2/24
server container server way serve tcp:0.0.0.0:8080
client container server way get tcp:127.0.0.1:8080
