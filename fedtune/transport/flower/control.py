"""The SuperLink's Control API: start a run, stop it, ask how it does, register a node's key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedtune.plain import plain
from fedtune.records.events import RunStoppedError

FINISHED = "finished"


@dataclass(frozen=True)
class State:
    """How a run does: Flower's status, and what it says of it."""

    status: str
    details: str


class Control:
    """A connection to one SuperLink.

    Args:
        address: As host:port.
        ca: The certificate that the SuperLink's own is checked against; None: no TLS.
    """

    def __init__(self, address: str, ca: Path | None) -> None:
        self._address = address
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=ca is None,
            root_certificates=None if ca is None else ca.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def start_run(self, bundle: Fab, config: Mapping[str, str]) -> int:
        """Start a run of a bundle; its number.

        Raises:
            RunStoppedError: If the SuperLink is not there, or refuses.
        """
        request = StartRunRequest(
            fab=fab_to_proto(bundle), override_config=user_config_to_proto(dict(config))
        )
        try:
            answer = self._client.StartRun(request)
        except httpx.HTTPError as error:
            raise RunStoppedError(
                f"no SuperLink at {self._address} starts a run ({type(error).__name__}: "
                f"{plain(str(error))}); is it up? fedtune deploy up, or server/start.sh"
            ) from error
        if not answer.HasField("run_id"):
            raise RunStoppedError(f"the SuperLink at {self._address} started no run")
        return int(answer.run_id)

    def stop_run(self, run_id: int) -> None:
        """Stop a run; its last checkpoint is valid."""
        self._client.StopRun(StopRunRequest(run_id=run_id))

    def state_of(self, run_id: int) -> State:
        """How a run does."""
        runs = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        status = runs[run_id].status
        return State(status.status, f"{status.sub_status} {status.details}".strip())

    def register(self, public_key: bytes, name: str) -> int:
        """Let the node of a key in; its number."""
        request = RegisterNodeRequest(public_key=public_key, name=name)
        return int(self._client.RegisterNode(request).node_id)

    def nodes(self) -> dict[bytes, str]:
        """Flower's status of each registered key."""
        listed = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {bytes(node.public_key): node.status for node in listed}
