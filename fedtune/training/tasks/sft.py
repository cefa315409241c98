"""Supervised fine-tuning through TRL's SFTTrainer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from fedtune.training.generation import IGNORED, complete, pad
from fedtune.training.packing import packed, unpacked
from fedtune.training.tasks.mute import mute_rows, with_mute
from fedtune.training.tasks.running import (
    make_config,
    rows_per_round,
    setting,
    steps_for,
    unbounded,
    untouched,
)
from fedtune.training.tasks.task import Figures, Learner, Shown, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTTrainer

_OWN = {"train_sampling_strategy": "sequential"}


def prepare(rows: Dataset, learner: Learner) -> Dataset:
    """Tokenise rows as TRL does: chat template, eos, labels.

    Returns:
        Columns ``input_ids`` and ``labels``; no label where only an assistant's turns are learnt
        and the row has none.

    Raises:
        ValueError: If ``assistant_only_loss`` is asked of text, or of a template that cannot.
    """
    learner = unbounded(learner)
    mute = mute_rows(rows, learner) if learner.plan.train.get("assistant_only_loss") else []
    if not mute:
        return _tokenised(rows, learner)
    return with_mute(rows, learner, mute, _tokenised)


def _tokenised(rows: Dataset, learner: Learner) -> Dataset:
    with untouched(learner):
        trainer = make_trainer(rows, learner, steps=1, seed=0, tokenised=False)
        prepared: Dataset = trainer.train_dataset
    return prepared.select_columns(["input_ids", "labels"])


def fit(rows: Dataset, learner: Learner) -> tuple[list[int], Dataset, int]:
    """Rows cut at ``max_length`` as TRL cuts them; those left without a label are gone.

    Returns:
        The places of the rows kept, these rows, and how many of them are cut.
    """
    from trl import SFTConfig

    plan = learner.plan
    most, mode = setting(SFTConfig, plan, "max_length"), setting(SFTConfig, plan, "truncation_mode")
    part = slice(None, most) if mode == "keep_start" or most is None else slice(-most, None)

    def cut(row: dict[str, list[int]]) -> dict[str, list[int]]:
        return {"input_ids": row["input_ids"][part], "labels": row["labels"][part]}

    taught = [any(each != IGNORED for each in labels[part]) for labels in rows["labels"]]
    places = [place for place, is_taught in enumerate(taught) if is_taught]
    kept = rows.select(places)
    long = sum(most is not None and len(ids) > most for ids in kept["input_ids"])
    return places, (kept.map(cut) if long else kept), long


def pack(rows: Dataset, learner: Learner) -> Dataset:
    """The rows as they are, or under ``packing`` in sequences of ``max_length``."""
    from trl import SFTConfig

    if not learner.plan.train.get("packing"):
        return rows
    return packed(rows, setting(SFTConfig, learner.plan, "max_length"))


@torch.inference_mode()
def measure(rows: Dataset, learner: Learner, *, batch_size: int) -> Figures:
    """Measure the model on prepared rows; batches go by length, sums are float64.

    Args:
        rows: At least one; packed ones are taken apart.
        learner: Its model holds what is measured.
        batch_size: Rows of a batch.

    Returns:
        ``loss`` in nats per labelled token, over all tokens of all rows alike; ``perplexity``,
        infinite beyond the floats; ``token_accuracy``, the share of labelled tokens that the model
        ranks first; ``num_tokens``, the labelled ones.
    """
    from trl.trainer.utils import add_fused_lm_head

    model, filler = learner.model, learner.tokenizer.pad_token_id
    examples = list(unpacked(rows))
    examples.sort(key=lambda example: len(example[0]))
    training, device = model.training, next(model.parameters()).device
    model.eval()
    nats, right, tokens = 0.0, 0, 0
    with untouched(learner):
        add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "is_top1"))
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            found = model(
                input_ids=pad([example[0] for example in batch], filler).to(device),
                attention_mask=pad([[1] * len(example[0]) for example in batch], 0).to(device),
                labels=pad([example[1] for example in batch], IGNORED).to(device),
                fused_lm_head=True,
            )
            nats -= found.log_probs.double().sum().item()
            right += int(found.is_top1.sum())
            tokens += int(found.label_mask.sum())
    model.train(training)
    loss = nats / max(tokens, 1)
    others = {
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "token_accuracy": right / max(tokens, 1),
        "num_tokens": tokens,
    }
    return Figures(loss, others)


def show(rows: Dataset, learner: Learner, *, max_new_tokens: int) -> list[Shown]:
    """Complete prepared rows of one text greedily, from the half of each."""
    tokenizer, prompts, truths = learner.tokenizer, [], []
    for ids in rows["input_ids"]:
        start = max(1, len(ids) // 2)
        prompts.append(ids[:start])
        truths.append(tokenizer.decode(ids[start:], skip_special_tokens=True).strip())
    texts = complete(prompts, learner.model, tokenizer, max_new_tokens=max_new_tokens)
    return [
        Shown(tokenizer.decode(prompt, skip_special_tokens=True).strip(), truth, text)
        for prompt, truth, text in zip(prompts, truths, texts, strict=True)
    ]


def make_trainer(
    rows: Dataset, learner: Learner, *, steps: int, seed: int, tokenised: bool = True
) -> SFTTrainer:
    """TRL's trainer of rows, which it tokenises unless they are."""
    from trl import SFTConfig, SFTTrainer

    own: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": tokenised}, **_OWN}
    if tokenised:  # the labels are made: TRL would ask for conversations once more
        own["assistant_only_loss"] = False
    config = make_config(SFTConfig, learner.plan, steps=steps, seed=seed, **own)
    return SFTTrainer(
        model=learner.model, args=config, train_dataset=rows, processing_class=learner.tokenizer
    )


TASK = Task(
    name="sft",
    peft_type="CAUSAL_LM",
    config_name="SFTConfig",
    columns=(
        frozenset({"prompt", "completion"}),
        frozenset({"messages"}),
        frozenset({"text"}),
    ),
    prepare=prepare,
    fit=fit,
    pack=pack,
    refer=None,
    rows_per_round=rows_per_round,
    steps_for=steps_for,
    make_trainer=make_trainer,
    measure=measure,
    show=show,
    asks=True,
    owned={
        "dataset_kwargs": "nothing: rows are tokenised once per client",
        "dataset_text_field": "data.columns: {text: the column}",
    },
)
