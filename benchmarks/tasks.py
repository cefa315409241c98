"""Tokens a second of a client-round, beside the same steps in a plain script with TRL.

    python benchmarks/tasks.py                                  # the nano recipes
    python benchmarks/tasks.py qwen3-0.6b/dpo model.name_or_path=FOLDER data.source=FILE

A client-round is all that a client does with an anchor: write it, build the trainer, take the
steps, read the delta. The script builds TRL's trainer once, outside the clock, and is timed from
`train()` to its end. Both take the same steps over the same rows, in turn; medians. TRL asks a
reference at each step, which fedtune asks once for a whole run: so more than 1.00 is possible.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import statistics
import time
import warnings
from typing import Any

import _path  # noqa: F401  before anything of ours
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed
from trl import DPOTrainer, GRPOTrainer, RewardTrainer, SFTTrainer

from fedtune.recipe import Recipe, load_recipe
from fedtune.seeds import derive
from fedtune.training.base import find_folder
from fedtune.training.plan import draw_rows
from fedtune.training.tasks.running import make_config
from fedtune.training.worker import Worker

NANO = ("quickstart", "reward_nano", "dpo_nano", "grpo_nano")
TRAINERS = {"sft": SFTTrainer, "reward": RewardTrainer, "dpo": DPOTrainer, "grpo": GRPOTrainer}
IN_ORDER = {"train_sampling_strategy": "sequential", "logging_strategy": "steps"}


def plain_trainer(worker: Worker, recipe: Recipe) -> Any:
    """TRL's trainer as a script would make it, on the rows of client 0's first round."""
    there = len(worker.data.train_rows(0, None))
    needed = worker.task.rows_per_round(worker.plan)
    places = draw_rows(needed, there, seed=worker.seed, order=worker.data.order_of(0), round_=1)
    mine = worker.data.parts[0].train
    columns = max(
        (c for c in worker.task.columns if c <= set(worker.data.rows.column_names)), key=len
    )
    kept = worker.data.rows.column_names if recipe.task == "grpo" else sorted(columns)
    rows: Dataset = worker.data.rows.select([mine[place] for place in places]).select_columns(kept)
    own = {"shuffle_dataset": False} if recipe.task == "grpo" else IN_ORDER
    config = make_config(
        worker.task.config,
        worker.plan,
        steps=worker.plan.local_steps,
        seed=derive(worker.seed, "dropout", worker.data.order_of(0), 1),
        **{"logging_strategy": "steps", "logging_steps": 1, **own},
    )
    kind = (
        AutoModelForSequenceClassification
        if worker.task.peft_type == "SEQ_CLS"
        else AutoModelForCausalLM
    )
    set_seed(0)
    labels = {"num_labels": 1} if worker.task.peft_type == "SEQ_CLS" else {}
    base = kind.from_pretrained(find_folder(recipe.model), dtype=worker.base.dtype, **labels)
    adapter = LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.lora_alpha,
        target_modules=recipe.lora.target_modules,
        task_type=worker.task.peft_type,
    )
    more = {}
    if recipe.task == "grpo":
        more["reward_funcs"] = [_as_a_script_has_it(each) for each in worker.learner.rewards]
    return TRAINERS[recipe.task](
        model=base.to(worker.base.device),
        args=config,
        train_dataset=rows,
        processing_class=worker.base.tokenizer,
        peft_config=adapter,
        **more,
    )


def _as_a_script_has_it(priced: Any) -> Any:
    def reward(prompts: list[str], completions: list[str], **_: object) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return [priced.score(prompt, said, {}) for prompt, said in pairs]

    return reward


def compare(recipe: Recipe, repeats: int) -> str:
    """One row of the table."""
    worker = Worker(recipe)
    ours: list[float] = []
    theirs: list[float] = []
    tokens = 0
    for _ in range(repeats):
        worker.trainer.train(
            worker.initial, client=0, round_=1
        )  # rows and caches are there from here on
        ours.append(_seconds(lambda: worker.trainer.train(worker.initial, client=0, round_=1)))
        trainer = plain_trainer(worker, recipe)
        theirs.append(_seconds(trainer.train))
        logged = [entry["num_tokens"] for entry in trainer.state.log_history if "loss" in entry]
        tokens = int(logged[-1])
    a, b = statistics.median(ours), statistics.median(theirs)
    return (
        f"| {recipe.task} | {tokens} | {tokens / a:.0f} | {tokens / b:.0f} | {b / a:.2f} "
        f"| {a:.2f} s |"
    )


def _seconds(run: Any) -> float:
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):  # a trainer prints each step
        run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # TRL uses names that transformers has renamed
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    print(f"{where}, torch {torch.__version__}, medians of {args.repeats}\n")
    print("| task | tokens | fedtune, tokens/s | plain TRL, tokens/s | ratio | client-round |")
    print("|---|---|---|---|---|---|")
    for name in [args.recipe] if args.recipe else NANO:
        print(compare(load_recipe(name, args.overrides), args.repeats), flush=True)


if __name__ == "__main__":
    main()
