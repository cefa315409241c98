"""A rule and the mixings before it, with their options checked, before there are any rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aggregators.engine.rule import Rule


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A rule or a mixing with its options, checked."""

    rule: Rule
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Which mixings run, in order, and which rule after them.

    Attributes:
        chain: The mixings asked for, and last the one that belongs to the rule, if any.
        last: The rule.
    """

    chain: tuple[Step, ...]
    last: Step

    @property
    def needs_gram(self) -> bool:
        """Whether anything here looks at distances."""
        return self.last.rule.kind == "gram" or bool(self.chain)

    @property
    def is_blind(self) -> bool:
        """Whether its weights do not depend on the values of the rows."""
        return self.last.rule.blind and not self.chain

    def check_clients(self, num_clients: int, f: int) -> None:
        """Refuse an (n, f) at which a mixing, or the rule on what they leave, is not defined.

        Raises:
            ValueError: With the first condition that does not hold.
        """
        rows, own = num_clients, self.last.rule.first
        for step in self.chain:
            if step.rule is own:
                break
            _check_rows_left(step, rows, num_clients, f)
            rows = step.rule.count_rows(rows, step.options)
        _check_rows_left(self.last, rows, num_clients, f)

    def is_defined(self, num_clients: int, f: int) -> bool:
        """Whether `check_clients` passes."""
        try:
            self.check_clients(num_clients, f)
        except ValueError:
            return False
        return True

    def unfit(self, num_clients: int, f: int) -> list[int]:
        """Places in the chain of mixings to skip on so few rows, so that the rule can run.

        A mixing is skipped if its own condition fails, or if it would leave the rule too few rows.
        f is never lowered instead: absent clients tell nothing about those that are present.
        """
        skipped, rows = [], num_clients
        for k, step in enumerate(self.chain):
            if step.rule is self.last.rule.first:
                break  # a part of the rule
            after = step.rule.count_rows(rows, step.options)
            if _is_defined(step, rows, f) and _is_defined(self.last, after, f):
                rows = after
            else:
                skipped.append(k)
        return skipped

    def min_clients(self, f: int, *, most: int = 10_000) -> int | None:
        """The fewest clients with which all of this is defined, or None up to ``most``."""
        for n in range(1, most + 1):
            if self.is_defined(n, f):
                return n
        return None


def _is_defined(step: Step, rows: int, f: int) -> bool:
    try:
        step.rule.check_clients(rows, f, step.options)
    except ValueError:
        return False
    return True


def _check_rows_left(step: Step, rows: int, num_clients: int, f: int) -> None:
    try:
        step.rule.check_clients(rows, f, step.options)
    except ValueError as error:
        if rows == num_clients:
            raise
        raise ValueError(f"{error} (the mixings leave {rows} rows of {num_clients})") from None
