#!/usr/bin/env bash
# Starts the SuperLink of a fedtune deployment, and lets the nodes of deployment.json in. Ctrl-C ends it.
#
#   FEDTUNE_PYTHON  the Python that holds fedtune; python3 of the PATH unless set
#   FEDTUNE_BIND    the address to listen on; @BIND@ unless set

@COMMON@
# fedtune's gate stands before Flower's own server: other machines reach what nodes need, no more.
command=(
    "$python" -P -m fedtune.transport.flower.gated "$(dirname -- "$here")"
    --host "${FEDTUNE_BIND:-@BIND@}" --port @PORT@
    --ssl-certfile "$here/server.pem" --ssl-keyfile "$here/server.key"
    --ssl-ca-certfile "$here/ca.pem" --enable-supernode-auth
    --database "$here/superlink.db" --disable-runtime-dependency-installation
)
unset FORWARDED_ALLOW_IPS # no header makes a stranger local

${bound[@]+"${bound[@]}"} "${command[@]}" &
child=$!
wait "$child"
