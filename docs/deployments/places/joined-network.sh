# place: PrivateNetwork= of two units, joined
# way: shared memory
# because: they share one network namespace
# imitates: systemd/joined.service: PrivateNetwork=yes, JoinsNamespaceOf=alone.service; systemd/alone.service: PrivateNetwork=yes
. "$(dirname "$0")/lib.sh"
ip netns add joined
ip -n joined link set lo up
server nsenter --net=/run/netns/joined \
	setpriv --reuid=1000 --regid=1000 --clear-groups way serve tcp:127.0.0.1:8080
client nsenter --net=/run/netns/joined \
	setpriv --reuid=1337 --regid=1337 --clear-groups way get tcp:127.0.0.1:8080
