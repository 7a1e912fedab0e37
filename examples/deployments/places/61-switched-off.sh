# CTNET_KERNEL_ONLY is set, so that tcpdump and ss show the traffic.
# now: kernel switched-off
. ./lib.sh
serve tcp 127.0.0.1:0 env
call env CTNET_KERNEL_ONLY=1
