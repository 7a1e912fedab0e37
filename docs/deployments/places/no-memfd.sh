# place: the dialer without memfd_create
# way: kernel's socket
# because: shared memory can't be made
# why: unusable: memfd_create: operation not permitted
# imitates: systemd/no-memfd.service: SystemCallFilter=~memfd_create, SystemCallErrorNumber=EPERM
. "$(dirname "$0")/lib.sh"
server as 1000 way serve tcp:127.0.0.1:8080
client as 1337 imitate -no-memfd way get tcp:127.0.0.1:8080
