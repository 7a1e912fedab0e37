# place: RootDirectory=, read-only
# way: shared memory
# because: no directory is needed
# imitates: systemd/root-directory.service: RootDirectory=/srv/app, MountAPIVFS=yes
. "$(dirname "$0")/lib.sh"
mkdir -p /mnt/place/root/bin /mnt/place/root/proc
cp /mnt/bin/way /mnt/place/root/bin
mount --bind -o ro /mnt/place/root /mnt/place/root
mount -t proc proc /mnt/place/root/proc
server as 1000 way serve tcp:127.0.0.1:8080
client chroot --userspec=1337:1337 /mnt/place/root /bin/way get tcp:127.0.0.1:8080
