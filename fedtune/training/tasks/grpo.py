"""Group-relative policy optimisation through TRL's GRPOTrainer, with rewards by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from fedtune.adapters import lora
from fedtune.training.generation import complete_in_batches
from fedtune.training.plan import Plan
from fedtune.training.rewards import text_of
from fedtune.training.tasks.running import REFERENCE, make_config
from fedtune.training.tasks.task import Figures, Learner, Priced, Shown, Task
from fedtune.training.trl_rewards import columns_of, outside_of_training

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import GRPOTrainer

_OWN = {
    "shuffle_dataset": False,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "log_completions": False,
}
_KEPT = ("prompt", "prompt_ids", "row")


@cache
def _trainer_that_keeps_frozen() -> type[GRPOTrainer]:
    """TRL's trainer, which leaves frozen what was frozen.

    It puts the reference's adapter in force to ask it, and then the trained one again. PEFT takes
    the latter for a wish to train all of it: the gradients of a factor that is fixed in this round
    would be computed, and count where gradients are clipped.
    """
    from trl import GRPOTrainer

    class KeepsFrozen(GRPOTrainer):  # type: ignore[misc]
        def _prepare_inputs(self, generation_batch: dict[str, Any]) -> dict[str, Any]:
            fixed = [each for each in self.model.parameters() if not each.requires_grad]
            inputs: dict[str, Any] = super()._prepare_inputs(generation_batch)
            for parameter in fixed:
                parameter.requires_grad_(False)
            return inputs

    return KeepsFrozen


def prepare(rows: Dataset, learner: Learner) -> Dataset:
    """Tokenise prompts, and keep what rewards may look at.

    Returns:
        Columns ``prompt``, ``prompt_ids`` and ``row``, the whole row as JSON.
    """
    tokenizer = learner.tokenizer
    template = learner.plan.train.get("chat_template_kwargs") or {}

    def tokenised(row: dict[str, Any]) -> dict[str, Any]:
        prompt = row["prompt"]
        if isinstance(prompt, str):
            ids = tokenizer(prompt)["input_ids"]
        else:
            ids = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=True, **template
            )["input_ids"]
        return {"prompt_ids": ids, "row": json.dumps(dict(row), default=str)}

    return rows.map(tokenised).select_columns(list(_KEPT))


def fit(rows: Dataset, learner: Learner) -> tuple[list[int], Dataset, int]:
    """Prompts of a token at least that the model can hold with an answer; none is cut.

    Raises:
        ValueError: If ``max_completion_length`` is none.
    """
    longest = _longest(learner.plan)
    places = getattr(learner.model.config.get_text_config(), "max_position_embeddings", None)
    room = math.inf if places is None else places - longest
    prompts = enumerate(rows["prompt_ids"])
    kept = [at for at, prompt in prompts if 0 < len(prompt) <= room]
    return kept, rows.select(kept), 0


def prompts_per_round(plan: Plan) -> int:
    """Prompts that the local steps of one round consume.

    TRL generates for ``steps_per_generation`` batches at once, ``num_generations`` answers to each
    prompt, and takes ``num_iterations`` passes over them before it asks for new ones.
    """
    from trl import GRPOConfig

    config = make_config(GRPOConfig, plan, steps=plan.local_steps, seed=0, **_OWN)
    passes = config.steps_per_generation * config.num_iterations
    times = -(-plan.local_steps * config.gradient_accumulation_steps // passes)
    return int(times * config.generation_batch_size // config.num_generations)


def steps_for(plan: Plan, num_prompts: int) -> int:
    """Steps that answer so many prompts at least, and learn all of the answers."""
    from trl import GRPOConfig

    config = make_config(GRPOConfig, plan, steps=1, seed=0, **_OWN)
    at_once = config.generation_batch_size // config.num_generations
    passes = -(-num_prompts // at_once) * config.steps_per_generation * config.num_iterations
    return int(-(-passes // config.gradient_accumulation_steps))


def make_trainer(rows: Dataset, learner: Learner, *, steps: int, seed: int) -> GRPOTrainer:
    """TRL's trainer of prepared rows, held against the learner's reference."""
    from trl import GRPOConfig

    config = make_config(
        GRPOConfig,
        learner.plan,
        steps=steps,
        seed=seed,
        reward_weights=[each.weight for each in learner.rewards],
        **_OWN,
    )
    trainer = _trainer_that_keeps_frozen()(
        model=learner.model,
        args=config,
        reward_funcs=[_as_trl_calls(each) for each in learner.rewards],
        train_dataset=rows.select_columns(["prompt", "row"]),
        processing_class=learner.tokenizer,
    )
    if REFERENCE in learner.model.peft_config:  # TRL's copy of what it was handed
        lora.write(learner.model, learner.reference, adapter=REFERENCE)
    return trainer


def measure(rows: Dataset, learner: Learner, *, batch_size: int) -> Figures:
    """Answer prepared prompts greedily, and score the answers.

    Returns:
        ``loss``, minus the reward, so that less is better here too; ``reward``, the weighted sum;
        ``rewards/NAME``, a mean over the answers that it scores, which is from 0 to 1 unless the
        function has TRL's signature; ``completion_words``; ``num_prompts``.
    """
    answers = _answers(rows, learner, batch_size=batch_size)
    whole = [json.loads(each) for each in rows["row"]]
    terms = {each.name: _scores(each, whole, answers) for each in learner.rewards}
    found = {f"rewards/{name}": _mean(scores) for name, scores in terms.items()}
    if any(None in scores for scores in terms.values()):
        reward = _mean(_sums(learner.rewards, list(terms.values())))
    else:
        reward = sum(each.weight * found[f"rewards/{each.name}"] for each in learner.rewards)
    words = sum(len(each.text.split()) for each in answers) / len(answers)
    others = {"reward": reward, **found, "completion_words": words, "num_prompts": len(rows)}
    return Figures(0.0 - reward, others)


def show(rows: Dataset, learner: Learner, *, max_new_tokens: int) -> list[Shown]:
    """Prepared prompts with the model's greedy answers, and what these are worth."""
    answers = _answers(rows, learner, batch_size=1, most=max_new_tokens)
    whole = [json.loads(each) for each in rows["row"]]
    worth = _sums(learner.rewards, [_scores(each, whole, answers) for each in learner.rewards])
    shown = []
    for row, answer, reward in zip(whole, answers, worth, strict=True):
        told = "no reward" if reward is None else f"{reward:.2f}"
        prompt, truth = text_of(row["prompt"]).strip(), str(row.get("answer") or "")
        shown.append(Shown(prompt, truth, f"{told} for: {answer.text.strip()}"))
    return shown


class _Answer(NamedTuple):
    """What the model says to a prompt: its tokens up to the end of the text, and as text."""

    ids: list[int]
    text: str


def _scores(
    priced: Priced, rows: Sequence[dict[str, Any]], answers: Sequence[_Answer]
) -> Sequence[float | None]:
    texts = [each.text for each in answers]
    if priced.in_lists is not None:
        ids = [each.ids for each in answers]
        return priced.in_lists(**outside_of_training(rows, texts, ids))
    prompts = [text_of(row["prompt"]) for row in rows]
    return priced.score_all(list(zip(prompts, texts, rows, strict=True)))


def _sums(
    rewards: Sequence[Priced], scores: Sequence[Sequence[float | None]]
) -> list[float | None]:
    """The weighted sum of what was scored of each completion; None where nothing was, as in TRL."""
    sums: list[float | None] = []
    for column in zip(*scores, strict=True):
        told = [
            each.weight * score
            for each, score in zip(rewards, column, strict=True)
            if score is not None
        ]
        sums.append(sum(told) if told else None)
    return sums


def _mean(scores: Sequence[float | None]) -> float:
    """Over what was scored; NaN where nothing was."""
    told = [score for score in scores if score is not None]
    return sum(told) / len(told) if told else math.nan


def _answers(
    rows: Dataset, learner: Learner, *, batch_size: int, most: int | None = None
) -> list[_Answer]:
    longest = _longest(learner.plan)
    tokens = complete_in_batches(
        list(rows["prompt_ids"]),
        learner.model,
        learner.tokenizer,
        max_new_tokens=min(longest, most or longest),
        batch_size=batch_size,
    )
    texts: list[str] = learner.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    end = learner.tokenizer.eos_token_id
    ids = [each[: each.index(end) + 1] if end in each else each for each in tokens]
    return list(map(_Answer, ids, texts))


def _longest(plan: Plan) -> int:
    """Tokens of a completion, at most: the recipe's, else TRL's."""
    from trl import GRPOConfig

    longest = plan.train.get("max_completion_length", GRPOConfig.max_completion_length)
    if not isinstance(longest, int) or longest < 1:
        raise ValueError(f"train.max_completion_length: needs a number of tokens; got {longest!r}")
    return longest


def _as_trl_calls(priced: Priced) -> Callable[..., Sequence[float | None]]:
    def reward(
        prompts: Sequence[Any], completions: Sequence[Any], row: Sequence[str], **given: object
    ) -> Sequence[float | None]:
        rows = [json.loads(one) for one in row]
        if priced.in_lists is not None:
            whole = {**columns_of(rows), **given}
            return priced.in_lists(prompts=prompts, completions=completions, **whole)
        asked = zip(map(text_of, prompts), map(text_of, completions), rows, strict=True)
        return priced.score_all(list(asked))

    reward.__name__ = priced.name  # TRL names its metrics after it
    return reward


TASK = Task(
    name="grpo",
    peft_type="CAUSAL_LM",
    config_name="GRPOConfig",
    columns=(frozenset({"prompt"}),),
    prepare=prepare,
    fit=fit,
    refer=None,
    rows_per_round=prompts_per_round,
    steps_for=steps_for,
    make_trainer=make_trainer,
    measure=measure,
    show=show,
    owned={
        "reward_weights": "rewards: each has its weight",
        "shuffle_dataset": "nothing: the order follows from seed, round and client",
        "log_completions": "evaluation.samples",
        "sync_ref_model": "reference: one that moves is none that clients share",
    },
    uses_reference=True,
    all_columns=True,
    bound=("train.max_completion_length", "lower it"),
)
