"""Signatures and docstrings of Python source, by parsing: nothing is imported, nothing runs."""

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Definition", "definitions", "first_paragraph", "normalise"]

MAX_ARGUMENTS_CHARS = 60  # longer argument lists are cut at an argument and end in "..."


@dataclass(frozen=True)
class Definition:
    """One documented function, method or class.

    Attributes:
        name: The name inside its module, such as ``Message.get_payload``.
        head: ``def`` or ``async def`` or ``class``.
        arguments: What stands between the parentheses, without annotations.
        docstring: The docstring, its indentation removed.
    """

    name: str
    head: str
    arguments: str
    docstring: str

    def signature(self, prefix: str = "") -> str:
        """Write the line that opens the definition, its name behind ``prefix``."""
        inside = f"({self.arguments})" if self.arguments or self.head != "class" else ""
        return f"{self.head} {prefix}{self.name}{inside}:"


def definitions(source: str, *, public_only: bool) -> Iterator[Definition]:
    """Yield the documented definitions of a module, in the order of its text.

    Functions inside functions are left out; what stands under ``if`` or ``try`` is not.

    Args:
        source: The text of the module.
        public_only: Leave out names with a leading underscore, and what is inside them;
            ``__special__`` names are public.

    Yields:
        One definition for each docstring of a function, method or class.

    Raises:
        SyntaxError: If this Python cannot parse the text.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(source)
    yield from _walk(tree.body, "", public_only)


def _walk(body: Iterable[ast.stmt], prefix: str, public_only: bool) -> Iterator[Definition]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            blocks = [node.body, node.orelse]
            if isinstance(node, ast.Try):
                blocks += [*(handler.body for handler in node.handlers), node.finalbody]
            for block in blocks:
                yield from _walk(block, prefix, public_only)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if public_only and _private(node.name):
                continue
            docstring = ast.get_docstring(node)
            if docstring:
                yield _definition(node, prefix, docstring)
            if isinstance(node, ast.ClassDef):
                yield from _walk(node.body, f"{prefix}{node.name}.", public_only)


def _private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _definition(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, prefix: str, docstring: str
) -> Definition:
    if isinstance(node, ast.ClassDef):
        head, parts = "class", [ast.unparse(base) for base in node.bases]
    else:
        head = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        parts = _arguments(node.args)
    return Definition(f"{prefix}{node.name}", head, _shorten(parts), docstring)


def _arguments(args: ast.arguments) -> list[str]:
    positional = [*args.posonlyargs, *args.args]
    bare = [None] * (len(positional) - len(args.defaults))
    parts = [
        _argument(arg, value)
        for arg, value in zip(positional, [*bare, *args.defaults], strict=True)
    ]
    if args.posonlyargs:
        parts.insert(len(args.posonlyargs), "/")
    if args.vararg:
        parts.append(f"*{args.vararg.arg}")
    elif args.kwonlyargs:
        parts.append("*")
    parts += [_argument(a, v) for a, v in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    if args.kwarg:
        parts.append(f"**{args.kwarg.arg}")
    return parts


def _argument(arg: ast.arg, default: ast.expr | None) -> str:
    return arg.arg if default is None else f"{arg.arg}={ast.unparse(default)}"


def _shorten(parts: list[str]) -> str:
    kept: list[str] = []
    for part in parts:
        if len(", ".join([*kept, part])) > MAX_ARGUMENTS_CHARS:
            return ", ".join([*kept, "..."])
        kept.append(part)
    return ", ".join(kept)


def first_paragraph(docstring: str) -> str:
    """Return the text up to the first blank line, on one line with single spaces."""
    return " ".join(re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0].split())


def normalise(text: str) -> str:
    """Return the text in lower case with single spaces: equal here means a copy."""
    return " ".join(text.lower().split())
