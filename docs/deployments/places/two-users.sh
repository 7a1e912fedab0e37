# place: two users
# way: shared memory
# because: the listener's user has the port
. "$(dirname "$0")/lib.sh"
server as 1000 way serve tcp:127.0.0.1:8080
client as 1337 way get tcp:127.0.0.1:8080
