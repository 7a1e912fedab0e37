# XDG_RUNTIME_DIR is set for one program, and not for the other, as for a login and a unit.
# now: shared-memory -
. ./lib.sh
mkdir "$run/xdg"
chown 1000 "$run/xdg"
chmod 700 "$run/xdg"
serve tcp 127.0.0.1:0 env XDG_RUNTIME_DIR="$run/xdg" setpriv --reuid 1000 --regid 1000 --clear-groups
call env -u XDG_RUNTIME_DIR setpriv --reuid 1000 --regid 1000 --clear-groups
