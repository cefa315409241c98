#!/usr/bin/env bash
# Starts the SuperLink of a fedtune deployment, and lets the nodes of deployment.json in. Ctrl-C ends it.
#
#   FEDTUNE_PYTHON  the Python that holds fedtune; python3 of the PATH unless set
#   FEDTUNE_BIND    the address to listen on; @BIND@ unless set

@COMMON@
# fedtune's gate stands before Flower's own server: other machines reach what nodes need, no more.
command=(
    "$python" -P -m fedtune.federation.link.gated
    --host "${FEDTUNE_BIND:-@BIND@}" --port @PORT@
    --ssl-certfile "$here/server.pem" --ssl-keyfile "$here/server.key"
    --ssl-ca-certfile "$here/ca.pem" --enable-supernode-auth
    --database "$here/superlink.db" --disable-runtime-dependency-installation
)
unset FORWARDED_ALLOW_IPS # no header makes a stranger local

${bound[@]+"${bound[@]}"} "${command[@]}" &
child=$!
"$here/register.sh" --patience 600 & # as long as a slow machine may take: the SuperLink is watched
register=$!
stop_both() {
    kill -TERM -- "-$register" 2>/dev/null
    stop_child
}
trap stop_both EXIT
while kill -0 "$register" 2>/dev/null; do
    kill -0 "$child" 2>/dev/null || break
    sleep 0.2
done
if kill -0 "$child" 2>/dev/null; then
    wait "$register" || refuse "no node was let in; the SuperLink ends"
fi
wait "$child"
