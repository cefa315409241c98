"""Pass each round's figures on to TensorBoard, trackio or W&B, through accelerate's trackers."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from fedtune.recipe import Recipe
from fedtune.records.lines import RoundRecord

PROJECT = "fedtune"  # of W&B, unless WANDB_PROJECT names another
MAX_NAME, MAX_SAID = 60, 40  # signs of a key; figures of a client
_ODD = re.compile(r"[^A-Za-z0-9_./-]")


class Trackers:
    """The recipe's ``report_to``; none is imported unless it is named.

    Args:
        recipe: The run's.
        names: What its clients are called, by number; data, or a stranger's words.
    """

    def __init__(self, recipe: Recipe, names: Sequence[str] = ()) -> None:
        self._trackers: list[Any] = []
        self._federation, self._names = recipe.federation, names
        if not recipe.report_to:
            return
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # the trackers ask it whether this is the main process
        for name in recipe.report_to:
            tracker = _make(name, LOGGER_TYPE_TO_CLASS[name], recipe.output_dir)
            if hasattr(tracker, "start"):
                tracker.start()
            tracker.store_init_configuration(_flat(recipe.model_dump(mode="json")))
            self._trackers.append(tracker)

    def log(self, record: RoundRecord) -> None:
        """Log one round's figures at the step of its number.

        Under ``train/`` stands what a client's trainer says of its steps, TRL's names, as the
        median over the clients that count, so that one that lies moves little; and
        ``train/global_step``, the steps of a client that was in all rounds, or ``train/epoch``
        where the recipe says epochs. Under
        ``clients/NUMBER_NAME/`` stands the same of each client. ``eval/``, ``time/`` and ``comm/``
        are the server's own.
        """
        values = _of_server(record) | self._of_clients(record)
        if (steps := self._federation.local_steps) is not None:
            values["train/global_step"] = record.round * steps
        if (epochs := self._federation.local_epochs) is not None:
            values["train/epoch"] = record.round * epochs
        for tracker in self._trackers:
            try:
                tracker.log(values, step=record.round)
            except Exception as error:  # a tracker's network is no reason to end a run
                logging.getLogger("fedtune").warning("%s lost a round: %s", tracker.name, error)

    def _of_clients(self, record: RoundRecord) -> dict[str, float]:
        values: dict[str, float] = {"clients/refused": len(record.refused)}
        over: dict[str, list[float]] = {}
        common = _said_by_most([each.said for each in record.clients.values()])
        for client, facts in record.clients.items():
            own = {name: value for name, value in facts.said.items() if name in common}
            said = {"loss": facts.train_loss, **own}
            for name, value in said.items():
                if value is not None:
                    over.setdefault(_slug(name), []).append(value)
            told = {"train_loss": facts.train_loss, "weight": facts.weight, **said}
            told.pop("loss")
            values |= self._under(client, told)
        common = _said_by_most(list(record.client_eval.values()))
        for client, figures in record.client_eval.items():
            told = {f"eval_{name}": each for name, each in figures.items() if name in common}
            values |= self._under(client, told)
        return values | {f"train/{name}": median(each) for name, each in over.items()}

    def _under(self, client: int, told: Mapping[str, float | None]) -> dict[str, float]:
        name = self._names[client] if client < len(self._names) else ""
        where = f"clients/{client}" + f"_{_slug(name)}" * bool(name)
        return {f"{where}/{_slug(key)}": each for key, each in told.items() if each is not None}

    def finish(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.finish()

    def __enter__(self) -> Trackers:
        """Track until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the trackers, however the block ended."""
        self.finish()


def _said_by_most(figures: Sequence[Mapping[str, float | None]]) -> set[str]:
    """Names of figures that more than half of the clients tell: a few make up no keys."""
    times = Counter(name for each in figures for name in islice(each, MAX_SAID))
    return {name for name, count in times.items() if 2 * count > len(figures)}


def _make(name: str, kind: Any, output_dir: Path) -> Any:  # noqa: ANN401  accelerate's own
    """A tracker of accelerate's, not started."""
    if name == "wandb":
        # Its files stay out of the run's folder: with its links in it the run could not go on.
        return kind(os.environ.get("WANDB_PROJECT", PROJECT), name=output_dir.name)
    logs = {"logging_dir": output_dir / "trackers"} if kind.requires_logging_directory else {}
    return kind(output_dir.name, **logs)


def _of_server(record: RoundRecord) -> dict[str, float]:
    values: dict[str, float] = {
        f"eval/{key}": value for key, value in (record.eval or {}).items() if value is not None
    }
    for key in ("train_s", "aggregate_s", "round_s"):
        if (seconds := getattr(record, key)) is not None:
            values[f"time/{key}"] = seconds
    for key in ("upload_bytes", "download_bytes"):
        if count := getattr(record, key):
            values[f"comm/{key}"] = count
    return values


def _slug(name: str) -> str:
    """A stranger's words as a part of a tracker's key: letters, digits and a few signs."""
    return _ODD.sub("_", name)[:MAX_NAME]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str | float | int | bool]:
    flat: dict[str, str | float | int | bool] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}/")
        elif isinstance(value, str | float | int | bool):
            flat[prefix + key] = value
        else:
            flat[prefix + key] = str(value)
    return flat
