"""The first recipe of one's own, with a comment on each line that one may want to change."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedtune.recipe.defaults import SHARE
from fedtune.recipe.reading import write_text

_HELD_OUT, _BATCH, _MOST_STEPS, _EVEN = 0.1, 8, 50, 16
_RATES = {"sft": "2.0e-4", "reward": "1.0e-4", "dpo": "2.0e-5", "grpo": "1.0e-5"}
_WHAT = {
    "sft": "learns to answer as the data do",
    "reward": "learns which of two answers is better",
    "dpo": "learns to prefer one answer to another",
    "grpo": "learns to write what earns a reward",
}


@dataclass(frozen=True)
class Answers:
    """What a first recipe is made from.

    Attributes:
        source: The data, as the recipe will name it.
        task: One of the recipe's.
        model: A hub name, a folder, or nano.
        clients: How many.
        by: The column that says whose row it is; None: dealt evenly.
        columns: For ``data.columns``; empty: the data need none.
        rows: How many there are.
    """

    source: str
    task: str
    model: str
    clients: int
    by: str | None
    columns: Mapping[str, str]
    rows: int


def first_recipe(answers: Answers, path: Path) -> str:
    """The text of the recipe.

    Args:
        answers: To the questions.
        path: Where it will lie: the run is named after it.
    """
    each = answers.rows * (1 - _HELD_OUT) / answers.clients
    steps = min(_MOST_STEPS, max(1, math.ceil(each / _BATCH)))
    f = int(SHARE * answers.clients + 1e-9)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem) or "run"
    parts = [
        f"# fedtune check {path.name}    says what is wrong, before any model is loaded",
        f"# fedtune run {path.name}      trains; each key: fedtune explain federation.num_rounds",
        f"task: {answers.task} # the model {_WHAT[answers.task]}",
        f"model: {{name_or_path: {_flow(answers.model)}}} # a hub name, a folder, or nano",
        "lora: {r: 8, lora_alpha: 16, target_modules: all-linear}",
        *(["rewards: [{name: length, words: 12}] # fedtune list rewards"] * _is_grpo(answers)),
        *_data(answers, each),
        *_train(answers),
        "federation:",
        "  engine: local # all clients in turn on this machine; ray: several at once",
        f"  num_clients: {answers.clients}",
        "  num_rounds: 5",
        f"  local_steps: {steps} # of a client in a round; one pass over its rows, 50 at most",
        f"aggregator: {{name: capped_spectral, f: {f}, geometry: product}} "
        f"# withstands {f} Byzantine clients a round",
        "outer: {name: nesterov, lr: 0.7, momentum: 0.5}",
        "# attack: {name: sign_flip, num_attackers: 1} # to see what one does, in simulation",
        "evaluation: {max_rows: 256} # held-out rows measured after each round",
        f"output_dir: runs/{name}",
    ]
    return "\n".join(parts) + "\n"


def _data(answers: Answers, each: float) -> list[str]:
    lines = ["data:", f"  source: {_flow(answers.source)} # {answers.rows} rows"]
    if answers.columns:
        lines.append(f"  columns: {_flow(dict(answers.columns))} # TRL's name: yours")
    if answers.by is None:
        least = max(2, min(_EVEN, int(each)))
        lines.append(f"  partition: {{by: iid, min_rows: {least}}} # dealt evenly, at random")
    else:
        lines.append(
            f"  partition: {{by: natural_id, column: {_flow(answers.by)}, min_rows: 2}} "
            "# whole values to a client"
        )
    return [*lines, f"  test_fraction: {_HELD_OUT} # held out, of the whole and of each client"]


def _train(answers: Answers) -> list[str]:
    """TRL's own keys."""
    lines = [
        "train: # TRL's own keys; fedtune explain train.learning_rate",
        f"  learning_rate: {_RATES[answers.task]}",
        f"  per_device_train_batch_size: {_BATCH}",
        "  lr_scheduler_type: constant",
    ]
    if _is_grpo(answers):
        return [*lines, f"  num_generations: {_BATCH}", "  max_completion_length: 64"]
    return [*lines, "  max_length: 512 # tokens; longer rows are cut"]


def _is_grpo(answers: Answers) -> bool:
    return answers.task == "grpo"


def _flow(value: object) -> str:
    return write_text(value, flow=True).removesuffix("...\n").strip()
