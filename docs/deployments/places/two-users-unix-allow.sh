# place: two users, socket file, CTNET_ALLOW at the listener
# way: shared memory
# because: the listener was told, and the file is its user's
. "$(dirname "$0")/lib.sh"
mkdir -m 755 /run/app
chown 1000 /run/app
server as 1000 env CTNET_ALLOW=1337 way serve unix:/run/app/app.sock
client as 1337 way get unix:/run/app/app.sock
