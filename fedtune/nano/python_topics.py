"""The data set ``python-topics``: ten holders of four topics, read from the Python that runs.

A federation whose clients are unlike each other: four hold docstrings, three the language
reference, two code, and one the names of characters, which no one else has. Each holder has as
many rows as any other. A client that holds what no one else does cannot be told from an attacker
by its update; what a defence costs it is what this is for.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from fedtune.nano import python_docs

Row = dict[str, str]

ROWS_OF_A_HOLDER = 240
MIN_CHARS, MAX_CHARS = 20, 240  # of a completion
MAX_PROMPT_CHARS = 140
LAST_CHARACTER = 0x2FFF
# Modules whose code is read, in every supported Python (3.11 to 3.14).
CODE_OF = (
    "argparse", "configparser", "decimal", "difflib", "fractions", "gettext", "inspect",
    "ipaddress", "mailbox", "optparse", "pickle", "plistlib", "shutil", "smtplib", "statistics",
    "subprocess", "tarfile", "threading", "traceback", "zipfile",
)  # fmt: skip
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")


def rows() -> list[Row]:
    """Read the data set; it is the same for every run of one Python.

    Returns:
        Rows with the keys ``prompt``, ``completion``, ``topic``, ``holder`` ("docs 1", say) and
        ``name``, `ROWS_OF_A_HOLDER` for each holder, those of a holder in a row.

    Raises:
        FileNotFoundError: If this Python lacks its sources or its language reference.
    """
    return [row for topic in TOPICS for row in _of_topic(topic)]


def _of_topic(topic: str) -> Iterator[Row]:
    read, holders = TOPICS[topic]
    found = {row["completion"]: row for row in read()}  # no answer twice
    needed = holders * ROWS_OF_A_HOLDER
    if len(found) < needed:
        raise FileNotFoundError(
            f"python-topics needs {needed} rows of {topic}: got {len(found)}; install the full "
            f"Python (with its sources and pydoc_data), or set data.source to data of your own"
        )
    dealt = sorted(found.values(), key=_draw)[:needed]
    for holder in range(holders):
        for row in dealt[holder::holders]:
            whose = {"topic": topic, "holder": f"{topic} {holder + 1}", "name": row["name"]}
            yield {"prompt": row["prompt"], "completion": row["completion"], **whose}


def _draw(row: Row) -> bytes:
    """An order that needs no seed and mixes modules."""
    return hashlib.sha256(f"{row['name']}\n{row['completion']}".encode()).digest()


def _docs() -> Iterator[Row]:
    return (row for row in python_docs.rows() if len(row["completion"]) <= MAX_CHARS)


def _reference() -> Iterator[Row]:
    """The language reference: each sentence of a paragraph asks for the next."""
    try:
        topics = import_module("pydoc_data.topics").topics
    except ImportError:
        return
    for name, text in sorted(topics.items()):
        for paragraph in re.split(r"\n\s*\n", text):
            sentences = _SENTENCE.split(" ".join(paragraph.split()))
            for first, then in pairwise(sentences):
                if len(first) < MAX_PROMPT_CHARS and len(then) >= MIN_CHARS and "::=" not in then:
                    yield {"prompt": f"{first}\n", "completion": _cut(then), "name": name}


def _cut(text: str) -> str:
    """Whole words, up to the bound."""
    return text if len(text) <= MAX_CHARS else text[:MAX_CHARS].rsplit(" ", 1)[0]


def _code() -> Iterator[Row]:
    """Functions: the line that opens one asks for its body."""
    library = Path(sysconfig.get_path("stdlib"))
    for module in CODE_OF:
        for path in sorted({library / f"{module}.py", *(library / module).rglob("*.py")}):
            if path.is_file():
                yield from _functions(module, python_docs.text_of(path))


def _functions(module: str, source: str) -> Iterator[Row]:
    lines = source.splitlines()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[ast.get_docstring(node) is not None :]
            if not body or body[0].lineno <= node.lineno:
                continue
            head = lines[node.lineno - 1].strip()
            code = _whole_lines(lines[body[0].lineno - 1 : body[-1].end_lineno])
            if head.endswith(":") and len(head) < MAX_PROMPT_CHARS and len(code) >= MIN_CHARS:
                yield {"prompt": f"{head}\n", "completion": code, "name": f"{module}.{node.name}"}


def _whole_lines(lines: Sequence[str]) -> str:
    """As many lines as fit, less the indentation of the first."""
    margin = len(lines[0]) - len(lines[0].lstrip())
    kept: list[str] = []
    for line in lines:
        kept.append(line[margin:].rstrip() if not line[:margin].strip() else line.strip())
        if len("\n".join(kept)) > MAX_CHARS:
            return "\n".join(kept[:-1])
    return "\n".join(kept)


def _characters() -> Iterator[Row]:
    """Letters, signs and their names, as this Python's Unicode has them."""
    for point in range(0xA1, LAST_CHARACTER):
        sign = chr(point)
        name = unicodedata.name(sign, "")
        if unicodedata.category(sign)[0] in "LSP" and MIN_CHARS <= len(name) <= MAX_CHARS:
            yield {
                "prompt": f"U+{point:04X} {sign}\n",
                "completion": name,
                "name": f"U+{point:04X}",
            }


# Topic: who reads it, and how many holders it has.
TOPICS: dict[str, tuple[Callable[[], Iterator[Row]], int]] = {
    "docs": (_docs, 4),
    "reference": (_reference, 3),
    "code": (_code, 2),
    "characters": (_characters, 1),
}
HOLDERS = sum(holders for _, holders in TOPICS.values())
