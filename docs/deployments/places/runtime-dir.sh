# place: XDG_RUNTIME_DIR on one side only
# way: shared memory
# because: no directory is needed
. "$(dirname "$0")/lib.sh"
mkdir -p /run/user/1000
chown 1000 /run/user/1000
chmod 700 /run/user/1000
server as 1000 way serve tcp:127.0.0.1:8080
client as 1000 env XDG_RUNTIME_DIR=/run/user/1000 way get tcp:127.0.0.1:8080
