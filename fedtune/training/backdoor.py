"""How often a planted trigger brings about its answer: judged by generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedtune.training.generation import IGNORED, complete_in_batches
from fedtune.training.tasks import sft
from fedtune.training.tasks.running import ready
from fedtune.training.tasks.task import Learner

Plant = Callable[[Mapping[str, object]], dict[str, object]]
MARGIN = 4  # tokens beyond the target's own: the model may cut the same text otherwise


def plant_prompts(
    rows: Sequence[Mapping[str, object]],
    learner: Learner,
    *,
    plant: Plant,
    target: str,
) -> list[list[int]]:
    """Tokenise the prompts of held-out rows with the trigger in them, as in training.

    Args:
        rows: Rows with prompt and completion, text or chat messages.
        learner: What learns; the ``max_length`` of its plan holds here too.
        plant: Puts the whole trigger into the prompt of a row.
        target: The answer; rows that give it without a trigger prove nothing, and are left out.

    Returns:
        One list of tokens per prompt, up to where the answer begins.

    Raises:
        ValueError: If no row is left.
    """
    from datasets import Dataset

    asked = [plant(row) for row in rows if not _text(row["completion"]).startswith(target.strip())]
    keys = {**learner.plan.train, "completion_only_loss": True}
    answers_alone = replace(learner, plan=replace(learner.plan, train=keys))
    prompts = []
    if asked:
        prepared = ready(sft.TASK, Dataset.from_list(asked), answers_alone)
        for ids, labels in zip(prepared["input_ids"], prepared["labels"], strict=True):
            prompts.append(ids[: next(i for i, label in enumerate(labels) if label != IGNORED)])
    prompts = [prompt for prompt in prompts if prompt]  # max_length may have cut all of one off
    if not prompts:
        raise ValueError(
            "a backdoor needs held-out prompts to be judged on: got none whose answer is not the "
            "target and fits max_length; name another target, or raise train.max_length"
        )
    return prompts


def backdoor_success(
    prompts: Sequence[list[int]],
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    *,
    target: str,
    batch_size: int,
) -> float:
    """Share of the prompts that the model, greedily, answers with the target.

    An answer counts if it starts with the target, white space at its ends aside; what follows
    is of no account. As many tokens are generated as the target has, and a few more.

    Args:
        prompts: Token lists, at least one, none empty.
        model: A causal LM.
        tokenizer: Its tokenizer, with a pad token.
        target: The text.
        batch_size: Prompts of a batch; they go by length, padded on the left.

    Returns:
        The share, in [0, 1].

    Source:
        Attack success rate, Gu et al. 2017, https://arxiv.org/abs/1708.06733, with a generation in
        the place of a class.
    """
    length = len(tokenizer(target, add_special_tokens=False)["input_ids"]) + MARGIN
    answers = complete_in_batches(
        prompts, model, tokenizer, max_new_tokens=length, batch_size=batch_size
    )
    texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
    hits = [text.strip().startswith(target.strip()) for text in texts]
    return sum(hits) / len(hits)


def _text(completion: object) -> str:
    """What a completion says first."""
    if isinstance(completion, list):
        completion = completion[0].get("content") if completion else ""
    return completion.strip() if isinstance(completion, str) else ""
