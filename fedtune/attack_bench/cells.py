"""From a bench to its cells: every recipe laid out and judged before anything runs."""

from __future__ import annotations

import copy
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import fedtune
from attacks import ATTACKS
from fedtune.attack_bench.schema import MEAN_OF_ALL, NONE, ORACLE, Bench
from fedtune.recipe import Recipe, RecipeError, parse_recipe
from fedtune.recipe.source import read_recipe, set_key

Changes = tuple[tuple[str, Any], ...]
_Attack = tuple[str, Mapping[str, Any] | None]
_Column = tuple[str, Mapping[str, Any]]

# Said whole by a column, never mixed with the base's: a rule's options fit that rule alone.
WHOLE = ("aggregator", "outer", "defence")
# What a cell does without, and what all cells need: none of it moves the model.
QUIET: Changes = (
    ("federation.engine", "local"),
    ("evaluation.every", 1),
    ("evaluation.per_client", True),
    ("evaluation.samples", 0),
    ("checkpoint.keep", 1),
    ("report_to", []),
)
NEEDED = ("federation.engine", "evaluation.every", "evaluation.per_client")  # said in a command
MEAN = {"name": "mean", "f": 0}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack on one defence, by one fraction of attackers, under one seed.

    Attributes:
        attack: Its label; ``none``, ``oracle`` and the floors of a backdoor are the references.
        defence: Its label.
        fraction: Of the clients, that attack. References with no attacker stand once in each table.
        num_attackers: The same as a count; 0 with no attacker.
        num_clients: n.
        f: What the rule of this cell assumes.
        seed: Of the run.
        state: ``open`` may run; ``refused`` by the rule's own condition; ``skipped`` has no
            meaning here.
        message: Why it may not run.
        recipe: What runs; None where nothing does.
        changes: Dotted keys and values that make the base recipe this one.
    """

    attack: str
    defence: str
    fraction: float
    num_attackers: int
    num_clients: int
    f: int
    seed: int
    state: Literal["open", "refused", "skipped"] = "open"
    message: str = ""
    recipe: Recipe | None = None
    changes: Changes = ()

    def identify(self, level: str, source: str = "") -> str:
        """A hash of all that moves the result: the recipe, the level, the version, the rows.

        Args:
            level: The bench's.
            source: Level vectors: a hash of the rows.
        """
        assert self.recipe is not None
        recipe = self.recipe.model_dump(mode="json", exclude={"output_dir", "report_to"})
        facts = [recipe, level, fedtune.__version__, source]
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def lay_out(bench: Bench) -> list[Cell]:
    """All cells in a fixed order: by fraction; the references, then attack, defence, seed.

    The references: the oracle, the mean of all with no attacker, and the floor of a backdoor.

    Raises:
        RecipeError: If the base, an attack or a defence is wrong in itself. A rule that refuses
            these counts is no error: its cells say so.
    """
    plan = _Plan(bench)
    return [cell for fraction in bench.fractions for cell in plan.table(fraction)]


def words_of(changes: Changes) -> list[str]:
    """Changes as ``section.key=value`` words of a command line, each quoted for a shell."""
    return [shlex.quote(f"{key}={_text(value)}") for key, value in changes]


def _text(value: Any) -> str:  # noqa: ANN401  as YAML has it
    # JSON is YAML, and quotes every string; but it has no infinity.
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return ".inf" if value > 0 else "-.inf"
    return json.dumps(value, ensure_ascii=False)


class _Plan:
    """A bench with its base read once."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.raw = read_recipe(bench.base)
        self.shared = (*_flat(bench.set), *self._level())
        base = _parse(self._lay(self.shared), "base")
        self.num_clients = base.federation.num_clients
        self.aggregator = base.aggregator.model_dump(
            mode="json", exclude_defaults=True, exclude_unset=True
        )
        self.aggregator = {"name": base.aggregator.name, **self.aggregator}
        self.aggregator.pop("f", None)  # a column's f is the table's, unless it says its own
        self.defends = "defence" in self._lay(self.shared)
        self.quiet = tuple(
            (key, value)
            for key, value in QUIET
            for said in [self._read(key)]
            if key in NEEDED and said not in (None, value)
        )
        for label, attack in bench.attacks.items():
            _parse(self._lay(self._with_attack(attack, 1)), f"attacks.{label}")

    def _read(self, key: str) -> object:
        """What the base says of a dotted key; None where it says nothing."""
        found: Any = self.raw
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return dict(self.shared).get(key, found)

    def _level(self) -> Changes:
        if self.bench.rounds is None:
            return ()
        rounds = self.bench.rounds.num_rounds
        return (("federation.num_rounds", rounds), ("outer", {"name": "fedavg"}))

    def _with_attack(self, attack: Mapping[str, Any], count: int) -> Changes:
        section = {**attack, "num_attackers": count}
        return (*self.shared, ("aggregator", MEAN), ("defence", {}), ("attack", section))

    def table(self, fraction: float) -> Iterator[Cell]:
        """The cells of one table."""
        bench, count = self.bench, self._count(fraction)
        f = count if bench.f is None else bench.f
        mean: _Column = (MEAN_OF_ALL, {"aggregator": dict(MEAN)})
        nobody: _Attack = (NONE, None)
        silent: _Attack = (ORACLE, {"name": "silence", "num_attackers": count})
        floors = [(label, {**each, "num_attackers": count}) for label, each in bench.floors.items()]
        for attacking in (silent, nobody, *floors):
            yield from (self._cell(fraction, seed, attacking, mean, 0) for seed in bench.seeds)
        attacks = [
            (label, {**each, "num_attackers": count}) for label, each in bench.attacks.items()
        ]
        for attacking in (nobody, *attacks):
            for column in bench.defences.items():
                seeds = bench.seeds_of(column[0])
                yield from (self._cell(fraction, seed, attacking, column, f) for seed in seeds)

    def _count(self, fraction: float) -> int:
        exact = fraction * self.num_clients
        count = round(exact)
        if count < 1 or abs(exact - count) > 1e-9 * self.num_clients:
            raise RecipeError(
                [
                    f"fractions: {fraction} of {self.num_clients} clients is {exact:g}: needs a "
                    f"whole count, at least 1; take another fraction or federation.num_clients"
                ]
            )
        return count

    def _cell(
        self, fraction: float, seed: int, attacking: _Attack, column: _Column, f: int
    ) -> Cell:
        (attack, options), (defence, sections) = attacking, column
        rule = {"f": f, **(sections.get("aggregator") or self.aggregator)}
        mine = {key: each for key, each in sections.items() if key != "aggregator"}
        if self.defends and "aggregator" in sections:
            mine = {"defence": {}, **mine}  # the base's goes with the base's rule alone
        changes = (
            *self.shared,
            ("federation.seed", seed),
            *_flat(mine),
            ("aggregator", rule),
            ("attack", options),
            *self.quiet,
        )
        cell = Cell(
            attack=attack,
            defence=defence,
            fraction=fraction,
            num_attackers=0 if options is None else int(options["num_attackers"]),
            num_clients=self.num_clients,
            f=rule["f"],
            seed=seed,
            changes=changes,
        )
        where = f"defences.{defence}"
        try:
            recipe = _parse(self._lay(changes), where)
        except RecipeError as error:
            if not self._runs_at_less(changes, rule["f"]):
                raise
            why = "; ".join(error.problems).replace(f"{where}: ", "")
            return replace(cell, state="refused", message=why)
        if self.bench.level == "vectors" and (why := _no_vectors(recipe)):
            return replace(cell, state="skipped", message=f"not on vectors: {why}")
        return replace(cell, recipe=recipe)

    def _runs_at_less(self, changes: Changes, f: object) -> bool:
        """Whether it is the count alone that the rule refuses: what is mistyped never runs."""
        for less in range(f if isinstance(f, int) else 0):
            try:
                parse_recipe(self._lay((*changes, ("aggregator.f", less))))
            except RecipeError:
                continue
            return True
        return False

    def _lay(self, changes: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        raw = copy.deepcopy(self.raw)
        for key, value in (*changes, *QUIET):
            set_key(raw, key, copy.deepcopy(value))
        return raw


def _no_vectors(recipe: Recipe) -> str:
    """Why this recipe has no meaning on given rows, if so."""
    if recipe.attack and recipe.attack.data_attack:
        return "it poisons data, and the rows are given"
    if recipe.attack and recipe.attack.training_attack:
        return "it misleads training, and the rows are given"
    if recipe.attack and "loss" in ATTACKS[recipe.attack.name].needs:
        return "it tries its updates on a model, and there is none"
    if recipe.attack and recipe.attack.reward_attack:
        return "it poisons rewards, and nobody trains for them"
    if recipe.aggregator.takes_reference or recipe.defence.server_data:
        return "the server has neither model nor rows of its own"
    return ""


def _flat(mapping: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """``{a.b: 1}`` and ``{a: {b: 1}}`` as dotted keys; a rule's section stays whole."""
    for key, value in mapping.items():
        if "." in key or key in WHOLE or not isinstance(value, dict):
            yield key, value
        else:
            yield from ((f"{key}.{inner}", part) for inner, part in value.items())


def _parse(raw: Mapping[str, Any], where: str) -> Recipe:
    try:
        return parse_recipe(raw)
    except RecipeError as error:
        raise RecipeError(f"{where}: {problem}" for problem in error.problems) from None
