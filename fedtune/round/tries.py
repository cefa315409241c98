"""The tries of a round: who is asked again after too few good replies, and under which seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from fedtune.durable import write_whole
from fedtune.recipe import Recipe
from fedtune.records.events import RunStoppedError
from fedtune.records.lines import ClientRecord, RoundRecord, VoidTry, read_record
from fedtune.round.aggregation.terms import f_of_the_rest
from fedtune.round.screening.spool import Spool

NOT_SHOWN = "it committed in try {} of this round and showed no good reply"
STOPPED = "the run stopped after replies were shown"


class Tries:
    """Which try of a round this is, who takes part in it, and what they are bound to.

    Without commitments a round has one try: good replies stay, and the missing are asked again.
    With commitments nobody commits any more once anyone was asked to show a reply, for whoever did
    could answer to it. With too few good replies such a try is void: all are asked anew, under
    other seeds, except those who committed and then showed no good reply. As long as no one was
    asked to show, commitments stay, and those who have not committed are asked again.

    Args:
        recipe: The run's.
        path: Where it is noted that a try was shown, so that a run that goes on after a stop does
            not ask for commitments to it again; None: nowhere.

    Attributes:
        number: Of the try, from 0; the seeds of the clients' local steps follow from it.
        commitments: By client, of this try.
        left_out: Who is not asked in this round any more, and why.
        waits: Whether commitments are too few for any to be shown.
    """

    def __init__(self, recipe: Recipe, path: Path | None) -> None:
        self._recipe, self._path = recipe, path
        self._reset(0)

    def _reset(self, number: int) -> None:
        self.number = number
        self.commitments: dict[int, str] = {}
        self.left_out: dict[int, str] = {}
        self.waits = self._shown = False

    def begin(self, record: RoundRecord) -> None:
        """Open a round: at its first try, or at the one after that which a stopped run showed.

        Raises:
            RunStoppedError: If the file that tells is damaged.
        """
        self._reset(0)
        if not self._recipe.federation.commit_then_reveal:
            return
        if void := self._void_before(record.round):
            record.void = void
            self.number = len(void)
        record.try_number = self.number

    def to_ask(self, sampled: Collection[int], spool: Spool) -> list[int]:
        """Who of the round's clients gets an order to train now."""
        passed_over = {*spool.clients, *self.commitments, *self.left_out}
        return [client for client in sampled if client not in passed_over]

    def bind(self, commitments: Mapping[int, str], record: RoundRecord) -> bool:
        """Add what clients have committed to; whether the rule could run on so many replies.

        If so, it is on disk before this returns that they are shown.
        """
        self.commitments |= commitments
        bound = sorted(self.commitments)
        section = self._recipe.aggregator
        f = f_of_the_rest(section.f, record.proven_faulty, bound)
        self.waits = not section.is_defined(bound, f)
        if not self.waits:
            self._shown = True
            self._note(record)
        return not self.waits

    def in_hand(self, spool: Spool) -> list[int]:
        """Whose replies there are, or are promised where none was to be shown yet."""
        return sorted(self.commitments) if self.waits else spool.clients

    def again(self, record: RoundRecord, spool: Spool, reason: str | None) -> None:
        """Get ready to ask again; a try that was shown is void, and its replies are dropped.

        Args:
            record: The round's; it says what was void.
            spool: The round's good replies.
            reason: Why the try was not enough.
        """
        record.refused_before = [*record.refused_before, record.refused]
        if not self._shown:
            return
        void = VoidTry(number=self.number, reason=reason, clients=record.clients)
        record.void = [*record.void, void]
        left_out = {
            client: NOT_SHOWN.format(self.number)
            for client in self.commitments
            if client not in spool
        }
        earlier = self.left_out
        self._reset(self.number + 1)
        self.left_out = {**earlier, **left_out}
        record.note(try_number=self.number, clients={})
        spool.empty()

    def close(self) -> None:
        """Remove the note once all rounds are done: there is nothing to go on with."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _note(self, record: RoundRecord) -> None:
        if self._path is None:
            return
        clients = {client: ClientRecord(reply=None) for client in sorted(self.commitments)}
        shown = VoidTry(number=self.number, reason=STOPPED, clients=clients)
        note = RoundRecord(round=record.round, void=[*record.void, shown])
        told = note.model_dump_json(by_alias=True, exclude_unset=True)
        write_whole(self._path, told + "\n")

    def _void_before(self, round_: int) -> list[VoidTry]:
        """The tries of a round that a run showed before it stopped."""
        if self._path is None or not self._path.is_file():
            return []
        try:
            told = read_record(self._path.read_text(encoding="utf-8"))
            void = told.void if told.round == round_ else []
            if "void" not in told.model_fields_set:
                raise ValueError("it names no try")
            if [each.number for each in void] != list(range(len(void))):
                raise ValueError("its tries are not numbered")
        except ValueError as error:
            raise RunStoppedError(
                f"{self._path} is damaged ({error}): it says which tries of a round were shown "
                f"before the run stopped; bring it back, or start a new run",
                resumable=False,
            ) from error
        return void
