here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P) || exit 1
python=${FEDTUNE_PYTHON:-python3}

refuse() {
    echo "error: $*" >&2
    exit 2
}

# -P: the working directory is no place to import from.
look='import fedtune, importlib.util as look, sysconfig; assert look.find_spec("flwr"); print(sysconfig.get_path("scripts"))'
scripts=$("$python" -P -c "$look") ||
    refuse "need a Python that holds fedtune: got $python; activate its environment, or set FEDTUNE_PYTHON"
export PATH="$scripts:$PATH" # Flower starts its helpers by name
export FLWR_HOME="$here/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 FLWR_SUPEREXEC_TASK_POLL_INTERVAL=@POLL_S@
umask 077

key=$here/@KEY@
[ -r "$key" ] || refuse "need $key: it is not here, or not yours to read"
if [ -n "$(find "$key" \( -perm -040 -o -perm -020 -o -perm -004 -o -perm -002 \))" ]; then
    refuse "$key needs to be closed to others: chmod 600 it"
fi

# Should this script be killed outright, the kernel ends its child, where it can.
bound=()
if setpriv --pdeathsig TERM true 2>/dev/null; then bound=(setpriv --pdeathsig TERM --); fi

child=
stop_child() {
    [ -n "$child" ] || return 0
    kill -TERM -- "-$child" 2>/dev/null
    for _ in $(seq 60); do # 12 s: Flower gives its own parts 10
        kill -0 -- "-$child" 2>/dev/null || break
        sleep 0.2
    done
    kill -KILL -- "-$child" 2>/dev/null
    child=
}
trap stop_child EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
set -m # a process group for each child, so that all that it started ends with it
