#!/usr/bin/env bash
# Brings the running SuperLink's list of nodes in line with deployment.json, after a change of that
# file. start.sh does so too, when it starts.
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P) || exit 1
exec "${FEDTUNE_PYTHON:-python3}" -P -m fedtune.cli deploy register "$(dirname -- "$here")" "$@"
