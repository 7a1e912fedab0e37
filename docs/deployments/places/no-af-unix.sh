# place: the listener without AF_UNIX
# way: kernel's socket
# because: unix sockets can't be made; the listener says so once, however often it listens
# why: absent:
# listener: no cut-through, connections take the kernel's socket
# imitates: systemd/no-af-unix.service: RestrictAddressFamilies=AF_INET AF_INET6
. "$(dirname "$0")/lib.sh"
server as 1000 imitate -families inet,inet6 way serve tcp:127.0.0.1:8080 tcp:127.0.0.1:8081
client as 1337 way get tcp:127.0.0.1:8080
