#!/usr/bin/env bash
# Starts @NAME@ of a fedtune deployment, and starts it again when it dies. Ctrl-C ends it.
#
#   FEDTUNE_PYTHON     the Python that holds fedtune; python3 of the PATH unless set
#   FEDTUNE_SUPERLINK  the SuperLink's host:port; @ADDRESS@ unless set
#   FEDTUNE_NODE_PORT  a port of this machine's loopback, for the node's own processes; a free one unless set

@COMMON@
superlink=${FEDTUNE_SUPERLINK:-@ADDRESS@}
case $here in
*[\"\\]* | *$'\n'*) refuse "need a path without quotes, backslashes and line ends: got $here; move the folder" ;;
esac
# The node keeps its model and rows in a worker beside Flower's SuperNode, and runs no code of a bundle.
command=(
    "$python" -P -m fedtune.node.supervisor "$here" flower-supernode
    --superlink "$superlink" --root-certificates "$here/ca.pem"
    --auth-supernode-private-key "$here/node.key"
    --host 127.0.0.1
    --node-config "partition-id=@CLIENT@ @FOLDER_KEY@=\"$here\""
)
free='import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'

# The SuperLink takes a killed node for alive for another 60 s, and refuses its key that long: try
# for three minutes, ever more slowly, and begin anew after as long of good service.
pause=3
tries=0
while true; do
    began=$SECONDS
    port=${FEDTUNE_NODE_PORT:-$("$python" -P -c "$free")}
    ${bound[@]+"${bound[@]}"} "${command[@]}" --port "$port" &
    child=$!
    wait "$child"
    status=$?
    stop_child # what it left behind
    if [ $((SECONDS - began)) -gt 180 ]; then
        pause=3
        tries=0
    fi
    tries=$((tries + 1))
    if [ "$tries" -ge @TRIES@ ]; then
        refuse "@NAME@ ended $tries times in a row: is its key in the launcher's deployment.json, and does no other process run with it?"
    fi
    echo "@NAME@ ended (status $status); try $((tries + 1)) of @TRIES@ in $pause s: after a kill its key is refused for up to 60 s, and always where its clock is far from the SuperLink's" >&2
    sleep "$pause" & # unlike sleep alone, a signal ends this at once
    child=$!
    wait "$child"
    pause=$((pause * 2 > 15 ? 15 : pause * 2))
done
