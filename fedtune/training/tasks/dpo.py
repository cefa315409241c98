"""Direct preference optimisation through TRL's DPOTrainer, against one reference for good."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from fedtune.adapters import lora
from fedtune.training.generation import complete
from fedtune.training.tasks.reward import PAIRS
from fedtune.training.tasks.running import (
    make_config,
    measure_as_trained,
    rows_per_round,
    run,
    untouched,
)
from fedtune.training.tasks.task import Figures, Learner, OptimizerState, Shown, Steps, Task

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
_KEYS = {
    f"rewards/{name}": f"rewards/{name}" for name in ("accuracies", "margins", "chosen", "rejected")
}
_OWN = {
    "train_sampling_strategy": "sequential",
    "logging_strategy": "steps",
    "logging_steps": 1,
}


class _Prepared(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer on rows that are tokenised, and whose reference is known.

    TRL takes a PEFT model as it is handed over for its reference. In a federation that is the
    anchor of the round, so that every margin would begin at 0 again with each round.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset


def prepare(rows: Dataset, learner: Learner) -> Dataset:
    """Tokenise pairs as TRL does, and ask the reference once for all; the model is left as it.

    Returns:
        Columns ``prompt_ids``, ``chosen_ids``, ``rejected_ids`` and the log-probabilities that
        the reference gives to either answer.
    """
    lora.write(learner.model, learner.reference)
    with untouched(learner), _without_bars():
        config = make_config(
            DPOConfig, learner.plan, steps=1, seed=0, precompute_ref_log_probs=True, **_OWN
        )
        trainer = DPOTrainer(
            model=learner.model,
            args=config,
            train_dataset=rows,
            processing_class=learner.tokenizer,
        )
        prepared: Dataset = trainer.train_dataset
    return prepared.select_columns([*IDS, *REFERENCE])


def run_steps(
    rows: Dataset,
    learner: Learner,
    *,
    first_step: int,
    seed: int,
    optimizer_state: OptimizerState | None = None,
) -> Steps:
    """Run one round's local steps; the arguments are those of `sft.run_steps`."""
    plan = learner.plan
    with untouched(learner):
        trainer = _trainer(rows, learner, steps=plan.local_steps, seed=seed)
        return run(trainer, plan, first_step=first_step, optimizer_state=optimizer_state)


def measure(rows: Dataset, learner: Learner, *, batch_size: int) -> Figures:
    """Measure the model on prepared pairs.

    Returns:
        ``loss``, TRL's own, a mean over the pairs; ``rewards/accuracies``, the share of pairs whose
        chosen answer gained more on the reference than the rejected; ``rewards/margins``, by how
        much; ``rewards/chosen`` and ``rewards/rejected``; ``num_pairs``.
    """
    with untouched(learner):
        trainer = _trainer(rows, learner, steps=1, seed=0)
        found = measure_as_trained(trainer, batch_size, keys=_KEYS)
    return Figures(found.pop("loss"), {**found, "num_pairs": len(rows)})


def show(rows: Dataset, learner: Learner, *, max_new_tokens: int) -> list[Shown]:
    """Complete the prompts of prepared pairs greedily; the truth is the chosen answer."""
    tokenizer, prompts = learner.tokenizer, list(rows["prompt_ids"])
    texts = complete(prompts, learner.model, tokenizer, max_new_tokens=max_new_tokens)
    return [
        Shown(
            tokenizer.decode(prompt, skip_special_tokens=True).strip(),
            tokenizer.decode(chosen, skip_special_tokens=True).strip(),
            text,
        )
        for prompt, chosen, text in zip(prompts, rows["chosen_ids"], texts, strict=True)
    ]


def _trainer(rows: Dataset, learner: Learner, *, steps: int, seed: int) -> DPOTrainer:
    trainer = _Prepared(
        model=learner.model,
        args=make_config(DPOConfig, learner.plan, steps=steps, seed=seed, **_OWN),
        train_dataset=rows,
        processing_class=learner.tokenizer,
    )
    trainer.precompute_ref_logps = True  # the rows hold them: nothing is asked again
    return trainer


@contextmanager
def _without_bars() -> Iterator[None]:
    """TRL shows a bar of its own while it asks the reference, unless the environment says not."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


TASK = Task(
    name="dpo",
    peft_type="CAUSAL_LM",
    config=DPOConfig,
    columns=PAIRS,
    prepare=prepare,
    rows_per_round=rows_per_round,
    run_steps=run_steps,
    measure=measure,
    show=show,
    owned={
        "precompute_ref_log_probs": "nothing: the reference is asked once for all",
        "precompute_ref_batch_size": "nothing: per_device_train_batch_size is taken",
        "sync_ref_model": "reference: one that moves is none that clients share",
    },
    uses_reference=True,
)
