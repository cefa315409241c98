"""Conversations as TRL takes them: lists of turns, each with a role and a text.

A turn may come in ShareGPT's words (from, value), with its content in parts, or alone where a list
of one is meant. What else it holds, such as tool calls, is kept as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]
Turn = dict[str, Any]
TURNS = ("messages", "prompt", "completion", "chosen", "rejected")
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "model": "assistant", "system": "system",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
_SHARED = {"human", "gpt", "chatgpt", "bing"}
_NO_TURN = "data.source: row {}: column {!r} needs a turn at least; got none; take the row out"


def is_list(rows: Dataset, name: str) -> bool:
    """Whether a column is there and holds something else than text or a number."""
    from datasets import Value

    return name in rows.features and not isinstance(rows.features[name], Value)


def as_turns(rows: Dataset, names: Sequence[str], *, shared: str | None = None) -> Dataset:
    """Rows whose columns ``names`` hold turns of a role and a text, with what else a turn had.

    Args:
        rows: As the source has them.
        names: Of columns that are no text.
        shared: The column among them that came as ShareGPT's: its words for roles are known even
            where they stand under ``role``.

    Raises:
        ValueError: Naming the row and the column that hold no turns.
    """
    from datasets import Features, Json, List

    for name in names:
        _refuse_both_kinds(rows, name)
    odd = [name for name in names if not _is_plain(rows, name) or _says_human(rows, name, shared)]
    if not odd:
        return rows
    # Each turn keeps its own keys: in a struct it would have those of all others, as null.
    features = Features({**rows.features, **{name: List(Json()) for name in odd}})
    typed = {name for name in odd if _is_typed(rows.features[name])}

    def brought(row: Row, place: int) -> dict[str, Any]:
        made = {name: _turns_of(row[name], name, place, name in typed) for name in odd}
        for turn in made.get(shared or "", ()):
            turn["role"] = ROLES.get(turn["role"], turn["role"])
        return made

    return rows.map(brought, with_indices=True, features=features)


def of_template(rows: Dataset) -> Dataset:
    """Rows whose ``tools`` and ``chat_template_kwargs`` hold for each row what it came with alone.

    In a struct each would have the keys of all other rows, as null; TRL takes no null for keywords.
    """
    from datasets import Features, Json, List

    kinds = {"tools": List(Json()), "chat_template_kwargs": Json()}
    here = {name: kind for name, kind in kinds.items() if is_list(rows, name)}
    typed = {name for name in here if _is_typed(rows.features[name])}
    changed = typed | (here.keys() - {"tools"})
    if not changed:
        return rows

    def brought(row: Row) -> dict[str, Any]:
        made = {name: _without_nulls(row[name]) if name in typed else row[name] for name in changed}
        return {name: each or (None if name == "tools" else {}) for name, each in made.items()}

    features = Features({**rows.features, **{name: here[name] for name in changed}})
    return rows.map(brought, features=features)


def with_system(rows: Dataset, name: str) -> Dataset:
    """Rows whose column ``system``, where it says something, is the first turn of ``name``."""

    def put(row: Row) -> dict[str, Any]:
        turns = row[name]
        if not (row["system"] or "").strip() or turns[0]["role"] == "system":
            return {name: turns}
        return {name: [{"role": "system", "content": row["system"]}, *turns]}

    return rows.map(put, remove_columns=["system"])


def hint_of_roles(rows: Dataset) -> str:
    """What to write where the first row's turns have ShareGPT's roles in the place of a template's.

    Returns:
        To follow a message; empty where the roles are the usual ones.
    """
    for name in (each for each in TURNS if is_list(rows, each)):
        roles = {str(turn.get("role")) for turn in rows[0][name] or () if isinstance(turn, Mapping)}
        if odd := sorted(roles & _SHARED):
            also = ", or call the column conversations" if name == "messages" else ""
            told = f"column {name!r} has ShareGPT's roles, {' and '.join(odd)}"
            return f"; {told}: write user and assistant{also}"
    return ""


def _says_human(rows: Dataset, name: str, shared: str | None) -> bool:
    """Whether the column's first row has ShareGPT's words for roles, and may have them."""
    turns = rows[0][name] if name == shared and len(rows) else None
    return any(turn.get("role") in _SHARED for turn in turns or () if isinstance(turn, Mapping))


def folded(turns: list[Turn]) -> list[Turn]:
    """Turns whose system turns before the user's first open that one instead."""
    first = next((at for at, turn in enumerate(turns) if turn["role"] == "user"), None)
    if first is None:
        return turns
    systems = [turn["content"] for turn in turns[:first] if turn["role"] == "system"]
    others = [turn for turn in turns[:first] if turn["role"] != "system"]
    user = {**turns[first], "content": "\n\n".join([*systems, turns[first]["content"]])}
    return [*others, user, *turns[first + 1 :]]


def alike(first: Sequence[Row], second: Sequence[Row]) -> int:
    """With how many turns of one role and one text each two conversations begin."""
    pairs = zip(map(_said, first), map(_said, second), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _said(turn: Row) -> tuple[object, ...]:
    return turn.get("role"), turn.get("content"), turn.get("tool_calls")


def _refuse_both_kinds(rows: Dataset, name: str) -> None:
    """Refuse text in some rows beside something else in others, which datasets reads as JSON."""
    from datasets import Json

    if not isinstance(rows.features[name], Json):
        return
    said = rows[name]
    odd = next((at for at, each in enumerate(said) if type(each) is not type(said[0])), 0)
    if str in {type(said[0]), type(said[odd])}:
        first, other = (type(each).__name__ for each in (said[0], said[odd]))
        raise ValueError(
            f"data.source: row {odd}: column {name!r} needs text in each row, or turns in each; "
            f"got {other} beside {first}"
        )


def _is_plain(rows: Dataset, name: str) -> bool:
    """Whether each turn is known by its type to have a role and a text alone.

    Raises:
        ValueError: Naming a row that has no turn.
    """
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    turn = getattr(rows.features[name], "feature", None)
    if not isinstance(turn, Mapping) or set(turn) != {"role", "content"}:
        return False
    if any(getattr(turn[key], "dtype", None) not in {"string", "large_string"} for key in turn):
        return False
    column = rows.data.column(name)
    bare = pc.index(pc.fill_null(pc.list_value_length(column), 0), 0).as_py()
    if bare >= 0:
        raise ValueError(_NO_TURN.format(bare, name))
    turns = pc.list_flatten(column)
    return all(pc.struct_field(turns, key).null_count == 0 for key in ("role", "content"))


def _is_typed(feature: Any) -> bool:  # noqa: ANN401  as datasets has it
    """Whether turns are structs, which have a null for each key of the others."""
    from datasets import Json

    return not isinstance(getattr(feature, "feature", feature), Json)


def _turns_of(said: Any, name: str, place: int, typed: bool) -> list[Turn]:  # noqa: ANN401
    if not said:
        raise ValueError(_NO_TURN.format(place, name))
    turns = [said] if isinstance(said, Mapping) else said
    return [_turn_of(turn, name, place, typed) for turn in turns]


def _turn_of(said: Any, name: str, place: int, typed: bool) -> Turn:  # noqa: ANN401
    if not isinstance(said, Mapping) or not ({"role", "from"} & said.keys()):
        raise ValueError(
            f"data.source: row {place}: column {name!r} needs text, or turns with role and "
            f"content; got {str(said)[:60]!r}"
        )
    role = said.get("role")
    if role is None:
        role = ROLES.get(str(said.get("from")))
    if role is None:
        raise ValueError(
            f"data.source: row {place}: column {name!r} knows no role {said.get('from')!r}; "
            f"write one of {', '.join(ROLES)}"
        )
    if not isinstance(role, str):
        raise ValueError(
            f"data.source: row {place}: column {name!r} needs a role that is text; got {role!r}"
        )
    content = said["content"] if said.get("content") is not None else said.get("value")
    turn = {"role": role, "content": _as_text(content, name, place)}
    rest = {key: each for key, each in said.items() if key not in {*turn, "from", "value"}}
    return turn | {
        key: _without_nulls(each) if typed else each
        for key, each in rest.items()
        if each is not None
    }


def _as_text(content: Any, name: str, place: int) -> str:  # noqa: ANN401  text or parts
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    kinds = {str(part.get("type") or "text") if isinstance(part, Mapping) else type(part).__name__
             for part in parts}  # fmt: skip
    if kinds - {"text"}:
        raise ValueError(
            f"data.source: row {place}: column {name!r}: content needs text alone; got "
            f"{', '.join(sorted(kinds))}"
        )
    return "".join(part.get("text") or "" for part in parts)


def _without_nulls(said: Any) -> Any:  # noqa: ANN401  as JSON has it
    if isinstance(said, Mapping):
        return {key: _without_nulls(each) for key, each in said.items() if each is not None}
    if isinstance(said, list):
        return [_without_nulls(each) for each in said]
    return said
