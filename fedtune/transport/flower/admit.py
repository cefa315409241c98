"""Who may join: the SuperLink's list of nodes, brought in line with `deployment.json`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import httpx
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedtune.deployment.folder import DeploymentFolder

_LOOK_S = 0.1
_GONE = "unregistered"  # Flower's word; it keeps the key, and takes it never again


@dataclass(frozen=True)
class Admission:
    """What was done.

    Args:
        nodes: Flower's number of each node of the list, by name.
        new: Names that were let in just now.
        let_out: Flower's numbers of those who were known and are not on the list.
    """

    nodes: dict[str, int]
    new: list[str]
    let_out: list[int]

    @property
    def told(self) -> str:
        """One line for a log."""
        known = len(self.nodes) - len(self.new)
        line = f"nodes that may join: {len(self.nodes)}; {len(self.new)} new, {known} known"
        out = ", ".join(str(number) for number in self.let_out)
        return f"{line}; let out, their keys are not on the list: {out}" if out else line


class NodeBook(Protocol):
    """Where a SuperLink's list of nodes is kept."""

    def known(self) -> dict[bytes, tuple[int, str]]:
        """Node number and status by key."""

    def let_in(self, key: bytes, name: str) -> int:
        """Write a key down; its node's number."""

    def let_out(self, number: int) -> None:
        """Strike a node off; its key is never taken again."""


def bring_in_line(book: NodeBook, folder: DeploymentFolder) -> Admission:
    """Let in every key of a deployment, and let out every other.

    Raises:
        ValueError: If a key was let out before: Flower does not take it again.
    """
    known = book.known()
    wanted = dict(zip(folder.names, folder.public_keys, strict=True))
    for name, key in wanted.items():
        if known.get(key, (0, ""))[1] == _GONE:
            raise ValueError(
                f"{name}: needs a key that was never let out: Flower takes none again; make it a "
                f"new one, or stop the SuperLink and remove {folder.server / 'superlink.db'}"
            )
    new = [name for name, key in wanted.items() if key not in known]
    entered = {name: book.let_in(wanted[name], name) for name in new}
    strangers = [
        number
        for key, (number, status) in known.items()
        if key not in wanted.values() and status != _GONE
    ]
    for number in strangers:
        book.let_out(number)
    nodes = {name: entered.get(name) or known[key][0] for name, key in wanted.items()}
    return Admission(nodes, new, strangers)


def admit(folder: DeploymentFolder, *, patience_s: float = 60.0) -> Admission:
    """Bring the list of a running SuperLink in line with its deployment.

    Args:
        folder: The launcher's; its SuperLink runs on this machine.
        patience_s: How long the SuperLink may take to answer.

    Raises:
        ConnectionError: If it does not answer, or has no certificate of this deployment.
        ValueError: If a key was let out before: Flower does not take it again.
    """
    client = ControlHttpClient.from_server_address(
        server_address=folder.local_address,
        insecure=False,
        root_certificates=folder.ca.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        _wait_for(client, folder, patience_s)
        return bring_in_line(_ControlBook(client), folder)
    finally:
        client.close()


class _ControlBook:
    """The list of a SuperLink that runs, over its Control API."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def known(self) -> dict[bytes, tuple[int, str]]:
        listed = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {bytes(node.public_key): (node.node_id, node.status) for node in listed}

    def let_in(self, key: bytes, name: str) -> int:
        answer = self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
        return int(answer.node_id)

    def let_out(self, number: int) -> None:
        self._client.UnregisterNode(UnregisterNodeRequest(node_id=number))


def _wait_for(client: ControlHttpClient, folder: DeploymentFolder, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            client.ListNodes(ListNodesRequest())
        except httpx.TransportError as error:
            if time.monotonic() < deadline:
                time.sleep(_LOOK_S)
                continue
            raise ConnectionError(
                f"needs the SuperLink of {folder.path} at {folder.local_address}: no answer in "
                f"{patience_s:g} s ({error}); start it with: {folder.server / 'start.sh'}"
            ) from error
        return
