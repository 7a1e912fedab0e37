# place: two pods with a volume, network ct, two users, CTNET_ALLOW on both sides
# way: shared memory
# because: both were told, and the volume's group may write to the directory
# imitates: kubernetes/volume.yaml: fsGroup: 2000, - name: CTNET_DIR, - name: CTNET_ALLOW
. "$(dirname "$0")/lib.sh"
network server 192.0.2.1/24 client 192.0.2.2/24
volume /mnt/place/volume
export CTNET_DIR=/mnt/place/volume
server container server setpriv --reuid=1000 --regid=1000 --groups=2000 env CTNET_ALLOW=1337 way serve ct:svc/app
client container client setpriv --reuid=1337 --regid=1337 --groups=2000 env CTNET_ALLOW=1000 way get ct:svc/app
