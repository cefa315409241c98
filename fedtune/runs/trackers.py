"""Pass each round's figures on to TensorBoard, trackio or W&B, through accelerate's trackers."""

from __future__ import annotations

import logging
from typing import Any

from fedtune.recipe import Recipe
from fedtune.records.lines import RoundRecord


class Trackers:
    """The recipe's ``report_to``; none is imported unless it is named."""

    def __init__(self, recipe: Recipe) -> None:
        self._trackers: list[Any] = []
        if not recipe.report_to:
            return
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # the trackers ask it whether this is the main process
        for name in recipe.report_to:
            kind = LOGGER_TYPE_TO_CLASS[name]
            logs = {"logging_dir": recipe.output_dir / "trackers"}
            folder = logs if kind.requires_logging_directory else {}
            tracker = kind(recipe.output_dir.name, **folder)
            if hasattr(tracker, "start"):
                tracker.start()
            tracker.store_init_configuration(_flat(recipe.model_dump(mode="json")))
            self._trackers.append(tracker)

    def log(self, record: RoundRecord) -> None:
        """Log one round's figures under ``eval/``, ``time/``, ``comm/`` and ``clients/``."""
        figures = (record.eval or {}).items()
        values = {f"eval/{key}": value for key, value in figures if value is not None}
        for key in ("train_s", "aggregate_s", "round_s"):
            if (seconds := getattr(record, key)) is not None:
                values[f"time/{key}"] = seconds
        for key in ("upload_bytes", "download_bytes"):
            if count := getattr(record, key):
                values[f"comm/{key}"] = count
        for client, facts in record.clients.items():
            told = {"train_loss": facts.train_loss, "weight": facts.weight}
            values |= {f"clients/{client}/{k}": v for k, v in told.items() if v is not None}
        values["clients/refused"] = len(record.refused)
        for tracker in self._trackers:
            try:
                tracker.log(values, step=record.round)
            except Exception as error:  # a tracker's network is no reason to end a run
                logging.getLogger("fedtune").warning("%s lost a round: %s", tracker.name, error)

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
