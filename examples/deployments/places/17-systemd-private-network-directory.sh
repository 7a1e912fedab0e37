# The same, and both have CTNET_DIR.
# now: shared-memory -
. ./lib.sh
mkdir "$run/ctnet"
export CTNET_DIR="$run/ctnet"
serve unix "$run/s" unshare --net
call env
