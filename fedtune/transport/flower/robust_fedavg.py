"""A Flower Strategy for anyone's Flower app: FedAvg with a robust rule in the mean's place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import INFO, WARNING
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

import aggregators
from fedtune.round.screening.screen import last_line, printable, read_array
from fedtune.seeds import derive
from fedtune.transport.flower.convert import array_from_flower


class RobustFedAvg(FedAvg):
    """FedAvg whose mean is a rule of ``aggregators.AGGREGATORS``, on what changed.

    The clients are plain Flower clients that send their whole weights back. Each reply is screened
    (names, shapes, dtype, finite); what is refused is logged with its node and reason, and counts
    as absent. The rule then works on reply - broadcast: whole weights share an offset that hides
    who is far from whom. No number that a client reports weighs anything, ``num-examples`` neither.
    Arrays that hold no floating numbers, such as counters, stay as the server sent them.

    Args:
        rule: The rule.
        f: Clients that may be Byzantine in a round, a count.
        mixing: Run before the rule, names or mappings of name and options.
        options: The rule's options.
        seed: Seeds the mixings that draw.
        **fedavg: What Flower's FedAvg takes: fraction_train, min_train_nodes, arrayrecord_key ...

    Raises:
        ValueError: If a name or an option is not one that there is, or the rule needs what this
            strategy has not: an update of the server's own.

    Attributes:
        report: Of the last round: ``weights`` and ``distances`` by node, and ``refused``.
    """

    def __init__(
        self,
        rule: str,
        *,
        f: int,
        mixing: Sequence[aggregators.Mixing] = (),
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        **fedavg: Any,  # noqa: ANN401  Flower's own, passed on
    ) -> None:
        super().__init__(**fedavg)
        self._plan = aggregators.plan(rule, mixing=mixing, **(options or {}))
        if self._plan.last.rule.takes_reference:
            raise ValueError(
                f"{rule} needs an update of the server's own, which a Strategy has not"
            )
        self._call: dict[str, Any] = {"name": rule, "f": f, "mixing": mixing, **(options or {})}
        self._seed = seed
        self._sent: dict[str, np.ndarray] = {}
        self._state: dict[str, Tensor] = {}
        self._numbers: dict[int, int] = {}
        self.report: dict[str, dict[int, Any]] = {}

    def summary(self) -> None:
        """Log the rule beside what Flower logs of FedAvg."""
        log(INFO, "\t├──> Robust rule: %s", self._call)
        super().summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As FedAvg; remembers what was sent, against which the replies are measured."""
        self._sent = {name: array.numpy() for name, array in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen and aggregate. With too few good replies (None, None): the weights stay.

        So they do where the rule refuses the rows, or makes of them what is not finite.
        """
        rows, contents = self._screen(replies)
        try:
            self._plan.check_clients(len(rows), self._call["f"])
            combined = self._combine(rows, server_round)
            moved = self._moved(combined.aggregate)
        except ValueError as error:
            log(WARNING, "round %s moves nothing: %s", server_round, printable(f"{error}"))
            return None, None
        self._state = combined.state
        nodes = sorted(rows)
        self.report["weights"] = dict(zip(nodes, combined.weights.tolist(), strict=True))
        self.report["distances"] = dict(zip(nodes, combined.report["distances"], strict=True))  # type: ignore[arg-type]
        return moved, _shown(self.train_metrics_aggr_fn, contents, self.weighted_by_key)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """As FedAvg: the clients' own word, for display; what cannot be read is left out."""
        contents = [reply.content for reply in replies if not reply.has_error()]
        return _shown(self.evaluate_metrics_aggr_fn, contents, self.weighted_by_key)

    def _combine(self, rows: Mapping[int, Tensor], server_round: int) -> aggregators.Aggregation:
        """Aggregate the rows in the order of their nodes."""
        nodes = sorted(rows)
        for node in nodes:  # Flower's ids are unsigned, 64 bits: a rule's state holds none above
            self._numbers.setdefault(node, len(self._numbers))  # 2**63, so clients are counted
        return aggregators.aggregate_with_report(
            torch.stack([rows[node] for node in nodes]),
            clients=[self._numbers[node] for node in nodes],
            state=self._state,
            generator=torch.Generator().manual_seed(derive(self._seed, "mixing", server_round)),
            **self._call,
        )

    def _screen(self, replies: Iterable[Message]) -> tuple[dict[int, Tensor], list[RecordDict]]:
        rows: dict[int, Tensor] = {}
        contents: list[RecordDict] = []
        self.report = {"refused": {}}
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                if node in rows:
                    raise ValueError("it has replied already")
                rows[node] = self._read(reply)
                contents.append(reply.content)
            except Exception as error:  # whatever it raises, it refuses itself
                reason = printable(f"{error}") or type(error).__name__
                self.report["refused"][node] = reason
                log(WARNING, "refused node %s: %s", node, reason)
        return rows, contents

    def _read(self, reply: Message) -> Tensor:
        """The reply's change as one row, in the order of what was sent."""
        if reply.has_error():
            raise ValueError(f"the client failed: {last_line(reply.error.reason or '')}")
        record = reply.content.array_records[self.arrayrecord_key]
        if set(record) != set(self._sent):
            odd = sorted(set(record) ^ set(self._sent))[0]
            raise ValueError(f"needs exactly the arrays that were sent; differs in {odd[:64]!r}")
        parts = []
        for name, sent in self._sent.items():
            if not np.issubdtype(sent.dtype, np.floating):
                continue
            got = read_array(name, array_from_flower(record[name]), sent.shape, sent.dtype)
            with np.errstate(over="ignore"):  # finite in float64 is not so in float32: see below
                change = (got.astype(np.float64) - sent.astype(np.float64)).astype(np.float32)
            if not np.isfinite(change).all():
                raise ValueError(f"array {name!r} needs a change within float32: got more")
            parts.append(torch.from_numpy(change).reshape(-1))
        return torch.cat(parts)

    def _moved(self, change: Tensor) -> ArrayRecord:
        moved, start = {}, 0
        for name, sent in self._sent.items():
            after = sent
            if np.issubdtype(sent.dtype, np.floating):
                step = change[start : start + sent.size].reshape(sent.shape).numpy()
                with np.errstate(over="ignore"):
                    after = (sent.astype(np.float64) + step).astype(sent.dtype)
                if not np.isfinite(after).all():
                    raise ValueError(f"array {name!r} would leave the range of {sent.dtype}")
                start += sent.size
            moved[name] = Array(after)
        return ArrayRecord(moved)


def _shown(
    average: Callable[[list[RecordDict], str], MetricRecord], contents: list[RecordDict], key: str
) -> MetricRecord | None:
    """Flower's average of what clients report, if it can be made: it moves nothing."""
    try:
        metrics = average(contents, key) if contents else None
    except Exception as error:  # one client's odd record must not end the run
        log(WARNING, "metrics left out: %s", printable(f"{error}"))
        return None
    numbers = [value for value in (metrics or {}).values() if isinstance(value, float)]
    return metrics if all(map(math.isfinite, numbers)) else None
