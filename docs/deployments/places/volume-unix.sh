# place: two pods with a volume, socket file in it, one user
# way: shared memory
# because: both have the directory in CTNET_DIR, and see the same file
# imitates: kubernetes/volume.yaml: fsGroup: 2000, - name: CTNET_DIR
. "$(dirname "$0")/lib.sh"
network server 192.0.2.1/24 client 192.0.2.2/24
volume /mnt/place/volume
export CTNET_DIR=/mnt/place/volume
server container server setpriv --reuid=1000 --regid=1000 --groups=2000 way serve unix:/mnt/place/volume/app.sock
client container client setpriv --reuid=1000 --regid=1000 --groups=2000 way get unix:/mnt/place/volume/app.sock
