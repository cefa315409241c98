"""The pre-training text of ``nano``: signatures and docstrings of the packages installed here.

The standard library is what ``nano`` is later fine-tuned on, so nothing of it may be in here:
its copies in other packages are left out by name, by paragraph and by run of words.
"""

import hashlib
import re
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedtune.nano.docstrings import Definition, definitions, normalise

__all__ = ["Corpus", "Document", "StandardLibrary", "read_corpus", "site_packages"]

SHARED_WORDS = 10  # a text with this many words in a row from a standard docstring is dropped
MIN_CHARS = 30  # of a docstring
MAX_CHARS = 500  # of a docstring; whole paragraphs are kept up to here
MAX_DOCUMENTS_PER_PACKAGE = 6000
HELD_OUT_ONE_IN = 50  # files, chosen by the hash of their name

# Ours, and packages that carry the standard library's own text: back-ports and vendored copies.
# fmt: off
LEFT_OUT = frozenset([
    "aggregators", "attacks", "fedtune", "backports", "async_timeout", "exceptiongroup", "future",
    "importlib_metadata", "importlib_resources", "multiprocess", "mypy", "mypyc", "pip",
    "pkg_resources", "setuptools", "_distutils_hack", "six", "taskgroup", "tomli", "typeshed",
    "typing_extensions", "zipp",
])
# fmt: on
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Document:
    """One definition as ``nano`` reads it in pre-training, and where it comes from."""

    package: str
    text: str
    held_out: bool


@dataclass(frozen=True)
class Corpus:
    """The documents to train on and those held out, and what was dropped on the way."""

    train: list[Document]
    held_out: list[Document]
    dropped: dict[str, int]

    def packages(self) -> dict[str, int]:
        """Count the documents of each package."""
        return dict(sorted(Counter(d.package for d in self.train + self.held_out).items()))


class StandardLibrary:
    """The docstrings of a standard library, private ones too, to test other texts against."""

    def __init__(self, docstrings: Iterable[str]) -> None:
        self._paragraphs: set[str] = set()
        self._runs: set[int] = set()
        for docstring in docstrings:
            self._paragraphs.update(map(normalise, _paragraphs(docstring)))
            self._runs.update(_runs(docstring))

    @classmethod
    def of(cls, folder: Path) -> "StandardLibrary":
        """Read it from a folder of sources, without the packages installed inside."""
        sources = (p for p in sorted(folder.rglob("*.py")) if "site-packages" not in p.parts)
        return cls(d.docstring for path in sources for d in _read(path))

    def holds_paragraph(self, paragraph: str) -> bool:
        """Say whether a docstring has this very paragraph, but for case and white space."""
        return normalise(paragraph) in self._paragraphs

    def shares_words(self, text: str) -> bool:
        """Say whether ``SHARED_WORDS`` words in a row stand in a docstring too."""
        return not self._runs.isdisjoint(_runs(text))


def site_packages() -> Path:
    """Say where the packages beside fedtune are installed."""
    return Path(sysconfig.get_path("purelib"))


def read_corpus(folder: Path, library: StandardLibrary) -> Corpus:
    """Read the documented definitions of every package in a folder.

    A paragraph that stands in the standard library, or stood in an earlier document, is left
    out; so is a whole document that shares ten words in a row with the standard library.

    Args:
        folder: A ``site-packages`` folder; files are visited in the order of their names.
        library: The texts that must not be in the corpus.

    Returns:
        The documents, in the same order on every run over the same files.
    """
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    per_package: Counter[str] = Counter()
    documents = []
    for path in _ranked(folder):
        relative = path.relative_to(folder)
        package = relative.parts[0].removesuffix(".py")
        held_out = _rank(relative) % HELD_OUT_ONE_IN == 0
        for definition in _read(path):
            if per_package[package] >= MAX_DOCUMENTS_PER_PACKAGE:
                dropped["documents beyond the bound per package"] += 1
                continue
            text = _document(definition, library, seen, dropped)
            if text is not None:
                module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
                documents.append(Document(package, f"# {module}\n{text}", held_out))
                per_package[package] += 1
    train = [document for document in documents if not document.held_out]
    held_out_documents = [document for document in documents if document.held_out]
    return Corpus(train, held_out_documents, dict(sorted(dropped.items())))


def _document(
    definition: Definition, library: StandardLibrary, seen: set[str], dropped: Counter[str]
) -> str | None:
    kept: list[str] = []
    for paragraph in _paragraphs(definition.docstring):
        if library.holds_paragraph(paragraph):
            dropped["paragraphs of the standard library"] += 1
        elif normalise(paragraph) in seen:
            dropped["repeated paragraphs"] += 1
        elif sum(map(len, kept)) + len(paragraph) > MAX_CHARS:
            break
        else:
            kept.append(paragraph)
    text = "\n\n".join(kept)
    if len(text) < MIN_CHARS:
        return None
    if library.shares_words(text):
        dropped["documents that share words with the standard library"] += 1
        return None
    seen.update(map(normalise, kept))
    return f'{definition.signature()}\n"""{text}"""'


def _ranked(folder: Path) -> list[Path]:
    """Sort the sources by the hash of their names: a bound then keeps a spread of a package."""
    sources = [p for p in folder.rglob("*.py") if not _left_out(p.relative_to(folder))]
    return sorted(sources, key=lambda path: (_rank(path.relative_to(folder)), path))


def _left_out(relative: Path) -> bool:
    parts = relative.with_suffix("").parts
    private = {"test", "tests", "testing", "_vendor", "vendor", "_vendored", "externals"}
    return bool(LEFT_OUT.intersection(parts) or private.intersection(parts))


def _rank(relative: Path) -> int:
    return int.from_bytes(hashlib.sha256(relative.as_posix().encode()).digest()[:8], "big")


def _read(path: Path) -> Iterator[Definition]:
    try:
        with tokenize.open(path) as file:
            source = file.read()
        yield from definitions(source, public_only=False)
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return  # templates and test data that are no Python


def _paragraphs(docstring: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", docstring) if part.strip()]


def _runs(text: str) -> set[int]:
    words = WORD.findall(text.lower())
    spans = (words[i : i + SHARED_WORDS] for i in range(len(words) - SHARED_WORDS + 1))
    return {_stable_hash(" ".join(span)) for span in spans}


def _stable_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
