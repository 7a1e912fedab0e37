# place: two users, socket file
# way: kernel's socket
# because: a listener on a socket file lets only its own user and root connect
# why: forbidden:
. "$(dirname "$0")/lib.sh"
mkdir -m 755 /run/app
chown 1000 /run/app
server as 1000 way serve unix:/run/app/app.sock
client as 1337 way get unix:/run/app/app.sock
