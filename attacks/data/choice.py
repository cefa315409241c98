"""The choice of the rows to poison, and checks on them: shared by the attacks on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from attacks.attack import Option

Row = Mapping[str, object]


def rate_option(default: float) -> Option:
    """The fraction of the rows that is changed, as an attack's option."""
    return Option(
        kind=float, default=default, low=0.0, high=1.0, summary="fraction of the rows changed"
    )


def how_many(owner: str, n: int, rate: float, *, least: int = 1) -> int:
    """Rows to change: ``round(rate * n)``, Python's rounding, ``least`` or more when rate > 0.

    Args:
        owner: The attack, for the error.
        n: Rows there are.
        rate: Fraction of them, in [0, 1].
        least: Fewer make no attack.

    Raises:
        ValueError: If ``rate`` is outside [0, 1], or above 0 with fewer than ``least`` rows.
    """
    if not 0.0 <= rate <= 1.0:  # a NaN fails it too
        raise ValueError(f"{owner}.rate needs a fraction in [0, 1]: got {rate!r}")
    if rate == 0.0:
        return 0
    if n < least:
        raise ValueError(f"{owner} needs >= {least} rows to change: got {n}; give more rows")
    return max(least, round(rate * n))


def choose(
    owner: str, n: int, rate: float, *, generator: torch.Generator, least: int = 1
) -> list[int]:
    """Draw ``how_many`` row numbers, none twice, in random order."""
    count = how_many(owner, n, rate, least=least)
    chosen: list[int] = torch.randperm(n, generator=generator)[:count].tolist()
    return chosen


def check_columns(owner: str, rows: Sequence[Row], *names: str, why: str) -> None:
    """Refuse rows that lack a column, or hold text in one row and messages in another.

    Args:
        owner: The attack, for the error.
        rows: Data rows by column.
        names: Columns that each row must have, all of them a str or all of them a list.
        why: What to do, for the error.

    Raises:
        ValueError: Naming the first row that lacks one, or the types that were mixed.
    """
    for index, row in enumerate(rows):
        if missing := [name for name in names if name not in row]:
            raise ValueError(
                f"{owner} needs a {' and a '.join(missing)} in every row: row {index} has "
                f"{sorted(row)}; {why}"
            )
    kinds = {type(row[name]) for row in rows for name in names}
    if kinds not in (set(), {str}, {list}):
        got = sorted(kind.__name__ for kind in kinds)
        raise ValueError(
            f"{owner} needs every {' and every '.join(names)} a str, or every one a list of "
            f"messages: got {got}"
        )
