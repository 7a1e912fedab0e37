# place: two pods with a volume and hostUsers: false, socket file
# way: kernel's socket
# because: each pod has its own range of users, and neither's users have a number in the other
# why: not-trusted: permission denied: the listener's user has no number in this user namespace
. "$(dirname "$0")/lib.sh"
network server 192.0.2.1/24 client 192.0.2.2/24
volume /mnt/place/volume
chmod 3777 /mnt/place/volume
export CTNET_DIR=/mnt/place/volume
server container server imitate -users 0:65536:65536 \
	setpriv --reuid=1000 --regid=1000 --clear-groups way serve unix:/mnt/place/volume/app.sock
client container client imitate -users 0:131072:65536 \
	setpriv --reuid=1000 --regid=1000 --clear-groups way get unix:/mnt/place/volume/app.sock
