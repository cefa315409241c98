"""What a recipe says of training, in the words of TRL's configs."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedtune.recipe import Recipe
from fedtune.recipe.errors import guess
from fedtune.recipe.meant import meant
from fedtune.seeds import derive

if TYPE_CHECKING:
    from transformers import TrainingArguments

# Keys of TRL's that fedtune must own, and what says it instead.
OWNED = {
    "max_steps": "federation.local_steps",
    "num_train_epochs": "federation.local_epochs",
    "seed": "federation.seed",
    "data_seed": "federation.seed",
    "output_dir": "output_dir",
    "report_to": "report_to (at the top of the recipe: it is the run that reports)",
    "use_cpu": "model.device",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "train_sampling_strategy": "nothing: the order follows from seed, round and client",
    "trust_remote_code": "nothing: no code comes from a model's folder",
    "push_to_hub": "nothing: adapter/ is written, and nothing is uploaded",
    "model_init_kwargs": "model",
    "chat_template_path": "nothing: the tokenizer's own template is used",
    "disable_tqdm": "nothing: fedtune shows the progress",
    **dict.fromkeys(("save_strategy", "save_steps"), "nothing: checkpoints are the run's own"),
    **dict.fromkeys(("eval_strategy", "do_eval", "eval_on_start"), "evaluation"),
    **dict.fromkeys(
        ("logging_strategy", "logging_steps"), "nothing: metrics.jsonl holds each round"
    ),
    "resume_from_checkpoint": "fedtune run --resume",
}

# Keys of earlier releases of TRL, and what says them here.
_FORMER = dict.fromkeys(("model_adapter_name", "ref_adapter_name"), "reference, at the top")


@dataclass(frozen=True)
class Plan:
    """The recipe's ``train:`` keys, and what follows for one client-round.

    Attributes:
        train: TRL's keys.
        local_steps: Of a client in a round; where the recipe says epochs, 1 until the client's rows
            are counted.
        num_rounds: Of the run.
        device: Where it computes.
        dtype: In what.
        local_epochs: Passes over a client's rows in a round; None: so many steps.
    """

    train: dict[str, Any]
    local_steps: int
    num_rounds: int
    device: torch.device
    dtype: torch.dtype
    local_epochs: float | None = None

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device, dtype: torch.dtype) -> Plan:
        """Read the plan off a recipe."""
        federation = recipe.federation
        steps, epochs = federation.local_steps or 1, federation.local_epochs
        return cls(dict(recipe.train), steps, federation.num_rounds, device, dtype, epochs)

    def counted(self, num_rows: int, steps_for: Callable[[Plan, int], int]) -> Plan:
        """The plan of a client with so many rows, whose steps are counted where epochs are said.

        Args:
            num_rows: That it trains on.
            steps_for: The task's: steps that look at so many rows at least.
        """
        if self.local_epochs is None:
            return self
        wanted = math.ceil(round(self.local_epochs * num_rows, 6))
        return dataclasses.replace(self, local_steps=max(1, steps_for(self, wanted)))

    @property
    def total_steps(self) -> int:
        """Steps of a client that takes part in every round: the schedule's horizon."""
        return self.local_steps * self.num_rounds

    @cached_property
    def placement(self) -> dict[str, Any]:
        """The keys of TRL's that follow from device, dtype and fedtune's own bookkeeping."""
        return {
            "output_dir": tempfile.gettempdir(),  # nothing is saved there
            "use_cpu": self.device.type == "cpu",
            "bf16": self.dtype == torch.bfloat16,
            "fp16": self.dtype == torch.float16,
            "dataloader_pin_memory": self.device.type == "cuda",
            "report_to": "none",
            "save_strategy": "no",
            "logging_strategy": "no",
            "eval_strategy": "no",
            "disable_tqdm": True,
        }


def check_train_keys(
    train: Iterable[str], config: type[TrainingArguments], owned: Mapping[str, str]
) -> list[str]:
    """What is wrong with the keys inside ``train:``, a line each.

    Args:
        train: The keys.
        config: TRL's class that knows them.
        owned: Keys beyond `OWNED` that the task sets itself, and what says it instead.
    """
    known = [each.name for each in dataclasses.fields(config) if each.init]
    taken = {**OWNED, **_FORMER, **owned}
    problems = []
    for key in train:
        if key in taken:
            problems.append(f"train.{key}: fedtune sets it; write {taken[key]}")
        elif key not in known:
            hint = guess(key, known) or f"see its {config.__name__}"
            if (found := meant(key, known)) in taken:
                hint = f"{found} is set by fedtune; write {taken[found]}"
            problems.append(f"train.{key}: unknown to TRL; {hint}")
    return problems


def with_key(said: str, train: Mapping[str, Any]) -> str:
    """What TRL says of a recipe's keys on one line, led by the one key that it speaks of, if any.

    Args:
        said: Its message, or one of ours that begins with a key.
        train: The recipe's keys.
    """
    said = " ".join(said.split())
    if said.startswith(("train.", "data.", "model.")):
        return said
    words = said.replace("`", " ").replace("'", " ")
    named = [key for key in train if key in words or key.replace("_", " ") in words]
    said_words = words.split()
    texts = [key for key, each in train.items() if isinstance(each, str) and each in said_words]
    spoken = named if len(named) == 1 else texts
    return f"train.{spoken[0]}: {said}" if len(spoken) == 1 else f"train: {said}"


def draw_rows(
    per_round: int, num_rows: int, *, seed: int, order: str | int, round_: int
) -> list[int]:
    """Row numbers of one client-round: the next stretch of an endless run of shuffles.

    Each shuffle visits every row once, so that rounds go on where the last one ended, and any
    round can be drawn without those before it.

    Args:
        per_round: How many rows a round consumes.
        num_rows: Rows of the client.
        seed: The recipe's.
        order: Names the client's own order.
        round_: Counted from 1.
    """
    start = (round_ - 1) * per_round
    first = start // num_rows
    stream = _shuffles(num_rows, seed, order, first)
    skip = start - first * num_rows
    return list(islice(stream, skip, skip + per_round))


def _shuffles(num_rows: int, seed: int, order: str | int, first: int) -> Iterator[int]:
    for epoch in count(first):
        draw = np.random.default_rng(derive(seed, "order", order, epoch))
        yield from (int(row) for row in draw.permutation(num_rows))
