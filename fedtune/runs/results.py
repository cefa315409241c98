"""What a run, or a run of several stages, has left: read from its folder when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedtune.recipe import Recipe
from fedtune.records.folder import RunFolder
from fedtune.records.lines import Figures, RoundRecord


@dataclass(frozen=True)
class RunResult:
    """A run as its folder holds it; read when it is first asked for.

    Attributes:
        folder: ``runs/<name>``: recipe, manifest, metrics, checkpoints, adapter.
        recipe: As it was run, every default in it.
    """

    folder: Path
    recipe: Recipe

    @property
    def adapter(self) -> Path:
        """A plain PEFT folder."""
        return self.folder / "adapter"

    @property
    def best_adapter(self) -> Path | None:
        """That of the best round by ``evaluation.watch``; None where it is not set."""
        path = self.folder / "adapter_best"
        return path if self.best_round is not None and path.is_dir() else None

    @property
    def best_round(self) -> int | None:
        """The round of `best_adapter`; 0 is the start."""
        return next((one.best_round for one in reversed(self.records) if one.eval), None)

    @cached_property
    def records(self) -> list[RoundRecord]:
        """The lines of metrics.jsonl: the base, then each round."""
        return RunFolder(self.folder).read_records()

    @property
    def base(self) -> Figures:
        """Held-out figures before round 1, by name; ``loss`` is in nats a token."""
        return self._measured()[0]

    @property
    def final(self) -> Figures:
        """The same at the end."""
        return self._measured()[-1]

    @property
    def refused(self) -> dict[int, dict[int, str]]:
        """By round and client: why a reply, or its absence, did not count."""
        return {record.round: record.refused for record in self.records if record.refused}

    def _measured(self) -> list[Figures]:
        found = [record.eval for record in self.records if record.eval is not None]
        return found or [{}]


@dataclass(frozen=True)
class StagesResult:
    """A run in stages.

    Attributes:
        folder: That of all.
        stages: Each stage's own result, by name, in order.
    """

    folder: Path
    stages: Mapping[str, RunResult]
