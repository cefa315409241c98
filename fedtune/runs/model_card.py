"""The model card of a run's adapter: what it is, how it was trained, and what it reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedtune.plain import plain
from fedtune.recipe import Recipe
from fedtune.recipe.data import EMBEDDED
from fedtune.recipe.reading import write_text
from fedtune.records.lines import Figures, RoundRecord

if TYPE_CHECKING:
    from torch import Tensor

    from fedtune.training.worker import Worker

CARD = "README.md"
_GENERATES = frozenset({"sft", "dpo", "grpo"})
_TRAINED = {
    "sft": "supervised fine-tuning (TRL's SFTTrainer)",
    "reward": "a reward model of pairs of answers (TRL's RewardTrainer)",
    "dpo": "preference optimisation on pairs of answers (TRL's DPOTrainer)",
    "grpo": "policy optimisation by rewards (TRL's GRPOTrainer)",
}


@dataclass(frozen=True)
class Owner:
    """What only the owner of an adapter can say of it; None: not said.

    Attributes:
        data: What the clients trained on, in a sentence or more.
        base: The base model's name on the hub.
        license: Of the adapter, by the hub's word for it.
    """

    data: str | None = None
    base: str | None = None
    license: str | None = None


_NOTHING = Owner()


def model_card(recipe: Recipe, records: Sequence[RoundRecord], owner: Owner = _NOTHING) -> str:
    """The card, with the front matter that the hub reads.

    No path of this machine, and no client's name or number of rows, stands in it.

    Args:
        recipe: The run's, every default in it.
        records: The lines of its metrics.jsonl.
        owner: What its owner says beside.
    """
    base = owner.base or base_name(recipe)
    front = {
        **({"base_model": base} if base and "/" in base else {}),
        **({"license": owner.license} if owner.license else {}),
        "library_name": "peft",
        **({"pipeline_tag": "text-generation"} if recipe.task in _GENERATES else {}),
        "tags": ["fedtune", "federated-learning", "lora", recipe.task],
    }
    parts = [
        f"---\n{write_text(front)}---",
        "# A LoRA adapter, fine-tuned by a federation",
        f"An adapter on {base or 'a base model from a folder'}: {_TRAINED[recipe.task]}, by "
        f"{recipe.federation.num_clients} clients whose data stayed with them.",
        "## Data",
        _told(owner.data) if owner.data else _undescribed(recipe),
        "## Training",
        "\n".join(f"- {line}" for line in _facts(recipe, records)),
        "## Held-out figures",
        _figures(records),
        "## Use",
        _use(recipe, base),
    ]
    return "\n\n".join(parts) + "\n"


def leave_adapter(
    worker: Worker, records: Sequence[RoundRecord], anchor: Tensor, path: Path
) -> None:
    """Write what a run is for: an adapter, with its tokenizer and its model card beside it.

    Args:
        worker: Holds model, tokenizer and recipe.
        records: Of the rounds up to this adapter.
        anchor: The adapter, a float32 row.
        path: The folder to write.
    """
    worker.save_adapter(anchor, path)
    worker.base.tokenizer.save_pretrained(path)
    card = model_card(worker.recipe, records)
    (path / CARD).write_text(card, encoding="utf-8")


def base_name(recipe: Recipe) -> str | None:
    """The base model's name; None: it is a folder, whose path is nobody's business."""
    name = recipe.model.name_or_path
    return None if name.startswith(("/", "~", ".")) or "\\" in name or name[1:2] == ":" else name


def _told(text: str) -> str:
    return "\n".join(map(plain, text.strip().splitlines()))


def _undescribed(recipe: Recipe) -> str:
    source = recipe.data.source
    if isinstance(source, str) and source in EMBEDDED:
        return f"`{source}`: text that fedtune reads from the Python that runs it."
    return "Not described yet: `fedtune push RUN OWNER/NAME --data '...'` writes it here."


def _facts(recipe: Recipe, records: Sequence[RoundRecord]) -> Iterator[str]:
    federation, lora = recipe.federation, recipe.lora
    done = max((record.round for record in records), default=0)
    yield (
        f"rounds: {done} of {federation.num_rounds}, {federation.sample_size} of "
        f"{federation.num_clients} clients in each, {federation.work}"
    )
    targets = lora.target_modules
    where = targets if isinstance(targets, str) else ", ".join(targets)
    yield f"adapter: LoRA, r {lora.r}, alpha {lora.lora_alpha:g}, on {where}"
    yield f"defence: {_defence(recipe)}"
    yield f"outer step: {recipe.outer.name}, lr {recipe.outer.rates[0]:g}"
    attack = recipe.attack
    if attack is None or attack.num_attackers == 0:
        yield "attack: none was simulated"
    else:
        yield (
            f"attack: simulated; {attack.num_attackers} of {federation.num_clients} clients were "
            f"attackers ({attack.name}). Do not use this adapter as if all of them had been honest"
        )
    refused = sum(len(record.refused) for record in records)
    yield f"replies refused or missing: {refused}"
    yield f"seed: {federation.seed}; written by fedtune, which can verify the run's record"


def _defence(recipe: Recipe) -> str:
    section = recipe.aggregator
    chain = " + ".join((*section.mixing_names, section.name))
    parts = [name for name in ("momentum", "suspicion", "server_data", "vote")
             if getattr(recipe.defence, name) is not None]  # fmt: skip
    beside = f"; {', '.join(parts)}" if parts else ""
    return (
        f"{chain}, f = {section.f} Byzantine clients a round, geometry {section.geometry}{beside}"
    )


def _figures(records: Sequence[RoundRecord]) -> str:
    measured: list[Figures] = [record.eval for record in records if record.eval]
    if not measured:
        return "None were measured."
    base, final = measured[0], measured[-1]
    lines = ["| | base | adapter |", "|---|---|---|"]
    lines += [f"| {name} | {_number(base, name)} | {_number(final, name)} |" for name in final]
    return "\n".join(lines)


def _number(figures: Mapping[str, float | None], name: str) -> str:
    value = figures.get(name)
    return "-" if value is None else f"{value:.5g}"


def _use(recipe: Recipe, base: str | None) -> str:
    if recipe.task not in _GENERATES:
        kind, keys = "AutoModelForSequenceClassification", ", num_labels=1"
    else:
        kind, keys = "AutoModelForCausalLM", ""
    return (
        "```python\n"
        "from peft import PeftModel\n"
        f"from transformers import {kind}, AutoTokenizer\n\n"
        f'base = {kind}.from_pretrained("{base if "/" in str(base) else "BASE"}"{keys})\n'
        'model = PeftModel.from_pretrained(base, "ADAPTER")\n'
        'tokenizer = AutoTokenizer.from_pretrained("ADAPTER")\n'
        "```"
    )
