# place: MemoryMax=64M of both units
# way: shared memory
# because: the fifos have room in it
# needs: a cgroup of memory that can be made
# imitates: systemd/memory-max.service: MemoryMax=64M
. "$(dirname "$0")/lib.sh"
server_group=$(memory_group server)
client_group=$(memory_group client)
limited='
	echo $$ >"$0/cgroup.procs"
	exec setpriv --reuid=1000 --regid=1000 --clear-groups "$@"'
server sh -c "$limited" "$server_group" way serve tcp:127.0.0.1:8080
client sh -c "$limited" "$client_group" way get tcp:127.0.0.1:8080
