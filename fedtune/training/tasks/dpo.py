"""Direct preference optimisation through TRL's DPOTrainer, against one reference for good."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch

from fedtune.adapters import lora
from fedtune.training.generation import complete
from fedtune.training.tasks.reward import PAIRS
from fedtune.training.tasks.running import (
    EVERY_STEP,
    by_length,
    make_config,
    measure_as_trained,
    rows_per_round,
    setting,
    steps_for,
    unbounded,
    untouched,
)
from fedtune.training.tasks.task import Figures, Known, Learner, Shown, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import DPOTrainer

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
_KEYS = {
    f"rewards/{name}": f"rewards/{name}" for name in ("accuracies", "margins", "chosen", "rejected")
}


@cache
def _trainer_of_prepared() -> type[DPOTrainer]:
    """TRL's trainer on rows that are tokenised, and whose reference is known.

    TRL takes a PEFT model as it is handed over for its reference. In a federation that is the
    anchor of the round, so that every margin would begin at 0 again with each round.
    """
    from trl import DPOTrainer

    class Prepared(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
            return dataset

    return Prepared


def prepare(rows: Dataset, learner: Learner) -> Dataset:
    """Tokenise pairs as TRL does.

    Returns:
        Columns ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``.
    """
    from trl import DPOTrainer

    learner = unbounded(learner)
    with untouched(learner):
        trainer = make_trainer(rows, learner, steps=1, seed=0, kind=DPOTrainer)
        prepared: Dataset = trainer.train_dataset
    return prepared.select_columns(list(IDS))


def fit(rows: Dataset, learner: Learner) -> tuple[list[int], Dataset, int]:
    """Pairs whose prompt alone does not fill ``max_length``; TRL cuts them batch by batch.

    Returns:
        The places of the pairs kept, these pairs, and of how many the longer sequence will be cut.
    """
    from trl import DPOConfig

    plan = learner.plan
    most, mode = (setting(DPOConfig, plan, key) for key in ("max_length", "truncation_mode"))
    places = list(range(len(rows)))
    if most is None:
        return places, rows, 0
    if mode == "keep_start":
        places = [at for at, prompt in enumerate(rows["prompt_ids"]) if len(prompt) < most]
        rows = rows.select(places)
    pairs = zip(*(rows[name] for name in IDS), strict=True)
    return places, rows, sum(len(asked) + max(len(a), len(b)) > most for asked, a, b in pairs)


def refer(rows: Dataset, places: Sequence[int], learner: Learner, known: Known) -> Dataset:
    """Add the log-probabilities that the reference gives to either answer of some pairs.

    All pairs of the client go into batches by length, whoever asks; those batches that hold a pair
    which is asked for and not known yet are put to the reference. So a pair's figures have the same
    bits in whichever round they are asked for. The model holds the reference afterwards.

    TRL's own `precompute_ref_log_probs` keeps its answers on disk under the hash of rows and
    weights alone: with another ``ld_alpha`` they would be taken from there, and be wrong. It also
    hashes the whole base for each client, and leaves dropout on.

    Args:
        rows: All prepared pairs of a client.
        places: Which of them are wanted, in the order in which they come back.
        learner: Its reference is asked.
        known: What was asked before; added to.
    """
    if unknown := set(places) - known.keys():
        lora.write(learner.model, learner.reference)
        with untouched(learner):
            _ask(make_trainer(rows, learner, steps=1, seed=0), rows, unknown, known)
    chosen = rows.select(list(places))
    for at, name in enumerate(REFERENCE):
        chosen = chosen.add_column(name, [known[place][at] for place in places])
    return chosen


def _ask(trainer: DPOTrainer, rows: Dataset, unknown: set[int], known: Known) -> None:
    model, size = trainer.model, trainer.args.per_device_train_batch_size
    training, device = model.training, next(model.parameters()).device
    order = by_length(rows)
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    model.eval()
    for places in (batch for batch in batches if unknown.intersection(batch)):
        batch = trainer.data_collator(list(rows.select(places)))
        moved = {name: each.to(device) for name, each in batch.items()}
        answers = trainer.compute_ref_log_probs(model, moved)
        found = zip(*(each.tolist() for each in answers), strict=True)
        known.update(zip(places, found, strict=True))
    model.train(training)


def measure(rows: Dataset, learner: Learner, *, batch_size: int) -> Figures:
    """Measure the model on prepared pairs.

    Returns:
        ``loss``, TRL's own, a mean over the pairs (aot, aot_unpaired and sft are losses of a batch:
        theirs is a mean over batches, by their pairs); ``rewards/accuracies``, the share of pairs
        whose chosen answer gained more on the reference than the rejected; ``rewards/margins``, by
        how much; ``rewards/chosen`` and ``rewards/rejected``; ``num_pairs``. Where the model is the
        reference no answer gains, and what is left of a margin is rounding: there is no accuracy.
    """
    with untouched(learner):
        trainer = make_trainer(rows, learner, steps=1, seed=0)
        found = measure_as_trained(trainer, batch_size, keys=_KEYS)
    if is_reference(learner):
        del found["rewards/accuracies"]
    return Figures(found.pop("loss"), {**found, "num_pairs": len(rows)})


def is_reference(learner: Learner) -> bool:
    """Whether the adapter in the model is the one that it is held against."""
    held = lora.read(learner.model)
    return all(torch.equal(held[name], each) for name, each in learner.reference.items())


def show(rows: Dataset, learner: Learner, *, max_new_tokens: int) -> list[Shown]:
    """Complete the prompts of prepared pairs greedily; the truth is the chosen answer.

    Where two answers have no beginning in common, the first token of the chosen one is asked with.
    """
    tokenizer, prompts, truths = learner.tokenizer, [], []
    for prompt, chosen in zip(rows["prompt_ids"], rows["chosen_ids"], strict=True):
        start = 0 if prompt else 1
        prompts.append([*prompt, *chosen[:start]])
        truths.append(tokenizer.decode(chosen[start:], skip_special_tokens=True).strip())
    texts = complete(prompts, learner.model, tokenizer, max_new_tokens=max_new_tokens)
    return [
        Shown(tokenizer.decode(prompt, skip_special_tokens=True).strip(), truth, text)
        for prompt, truth, text in zip(prompts, truths, texts, strict=True)
    ]


def make_trainer(
    rows: Dataset,
    learner: Learner,
    *,
    steps: int,
    seed: int,
    kind: type[DPOTrainer] | None = None,
) -> DPOTrainer:
    """TRL's trainer of prepared pairs, whose reference is asked no more, or one of another kind."""
    from trl import DPOConfig

    trainer = (kind or _trainer_of_prepared())(
        model=learner.model,
        args=make_config(DPOConfig, learner.plan, steps=steps, seed=seed, **EVERY_STEP),
        train_dataset=rows,
        processing_class=learner.tokenizer,
    )
    trainer.precompute_ref_logps = True  # the rows hold them: nothing is asked again
    return trainer


TASK = Task(
    name="dpo",
    peft_type="CAUSAL_LM",
    config_name="DPOConfig",
    columns=PAIRS,
    prepare=prepare,
    fit=fit,
    refer=refer,
    rows_per_round=rows_per_round,
    steps_for=steps_for,
    make_trainer=make_trainer,
    measure=measure,
    show=show,
    pairs=True,
    owned={
        "precompute_ref_log_probs": "nothing: the reference is asked once for all",
        "precompute_ref_batch_size": "nothing: per_device_train_batch_size is taken",
        "sync_ref_model": "reference: one that moves is none that clients share",
    },
    uses_reference=True,
)
