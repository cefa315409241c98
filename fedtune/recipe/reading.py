"""YAML read strictly, and within bounds: a recipe in a run folder may be a stranger's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from fedtune.recipe.errors import RecipeError

MAX_BYTES = 2**21  # of a file, and of what its aliases make of it; see `_StrictLoader._grow`
NODE_BYTES = 16  # that a value counts for beside its text
MAX_DEPTH = 32


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, and reads `2e-3` as the number that it is.

    What an alias stands for counts each time: nine lists, each of nine times the one before, are
    381 bytes of text and half a billion values.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._size = self._depth = 0
        self._size_of: dict[str, int] = {}  # by anchor, once the whole of it was read

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401  as PyYAML has it
        event = self.peek_event()  # type: ignore[no-untyped-call]
        before, anchor = self._size, str(getattr(event, "anchor", None) or "")
        if isinstance(event, yaml.AliasEvent):
            if anchor in self.anchors and anchor not in self._size_of:
                self._refuse(f"the alias {anchor[:32]!r} stands inside what it names", event)
            self._grow(self._size_of.get(anchor, 0), event)
            return super().compose_node(parent, index)
        self._grow(NODE_BYTES + len(getattr(event, "value", "")), event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(f"needs lists and mappings at most {MAX_DEPTH} deep", event)
        found = super().compose_node(parent, index)
        self._depth -= 1
        if anchor:
            self._size_of[anchor] = self._size - before
        return found

    def _grow(self, size: int, event: yaml.Event) -> None:
        self._size += size
        if self._size > MAX_BYTES:
            self._refuse(f"needs at most {MAX_BYTES} bytes, {NODE_BYTES} more a value", event)

    def _refuse(self, reason: str, event: yaml.Event) -> NoReturn:
        mark: Any = event.start_mark
        raise yaml.composer.ComposerError(None, None, reason, mark)


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            line = node.start_mark.line + 1
            raise RecipeError(
                [f"{key.value}: given twice in the mapping that starts at line {line}"]
            )
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 wants a dot and a sign in floats, so that a learning rate of 2e-3 would be a string.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class _PlainDumper(yaml.SafeDumper):
    """SafeDumper that writes what stands in two places twice, and no alias."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401  as PyYAML has it
        return True


def read_text(text: str) -> Any:  # noqa: ANN401  as YAML has it
    """What a text of YAML says.

    Raises:
        RecipeError: If it gives a key twice.
        ValueError: If it is no YAML, or out of bounds; the text says where.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file strictly.

    Raises:
        RecipeError: If it is not readable, or no mapping.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError([f"{path}: needs at most {MAX_BYTES} bytes"])
        raw = read_text(content.decode("utf-8"))
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError([f"{path}: not readable as YAML: {error}"]) from error
    except OSError as error:
        raise RecipeError([f"{path}: {error.strerror}"]) from error
    if not isinstance(raw, dict):
        raise RecipeError([f"{path}: needs a mapping of sections; got {type(raw).__name__}"])
    return raw


def write_text(said: Any, *, flow: bool = False) -> str:  # noqa: ANN401  as YAML has it
    """Plain values as YAML that `read_text` reads back; ``flow`` puts all on one line."""
    return yaml.dump(
        said, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True,
        default_flow_style=flow, width=10**6 if flow else None,
    )  # fmt: skip
