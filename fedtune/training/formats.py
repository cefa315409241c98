"""The shapes that rows come in, brought to TRL's formats.

TRL's formats are `Task.columns`, the first that fits. Beside them are known: columns renamed or
composed by ``data.columns``; ShareGPT's ``conversations``; alpaca's instruction, input and output;
a prompt as text beside answers as conversations, as ultrafeedback has them; what `turns` knows.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedtune.training.tasks.task import Task
from fedtune.training.turns import (
    TURNS,
    Row,
    alike,
    as_turns,
    folded,
    is_list,
    of_template,
    with_system,
)

if TYPE_CHECKING:
    from datasets import Dataset

WITH_CHAT = ("tools", "chat_template_kwargs")  # what a chat template takes beside messages
MARGIN = "margin"  # of a reward model's pair
LIKELY_PROMPTS = ("question", "instruction", "query", "input", "text")
LIKELY_ANSWERS = ("answer", "response", "output", "chosen")
_ALPACA = {"instruction", "output"}


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
        fold_system: Whether system turns go into the first turn of the user.

    Raises:
        ValueError: Naming the row and the column that cannot be brought there.
    """
    if columns:
        rows = _composed(rows, columns)
    talk = _place_of_talk(rows, task)
    if talk is not None:
        rows = rows.rename_column("conversations", talk)
    elif task.name == "sft" and _is_alpaca(set(rows.column_names)):
        gone = {"instruction", "input", "output", "text"}  # its text would teach the prompt too
        rows = rows.map(_from_alpaca, remove_columns=sorted(gone & set(rows.column_names)))
    chosen = chosen_columns(set(rows.column_names), task) or frozenset()
    turns = [each for each in rows.column_names if each in chosen and each in TURNS]
    turns = [name for name in turns if is_list(rows, name)]
    rows = as_turns(rows, turns, shared=talk)
    if talk in turns and "system" in rows.column_names and not is_list(rows, "system"):
        rows = with_system(rows, str(talk))
    rows = of_template(rows) if turns else rows
    if turns and fold_system:
        rows = rows.map(lambda row: {name: folded(row[name]) for name in turns})
    return _of_one_kind(rows, chosen, task)


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
    if any(is_list(rows, name) for name in chosen):
        chosen.update(WITH_CHAT)
    if task.name == "reward":
        chosen.add(MARGIN)
    void = {name for name in WITH_CHAT if getattr(rows.features.get(name), "dtype", "") == "null"}
    return [name for name in rows.column_names if name in chosen - void]


def left_out(rows: Dataset, task: Task, columns: Mapping[Any, str] | None = None) -> list[str]:
    """Columns that look like a format of TRL's and are read neither as such nor by a template."""
    if task.all_columns:
        return []
    kept = kept_columns(rows, task)
    for name, said in (columns or {}).items():
        kept += [said, *_fields(str(name), said)]
    known = {*TURNS, "text", "conversations", *_ALPACA, *LIKELY_PROMPTS, *LIKELY_ANSWERS, "system"}
    return [name for name in rows.column_names if name in known - set(kept)]


def hint_of_prompt(rows: Dataset, task: Task) -> str:
    """What to write where a column that is not read looks like the prompt, which is not there."""
    if not task.pairs or "prompt" in rows.column_names:
        return ""
    beside = [name for name in LIKELY_PROMPTS if name in rows.column_names]
    if not beside:
        return ""
    system = "system" in rows.column_names and not is_list(rows, "system")
    said = f'"{{system}}\\n\\n{{{beside[0]}}}"' if system else beside[0]
    return f"; write data.columns: {{prompt: {said}}}"


def hint_of_columns(rows: Dataset, task: Task) -> str:
    """What to write in ``data.columns`` where none of the task's formats is there."""
    names = rows.column_names
    asked = next((name for name in LIKELY_PROMPTS if name in names), None)
    answers = [name for name in LIKELY_ANSWERS if name in names and name != asked]
    if task.name == "sft" and asked and answers:
        return f"write data.columns: {{prompt: {asked}, completion: {answers[0]}}}"
    if task.name == "sft" and "chosen" in names:
        whole = "messages" if is_list(rows, "chosen") else "text"
        return f"write data.columns: {{{whole}: chosen}}"
    if task.name == "grpo" and asked:
        return f"write data.columns: {{prompt: {asked}}}"
    if task.pairs and not any("reject" in name for name in names):
        return "a pair is two answers to one prompt, and task sft reads rows with one"
    return "data.columns renames: {prompt: question}, say"


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
        if said not in there and (lists := [each for each in asked if is_list(rows, each)]):
            raise ValueError(f"data.columns.{name}: a template needs text: {lists[0]} holds lists")
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
    if any(how or turned or not _is_name(str(field)) for _, field, how, turned in parts):
        raise ValueError(f"data.columns.{name}: a template names columns alone, as {{question}}")
    return [str(field) for _, field, *_ in parts] or [template]


def _is_name(field: str) -> bool:
    """Whether a field is a column's name, spaces included, and no step into a value."""
    return bool(field.strip()) and not field.isdigit() and not set(field) & set(".[]{}")


def _taken(column: str) -> Callable[[Row], Any]:
    return lambda row: row[column]


def _filled(template: str) -> Callable[[Row], Any]:
    parts = [(text, field) for text, field, *_ in string.Formatter().parse(template)]

    def fill(row: Row) -> str:
        said = ((text, "" if field is None else row[field]) for text, field in parts)
        return "".join(f"{text}{'' if value is None else value}" for text, value in said)

    return fill


def _place_of_talk(rows: Dataset, task: Task) -> str | None:
    """Which of TRL's columns ShareGPT's conversations are; None where they are not read."""
    names = set(rows.column_names)
    if not is_list(rows, "conversations"):
        return None
    if task.name == "sft" and not names >= {"prompt", "completion"} and "messages" not in names:
        return "messages"
    if task.pairs and names >= {"chosen", "rejected"} and "prompt" not in names:
        return "prompt"
    return None


def _is_alpaca(names: set[str]) -> bool:
    return names >= _ALPACA and not names >= {"prompt", "completion"} and "messages" not in names


def _from_alpaca(row: Row) -> dict[str, Any]:
    """As text: the two are one stretch of tokens, so that the answer needs a line of its own."""
    asked = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return {"prompt": f"{asked}\n\n" if asked else "", "completion": row["output"] or ""}


def _of_one_kind(rows: Dataset, chosen: frozenset[str], task: Task) -> Dataset:
    """A prompt and its answers, all as turns where one of them is: TRL takes no other rows."""
    names = sorted(chosen & set(TURNS))
    texts = [name for name in names if not is_list(rows, name)]
    if len(names) == len(texts) or len(names) == 1:
        return rows
    if texts == ["prompt"] and task.pairs and _repeats_prompt(rows):
        return rows
    if texts:
        role = {name: "user" if name == "prompt" else "assistant" for name in texts}
        rows = rows.map(
            lambda row: {name: [{"role": role[name], "content": row[name]}] for name in texts}
        )
    return _without_repeats(rows, names) if "prompt" in names else rows


def _without_repeats(rows: Dataset, names: Sequence[str]) -> Dataset:
    """Rows whose answers do not say their prompt's turns again, which TRL would put before them.

    Raises:
        ValueError: If some do and others do not.
    """
    again = []
    for name in (each for each in names if each != "prompt"):
        pairs = zip(rows["prompt"], rows[name], strict=True)
        whole = [alike(prompt, said) == len(prompt) for prompt, said in pairs]
        if _all_or_none(whole, name):
            again.append(name)
    if not again:
        return rows
    return rows.map(lambda row: {name: row[name][len(row["prompt"]) :] for name in again})


def _repeats_prompt(rows: Dataset) -> bool:
    """Whether the answers are whole conversations, which hold the prompt as their first turns.

    Raises:
        ValueError: If some are and others are not.
    """
    if not is_list(rows, "chosen") or is_list(rows, "prompt"):
        return False
    whole = [bool(turns) and turns[0].get("role") != "assistant" for turns in rows["chosen"]]
    return _all_or_none(whole, "chosen")


def _all_or_none(whole: Sequence[bool], name: str) -> bool:
    if any(whole) and not all(whole):
        raise ValueError(
            f"data.source: row {whole.index(not whole[0])}: column {name!r} needs whole "
            f"conversations in each row, or answers alone in each"
        )
    return all(whole)
