"""Reward modelling through TRL's RewardTrainer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from fedtune.training.generation import pad
from fedtune.training.tasks.running import (
    EVERY_STEP,
    make_config,
    measure_as_trained,
    rows_per_round,
    setting,
    steps_for,
    unbounded,
    untouched,
)
from fedtune.training.tasks.task import Figures, Learner, Shown, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import RewardTrainer

PAIRS = (frozenset({"prompt", "chosen", "rejected"}), frozenset({"chosen", "rejected"}))
_KEYS = {"accuracy": "accuracy", "margin": "margin", "mean_reward": "mean_reward"}


@cache
def _trainer_of_prepared() -> type[RewardTrainer]:
    """TRL's trainer on pairs that are tokenised.

    TRL would filter them by length again, and leave a file of each round in the cache of datasets.
    """
    from trl import RewardTrainer

    class Prepared(RewardTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
            return dataset

    return Prepared


def prepare(rows: Dataset, learner: Learner) -> Dataset:
    """Tokenise pairs as TRL does.

    Returns:
        Columns ``chosen_ids`` and ``rejected_ids``, and ``margin`` if the rows have it.
    """
    from trl import RewardTrainer

    learner = unbounded(learner)
    with untouched(learner):
        trainer = make_trainer(rows, learner, steps=1, seed=0, kind=RewardTrainer)
        prepared: Dataset = trainer.train_dataset
    kept = [name for name in ("chosen_ids", "rejected_ids", "margin") if name in prepared.features]
    return prepared.select_columns(kept)


def fit(rows: Dataset, learner: Learner) -> tuple[list[int], Dataset, int]:
    """Pairs of which neither answer is longer than ``max_length``; none is cut."""
    from trl import RewardConfig

    if (most := setting(RewardConfig, learner.plan, "max_length")) is None:
        return list(range(len(rows))), rows, 0
    pairs = enumerate(zip(rows["chosen_ids"], rows["rejected_ids"], strict=True))
    places = [at for at, pair in pairs if max(map(len, pair)) <= most]
    return places, rows.select(places), 0


def measure(rows: Dataset, learner: Learner, *, batch_size: int) -> Figures:
    """Measure the model on prepared pairs.

    Returns:
        ``loss``, TRL's own, a mean over the pairs; ``accuracy``, the share of pairs whose chosen
        answer gets the higher reward; ``margin``, by how much; ``mean_reward``; ``num_pairs``.
    """
    with untouched(learner):
        trainer = make_trainer(rows, learner, steps=1, seed=0)
        found = measure_as_trained(trainer, batch_size, keys=_KEYS)
    return Figures(found.pop("loss"), {**found, "num_pairs": len(rows)})


@torch.inference_mode()
def show(rows: Dataset, learner: Learner, *, max_new_tokens: int) -> list[Shown]:
    """Prepared pairs with their rewards; nothing is generated."""
    model, tokenizer = learner.model, learner.tokenizer
    training, device = model.training, next(model.parameters()).device
    model.eval()
    shown = []
    for chosen, rejected in zip(rows["chosen_ids"], rows["rejected_ids"], strict=True):
        ids = pad([chosen, rejected], tokenizer.pad_token_id).to(device)
        mask = pad([[1] * len(chosen), [1] * len(rejected)], 0).to(device)
        good, bad = model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
        prompt, *answers = _split(chosen, rejected)
        texts = [tokenizer.decode(each, skip_special_tokens=True).strip() for each in answers]
        shown.append(
            Shown(
                tokenizer.decode(prompt, skip_special_tokens=True).strip(),
                texts[0],
                f"{good:+.2f} for it, {bad:+.2f} for: {texts[1]}",
            )
        )
    model.train(training)
    return shown


def _split(chosen: list[int], rejected: list[int]) -> tuple[list[int], list[int], list[int]]:
    """What both begin with, and the rest of each."""
    pairs = zip(chosen, rejected, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    return chosen[:same], chosen[same:], rejected[same:]


def make_trainer(
    rows: Dataset,
    learner: Learner,
    *,
    steps: int,
    seed: int,
    kind: type[RewardTrainer] | None = None,
) -> RewardTrainer:
    """TRL's trainer of prepared pairs, or one of another kind."""
    from trl import RewardConfig

    return (kind or _trainer_of_prepared())(
        model=learner.model,
        args=make_config(RewardConfig, learner.plan, steps=steps, seed=seed, **EVERY_STEP),
        train_dataset=rows,
        processing_class=learner.tokenizer,
    )


TASK = Task(
    name="reward",
    peft_type="SEQ_CLS",
    config_name="RewardConfig",
    columns=PAIRS,
    prepare=prepare,
    fit=fit,
    refer=None,
    rows_per_round=rows_per_round,
    steps_for=steps_for,
    make_trainer=make_trainer,
    measure=measure,
    show=show,
    pairs=True,
)
