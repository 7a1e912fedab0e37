# place: the listener without memfd_create
# way: kernel's socket
# because: shared memory can't be made
# why: unusable: operation not permitted
# listener: no cut-through, connections take the kernel's socket
# imitates: systemd/no-memfd.service: SystemCallFilter=~memfd_create, SystemCallErrorNumber=EPERM
. "$(dirname "$0")/lib.sh"
server as 1000 imitate -no-memfd way serve tcp:127.0.0.1:8080
client as 1337 way get tcp:127.0.0.1:8080
