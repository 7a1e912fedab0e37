# place: CTNET_KERNEL_ONLY=1 on one side
# way: kernel's socket
# because: the listener offers no shared memory
# why: absent:
. "$(dirname "$0")/lib.sh"
server as 1000 env CTNET_KERNEL_ONLY=1 way serve tcp:127.0.0.1:8080
client as 1337 way get tcp:127.0.0.1:8080
