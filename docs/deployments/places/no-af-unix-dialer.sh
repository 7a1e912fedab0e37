# place: the dialer without AF_UNIX
# way: kernel's socket
# because: unix sockets can't be made
# why: unusable:
# imitates: systemd/no-af-unix.service: RestrictAddressFamilies=AF_INET AF_INET6
. "$(dirname "$0")/lib.sh"
server as 1000 way serve tcp:127.0.0.1:8080
client as 1337 imitate -families inet,inet6 way get tcp:127.0.0.1:8080
