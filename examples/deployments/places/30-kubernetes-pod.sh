# A pod with an app as user 1000 and a sidecar as user 1337: one network, and nothing else in common.
# See ../kubernetes/pod.yaml.
# now: shared-memory -
. ./lib.sh
sandbox
serve tcp 127.0.0.1:0 container "$sandbox" setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs
call container "$sandbox" setpriv --reuid 1337 --regid 1337 --clear-groups --no-new-privs
