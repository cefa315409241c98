"""What went wrong in a run, with its tracebacks, in one file of the run's folder."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fedtune
from fedtune.durable import own
from fedtune.failing import account_of, one_line
from fedtune.recipe import Recipe
from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder

FILE = "traceback.txt"
_MOST = 32  # accounts; a client that fails in each round fails alike


class Failures:
    """Writes accounts of failures into ``traceback.txt``, each once.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._said: set[str] = set()

    def forget(self) -> None:
        """Remove what an earlier try of the run has left."""
        self.path.unlink(missing_ok=True)

    def note(self, account: str) -> None:
        """Add an account (`fedtune.plain.account_of`); one that cannot be written is lost."""
        lines = account.splitlines()
        what = f"{lines[0].partition(',')[0]} {lines[-1]}" if lines else ""
        if len(lines) < 3 or what in self._said or len(self._said) >= _MOST:
            return
        self._said.add(what)
        try:
            with open(self.path, "a", encoding="utf-8", opener=own) as stream:
                stream.write(f"{account}\n\n")
        except OSError:
            return

    @contextmanager
    def stopping(self, doing: Callable[[], str]) -> Iterator[None]:
        """Within it, what nobody foresaw stops the run in one line, with its traceback in the file.

        What is said in a recipe's words is raised as it is: it says what to mend.

        Args:
            doing: What the run is at.

        Raises:
            RunStoppedError: From what was raised.
        """
        try:
            yield
        except RunStoppedError:
            raise
        except (Exception, SystemExit) as error:  # a plug-in may try to end the process
            if in_our_words(error):
                raise
            self.note(account_of(error, f"server, {doing()}"))
            raise RunStoppedError(f"{doing()}: {_with_cause(error)}") from error


def in_our_words(error: BaseException) -> bool:
    """Whether an error says what to mend: it begins with a key of a recipe, or is our own refusal.

    A refusal is told by the line that raised it, which is a ``raise`` of ours: what Python itself
    raises in a line of ours is no refusal.
    """
    if not isinstance(error, ValueError | OSError):
        return False
    first = str(error).partition(" ")[0].partition(":")[0].partition(".")[0]
    last = traceback.extract_tb(error.__traceback__)[-1:]
    ours = any(Path(fedtune.__file__).parent in Path(each.filename).parents for each in last)
    refused = ours and any((each.line or "").startswith("raise ") for each in last)
    return first in Recipe.model_fields or refused


def give_up(folder: RunFolder, error: BaseException) -> None:
    """Say where the traceback lies, and take away a new folder in which nothing was finished.

    Args:
        folder: Of the run that failed.
        error: What it failed with; of a `RunStoppedError` the attributes are set.
    """
    trace = folder.path / FILE
    nothing = folder.is_new and not any(folder.checkpoints.glob("round-*"))
    if nothing:
        if trace.is_file():
            trace = trace.replace(folder.path.with_name(f"{folder.path.name}.{FILE}"))
        shutil.rmtree(folder.path, ignore_errors=True)
    if isinstance(error, RunStoppedError):
        error.resumable = error.resumable and not nothing
        error.traceback = trace if trace.is_file() else None


def _with_cause(error: BaseException) -> str:
    memory = isinstance(error, MemoryError) and not str(error)
    return f"{one_line(error)}{': the memory does not suffice' if memory else ''}"
