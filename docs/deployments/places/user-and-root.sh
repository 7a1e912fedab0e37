# place: a user dials root
# way: shared memory
# because: root is trusted by all
. "$(dirname "$0")/lib.sh"
server way serve tcp:127.0.0.1:8080
client as 1000 way get tcp:127.0.0.1:8080
