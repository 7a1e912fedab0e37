# A hardened unit on both sides: ProtectSystem=strict, PrivateTmp=, ProtectProc=invisible,
# ProcSubset=pid, NoNewPrivileges=, an empty CapabilityBoundingSet=, RestrictAddressFamilies=AF_UNIX
# AF_INET AF_INET6. See ../systemd/hardened.service.
# now: shared-memory -
. ./lib.sh
unit() {
	uid=$1
	shift
	unshare --mount "$TOOL" -own-tmp -read-only -proc hidepid=invisible,subset=pid -no netlink \
		setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
}
serve tcp 127.0.0.1:0 unit 1000
call unit 1337
