"""The description of a rule: its condition, its options, its result."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor


Facts = dict[str, float | list[float]]
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    """The result of a Gram rule: weights over the points, and facts for the report.

    Attributes:
        weights: One weight per point of the Gram without the origin, clients first, shape (p,).
            Where they do not sum to one, the rest stands on the origin.
        facts: What the report should say: scores, radii, the rows picked.
        noise: Standard deviation of the Gaussian noise to add to each coordinate, in the units
            of the updates.
    """

    weights: Tensor
    facts: Facts = field(default_factory=dict)
    noise: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """The result of a mixing: an (m, n) matrix over the clients, and facts for the report."""

    matrix: Tensor
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """The result of a column rule for a block of w columns.

    Attributes:
        values: The aggregate's values, shape (w,), floating.
        low: The least value of each column that had a say, shape (w,).
        high: The greatest one, shape (w,). A row counts as used where low <= its value <= high.
    """

    values: Tensor
    low: Tensor
    high: Tensor


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
        kind: ``gram`` (Gram -> Combination), ``columns`` ((n, w) block -> Kept) or ``mixing``
            (Gram -> Mixture).
        function: Called as ``function(points, f=f, **options)``, and with what the flags below
            say.
        options: Name -> Option.
        needs_f: Whether f matters at all, in the condition or in the rule.
        cost: What it costs in n, d and f, in words.
        kappa: The published robustness bound in words, or why there is none.
        bound: The same as a function of n and f, where one is published.
        reading: Which reading of its paper this is, where the paper or its readers leave a choice.
        limit: Called as ``limit(n, f, **options)`` once the condition holds: why this is refused
            all the same, as "needs ...; got ...; do ...", or None.
        rows_out: A mixing's count of mixed rows, called as ``rows_out(n, **options)``.
        leaves_out: A mixing that may return fewer rows, without those that it takes for bad; f
            stays, and the mixing is skipped where the rest is not defined on so few.
        first: A mixing that belongs to the rule and runs right before it.
        memory: ``center``: the last aggregate comes as an extra point. ``history``: each client's
            sum of updates before this round comes as an extra point, in the clients' order.
        takes_reference: The server's own update comes as the extra point.
        takes_generator: The function also takes ``generator=``, a torch.Generator.
        takes_shares: The function can take ``shares=``: the owner's weights, summing to one, (n,).
        blind: A Gram rule's weights depend on nothing that the rows hold.
        takes_scale: A column rule also takes ``scale=``, the median over the clients of the root
            mean square of their update's coordinates.
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
    cost: str = ""
    kappa: str = "none known"
    bound: Callable[[int, int], float] | None = None
    reading: str = ""
    limit: Callable[..., str | None] | None = None
    rows_out: Callable[..., int] | None = None
    leaves_out: bool = False
    first: Rule | None = None
    memory: Literal["", "center", "history"] = ""
    takes_reference: bool = False
    takes_generator: bool = False
    takes_shares: bool = False
    takes_scale: bool = False
    blind: bool = False

    def check_clients(self, num_clients: int, f: int, options: Mapping[str, Any] = _NONE) -> None:
        """Refuse too few clients, or an f that is no count.

        Raises:
            ValueError: If f is not a whole number >= 0, or the condition does not hold, or the
                rule's limit is passed.
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
        if self.limit is not None and (reason := self.limit(num_clients, f, **options)):
            raise ValueError(f"{self.name} {reason}")

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

    def count_rows(self, num_clients: int, options: Mapping[str, Any] = _NONE) -> int:
        """How many rows a mixing makes of so many clients."""
        return num_clients if self.rows_out is None else self.rows_out(num_clients, **options)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the error message for an unknown name: the known names, and the nearest."""
    names = sorted(known)
    nearest = difflib.get_close_matches(str(name).lower(), names, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"unknown {what}: got {name!r}; {hint}known: {', '.join(names) or 'none'}"
