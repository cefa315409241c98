"""What a node has worked in a day, over all runs: written to disk before the work begins.

A day is 24 hours from the first order after the last one's end. A clock that is set back gives
nothing back, and a file that is gone or damaged counts as a day that is spent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

from fedtune.deployment.node import NodeConfig
from fedtune.durable import make_folder, put_in_place
from fedtune.messages.node_errors import NotAllowedError

DAY_S = 86_400.0
RUN = "run"  # a node's folder for what it keeps
FILE = "budget.json"


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Working(_Kept):
    """The order that the worker has in hand.

    Attributes:
        since: Seconds since the epoch.
        limit_s: What it may take; then the worker is killed.
    """

    since: float
    limit_s: NonNegativeFloat


class Standing(_Kept):
    """Where one run of Flower's stands on this node.

    Attributes:
        round: The newest that it was to train in, and its anchor's hash.
        trained: Orders to train in that round.
        voted_round: The newest that it was to vote in, and the orders to do so.
        at: When it last asked.
    """

    round: NonNegativeInt = 0
    anchor: str = ""
    trained: NonNegativeInt = 0
    voted_round: NonNegativeInt = 0
    voted: NonNegativeInt = 0
    at: float = 0.0


class History(_Kept):
    """The anchors from which a recipe's rounds were trained here, under whatever run id.

    Attributes:
        anchors: Hash by round.
        at: When one was last asked for.
    """

    anchors: dict[int, str] = Field(default_factory=dict)
    at: float = 0.0


class Book(_Kept):
    """What was used of the owner's day.

    Attributes:
        began: When the day began, in seconds since the epoch.
        latest: The latest time that was ever seen.
        orders: Of any kind, refused ones included.
        tokens: At most, of all orders that were not refused.
        seconds: Of the worker.
        begun: Runs that began: a recipe's first round here, and each round from another anchor.
        lost: Why nothing is known of this day, which therefore counts as spent.
        working: The order in hand.
        runs: By Flower's run id.
        histories: By the hash of what of a recipe this node trains by.
    """

    began: float
    latest: float
    orders: NonNegativeInt = 0
    tokens: NonNegativeInt = 0
    seconds: NonNegativeFloat = 0.0
    begun: NonNegativeInt = 0
    lost: str = ""
    working: Working | None = None
    runs: dict[int, Standing] = Field(default_factory=dict)
    histories: dict[str, History] = Field(default_factory=dict)

    def turn_the_day(self, now: float) -> None:
        """Begin a new day where 24 hours are over; rounds that go on keep their anchors."""
        self.latest = max(self.latest, now)
        if self.latest - self.began < DAY_S:
            return
        kept = self.began  # who was silent for the whole day is forgotten
        self.began, self.lost = self.latest, ""
        self.orders, self.tokens, self.seconds, self.begun = 0, 0, 0.0, 0
        self.runs = {key: each for key, each in self.runs.items() if each.at >= kept}
        self.histories = {key: each for key, each in self.histories.items() if each.at >= kept}

    def settle(self) -> None:
        """Count an order that nobody ended: the time since it began, its whole limit at most."""
        if self.working is None:
            return
        passed, limit_s = self.latest - self.working.since, self.working.limit_s
        self.seconds += passed if 0 <= passed <= limit_s else limit_s
        self.working = None

    def refuse_if_spent(self, config: NodeConfig) -> None:
        """Refuse one more order where the owner's day has none left.

        Raises:
            NotAllowedError: Naming the key of ``node.yaml``.
        """
        again = f"again in {(DAY_S - (self.latest - self.began)) / 3600:.1f} h"
        if self.lost:
            raise NotAllowedError(f"budget: {self.lost}: this day counts as spent; {again}")
        for key, used, most in (
            ("max_day_orders", self.orders, config.max_day_orders),
            ("max_day_s", self.seconds, config.max_day_s),
            ("max_day_tokens", self.tokens, config.max_day_tokens),
        ):
            if used >= most:
                raise NotAllowedError(f"{key}: all {most:,} of this day are used; {again}")


class Ledger:
    """The book of a node, in its folder."""

    def __init__(self, node: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = node / RUN / FILE
        self.now = clock

    def refill(self) -> None:
        """Begin a new day at the owner's word; rounds and the order in hand are kept."""
        now = self.now()
        with self._locked():
            kept = self.read()
            fresh = Book(began=now, latest=now, working=kept.working)
            fresh.runs, fresh.histories = kept.runs, kept.histories
            self._write(fresh)

    def read(self) -> Book:
        """The book as it stands; one that is gone or damaged as a spent day. Nothing is written."""
        now = self.now()
        try:
            book = Book.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return Book(began=now, latest=now, lost=f"{RUN}/{FILE} is gone")
        except (OSError, ValidationError):
            return Book(began=now, latest=now, lost=f"{RUN}/{FILE} is damaged")
        book.turn_the_day(now)
        return book

    @contextmanager
    def change(self, *, on_disk: bool = True) -> Iterator[Book]:
        """The book, to be changed; it is written when the block is left without an error.

        Args:
            on_disk: Whether it is there after a power cut too, which takes some 20 ms. Any other
                kill loses nothing of either.
        """
        with self._locked():
            book = self.read()
            try:
                yield book
            except NotAllowedError:
                if book.lost:  # the day that it costs begins now, and not anew with each order
                    self._write(book)
                raise
            self._write(book, on_disk=on_disk)

    def settle(self) -> None:
        """Count an order that a worker left open by its death."""
        if self.read().working is not None:
            with self.change() as book:
                book.settle()

    def _write(self, book: Book, *, on_disk: bool = True) -> None:
        unfinished = self.path.with_suffix(".new")
        unfinished.write_text(book.model_dump_json(), encoding="utf-8")
        if on_disk:
            put_in_place(unfinished, self.path)
        else:
            unfinished.replace(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            import fcntl
        except ImportError:  # Windows has none: a refill while an order runs may be lost there
            yield
            return
        with self.path.with_suffix(".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def make_state(node: Path) -> Path:
    """The folder in which a node keeps its state, made with an empty book where it is new.

    A folder that is there without its book has lost it: that is never a fresh day.
    """
    state, now = node / RUN, time.time()
    if state.is_dir():
        return state
    unfinished = node / f".{RUN}.new"
    make_folder(unfinished)
    unfinished.chmod(0o700)
    (unfinished / FILE).write_text(Book(began=now, latest=now).model_dump_json(), encoding="utf-8")
    put_in_place(unfinished, state)
    return state


def look_up(node: Path) -> Book:
    """The book as it stands; nothing is used on a node that never ran. Nothing is written."""
    if (node / RUN).is_dir():
        return Ledger(node).read()
    now = time.time()
    return Book(began=now, latest=now)
