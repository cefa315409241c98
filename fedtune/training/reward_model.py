"""A reward model as a reward: the adapter of a run of ``task: reward``, asked what a text is worth.

Completions are scored as TRL's RewardTrainer saw its answers: prompt and answer as one text that
ends in eos, or as one conversation through the chat template.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from fedtune.adapters import lora
from fedtune.adapters.folder import CONFIG, WEIGHTS, adapter_folder
from fedtune.recipe import Model, Recipe
from fedtune.recipe.reward import ModelReward
from fedtune.recipe.source import read_run_recipe
from fedtune.training.base import find_folder, hash_weights, load_base
from fedtune.training.generation import pad
from fedtune.training.tasks.task import Asked

KEY = "rewards.reward_model.adapter"
BATCH = 32  # texts of a batch


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A sequence classifier with one label, and its tokenizer.

    Attributes:
        model: A PEFT model that is not trained.
        tokenizer: Its base's.
        digest: SHA-256 of the adapter's file: which model it is.
    """

    model: Any
    tokenizer: Any
    digest: str

    def score(self, prompt: str, completion: str, row: Mapping[str, Any]) -> float:
        """The probability that is meant by the reward of one completion; see `score_all`."""
        return self.score_all([(prompt, completion, row)])[0]

    def score_all(self, asked: Sequence[Asked]) -> list[float]:
        """The chance that each completion would be chosen over one of reward 0.

        Args:
            asked: (prompt, completion, row) each; a prompt of messages is taken from the row.

        Returns:
            sigmoid(reward), in [0, 1].

        Source:
            Bradley and Terry 1952; Ouyang et al. 2022, section 3.5,
            https://arxiv.org/abs/2203.02155, whose reward is the logit itself, without bounds.
        """
        return [_sigmoid(reward) for reward in self.rewards(asked)]

    @torch.inference_mode()
    def rewards(self, asked: Sequence[Asked]) -> list[float]:
        """What the model itself says: a number without bounds for each completion."""
        texts = [self._tokenise(*each) for each in asked]
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found = [0.0] * len(texts)
        device, filler = next(self.model.parameters()).device, self.tokenizer.pad_token_id
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            ids = pad([texts[place] for place in places], filler).to(device)
            mask = pad([[1] * len(texts[place]) for place in places], 0).to(device)
            logits = self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float()
            for place, reward in zip(places, logits.tolist(), strict=True):
                found[place] = reward
        return found

    def _tokenise(self, prompt: str, completion: str, row: Mapping[str, Any]) -> list[int]:
        said = row.get("prompt")
        if isinstance(said, list):
            messages = [*said, {"role": "assistant", "content": completion}]
            encoded = self.tokenizer.apply_chat_template(messages, return_dict=True)
        else:
            text, end = prompt + completion, self.tokenizer.eos_token
            encoded = self.tokenizer(text if text.endswith(end) else text + end)
        ids: list[int] = encoded["input_ids"]
        return ids


def load_reward_model(recipe: Recipe, section: ModelReward) -> RewardModel:
    """The reward model that a recipe names, on the recipe's device, loaded once a process.

    The base is that of the run which made the adapter, where its recipe lies beside it, or else
    this recipe's own.

    Raises:
        FileNotFoundError: If there is no adapter, or its base is not to be had.
        ValueError: If it is no reward model, or is not of this base.
    """
    folder = adapter_folder(section.adapter, KEY)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config.get("task_type") != "SEQ_CLS":
        raise ValueError(
            f"{KEY}: needs the adapter of a run of task reward: got {section.adapter}, of a model "
            f"of type {config.get('task_type')}"
        )
    base = _base(recipe, folder)
    weights = (folder / WEIGHTS).read_bytes()
    return _load(str(folder), hashlib.sha256(weights).hexdigest(), base.model_dump_json())


def _base(recipe: Recipe, folder: Path) -> Model:
    """The base model under a reward adapter, where and as the policy's recipe computes."""
    if not (folder.parent / "recipe.yaml").is_file():
        return recipe.model
    made_by = read_run_recipe(folder.parent).model
    names = {"name_or_path": made_by.name_or_path, "revision": made_by.revision}
    model = recipe.model.model_copy(update=names)
    manifest = folder.parent / "manifest.json"
    if manifest.is_file():
        told = json.loads(manifest.read_text(encoding="utf-8")).get("base_hash")
        if told not in (None, hash_weights(find_folder(model))):
            raise ValueError(
                f"{KEY}: {folder.parent} was trained on other weights than {model.name_or_path} "
                f"has now; bring them back, or train the reward model anew"
            )
    return model


@lru_cache(maxsize=1)
def _load(folder: str, digest: str, base_json: str) -> RewardModel:
    loaded = load_base(Model.model_validate_json(base_json), peft_type="SEQ_CLS")
    try:
        model = lora.put_on(loaded.model, Path(folder))
    except ValueError as error:
        raise ValueError(f"{KEY}: {folder} does not fit its base: {error}") from error
    return RewardModel(model.eval().requires_grad_(False), loaded.tokenizer, digest)


def _sigmoid(reward: float) -> float:
    if reward < 0:  # exp never overflows
        return math.exp(reward) / (1 + math.exp(reward))
    return 1 / (1 + math.exp(-reward))
