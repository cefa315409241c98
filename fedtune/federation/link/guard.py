"""Flower's app processes, which run the installed fedtune and never a bundle's own code.

Flower ships a bundle to every node and to the server, unpacks it and imports it. Found on the path
under the names `flwr-clientapp` and `flwr-serverapp`, this stands in their place: the bundle must
be the one that was pinned, a node does not unpack it, and the app that runs is fedtune's own. What
these processes log of the other side is plain; so is that of a node's SuperNode, started likewise.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from fedtune.plain import OwnLines, clean_logs

PIN = "FEDTUNE_BUNDLE"  # the SHA-256 of the one bundle that may run
WRAPPER = '#!/bin/sh\nexec "{python}" -P -m fedtune.federation.link.guard {role} "$@"\n'
COMMANDS = {"client": "flwr-clientapp", "server": "flwr-serverapp", "node": "flower-supernode"}


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


def run_client() -> None:
    """`flwr-clientapp`, with the installed thin app in place of the bundle's."""
    _import_bare("flwr.supernode.cli")
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    from fedtune.federation.link import node_app

    process: Any = import_module("flwr.supernode.runtime.run_clientapp")
    pinned = os.environ[PIN]

    def refuse_or_leave(content: bytes, **_: Any) -> None:  # noqa: ANN401
        check_bundle(content, pinned)

    process.install_from_fab = refuse_or_leave
    OwnLines()
    process.get_load_client_app_fn = lambda **_: lambda *_: node_app.app
    flwr_clientapp()


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
    flower_supernode()


if __name__ == "__main__":
    role, sys.argv = sys.argv[1], [COMMANDS[sys.argv[1]], *sys.argv[2:]]
    {"client": run_client, "server": run_server, "node": run_node}[role]()
