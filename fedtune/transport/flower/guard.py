"""Flower's app processes and their launcher: the installed fedtune, and no code of a bundle.

Flower ships a bundle to every node and to the server, unpacks it and imports it. Found on the path
under the names `flwr-clientapp` and `flwr-serverapp`, this stands in their place: the bundle must
be the one that was pinned, a node does not unpack it, and the app that runs is fedtune's own. What
these processes log of the other side is plain; so is that of a node's SuperNode, started likewise.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from flwr.app import Error

from fedtune.messages.node_errors import CODES
from fedtune.plain import OwnLines, clean_logs

NODE_APP = "fedtune.node.node_app"  # of a node, which stands above this room
PIN = "FEDTUNE_BUNDLE"  # the SHA-256 of the one bundle that may run
WRAPPER = '#!/bin/sh\nexec "{python}" -P -m fedtune.transport.flower.guard {role} "$@"\n'
COMMANDS = {"client": "flwr-clientapp", "server": "flwr-serverapp", "node": "flower-supernode"}
# What else Flower's launcher starts by name. An "agent app" is code of the bundle, and whether a
# message asks for one is the SuperLink's word.
REFUSED = ("flwr-agentapp", "flwr-model", "flwr-connector", "flwr-simulation")
REFUSAL = "#!/bin/sh\necho 'fedtune runs its own two apps, and no {name}' >&2\nexit 1\n"
TOKEN = "FEDTUNE_TASK_TOKEN"  # not on a command line, which every account of a machine can read


class BundleRefusedError(RuntimeError):
    """The bundle is not the one that this node's owner pinned."""


def check_bundle(content: bytes, pinned: str) -> None:
    """Refuse any other bundle than the pinned one.

    Raises:
        BundleRefusedError: Naming both hashes.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != pinned:
        raise BundleRefusedError(f"this node runs the bundle {pinned[:12]} alone; got {found[:12]}")


def write_wrappers(folder: Path, python: Path | None = None) -> None:
    """Write the commands into a folder that is to lead the path."""
    folder.mkdir(parents=True, exist_ok=True)
    for role, name in COMMANDS.items():
        file = folder / name
        file.write_text(WRAPPER.format(python=python or sys.executable, role=role))
        file.chmod(0o755)
    for name in REFUSED:
        (folder / name).write_text(REFUSAL.format(name=name))
        (folder / name).chmod(0o755)


def run_client() -> None:
    """`flwr-clientapp`, with the installed thin app in place of the bundle's."""
    _import_bare("flwr.supernode.cli")
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    process: Any = import_module("flwr.supernode.runtime.run_clientapp")
    pinned = os.environ[PIN]

    def refuse_or_leave(content: bytes, **_: Any) -> None:  # noqa: ANN401
        check_bundle(content, pinned)

    process.install_from_fab = refuse_or_leave
    process.Error = error_of_ours
    OwnLines()
    process.get_load_client_app_fn = lambda **_: lambda *_: import_module(NODE_APP).app
    if token := os.environ.pop(TOKEN, ""):
        sys.argv += ["--token", token]  # of this process's own list: the kernel's has none
    flwr_clientapp()


def error_of_ours(code: int, reason: str) -> Error:
    """What Flower sends of an exception outside the app: a code of ours, in place of its text."""
    known = "other-bundle" if BundleRefusedError.__name__ in reason else "failed"
    return Error(code=code, reason=f"{known}: {CODES[known]}")


def run_launcher() -> None:
    """`flower-superexec`, which starts `flwr-clientapp` for each message and nothing else."""
    from flwr.supercore.cli import flower_superexec
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
    from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult

    def launch(_: SubprocessExecutor, spec: ExecutionSpec) -> LaunchResult:
        if spec.task_type != TaskType.CLIENT_APP:
            return LaunchResult.failed(f"a node runs fedtune's app, and no {spec.task_type}")
        command = [COMMANDS["client"], "--runtime-api-address", spec.runtime_api_address]
        command += ["--insecure", "--parent-pid", str(os.getpid())]
        subprocess.Popen(command, env={**os.environ, TOKEN: spec.token})
        return LaunchResult.accepted()

    setattr(SubprocessExecutor, "launch", launch)  # noqa: B010  mypy takes no method
    flower_superexec()


def _import_bare(name: str) -> None:
    """A package without what its `__init__` imports: here, half a second of databases."""
    parent, _, last = name.rpartition(".")
    package = ModuleType(name)
    package.__path__ = [str(Path(each) / last) for each in import_module(parent).__path__]
    sys.modules[name] = package


def run_server() -> None:
    """`flwr-serverapp`, with the installed app in place of the bundle's."""
    from flwr.superlink.cli import flwr_serverapp

    process: Any = import_module("flwr.superlink.runtime.run_serverapp")
    pinned = os.environ[PIN]
    install = process.install_from_fab

    def refuse_or_install(content: bytes, **keys: Any) -> None:  # noqa: ANN401
        check_bundle(content, pinned)
        install(content, **keys)

    process.install_from_fab = refuse_or_install
    clean_logs()
    flwr_serverapp()


def run_node() -> None:
    """`flower-supernode`, whose log quotes the types and groups of the server's messages."""
    from flwr.supernode.cli import flower_supernode

    OwnLines()
    follow_nowhere()
    flower_supernode()


def follow_nowhere() -> None:
    """Have Flower's client follow no redirect: a server could send a node to any address it likes.

    With the request goes its body, a reply say, and a signature that counts for minutes; to an
    address of http:// in the clear.
    """
    from flwr.supercore.protobuf.client import ProtobufClient

    begin = ProtobufClient.__init__

    def begun(client: Any, *words: Any, **named: Any) -> None:  # noqa: ANN401
        begin(client, *words, **named)
        client._client.follow_redirects = False

    setattr(ProtobufClient, "__init__", begun)  # noqa: B010  as above


if __name__ == "__main__":
    role, sys.argv = sys.argv[1], [COMMANDS.get(sys.argv[1], sys.argv[1]), *sys.argv[2:]]
    roles = {
        "client": run_client,
        "server": run_server,
        "launcher": run_launcher,
        "node": run_node,
    }
    roles[role]()
