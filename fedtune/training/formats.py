"""The shapes that rows come in, brought to TRL's formats; and what in them teaches nothing.

TRL's formats are `Task.columns`, the first that fits. Beside them are known: columns renamed or
composed by ``data.columns``; ShareGPT's ``conversations``; alpaca's instruction, input and output;
a prompt as text beside answers as conversations, as ultrafeedback has them; content as parts.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from fedtune.training.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]
WITH_CHAT = ("tools", "chat_template_kwargs")  # what a chat template takes beside messages
MARGIN = "margin"  # of a reward model's pair
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "model": "assistant", "system": "system",
    "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
LIKELY_PROMPTS = ("question", "instruction", "query", "input", "text")
_ALPACA = {"instruction", "output"}
_TURNS = ("messages", "prompt", "completion", "chosen", "rejected")


def brought(
    rows: Dataset,
    task: Task,
    columns: Mapping[Any, str] | None = None,
    *,
    fold_system: bool = False,
) -> Dataset:
    """Rows with the columns of one of the task's formats, as far as their shape is known.

    Columns that are not the format's stay: clients may be dealt by them.

    Args:
        rows: As the source has them.
        task: What they are for.
        columns: By TRL's name, a column of the source or a template such as ``{a}: {b}``.
        fold_system: Whether a system turn goes into the first turn of the user.

    Raises:
        ValueError: Naming the row and the column that cannot be brought there.
    """
    if columns:
        rows = _composed(rows, columns)
    rows = _of_known_shape(rows, set(rows.column_names), task)
    turns = [name for name in rows.column_names if name in _TURNS and _is_list(rows, name)]
    if turns and (fold_system or any(_has_parts(rows, name) for name in turns)):
        rows = rows.map(_each_turn(turns, fold_system=fold_system), with_indices=True)
    return _one_kind(rows, task)


def chosen_columns(names: set[str], task: Task) -> frozenset[str] | None:
    """The first of the task's formats of which all columns are there."""
    return next((columns for columns in task.columns if columns <= names), None)


def kept_columns(rows: Dataset, task: Task) -> list[str]:
    """The columns of the format with what TRL reads beside them, in the order of the rows.

    A prompt as text beside answers that begin with it as a turn is not among them.
    """
    chosen = set(chosen_columns(set(rows.column_names), task) or ())
    if task.pairs and "prompt" in chosen and _repeats_prompt(rows):
        chosen.discard("prompt")
    if any(_is_list(rows, name) for name in chosen):
        chosen.update(WITH_CHAT)
    if task.name == "reward":
        chosen.add(MARGIN)
    return [name for name in rows.column_names if name in chosen]


def left_out(rows: Dataset, task: Task, columns: Mapping[Any, str] | None = None) -> list[str]:
    """Columns that look like a format of TRL's and are read neither as such nor by a template."""
    if task.all_columns:
        return []
    kept = kept_columns(rows, task)
    for name, said in (columns or {}).items():
        kept += [said, *_fields(str(name), said)]
    known = {*_TURNS, "text", "conversations", *_ALPACA, "input", *LIKELY_PROMPTS, "system"}
    return [name for name in rows.column_names if name in known - set(kept)]


def hint_of_prompt(rows: Dataset, task: Task) -> str:
    """What to write where a column that is not read looks like the prompt, which is not there."""
    beside = [name for name in LIKELY_PROMPTS if name in rows.column_names]
    missing = task.pairs and "prompt" not in rows.column_names
    return f"; write data.columns: {{prompt: {beside[0]}}}" if beside and missing else ""


def flaw_of(row: Row, task: Task) -> str | None:
    """Why a row of one of the task's formats teaches nothing useful, in two words; else None."""
    if task.pairs:
        return _flaw_of_pair(row, task)
    if "messages" in row:
        return _flaw_of_chat(row["messages"])
    if "prompt" in row and _is_empty(row["prompt"]):
        return "an empty prompt"
    if "completion" in row and _is_empty(row["completion"]):
        return "an empty answer"
    return "no text" if "text" in row and _is_empty(row["text"]) else None


def _flaw_of_pair(row: Row, task: Task) -> str | None:
    chosen, rejected = row["chosen"], row["rejected"]
    if chosen == rejected:
        return "equal answers"
    if _is_empty(chosen) or _is_empty(rejected):
        return "an empty answer"
    if "prompt" in row:
        return "an empty prompt" if _is_empty(row["prompt"]) else None
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    begun = chosen[: sum(1 for _ in alike)]  # TRL takes it for the prompt
    return "an empty prompt" if task.name == "dpo" and _is_empty(begun) else None


def _flaw_of_chat(messages: Sequence[Row]) -> str | None:
    answers = [each for each in messages if each.get("role") == "assistant"]
    if not answers:
        return "no assistant turn"
    return "an empty answer" if all(map(_says_nothing, answers)) else None


def _says_nothing(turn: Row) -> bool:
    return not (turn.get("content") or "").strip() and not turn.get("tool_calls")


def _is_empty(value: Any) -> bool:  # noqa: ANN401  text or turns
    if isinstance(value, str):
        return not value.strip()
    return not value or all(map(_says_nothing, value))


def _composed(rows: Dataset, columns: Mapping[Any, str]) -> Dataset:
    """Rows with columns named anew, or composed of several."""
    there = set(rows.column_names)
    made: dict[str, Callable[[Row], Any]] = {}
    for name, said in columns.items():
        asked = [said] if said in there else _fields(name, said)
        if missing := [each for each in asked if each not in there]:
            raise ValueError(
                f"data.columns.{name}: no column {missing[0]!r}; got {', '.join(rows.column_names)}"
            )
        made[name] = _taken(said) if said in there else _filled(said)
    moved = {said for name, said in columns.items() if said in there and said != name}
    gone = sorted(moved | (set(made) & there))

    def compose(row: Row) -> dict[str, Any]:
        return {name: make(row) for name, make in made.items()}

    return rows.map(compose, remove_columns=gone)


def _fields(name: str, template: str) -> list[str]:
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"data.columns.{name}: {template!r} is no template: {error}") from error
    # A width such as {x:>999999999} would be memory that a recipe asks for.
    if any(how or turned or not str(field).isidentifier() for _, field, how, turned in parts):
        raise ValueError(f"data.columns.{name}: a template names columns alone, as {{question}}")
    return [str(field) for _, field, *_ in parts] or [template]


def _taken(column: str) -> Callable[[Row], Any]:
    return lambda row: row[column]


def _filled(template: str) -> Callable[[Row], Any]:
    def fill(row: Row) -> str:
        return template.format_map({k: "" if v is None else v for k, v in row.items()})

    return fill


def _of_known_shape(rows: Dataset, names: set[str], task: Task) -> Dataset:
    if task.name != "sft" or names >= {"prompt", "completion"} or "messages" in names:
        return rows
    if "conversations" in names and _is_list(rows, "conversations"):
        return rows.map(_from_sharegpt, with_indices=True, remove_columns=["conversations"])
    if names >= _ALPACA:  # its `text` holds both, and would have the instruction learnt too
        gone = sorted(names & {"instruction", "input", "output", "text"})
        return rows.map(_from_alpaca, remove_columns=gone)
    return rows


def _from_sharegpt(row: Row, place: int) -> dict[str, Any]:
    turns = []
    for turn in row["conversations"] or ():
        role = str(turn.get("from", turn.get("role")))
        if role not in ROLES:
            raise ValueError(f"data.source: row {place}: conversations know no role {role!r}")
        content = turn.get("value", turn.get("content"))
        turns.append({"role": ROLES[role], "content": content or ""})
    return {"messages": turns}


def _from_alpaca(row: Row) -> dict[str, Any]:
    """As text: the two are one stretch of tokens, so that the answer needs a line of its own."""
    asked = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return {"prompt": f"{asked}\n\n" if asked else "", "completion": row["output"] or ""}


def _is_list(rows: Dataset, name: str) -> bool:
    from datasets import Value

    return name in rows.features and not isinstance(rows.features[name], Value)


def _has_parts(rows: Dataset, name: str) -> bool:
    """Whether a turn's content is a list of parts, by its type."""
    from datasets import Value

    feature = rows.features[name]
    turn = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    content = turn.get("content") if isinstance(turn, Mapping) else None
    return content is not None and not isinstance(content, Value)


def _each_turn(names: Sequence[str], *, fold_system: bool) -> Callable[[Row, int], dict[str, Any]]:
    def flatten(row: Row, place: int) -> dict[str, Any]:
        made = {}
        for name in names:
            turns = [
                {**turn, "content": _as_text(turn.get("content"), place)} for turn in row[name]
            ]
            made[name] = _folded(turns) if fold_system else turns
        return made

    return flatten


def _as_text(content: Any, place: int) -> str | None:  # noqa: ANN401  text or parts
    if content is None or isinstance(content, str):
        return content
    kinds = {part.get("type", "text") for part in content}
    if kinds - {"text"}:
        raise ValueError(
            f"data.source: row {place}: content needs text alone; got {', '.join(sorted(kinds))}"
        )
    return "".join(part.get("text") or "" for part in content)


def _folded(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns without a leading system turn, which opens the first turn of the user instead."""
    if len(turns) < 2 or turns[0].get("role") != "system" or turns[1].get("role") != "user":
        return turns
    system, user, *rest = turns
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def _one_kind(rows: Dataset, task: Task) -> Dataset:
    """A prompt and its answers, both as turns where one of them is: TRL takes no other pair."""
    chosen = chosen_columns(set(rows.column_names), task) or frozenset()
    others = [name for name in sorted(chosen - {"prompt"}) if _is_list(rows, name)]
    if "prompt" not in chosen or len(chosen) == 1:
        return rows
    if others and not _is_list(rows, "prompt"):
        if task.pairs and _repeats_prompt(rows):
            return rows
        return rows.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
    if _is_list(rows, "prompt") and not others:
        texts = sorted(chosen - {"prompt"})
        return rows.map(
            lambda row: {name: [{"role": "assistant", "content": row[name]}] for name in texts}
        )
    return rows


def _repeats_prompt(rows: Dataset) -> bool:
    """Whether the answers are whole conversations, which hold the prompt as their first turns.

    Raises:
        ValueError: If some are and others are not.
    """
    if not _is_list(rows, "chosen") or _is_list(rows, "prompt"):
        return False
    whole = [bool(turns) and turns[0].get("role") != "assistant" for turns in rows["chosen"]]
    if any(whole) and not all(whole):
        raise ValueError(
            f"data.source: row {whole.index(not whole[0])}: column 'chosen' needs whole "
            f"conversations in each row, or answers alone in each"
        )
    return any(whole)
