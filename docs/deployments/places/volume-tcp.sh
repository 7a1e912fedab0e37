# place: two pods with a volume, network tcp
# way: kernel's socket
# because: a TCP address belongs to a network namespace, whatever the directory is
# why: not-here:
# imitates: kubernetes/volume.yaml: fsGroup: 2000, - name: CTNET_DIR
. "$(dirname "$0")/lib.sh"
network server 192.0.2.1/24 client 192.0.2.2/24
volume /mnt/place/volume
export CTNET_DIR=/mnt/place/volume
server container server setpriv --reuid=1000 --regid=1000 --groups=2000 way serve tcp:192.0.2.1:8080
client container client setpriv --reuid=1000 --regid=1000 --groups=2000 way get tcp:192.0.2.1:8080
