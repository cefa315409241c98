"""Who may join: the SuperLink's list of nodes, brought in line with `deployment.json`."""

from __future__ import annotations

import time
from dataclasses import dataclass

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


def admit(folder: DeploymentFolder, *, patience_s: float = 60.0) -> Admission:
    """Let in every key of a deployment, and let out every other.

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
        return _admit(client, folder, patience_s)
    finally:
        client.close()


def _admit(client: ControlHttpClient, folder: DeploymentFolder, patience_s: float) -> Admission:
    known = _known(client, folder, patience_s)
    wanted = dict(zip(folder.names, folder.public_keys, strict=True))
    for name, key in wanted.items():
        if known.get(key, (0, ""))[1] == _GONE:
            raise ValueError(
                f"{name}: needs a key that was never let out: Flower takes none again; make it a "
                f"new one, or stop the SuperLink and remove {folder.server / 'superlink.db'}"
            )
    new = [name for name, key in wanted.items() if key not in known]
    nodes = {name: known[key][0] for name, key in wanted.items() if key in known}
    for name in new:
        answer = client.RegisterNode(RegisterNodeRequest(public_key=wanted[name], name=name))
        nodes[name] = int(answer.node_id)
    strangers = [
        node_id
        for key, (node_id, status) in known.items()
        if key not in wanted.values() and status != _GONE
    ]
    for node_id in strangers:
        client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))
    return Admission({name: nodes[name] for name in wanted}, new, strangers)


def _known(
    client: ControlHttpClient, folder: DeploymentFolder, patience_s: float
) -> dict[bytes, tuple[int, str]]:
    """Node number and status by key, as soon as the SuperLink answers."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            listed = client.ListNodes(ListNodesRequest()).nodes_info
        except httpx.TransportError as error:
            if time.monotonic() < deadline:
                time.sleep(_LOOK_S)
                continue
            raise ConnectionError(
                f"needs the SuperLink of {folder.path} at {folder.local_address}: no answer in "
                f"{patience_s:g} s ({error}); start it with: {folder.server / 'start.sh'}"
            ) from error
        return {bytes(node.public_key): (node.node_id, node.status) for node in listed}
