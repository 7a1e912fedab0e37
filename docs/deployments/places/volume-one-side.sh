# place: a pod, CTNET_DIR on one side only
# way: kernel's socket
# because: one looks in the directory, the other one in the network namespace
# why: absent:
. "$(dirname "$0")/lib.sh"
network pod 192.0.2.1/24 other 192.0.2.2/24
volume /mnt/place/volume
server container pod setpriv --reuid=1000 --regid=1000 --groups=2000 env CTNET_DIR=/mnt/place/volume way serve tcp:0.0.0.0:8080
client container pod setpriv --reuid=1000 --regid=1000 --groups=2000 way get tcp:127.0.0.1:8080
