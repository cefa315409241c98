"""What a recipe can name, as rows of (name, one line, source)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

TOLD_AT_LENGTH = ("aggregators", "mixings", "attacks")
TASKS = {
    "sft": ("supervised fine-tuning, loss on the completion", "TRL SFTTrainer"),
    "reward": ("a reward model from pairs of answers", "TRL RewardTrainer"),
    "dpo": ("preference optimisation on pairs, against one reference for good", "TRL DPOTrainer"),
    "grpo": ("policy optimisation on prompts, by rewards with names", "TRL GRPOTrainer"),
}
PARTITIONS = {
    "iid": ("evenly, at random", "flwr-datasets"),
    "natural_id": (
        "whole values of a column to a client: modules, users, organisations",
        "fedtune",
    ),
    "dirichlet": ("each value of a column unevenly, by alpha", "flwr-datasets"),
    "shard": ("sorted by a column, some stretches to a client", "flwr-datasets"),
    "size": ("parts of unequal size: linear, square, exponential", "flwr-datasets"),
    "replicate": ("all rows to every client: n clients must then equal one", "fedtune"),
}
OUTER_STEPS = {
    "fedavg": ("the aggregate itself, lr 1", "McMahan et al. 2017"),
    "nesterov": ("momentum over the rounds' aggregates; lr, momentum", "Douillard et al. 2023"),
    "adam": ("Adam on the rounds' aggregates; lr, betas, eps", "Reddi et al. 2021"),
}


def rows_of(kind: str) -> Iterator[tuple[str, str, str]]:
    """The rows of one kind, any of `fedtune list`."""
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
    elif kind in {"tasks", "partitions", "outer"}:
        told = {"tasks": TASKS, "partitions": PARTITIONS, "outer": OUTER_STEPS}[kind]
        for name, (summary, source) in told.items():
            yield name, summary, source
    elif kind == "rewards":
        yield from _rewards()
    else:
        from fedtune.recipe.source import shipped_benches, shipped_recipes

        command, shipped = {
            "recipes": ("run", shipped_recipes), "benches": ("bench", shipped_benches)
        }[kind]  # fmt: skip
        for name, path in shipped().items():
            yield name, _head(path.read_text(encoding="utf-8")), f"fedtune {command} {name}"


def _rewards() -> Iterator[tuple[str, str, str]]:
    """Those of the recipe, then the functions that other packages have installed."""
    from importlib.metadata import entry_points

    from fedtune.recipe.reward import GROUP, REWARDS

    for name, section in REWARDS.items():
        own = [key for key in section.model_fields if key not in {"name", "weight"}]
        options = f"; {', '.join(own)}" if own else ""
        summary = str(section.__doc__).splitlines()[0].rstrip(".")
        yield name, f"{summary[0].lower()}{summary[1:]}{options}", "fedtune"
    for installed in entry_points(group=GROUP):
        yield "entry_point", f"entry: {installed.name}", installed.value.partition(":")[0]


def facts_of(kind: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The facts of each rule, mixing or attack: its name, and label -> words.

    Raises:
        ValueError: If the kind is another: only these say so much.
    """
    if kind == "attacks":
        yield from _facts_of_attacks()
        return
    if kind not in {"aggregators", "mixings"}:
        raise ValueError(f"--long is of {', '.join(TOLD_AT_LENGTH)}: got {kind}; leave it out")
    from aggregators import AGGREGATORS, MIXINGS

    for rule in (AGGREGATORS if kind == "aggregators" else MIXINGS).values():
        facts = {
            "what": rule.summary,
            "needs": rule.condition,
            "kappa": rule.kappa,
            "cost": rule.cost,
            "reading": rule.reading,
            "options": "; ".join(_describe(name, each) for name, each in rule.options.items()),
            "on": _ON[rule.kind],
            "takes": ", ".join(word for flag, word in _TAKES.items() if getattr(rule, flag)),
            "products": _in_products(rule) if kind == "aggregators" else "as in factors",
            "source": rule.source,
        }
        yield rule.name, {label: words for label, words in facts.items() if words}


def _facts_of_attacks() -> Iterator[tuple[str, dict[str, str]]]:
    from attacks import ATTACKS, GOALS

    for attack in ATTACKS.values():
        views = "; ".join(_VIEWS[view] for view in attack.knowledge)
        facts = {
            "what": attack.summary,
            "level": _LEVELS[attack.level],
            "goal": GOALS[attack.goal],
            "threat view": "; ".join(
                filter(None, [views, *(_NEEDS[need] for need in attack.needs)])
            ),
            "options": "; ".join(_describe(name, each) for name, each in attack.options.items()),
            "search": _SEARCH if attack.searches else "",
            "seeded": "yes" if "generator" in attack.takes else "",
            "source": attack.source,
        }
        yield attack.name, {label: words for label, words in facts.items() if words}


def as_markdown() -> str:
    """The page docs/aggregators.md: a table of all, then what each says of itself."""
    parts = [_HEAD]
    for kind in ("aggregators", "mixings"):
        facts = list(facts_of(kind))
        parts.append(f"## {kind.capitalize()}")
        lines = ["| name | needs | kappa | what it does |", "|---|---|---|---|"]
        for name, each in facts:
            kappa = each["kappa"].split(":")[0].split(";")[0]
            lines.append(f"| [{name}](#{name}) | {each['needs']} | {kappa} | {each['what']} |")
        parts.append("\n".join(lines))
        parts += _told(facts)
    return "\n\n".join(parts) + "\n"


def attacks_as_markdown() -> str:
    """The page docs/attacks.md: likewise."""
    facts = list(facts_of("attacks"))
    lines = ["| name | level | goal | what it does |", "|---|---|---|---|"]
    for name, each in facts:
        level = each["level"].split(":")[0]
        lines.append(f"| [{name}](#{name}) | {level} | {each['goal']} | {each['what']} |")
    return "\n\n".join([_HEAD_OF_ATTACKS, "\n".join(lines), *_told(facts)]) + "\n"


def _told(facts: list[tuple[str, dict[str, str]]]) -> list[str]:
    """A section of facts for each."""
    parts = []
    for name, each in facts:
        told = [f"- *{label}*: {words}" for label, words in each.items() if label != "what"]
        parts.append("\n".join([f"### {name}", "", f"{each['what']}.", "", *told]))
    return parts


_NO_TEXT = ("fedtune ", "yaml-language-server")
_HEAD = """# Rules and mixings

Written by `make docs` from the description of each rule; `fedtune list aggregators --long` prints
the same. There are `n` clients, up to `f` of them Byzantine, and `d` coordinates. The *anchor* is
the global adapter of a round; a *gauge* is one of the factor pairs (BS, S⁻¹A) with the same
product BA.

*kappa* is the robustness bound of Allouah et al. 2023 (https://arxiv.org/abs/2302.01772): for any
n - f clients, the squared error against their mean is at most kappa times their mean squared
deviation. Every rule has kappa >= f/(n-2f). *products* describes the rule under `geometry:
product`. After bucketing the conditions hold for the ceil(n/s) rows that it leaves."""
_HEAD_OF_ATTACKS = """# Attacks

Written by `make docs` from the description of each attack; `fedtune list attacks --long` prints
the same. *threat view* lists the updates that the attackers may see, least knowledge first. The
recipe's `attack.knowledge` chooses one; by default they see the most. `attack.rounds` sets the
rounds in which an attack on updates is active (every, first, last, or a list), and
`attack.between` what is sent in the others. The [results](results/README.md) show which defence
holds against which attack. The *anchor* is the global adapter of a round; a *gauge* is one of the
factor pairs (BS, S⁻¹A) with the same product BA."""
_LEVELS = {
    "update": "update: sends a crafted update",
    "data": "data: trains honestly on poisoned rows",
    "training": "training: trains on honest rows with another loss",
    "reward": "reward: trains honestly for changed rewards",
    "protocol": "protocol: sends malformed, missing or repeated replies",
}
_VIEWS = {
    "own": "own: only the update that it trained honestly itself",
    "fellows": "fellows: the honest training results of all attackers",
    "all": "all: the updates of the honest clients",
}
_SEARCH = "with the recipe's `attack.search` its parameters are searched against the run's rule"
_NEEDS = {
    "factors": "which columns are A and B",
    "span": "the rule, with mixing, geometry and memory, which it searches",
    "loss": "data like the server's, on which it tries crafted updates",
    "defence": "the rule, with mixing, geometry and memory, on which it tries crafted updates",
}
_ON = {"gram": "the Gram matrix", "columns": "the columns", "mixing": "the Gram matrix"}
_TAKES = {
    "takes_shares": "client weights",
    "takes_reference": "the server's own update",
    "takes_generator": "a generator",
    "memory": "its state of the last round",
}


def _in_products(rule: Any) -> str:  # noqa: ANN401  a Rule; aggregators load late
    if rule.memory == "history":
        return "no: its history of updates has no fixed rank"
    if rule.kind == "gram":
        return "weights from products, combined exactly"
    if rule.first is not None:
        return "its picks from products, then its factors in the anchor's gauge"
    return "after a mixing, on factors in the anchor's gauge; or on BA itself (combination: dense)"


def _describe(name: str, option: Any) -> str:  # noqa: ANN401  an Option; aggregators load late
    return f"`{name}` ({option.summary[0].lower()}{option.summary[1:]}; {option.default})"


def _options(options: Mapping[str, Any]) -> str:
    """The options that stand beside a name in a recipe, with their defaults."""
    told = [f"{name}={option.default}" for name, option in options.items()]
    return f"; {', '.join(told)}" if told else ""


def _head(text: str) -> str:
    """The first sentence of a recipe's head comment that is not its command."""
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# ").strip())
    paragraphs = " ".join(line or "\n" for line in comment).split("\n")
    told = [part.strip() for part in paragraphs]
    first = next((part for part in told if part and not part.startswith(_NO_TEXT)), "")
    return re.split(r"(?<=[.?!]) ", first)[0].rstrip(".")
