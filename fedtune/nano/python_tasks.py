"""``python-docs`` for every task: completions, pairs of answers, prompts to be answered."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from fedtune.nano import python_docs, python_topics

Row = dict[str, str]
KINDS = ("neighbour", "elsewhere", "damaged")


def rows_for(task: str, source: str = "python-docs") -> list[Row]:
    """The data set in the format of a task.

    Args:
        task: sft: as `python_docs.rows`. reward, dpo: ``prompt``, ``chosen``, ``rejected`` and
            ``kind``, see `pairs`. grpo: ``prompt`` and ``answer``, the true docstring.
        source: python-docs or python-topics; the second has prompts and completions alone.

    Raises:
        ValueError: If the source has no rows for this task.
    """
    if source == "python-topics":
        if task != "sft":
            raise ValueError(
                f"data.source: python-topics is of task sft alone: got {task}; write python-docs, "
                f"or name data of your own"
            )
        return python_topics.rows()
    rows = python_docs.rows()
    if task in {"reward", "dpo"}:
        return pairs(rows)
    if task == "grpo":
        kept = ("prompt", "module", "name")
        return [{"answer": row["completion"], **{key: row[key] for key in kept}} for row in rows]
    return rows


def pairs(rows: Sequence[Row]) -> list[Row]:
    """Pairs of a true docstring and a wrong one, a pair for each row, in the same order.

    Three kinds of wrong, dealt by the hash of the name, so that the rows need no seed:
    ``neighbour``, the docstring of the next definition of the same module, which is hard to tell;
    ``elsewhere``, one of another module; ``damaged``, the true one with its words in another order.
    A row without a neighbour, or with a single word, gets ``elsewhere``.

    Raises:
        ValueError: If a row needs one of another module and all are of one.
    """
    by_module: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_module[row["module"]].append(place)
    made = []
    for place, row in enumerate(rows):
        draw = int.from_bytes(hashlib.sha256(row["name"].encode()).digest()[:8], "big")
        kind, mine = KINDS[draw % 3], by_module[row["module"]]
        wrong = None
        if kind == "neighbour":
            after = mine.index(place) + 1
            wrong = _first([rows[i] for i in mine[after:] + mine[:after]], row)
        elif kind == "damaged":
            wrong = _damaged(row["completion"], draw)
        if wrong is None:
            kind, start = "elsewhere", draw % len(rows)
            wrong = _first([*rows[start:], *rows[:start]], row, elsewhere=True)
        if wrong is None:
            raise ValueError("pairs need rows of two modules: got one")
        answers = {"chosen": row["completion"], "rejected": wrong}
        told = {"module": row["module"], "name": row["name"], "kind": kind}
        made.append({"prompt": row["prompt"], **answers, **told})
    return made


def _first(others: Iterable[Row], row: Row, *, elsewhere: bool = False) -> str | None:
    """The first docstring that is not the row's own, perhaps of another module alone."""
    for other in others:
        if other["completion"] != row["completion"] and not (
            elsewhere and other["module"] == row["module"]
        ):
            return other["completion"]
    return None


def _damaged(text: str, draw: int) -> str | None:
    """The words in an order that the draw gives, never the true one; None if there is no other."""
    words = text.split()
    if len(set(words)) < 2:
        return None
    order = sorted(
        range(len(words)),
        key=lambda place: hashlib.sha256(f"{draw} {place}".encode()).digest(),
    )
    moved = [words[place] for place in order]
    # Words that are not all alike differ from themselves shifted by one; reversed they need not.
    return " ".join(moved if moved != words else [*moved[1:], moved[0]])
