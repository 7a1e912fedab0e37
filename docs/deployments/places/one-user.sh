# place: one user
# way: shared memory
# because: the listener's user is the dialer's
. "$(dirname "$0")/lib.sh"
server as 1000 way serve tcp:127.0.0.1:8080
client as 1000 way get tcp:127.0.0.1:8080
