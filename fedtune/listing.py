"""What a recipe can name, as rows of (name, one line, source)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TASKS = {"sft": ("supervised fine-tuning, loss on the completion", "TRL SFTTrainer")}


def rows_of(kind: str) -> Iterator[tuple[str, str, str]]:
    """The rows of one kind: aggregators, mixings, attacks, tasks or recipes."""
    if kind in {"aggregators", "mixings"}:
        from aggregators import AGGREGATORS, MIXINGS

        for rule in (AGGREGATORS if kind == "aggregators" else MIXINGS).values():
            what = f"{rule.summary}; needs {rule.condition}{_options(rule.options)}"
            yield rule.name, what, rule.source
    elif kind == "attacks":
        from attacks import ATTACKS

        for attack in ATTACKS.values():
            what = f"{attack.summary} ({attack.level}){_options(attack.options)}"
            yield attack.name, what, attack.source
    elif kind == "tasks":
        for name, (summary, source) in TASKS.items():
            yield name, summary, source
    else:
        from fedtune.recipe import shipped_recipes

        for name, path in shipped_recipes().items():
            yield name, _head(path.read_text(encoding="utf-8")), f"fedtune run {name}"


def _options(options: Mapping[str, Any]) -> str:
    """The options that stand beside a name in a recipe, with their defaults."""
    told = [f"{name}={option.default}" for name, option in options.items()]
    return f"; {', '.join(told)}" if told else ""


def _head(text: str) -> str:
    """The first paragraph of a recipe's head comment that is not its command."""
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# ").strip())
    paragraphs = " ".join(line or "\n" for line in comment).split("\n")
    told = [part.strip() for part in paragraphs if part.strip() and "fedtune run" not in part]
    return told[0] if told else ""
