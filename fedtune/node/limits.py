"""What a recipe would use of a node, held against what its owner allows: one table for both.

Nothing here builds a trainer or loads a model: the numbers are those of the recipe.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from fedtune.deployment.node import NodeConfig
from fedtune.messages.message import EVALUATE, TRAIN, VOTE
from fedtune.node.budget import Book
from fedtune.recipe import Recipe
from fedtune.round.defence.candidate import SCALES
from fedtune.training.epochs import most_steps
from fedtune.training.tasks import TASKS

_PROMPT = 1024  # tokens that a prompt of grpo is counted with: TRL cuts none
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_MAX_NAMES, _MAX_NAME = 256, 200
# Keys of `train:` that multiply work, and TRL's defaults; None: the task's own config has it.
_BATCH, _ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
_DEFAULTS = {
    _BATCH: 8,
    _ACCUMULATION: 1,
    "per_device_eval_batch_size": 8,
    "max_length": None,
    "num_generations": 8,
    "max_completion_length": None,
    "num_iterations": 1,
}


@dataclass(frozen=True)
class Use:
    """One thing that a recipe uses, and the most that the owner allows.

    Attributes:
        key: Of ``node.yaml``.
        what: In the recipe's words.
        amount: Used.
        most: Allowed.
    """

    key: str
    what: str
    amount: int
    most: int

    @property
    def told(self) -> str:
        """For the owner and the server."""
        return f"{self.what}: {self.amount:,} of at most {self.most:,}"


def exceeded(recipe: Recipe, config: NodeConfig, steps: int | None = None) -> Iterator[str]:
    """What of a recipe is more than its owner allows, or cannot be bounded, a line each.

    Args:
        recipe: The server's, or with what is the owner's in it.
        config: The owner's.
        steps: Of a round, as `steps_here` counts them; None: the recipe's, and where it says
            epochs, none are counted.
    """
    if problems := [*_not_numbers(recipe), *_not_names(recipe)]:
        yield from problems
        return
    for use in uses(recipe, config, steps):
        if use.amount > use.most:
            yield f"{use.told} ({use.key})"


def steps_here(recipe: Recipe, config: NodeConfig) -> int:
    """Steps of a round on this node, at most: epochs are counted over its own rows.

    Args:
        recipe: With what is the owner's in it.
        config: The owner's.

    Raises:
        FileNotFoundError, ValueError: If the rows cannot be read.
    """
    return most_steps(recipe, own=config.data is not None)


def uses(recipe: Recipe, config: NodeConfig, steps: int | None = None) -> list[Use]:
    """What one order of a recipe uses; its numbers are numbers. Arguments are `exceeded`'s."""
    federation, at_once = recipe.federation, rows_at_once(recipe)
    steps = steps or federation.local_steps or 0
    trained = tokens_of(TRAIN, recipe, steps)
    measured = tokens_of(VOTE if recipe.defence.vote else EVALUATE, recipe)
    return [
        Use("max_local_steps", "local_steps", steps, config.max_local_steps),
        Use("max_rounds", "num_rounds", federation.num_rounds, config.max_rounds),
        Use("max_rank", "lora.r", recipe.lora.highest_rank, config.max_rank),
        Use("max_batch_rows", "rows at once", at_once, config.max_batch_rows),
        Use("max_order_tokens", "tokens to train", trained, config.max_order_tokens),
        Use("max_order_tokens", "tokens to evaluate", measured, config.max_order_tokens),
    ]


def whole_run(
    recipe: Recipe, config: NodeConfig, book: Book, steps: int | None = None
) -> list[Use]:
    """What a run in which nothing is asked twice uses, held against what is left of the day.

    Args:
        recipe: With what is the owner's in it.
        config: The owner's.
        book: Of the node.
        steps: Of a round, as `steps_here` counts them; None: the recipe's.
    """
    federation = recipe.federation
    vote = len(SCALES) if recipe.defence.vote else 0
    each = 1 + federation.commit_then_reveal + 2 * vote  # a vote is shown by a second order
    ends = 2 if recipe.evaluation.per_client else 0  # measured before the first and after the last
    tokens = federation.num_rounds * tokens_of(TRAIN, recipe, steps)
    tokens += federation.num_rounds * vote * tokens_of(VOTE, recipe)
    tokens += ends * tokens_of(EVALUATE, recipe)
    orders = 1 + federation.num_rounds * each + ends
    left = (config.max_day_orders - book.orders, config.max_day_tokens - book.tokens)
    return [
        Use("max_day_orders", "orders of the whole run", orders, 0 if book.lost else left[0]),
        Use("max_day_tokens", "tokens of the whole run", tokens, 0 if book.lost else left[1]),
    ]


def tokens_of(kind: str, recipe: Recipe, steps: int | None = None) -> int:
    """Tokens that an order passes through the model, at most: rows of full length.

    Args:
        kind: Flower's type of the message; what is neither trained nor measured takes none.
        recipe: Whose numbers are numbers.
        steps: Of a round; None: the recipe's.
    """
    if kind == TRAIN:
        return _trained(recipe, steps or recipe.federation.local_steps or 0)
    if kind not in {EVALUATE, VOTE}:
        return 0
    section = recipe.evaluation
    rows = section.max_rows * (2 if kind == VOTE else 1)  # and the accepted anchor
    scored = section.score_rows if section.scores and kind == EVALUATE else 0
    return rows * _row_tokens(recipe) + scored * (_PROMPT + section.max_new_tokens)


def rows_at_once(recipe: Recipe) -> int:
    """The most rows that are on the device together, in training or in an evaluation."""
    rows = max(_number(recipe, _BATCH), recipe.evaluation.batch_size)
    return max(rows, _generated_at_once(recipe)) if recipe.task == "grpo" else rows


def _trained(recipe: Recipe, local_steps: int) -> int:
    steps = local_steps * _number(recipe, _ACCUMULATION)
    tokens = steps * _number(recipe, _BATCH) * _row_tokens(recipe)
    if recipe.task != "grpo":
        return tokens
    each = _generated_at_once(recipe)
    batches = -(-each // _number(recipe, _BATCH))  # of one generation, in steps
    times = -(-steps // (batches * _number(recipe, "num_iterations")))
    return tokens + times * each * _row_tokens(recipe)


def _generated_at_once(recipe: Recipe) -> int:
    """Completions that TRL has grpo write at a time."""
    said = recipe.train.get("generation_batch_size")
    if said is not None:
        return int(said)
    steps = recipe.train.get("steps_per_generation") or _number(recipe, _ACCUMULATION)
    return int(steps) * _number(recipe, _BATCH)


def _row_tokens(recipe: Recipe) -> int:
    """Tokens of one row of a task, both answers of a pair."""
    if recipe.task == "grpo":
        return _PROMPT + _number(recipe, "max_completion_length")
    return _number(recipe, "max_length") * (2 if TASKS[recipe.task].pairs else 1)


def _number(recipe: Recipe, key: str) -> int:
    """A key of ``train:``, else TRL's default."""
    value = recipe.train.get(key, _default(recipe, key))
    return value if isinstance(value, int) else 0


def _default(recipe: Recipe, key: str) -> object:
    if (known := _DEFAULTS.get(key)) is not None:
        return known
    fields = dataclasses.fields(TASKS[recipe.task].config)
    return next((each.default for each in fields if each.name == key), None)


def _not_numbers(recipe: Recipe) -> Iterator[str]:
    """Keys that multiply work and hold no number; ``null`` would be no bound."""
    optional = ("generation_batch_size", "steps_per_generation")
    for key in (*_DEFAULTS, *optional):
        if key in recipe.train and not (key in optional and recipe.train[key] is None):
            value = recipe.train[key]
            if type(value) is not int or not 1 <= value < 2**31:
                yield f"train.{key}: needs a whole number of 1 or more; got {str(value)[:20]!r}"


def _not_names(recipe: Recipe) -> Iterator[str]:
    """Modules by anything but names: a pattern of a stranger's can take for ever."""
    lora = recipe.lora
    targets = [] if lora.target_modules == "all-linear" else lora.target_modules
    for key, names in (
        ("target_modules", targets),
        ("exclude_modules", lora.exclude_modules or []),
        ("target_parameters", lora.target_parameters),
        ("layers_pattern", lora.layers_pattern or []),
        ("modules_to_save", lora.modules_to_save),
        ("rank_pattern", list(lora.rank_pattern)),
        ("alpha_pattern", list(lora.alpha_pattern)),
    ):
        if isinstance(names, str):
            yield f"lora.{key}: a list of names, no pattern; got {names[:40]!r}"
        elif len(names) > _MAX_NAMES:
            yield f"lora.{key}: {len(names)} of at most {_MAX_NAMES} names"
        else:
            for name in names:
                if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
                    yield f"lora.{key}: needs names of modules; got {name[:40]!r}"
