# place: two users, network ct
# way: none
# because: network ct has no port that would tell whose the name is, and no kernel's socket
# why: the listener belongs to user 1000
. "$(dirname "$0")/lib.sh"
server as 1000 way serve ct:svc/app
client as 1337 way get ct:svc/app
