# Only one side has CTNET_DIR: it looks there, and the other one is not there.
# now: kernel absent
. ./lib.sh
mkdir "$run/ctnet"
serve tcp 127.0.0.1:0 env
call env CTNET_DIR="$run/ctnet"
