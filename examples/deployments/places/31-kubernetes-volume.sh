# Two pods of one node, of two users, with a volume that a group may write to (fsGroup: 2000, mode
# 2777 with the sticky bit). See ../kubernetes/volume.yaml.
# now: shared-memory -
. ./lib.sh
sandbox; server=$sandbox
sandbox; client=$sandbox
mkdir "$run/volume"
chgrp 2000 "$run/volume"
chmod 3777 "$run/volume"
export CTNET_DIR="$run/volume" KEEP="$run" CTNET_ALLOW=1000,1337
serve ct svc/hello container "$server" setpriv --reuid 1000 --regid 1000 --groups 2000
call container "$client" setpriv --reuid 1337 --regid 1337 --groups 2000
