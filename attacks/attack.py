"""The description of an attack: its name, paper, level and bounded options."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["update", "data", "training", "reward", "protocol"]
View = Literal["own", "fellows", "all"]
Goal = Literal["harm", "backdoor", "shirk", "refused"]
Value = float | int | str | None

GOALS: dict[Goal, str] = {
    "harm": "the model gets worse",
    "backdoor": "a trigger brings about the attacker's answer; the model is otherwise unharmed",
    "shirk": "a share of the aggregate without any work",
    "refused": "a reply that the screening refuses or the server ignores",
}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of an attack: its type, default and bounds.

    Attributes:
        kind: The type of the value. An int passes for a float, a bool passes for nothing.
        default: Used when the option is not given. ``None`` means worked out from the rest, and
            may then be given too.
        summary: One line for the listing.
        low: Least value allowed, itself included.
        high: Greatest value allowed, itself included.
        choices: For a str, every value allowed; none: any text, of ``max_length`` characters at
            most and not blank.
        max_length: Of a free text, in characters.
    """

    kind: type[float] | type[int] | type[str]
    default: Value
    summary: str
    low: float = -sys.float_info.max
    high: float = sys.float_info.max
    choices: tuple[str, ...] = ()
    max_length: int = 200

    @property
    def bounds(self) -> str:
        """The values allowed, in words."""
        if self.kind is str and not self.choices:
            return f"text of 1 to {self.max_length} characters, not blank"
        if self.kind is str:
            return "one of " + ", ".join(self.choices)
        return f"{self.kind.__name__} in [{self.low:g}, {self.high:g}]"

    def check(self, owner: str, value: object) -> Value:
        """Return ``value`` in the option's type; refuse it when it lies outside the bounds."""
        if value is None and self.default is None:
            return None
        if self.kind is str and not self.choices:
            return self._check_text(owner, value)
        if self.kind is str:
            if isinstance(value, str) and value in self.choices:
                return value
            near = nearest(str(value), self.choices)
            raise ValueError(f"{owner} needs {self.bounds}: got {value!r}{near}")
        number = isinstance(value, int) or (self.kind is float and isinstance(value, float))
        if number and not isinstance(value, bool):
            assert isinstance(value, int | float)
            # the bounds are finite, so NaN, infinity and an int beyond any float fail here
            if self.low <= value <= self.high:
                return float(value) if self.kind is float else value
        raise ValueError(f"{owner} needs a finite {self.bounds}: got {value!r}")

    def _check_text(self, owner: str, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{owner} needs {self.bounds}: got {value!r}; put it in quotes")
        if not value.strip() or len(value) > self.max_length:
            got = repr(value) if len(value) <= self.max_length else f"{len(value)} characters"
            raise ValueError(f"{owner} needs {self.bounds}: got {got}")
        return value


@dataclass(frozen=True)
class Backdoor:
    """The test for a planted backdoor: a prompt with the trigger, and the expected answer.

    Attributes:
        plant: Puts the whole trigger into the prompt of a data row; the row given is not modified.
        target: What the model is to answer then, as text.
    """

    plant: Callable[[Mapping[str, object]], dict[str, object]]
    target: str


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One behaviour of a Byzantine client, with its options.

    Attributes:
        name: The key in ``ATTACKS`` and in a recipe.
        summary: One line.
        source: Paper and link.
        level: What the attack changes: "update" the update that is sent, "data" the training
            rows, "training" the loss that is minimised, "reward" the rewards that are trained
            for, "protocol" the form of the reply, or whether there is one.
        goal: What the attacker wants, a key of ``GOALS``.
        knowledge: The threat views in which the attack can run, least knowledge first: "own"
            (each attacker sees the update that it trained honestly itself), "fellows" (those of
            all attackers), "all" (those of the honest clients). Empty if it needs no update.
        options: Option name -> its type, default and bounds.
        takes: Arguments of the function beside its options: "own" and "generator" as in
            ``craft``; "scene", the knowledge beyond the round's updates; "attacker", the number
            of this attacker and how many there are.
        needs: Fields of the scene that must be given: "factors" (which columns are A and B),
            "defence" or "span" (the rule itself: the attack is white-box), "loss" (the model, to
            try rows on).
        searches: Whether a search against the rule (``Scene.search``) may choose its numbers.
        function: On rows of updates for "update", on rows of data for "data", on a loss for
            "training", on rewards and their completions for "reward", on a reply for "protocol".
        watch: For an attack on updates that also learns in rounds in which it is off: called
            then with the function's arguments; it crafts nothing.
        backdoor: For an attack that plants one: from the options to the test for it.
    """

    name: str
    summary: str
    source: str
    level: Level
    goal: Goal
    knowledge: tuple[View, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    takes: tuple[Literal["own", "generator", "scene", "attacker"], ...] = ()
    needs: tuple[Literal["factors", "defence", "span", "loss"], ...] = ()
    searches: bool = False
    function: Callable[..., Any]
    watch: Callable[..., None] | None = None
    backdoor: Callable[..., Backdoor] | None = None

    def check_options(self, given: Mapping[str, object]) -> dict[str, Value]:
        """Return every option of the attack, checked, with defaults where none was given.

        Args:
            given: Option name -> value, as a recipe or a call has it.

        Returns:
            One value for each of ``self.options``, in their order.

        Raises:
            ValueError: If a name is unknown (the nearest is named) or a value out of bounds.
        """
        for name in given:
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                near = nearest(str(name), self.options)
                raise ValueError(f"{self.name} needs options among: {known}; got {name!r}{near}")
        return {
            name: option.check(f"{self.name}.{name}", given[name])
            if name in given
            else option.default
            for name, option in self.options.items()
        }


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the nearest known name, or an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
