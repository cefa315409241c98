"""``python-docs`` for every task: completions, pairs of answers, prompts to be answered."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from fedtune.nano import python_docs

Row = dict[str, str]
KINDS = ("neighbour", "elsewhere", "damaged")


def rows_for(task: str) -> list[Row]:
    """The data set in the format of a task.

    Args:
        task: sft: as `python_docs.rows`. reward, dpo: ``prompt``, ``chosen``, ``rejected`` and
            ``kind``, see `pairs`. grpo: ``prompt`` and ``answer``, the true docstring.
    """
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
    A module with one definition has no neighbour, and gets ``elsewhere``.
    """
    by_module: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_module[row["module"]].append(place)
    made = []
    for place, row in enumerate(rows):
        draw = int.from_bytes(hashlib.sha256(row["name"].encode()).digest()[:8], "big")
        kind = KINDS[draw % 3]
        mine = by_module[row["module"]]
        if kind == "neighbour" and len(mine) == 1:
            kind = "elsewhere"
        if kind == "neighbour":
            wrong = rows[mine[(mine.index(place) + 1) % len(mine)]]["completion"]
        elif kind == "elsewhere":
            wrong = _elsewhere(rows, row["module"], draw)
        else:
            wrong = _damaged(row["completion"], draw)
        made.append(
            {
                "prompt": row["prompt"],
                "chosen": row["completion"],
                "rejected": wrong,
                "module": row["module"],
                "name": row["name"],
                "kind": kind,
            }
        )
    return made


def _elsewhere(rows: Sequence[Row], module: str, draw: int) -> str:
    start = draw % len(rows)
    for step in range(len(rows)):
        other = rows[(start + step) % len(rows)]
        if other["module"] != module:
            return other["completion"]
    raise ValueError("pairs need rows of two modules: got one")


def _damaged(text: str, draw: int) -> str:
    """The words in an order that the draw gives, never the true one."""
    words = text.split()
    order = sorted(
        range(len(words)),
        key=lambda place: hashlib.sha256(f"{draw} {place}".encode()).digest(),
    )
    moved = [words[place] for place in order]
    return " ".join(moved if moved != words else moved[::-1])
