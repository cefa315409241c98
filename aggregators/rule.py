"""What a rule is to the rest of the world: its condition, its options, its result."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

Facts = dict[str, float | list[float]]


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    """What a Gram rule returns: weights over the points, and what it saw.

    Attributes:
        weights: One weight per point of the Gram without the origin, clients first, shape (p,).
            Where they do not sum to one, the rest stands on the origin.
        facts: What the report should say: scores, radii, the rows picked.
    """

    weights: Tensor
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """What a mixing returns: an (m, n) matrix over the clients, and what it saw."""

    matrix: Tensor
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a rule, with its bounds.

    Attributes:
        summary: One line on what it does.
        number: ``int`` or ``float``. A whole number is taken for a float, never the reverse.
        default: Its value when not given. ``None`` means that the rule finds it, and allows None.
        minimum: The least value allowed.
        maximum: The greatest value allowed.
    """

    summary: str
    number: type[int] | type[float]
    default: float | None
    minimum: float
    maximum: float = math.inf

    def check(self, owner: str, name: str, value: object) -> float | None:
        """Return the value, or refuse it.

        Raises:
            ValueError: If it is of another type, not finite, or out of bounds.
        """
        if value is None and self.default is None:
            return None
        allowed = (int, float) if self.number is float else int
        if isinstance(value, allowed) and not isinstance(value, bool):
            within = self.minimum <= value <= self.maximum
            if within and math.isfinite(value):
                return self.number(value)
        bounds = f"{name} >= {self.minimum:g}"
        if math.isfinite(self.maximum):
            bounds = f"{self.minimum:g} <= {name} <= {self.maximum:g}"
        what = "a whole number" if self.number is int else "a finite number"
        or_none = ", or null" if self.default is None else ""
        raise ValueError(
            f"{owner} needs {bounds}, {what}{or_none}: got {value!r}; default {self.default}"
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """An aggregation rule or a mixing, as listed.

    Attributes:
        name: The name in recipes and in the literal dicts.
        summary: One line.
        source: The paper and its link.
        condition: The condition in words, such as ``n >= 2f + 3``.
        min_clients: The fewest clients for a given f; the condition as a function.
        kind: ``gram`` (Gram -> Combination), ``columns`` ((n, w) -> values and use counts) or
            ``mixing`` (Gram -> Mixture).
        function: Called as ``function(points, f=f, **options)``.
        options: Name -> Option.
        needs_f: Whether f matters at all, in the condition or in the rule.
        state: Names of the (d,) tensors carried from one round to the next.
    """

    name: str
    summary: str
    source: str
    condition: str
    min_clients: Callable[[int], int]
    kind: Literal["gram", "columns", "mixing"]
    function: Callable[..., Any]
    options: Mapping[str, Option] = field(default_factory=dict)
    needs_f: bool = True
    state: tuple[str, ...] = ()

    def check_clients(self, num_clients: int, f: int) -> None:
        """Refuse too few clients, or an f that is no count.

        Raises:
            ValueError: If f is not a whole number >= 0, or the condition does not hold.
        """
        if not isinstance(f, int) or isinstance(f, bool) or f < 0:
            raise ValueError(
                f"{self.name} needs f >= 0, a whole number: got f={f!r}; "
                "f counts the clients that may be Byzantine"
            )
        fewest = self.min_clients(f)
        if num_clients < fewest:
            lower = "lower f or " if f and self.needs_f else ""
            clients = "client" if fewest == 1 else "clients"
            raise ValueError(
                f"{self.name} needs {self.condition}: got n={num_clients}, f={f}; "
                f"{lower}wait for {fewest} {clients}"
            )

    def check_options(self, options: Mapping[str, object]) -> dict[str, float | None]:
        """Return every option of the rule, given or default.

        Raises:
            ValueError: If an option is unknown or out of bounds.
        """
        for name in options:
            if name not in self.options:
                raise ValueError(unknown(f"option of {self.name}", name, self.options))
        return {
            name: option.check(self.name, name, options.get(name, option.default))
            for name, option in self.options.items()
        }


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Word the refusal of a name: what there is, and which comes nearest."""
    names = sorted(known)
    nearest = difflib.get_close_matches(str(name).lower(), names, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"unknown {what}: got {name!r}; {hint}known: {', '.join(names) or 'none'}"
