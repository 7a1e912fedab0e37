# place: Docker, two containers on a bridge
# way: kernel's socket
# because: two network namespaces
# why: not-here:
# imitates: docker/compose.yaml: other:, command: get tcp:app:8080; docker/Dockerfile: ENTRYPOINT ["/way"]
. "$(dirname "$0")/lib.sh"
network server 192.0.2.1/24 client 192.0.2.2/24
server container server way serve tcp:0.0.0.0:8080
client container client way get tcp:192.0.2.1:8080
