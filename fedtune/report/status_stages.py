"""Where several stages stand in one folder, and which folder is meant where none is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fedtune.records.folder import STAGES, RunFolder, holds_stages
from fedtune.records.growing import Remembered, read_object
from fedtune.report.outline import read_stages_outline
from fedtune.report.status import RunStatus, State, Watch, last_written

StageState = Literal["done", "running", "stopped", "unknown", "to do"]


@dataclass(frozen=True)
class StageStatus:
    """One stage; ``run`` is None as long as it has not begun."""

    name: str
    task: str
    state: StageState
    run: RunStatus | None


@dataclass(frozen=True)
class StagesStatus:
    """Several stages; the state is that of all of them together."""

    path: Path
    state: State
    stages: Sequence[StageStatus]

    @property
    def current(self) -> StageStatus:
        """The first stage that is not done, or the last of all."""
        return next((each for each in self.stages if each.state != "done"), self.stages[-1])


class StagesWatch:
    """Looks at a folder of stages again and again, and reads only what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = RunFolder(path)
        self._recipe = Remembered(self._folder.recipe, read_stages_outline)
        self._watches: dict[str, Watch] = {}

    def look(self, now: float | None = None) -> StagesStatus:
        """Where the stages stand; arguments and errors are those of `Watch.look`."""
        if not holds_stages(self.path):
            raise FileNotFoundError(f"{self.path} holds no stages: it needs {STAGES}")
        outlines = self._recipe()
        at_work = self._folder.at_work()
        told = read_object(self.path / STAGES).get("stages")
        if not isinstance(told, dict):
            raise ValueError(f"{self.path / STAGES} is damaged: it needs stages by name")
        left = [each.name for each in outlines if told.get(each.name) != "done"]
        state: State = "finished"
        if left or at_work:
            state = "running" if at_work else "unknown" if at_work is None else "stopped"
        stages = []
        for outline in outlines:
            run = self._run(outline.name, now)
            own = _state(outline.name, state, left, begun=run is not None)
            if run is not None and own == "running":
                run = replace(run, state="running")
            stages.append(StageStatus(outline.name, outline.task, own, run))
        return StagesStatus(self.path, state, stages)

    def _run(self, name: str, now: float | None) -> RunStatus | None:
        if not (self.path / name / "recipe.yaml").is_file():
            return None
        if name not in self._watches:
            self._watches[name] = Watch(self.path / name)
        return self._watches[name].look(now)


def watch_folder(path: Path) -> Watch | StagesWatch:
    """What looks at a folder, of one run or of several stages.

    Raises:
        FileNotFoundError: If neither began there.
    """
    if not (path / "recipe.yaml").is_file():
        what = "it has no recipe.yaml" if path.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{path} holds no run: {what}")
    return StagesWatch(path) if holds_stages(path) else Watch(path)


def newest_run(root: Path) -> Path:
    """The run under a folder that is at work, or else the one that was last written to.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = [path for path in sorted(root.glob("*")) if (path / "recipe.yaml").is_file()]
    if not found:
        raise FileNotFoundError(f"{root}/ holds no run here: name the folder of one")
    return max(found, key=lambda path: (RunFolder(path).at_work() is True, _written(path)))


def _state(name: str, state: State, left: Sequence[str], *, begun: bool) -> StageState:
    if name not in left:
        return "done"
    if name != left[0] or (not begun and state != "running"):
        return "to do"
    return "stopped" if state == "finished" else state


def _written(path: Path) -> float:
    """When a run's folder, or one of its stages, last grew."""
    return max(last_written(each) for each in [path, *path.glob("*/")])
