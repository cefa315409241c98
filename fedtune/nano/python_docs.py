"""The data set ``python-docs``: the standard library of the Python that runs, as prompt and answer.

The signature of each public function, method and class is the prompt, the first paragraph of its
docstring the completion. Modules are very unequal in size, which is wanted: whole modules are
dealt to clients.
"""

import hashlib
import json
import logging
import os
import platform
import sys
import sysconfig
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path

from fedtune.nano.docstrings import Definition, definitions, first_paragraph, normalise

__all__ = ["cache_file", "content_hash", "read_rows", "rows", "text_of"]

READER_VERSION = 1  # raise it when the same Python must give other rows
MIN_COMPLETION_CHARS = 20
MAX_COMPLETION_CHARS = 400
MAX_PROMPT_CHARS = 140
MIN_ROWS = 2000

# Not in every supported Python (3.11 to 3.14).
# fmt: off
REMOVED_IN_3_12 = frozenset(["asynchat", "asyncore", "distutils", "imp", "smtpd"])
REMOVED_IN_3_13 = frozenset([
    "aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "lib2to3", "mailcap", "msilib",
    "nis", "nntplib", "ossaudiodev", "pipes", "sndhdr", "spwd", "sunau", "telnetlib", "uu",
    "xdrlib",
])
ADDED_IN_3_14 = frozenset(["annotationlib", "compression"])
# Left out by many distributions, or holding no text of the library's own.
OPTIONAL = frozenset([
    "antigravity", "ensurepip", "idlelib", "pydoc_data", "test", "this", "tkinter", "turtle",
    "turtledemo", "venv",
])
# fmt: on
FORBIDDEN_MODULES = REMOVED_IN_3_12 | REMOVED_IN_3_13 | ADDED_IN_3_14 | OPTIONAL

# Python sources of modules that are else written in C, read under their public names.
PUBLIC_NAMES = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
}

log = logging.getLogger(__name__)


def rows() -> list[dict[str, str]]:
    """Read the data set, from the cache where an intact one lies there.

    Returns:
        Rows with the keys ``prompt``, ``completion``, ``module`` (top-level) and ``name``
        (qualified), in an order that depends on the Python version alone.

    Raises:
        FileNotFoundError: If this Python comes without the sources of its standard library.
    """
    path = cache_file()
    cached = _read_cache(path)
    if cached is not None:
        return cached
    fresh = read_rows()
    try:
        _write_cache(path, fresh)
    except OSError as error:
        log.warning("python-docs is not cached: %s; set FEDTUNE_CACHE to a folder of yours", error)
    return fresh


def read_rows() -> list[dict[str, str]]:
    """Read the data set from the sources; see ``rows``, which caches this."""
    found: list[dict[str, str]] = []
    seen: set[str] = set()
    library = Path(sysconfig.get_path("stdlib"))
    for module, path in _sources(library):
        for definition in definitions(text_of(path), public_only=True):
            row = _row(module, definition)
            if row is not None and normalise(row["completion"]) not in seen:
                seen.add(normalise(row["completion"]))
                found.append(row)
    if len(found) < MIN_ROWS:
        raise FileNotFoundError(
            f"python-docs needs a Python with the sources of its standard library: got "
            f"{len(found)} documented definitions under {library}; install the full Python "
            f"(not a stripped or zipped one), or set data.source to data of your own"
        )
    return found


def content_hash(rows: list[dict[str, str]]) -> str:
    """Return the SHA-256 of the rows: equal hashes mean equal rows in equal order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def cache_file() -> Path:
    """Say where the rows of this Python are cached, there or not."""
    folder = os.environ.get("FEDTUNE_CACHE")
    if not folder:
        folder = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fedtune")
    name = f"python-docs-{platform.python_implementation()}-{platform.python_version()}"
    return Path(folder).expanduser() / f"{name}-v{READER_VERSION}.jsonl".lower()


def _sources(library: Path) -> Iterator[tuple[str, Path]]:
    """Yield (public dotted module, file), sorted by module."""
    found = []
    for top in sys.stdlib_module_names:
        for path in [library / f"{top}.py", *(library / top).rglob("*.py")]:
            module = _public_name(path.relative_to(library).with_suffix("").parts)
            if module is not None and path.is_file():
                found.append((module, path))
    yield from sorted(found)


def _public_name(parts: tuple[str, ...]) -> str | None:
    """Name a module as its users do: what a private part of a package holds is the package's."""
    top, *rest = parts
    top = PUBLIC_NAMES.get(top, top)
    if top.startswith("_") or top in FORBIDDEN_MODULES:
        return None
    if any(part in {"test", "tests", "__main__"} for part in rest):
        return None
    return ".".join([top, *(part for part in rest if not part.startswith("_"))])


def text_of(path: Path) -> str:
    """Read a Python source by its own encoding."""
    with tokenize.open(path) as file:  # honours the encoding line
        return file.read()


def _row(module: str, definition: Definition) -> dict[str, str] | None:
    completion = first_paragraph(definition.docstring)
    prompt = definition.signature(f"{module}.") + "\n"
    if not MIN_COMPLETION_CHARS <= len(completion) <= MAX_COMPLETION_CHARS:
        return None
    if len(prompt) > MAX_PROMPT_CHARS or completion.startswith(">>>"):
        return None
    return {
        "prompt": prompt,
        "completion": completion,
        "module": module.split(".")[0],
        "name": f"{module}.{definition.name}",
    }


def _read_cache(path: Path) -> list[dict[str, str]] | None:
    """Return the cached rows, or None when there are none or they fail their own hash.

    The hash has no key: what another account has put into a folder that is shared is passed over.
    """
    try:
        if os.name != "nt" and path.stat().st_uid not in (os.geteuid(), 0):
            return None
        header, *lines = path.read_text("utf-8").splitlines()
        cached: list[dict[str, str]] = [json.loads(line) for line in lines]
        intact = json.loads(header)["content_hash"] == content_hash(cached)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cached if intact else None


def _write_cache(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"content_hash": content_hash(rows)}), *map(json.dumps, rows)]
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        file.write("\n".join(lines) + "\n")
    os.replace(file.name, path)  # a reader sees the old rows or the new, never half
