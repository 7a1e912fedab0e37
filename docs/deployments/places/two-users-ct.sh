# place: two users, network ct, CTNET_ALLOW on both sides
# way: shared memory
# because: both sides were told
. "$(dirname "$0")/lib.sh"
server as 1000 env CTNET_ALLOW=1337 way serve ct:svc/app
client as 1337 env CTNET_ALLOW=1000 way get ct:svc/app
