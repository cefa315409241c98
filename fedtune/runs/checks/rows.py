"""Every client's rows, tokenised by the code of the run with the run's own tokenizer.

No weight is loaded: the model in the trainer is a toy with the recipe's vocabulary and length. What
was prepared here is what a run in this process takes up.
"""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from fedtune.failing import one_line
from fedtune.recipe import Recipe, Source
from fedtune.training.base import load_tokenizer
from fedtune.training.client_data import ClientData
from fedtune.training.epochs import steps_of_rows
from fedtune.training.formats import hint_of_prompt, kept_columns, left_out
from fedtune.training.plan import Plan, with_key
from fedtune.training.plugins import try_plugins
from fedtune.training.rewards import check_rewards
from fedtune.training.row_counts import RowCounts
from fedtune.training.scores import check_scores
from fedtune.training.skeleton import build_skeleton
from fedtune.training.tasks import TASKS
from fedtune.training.toy import toy_learner
from fedtune.training.tryout import try_step

PARTED = (
    "have a prompt that ends in other tokens alone than before its answer: its end is learnt as "
    "answer; end prompts at a word's end, answers begin with the space"
)
MOST_LISTED = 12  # clients that have a line of their own
_PLACES = ("wpe", "embed_positions", "position_embeddings")


@dataclass(frozen=True)
class Found:
    """What the rows of a recipe are, and what is wrong with them.

    Attributes:
        problems: What would stop the run, a line each.
        notes: What is worth knowing, a line each.
        counts: Of each client's training rows.
        held_out: Of the held-out rows of the whole; None where they could not be prepared.
    """

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    counts: tuple[RowCounts, ...] = ()
    held_out: RowCounts | None = None


def look_at_rows(recipe: Recipe) -> Found:
    """Prepare every client's rows, and let TRL's trainer take a step on some.

    Once per recipe, as long as its files stay as they are.
    """
    return _look(recipe.model_dump_json(), tuple(_stamps(recipe)))


def _stamps(recipe: Recipe) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of each local file of the rows and the model."""
    named = [recipe.model.name_or_path]
    for source in (recipe.data.source, recipe.data.eval_source):
        if isinstance(source, str):
            named.append(source)
        elif source is not None:
            files = source.data_files or []
            named += [source.path, *([files] if isinstance(files, str) else files)]
    for name in named:
        path = Path(name).expanduser()
        found = path.rglob("*") if path.is_dir() else map(Path, (name, *glob.glob(str(path))))
        for each in sorted(each for each in found if each.is_file()):
            said = each.stat()
            yield str(each), said.st_size, said.st_mtime_ns


@lru_cache(maxsize=8)
def _look(recipe_json: str, stamps: tuple[tuple[str, int, int], ...]) -> Found:
    recipe = Recipe.model_validate(json.loads(recipe_json))
    try:
        skeleton = build_skeleton(recipe.model)
        tokenizer = load_tokenizer(recipe.model)
    except (OSError, ValueError) as error:
        return Found((f"model.name_or_path: {' '.join(str(error).split())}",))
    plan = Plan.of(recipe, torch.device("cpu"), torch.float32)
    data = ClientData(recipe, toy_learner(recipe.task, plan, tokenizer, like=skeleton.config))
    counts: list[RowCounts] = []
    measured: dict[str, RowCounts] = {}
    unmeasured: list[str] = []
    try:
        check_rewards(recipe.rewards, data.rows.column_names)
        check_scores(recipe.evaluation.scores, data.rows)
        try_plugins(recipe, data.rows[0])
        counts.extend(map(data.counts, data.parts))
        for client in [*data.parts, *([None] if data.server_rows else [])]:
            data.check_use(client)
        held_out = measured["the held-out rows"] = data.held_out_counts(None)
        if recipe.evaluation.per_client:
            unmeasured = list(_measure(data, measured))
        _step(data, recipe)
    except (OSError, ValueError, TypeError) as error:
        return Found((str(error),), counts=tuple(counts))
    whose = {f"client {client}'s rows": each for client, each in enumerate(counts)} | measured
    bound, _ = TASKS[recipe.task].bound
    notes = [
        *_taken(data, recipe),
        *_beside(data, recipe),
        *_epochs(recipe, counts),
        *_told(counts, bound),
        *unmeasured,
    ]
    if recipe.evaluation.samples > held_out.kept:
        asked = f"evaluation.samples: {recipe.evaluation.samples} of {held_out.kept} held-out rows"
        notes.append(f"{asked} that are measured: so many are shown; lower it")
    return Found(tuple(_beyond(whose, skeleton)), tuple(notes), tuple(counts), held_out)


def lines_of(found: Found) -> Iterator[str]:
    """What each client trains on, or of many all together, a line each."""
    if len(found.counts) > MOST_LISTED:
        rows = [each.kept for each in found.counts]
        packs = sum(each.packed or 0 for each in found.counts)
        yield (
            f"rows: {len(rows)} clients train on {sum(rows):,} rows, {min(rows):,} to "
            f"{max(rows):,} each; {sum(each.cut for each in found.counts):,} cut, "
            f"{sum(each.dropped for each in found.counts):,} dropped by their length; "
            f"{sum(each.tokens for each in found.counts):,} tokens"
            + (f", in {packs:,} packed sequences" if packs else "")
        )
    else:
        for client, each in enumerate(found.counts):
            yield f"client {client}: {_counted(each)}"
    if found.held_out is not None:
        yield f"held out: {_counted(found.held_out)}"


def _counted(rows: RowCounts) -> str:
    lost = [f"{getattr(rows, word):,} {word}" for word in ("cut", "dropped")]
    by_length = f" ({', '.join(lost)} by their length)" if rows.cut or rows.dropped else ""
    packed = "" if rows.packed is None else f" in {rows.packed:,} packed sequences"
    flawed = sum(rows.flaws.values())
    told = f", {flawed:,} teach nothing" if flawed else ""
    return (
        f"{rows.kept:,} rows{packed}{by_length}{told}, {rows.tokens:,} tokens, the longest row "
        f"{rows.longest:,}"
    )


def _step(data: ClientData, recipe: Recipe) -> None:
    """Let the trainer take a step on the shortest rows of the first client."""
    rows = data.train_rows(next(iter(data.parts)))
    names = [name for name in rows.column_names if name.endswith("_ids")]
    lengths = [sum(map(len, row.values())) for row in rows.select_columns(names)]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    try:
        try_step(data.learner, recipe.task, rows, order)
    except (TypeError, ValueError) as error:
        raise ValueError(with_key(str(error), recipe.train)) from error
    except Exception as error:  # whatever TRL, torch or a plug-in raises, it would raise in the run
        raise ValueError(f"train: a step on client 0's rows failed: {one_line(error)}") from error


def _measure(data: ClientData, measured: dict[str, RowCounts]) -> Iterator[str]:
    """Count clients' held-out rows; without a row that can be measured the run goes on."""
    for client in data.parts:
        try:
            measured[f"client {client}'s held-out rows"] = data.held_out_counts(client)
        except ValueError as error:
            yield f"{error}; this client will not be measured on rows of its own"


def _beyond(counts: dict[str, RowCounts], skeleton: Any) -> Iterator[str]:  # noqa: ANN401
    """Tokens that the embedding has not, and rows longer than a table of positions."""
    vocabulary = skeleton.get_input_embeddings().num_embeddings
    for whose, each in counts.items():
        if each.largest_id >= vocabulary:
            yield (
                f"model.name_or_path: {whose} hold token {each.largest_id}, and the "
                f"model's embedding has {vocabulary}: the tokenizer has tokens that the model was "
                f"not resized for; save a model that was, or take the tokens out"
            )
            return
    tables = [
        module.num_embeddings
        for name, module in skeleton.named_modules()
        if name.rpartition(".")[2] in _PLACES and hasattr(module, "num_embeddings")
    ]
    for whose, each in counts.items():
        if tables and each.longest > min(tables):
            yield (
                f"train.max_length: the model has {min(tables)} positions, and the longest of "
                f"{whose} has {each.longest} tokens; write {min(tables)}"
            )
            return


def _taken(data: ClientData, recipe: Recipe) -> Iterator[str]:
    """What of a source was read."""
    for key, there in data.read.items():
        source = getattr(recipe.data, key)
        if isinstance(source, Source) and source.take is not None:
            rest = "all there are" if there < source.take else "what comes after them is not read"
            yield f"data.{key}: take: the first {there:,} rows of {source.path}; {rest}"


def _beside(data: ClientData, recipe: Recipe) -> Iterator[str]:
    task = TASKS[recipe.task]
    if beside := left_out(data.rows, task, recipe.data.columns):
        read = ", ".join(kept_columns(data.rows, task))
        hint = hint_of_prompt(data.rows, task)
        yield f"data.source: {read} are read; {', '.join(beside)} beside them are not{hint}"


def _epochs(recipe: Recipe, counts: list[RowCounts]) -> Iterator[str]:
    """How many steps a round's epochs are, by client."""
    if recipe.federation.local_epochs is None:
        return
    steps = [steps_of_rows(recipe, each.drawn) for each in counts]
    few, many = steps.index(min(steps)), steps.index(max(steps))
    yield (
        f"federation.local_epochs: in a round {min(steps):,} steps of client {few} to "
        f"{max(steps):,} of client {many}; who takes more moves further"
    )


def _told(counts: list[RowCounts], bound: str) -> Iterator[str]:
    """What became of rows over all clients, and who has most of it."""
    flaws: Counter[str] = Counter()
    for each in counts:
        flaws.update(each.flaws)
    rows = sum(each.rows for each in counts)
    for flaw, count in flaws.most_common():
        worst = max(range(len(counts)), key=lambda k: counts[k].flaws.get(flaw, 0))
        yield (
            f"data.source: {flaw} in {count} of {rows} training rows, which teach nothing; most "
            f"of them, {counts[worst].flaws[flaw]}, with client {worst}"
        )
    for key, word, told in (
        (bound, "cut", "are cut"),
        (bound, "dropped", "are dropped"),
        ("data.source", "parted", PARTED),
    ):
        if count := sum(getattr(each, word) for each in counts):
            worst = max(range(len(counts)), key=lambda k: getattr(counts[k], word))
            yield (
                f"{key}: {count} of {rows} training rows {told}; most of them, "
                f"{getattr(counts[worst], word)}, with client {worst}"
            )
