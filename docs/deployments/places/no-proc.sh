# place: RootDirectory= without /proc
# way: kernel's socket
# because: which network namespace it is can't be read; a listener there says so once
# why: absent:
# listener: no cut-through, connections take the kernel's socket
# imitates: systemd/no-proc.service: RootDirectory=/srv/app, MountAPIVFS=no
. "$(dirname "$0")/lib.sh"
mkdir -p /mnt/place/root/bin
cp /mnt/bin/way /mnt/place/root/bin
mount --bind -o ro /mnt/place/root /mnt/place/root
server chroot --userspec=1000:1000 /mnt/place/root /bin/way serve tcp:127.0.0.1:8080
client as 1337 way get tcp:127.0.0.1:8080
