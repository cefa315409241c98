"""How far attackers who search can move each defence in a round: docs/results/searched.md.

    python benchmarks/searched.py                    # prints the tables, and writes the page

Honest updates are recorded from real training (the quickstart's, by the mean, batches of four), and
judged as products. Of ten clients the last three are attackers, who see all others' updates and the
rule. A row of theirs is any combination of the honest updates and of one direction that no honest
update has a part in. They look for the greatest push along that direction, the least progress along
the honest mean, and the greatest displacement from it: a (1+1) evolution strategy from the best of
many starts, with attackers all alike and with each of its own.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import _path  # noqa: F401  before anything of ours
import torch
from torch import Tensor

import aggregators
from aggregators import Gram, Plan
from aggregators.geometry import product_gram
from attacks.search import climb
from attacks.updates.framing import easiest
from attacks.updates.searched import free_family
from fedtune.adapters.part import Part
from fedtune.attack_bench.recording import record_rounds
from fedtune.attack_bench.rounds import load_rounds
from fedtune.origin import machine
from fedtune.recipe import Recipe, load_recipe
from fedtune.round.aggregation.factors import describe
from fedtune.seeds import derive

DEFENCES: dict[str, tuple[str, list[str]]] = {
    "capped_spectral (the default)": ("capped_spectral", []),
    "caf": ("caf", []),
    "agreement + caf": ("caf", ["agreement"]),
    "geometric_median": ("geometric_median", []),
    "nnm + geometric_median": ("geometric_median", ["nnm"]),
    "smea": ("smea", []),
    "multi_krum": ("multi_krum", []),
    "norm_clip": ("norm_clip", []),
}
GOALS = ("greatest push", "least progress", "greatest displacement")
N, F = 10, 3


@dataclass(frozen=True, eq=False)
class Room:
    """The honest updates of a round and the attackers' direction, in honest median lengths.

    Attributes:
        products: Inner products of the honest updates, and last of the direction, (h + 1, h + 1).
        attackers: How many rows are theirs.
    """

    products: Tensor
    attackers: int

    @classmethod
    def of(cls, inner: Tensor, attackers: int) -> Room:
        """From the inner products of the honest updates alone."""
        h = len(inner)
        products = torch.eye(h + 1, dtype=torch.float64)
        products[:h, :h] = inner / inner.diagonal().median()
        return cls(products, attackers)

    def outcome(self, rows: Tensor, plan: Plan) -> Tensor:
        """Push, progress lost and displacement that a rule makes of the attackers' rows."""
        h = len(self.products) - 1
        clients = torch.cat([torch.eye(h, h + 1, dtype=torch.float64), rows])
        gram = Gram.from_inner_products(self.products).mixed(clients)
        weights = aggregators.weigh(gram, plan, f=F).weights
        assert weights is not None
        mean = torch.zeros(h + 1, dtype=torch.float64)
        mean[:h] = 1 / h
        moved = weights @ clients - mean
        lost = -(moved @ self.products @ mean) / (mean @ self.products @ mean)
        displacement = (moved @ self.products @ moved).clamp(min=0).sqrt()
        return torch.stack([moved[-1], lost, displacement])

    def worst(
        self, plan: Plan, *, evaluations: int, restarts: int, generator: torch.Generator
    ) -> Tensor:
        """The most of each goal that was seen in all searches."""
        seen = torch.full((len(GOALS),), -torch.inf, dtype=torch.float64)

        def tried(rows: Tensor) -> Tensor:
            nonlocal seen
            found = self.outcome(rows, plan)
            seen = torch.maximum(seen, found)
            return found

        h = len(self.products) - 1
        victims = easiest(self.products[:h, :h], self.attackers)
        family = free_family(victims, self.attackers, by="push")
        starts = [*family.starts]
        if family.draw is not None:
            starts += [family.draw(generator) for _ in range(len(starts))]
        scores = torch.stack([tried(family.rows(start)) for start in starts])
        each = evaluations // (2 * restarts)
        for k in range(len(GOALS)):
            for place in scores[:, k].topk(restarts).indices.tolist():
                alike = family.rows(starts[place])[0]
                for start, rows in (
                    (starts[place], family.rows),
                    (alike, lambda row: row.repeat(self.attackers, 1)),
                ):
                    climb(
                        lambda p, rows=rows, k=k: float(tried(rows(p))[k]),
                        start,
                        float(tried(rows(start))[k]),
                        evaluations=each,
                        generator=generator,
                    )
        return seen


def base_recipe(seed: int, rounds: int) -> Recipe:
    """The base of the shipped benches, without attack and by the mean."""
    return load_recipe(
        "quickstart",
        [f"federation.seed={seed}", f"federation.num_rounds={rounds}", "attack=null",
         "aggregator={name: mean}", "outer={name: fedavg}",
         "train.per_device_train_batch_size=4"],
    )  # fmt: skip


def rooms(recipe: Recipe, folder: Path, attackers: int) -> list[Room]:
    """A room for each recorded round."""
    layout, given = load_rounds(record_rounds(recipe, folder))
    part, found = Part("both", layout), []
    for each in given:
        honest = list(each.rows[: N - attackers])
        gram = product_gram(honest, each.anchor, describe(part, each.anchor, recipe.lora))
        found.append(Room.of(gram.inner_products(), attackers))
    return found


def fair_share(room: Room) -> float:
    """The displacement by rows of honest length along the direction, at the weight of all."""
    alike = torch.zeros(room.attackers, len(room.products), dtype=torch.float64)
    alike[:, -1] = 1.0
    return float(room.outcome(alike, aggregators.plan("mean"))[2])


def search_all(args: argparse.Namespace) -> tuple[dict[str, Tensor], Tensor]:
    """What was found, (seeds, rounds, goals) each, and the fair shares, (seeds, rounds)."""
    found: dict[str, list[Tensor]] = {name: [] for name in DEFENCES}
    shares = []
    for seed in args.seeds:
        places = rooms(base_recipe(seed, max(args.rounds)), args.records, args.attackers)
        places = [places[round_ - 1] for round_ in args.rounds]
        shares.append([fair_share(room) for room in places])
        for name, (rule, mixing) in DEFENCES.items():
            plan, worst = aggregators.plan(rule, mixing=mixing), []
            for round_, room in zip(args.rounds, places, strict=True):
                draw = torch.Generator().manual_seed(derive(seed, "searched", round_))
                worst.append(
                    room.worst(
                        plan,
                        evaluations=args.evaluations,
                        restarts=args.restarts,
                        generator=draw,
                    )
                )
            found[name].append(torch.stack(worst))
    return {name: torch.stack(each) for name, each in found.items()}, torch.tensor(shares)


def page(args: argparse.Namespace, found: dict[str, Tensor], shares: Tensor, cpu_s: float) -> str:
    """The results as Markdown."""
    fair = f"{args.attackers} rows of honest length at fair weight"
    lines = [
        "# Searched attacks against each defence, in one round",
        "",
        f"`python benchmarks/searched.py --evaluations {args.evaluations} --restarts "
        f"{args.restarts} --seeds {_spaced(args.seeds)} --rounds {_spaced(args.rounds)} "
        f"--attackers {args.attackers}`",
        "",
        f"{cpu_s:.0f} CPU seconds on {machine()}. The seeds are of no other table.",
        "",
        f"{N - args.attackers} honest clients of the quickstart and {args.attackers} attackers, "
        f"f = {F}, on products. The attackers see all honest updates and the rule, and search "
        "against it. Push and displacement are in honest median lengths; progress is the share of "
        "the honest mean that is left, negative where the step goes backwards. What a search finds "
        "is a lower bound of the worst: a longer one finds more, and so can what is made for one "
        "rule by hand, as the takeover of agreement + caf was "
        "([which defence](../which-defence.md)).",
        "",
        f"*{fair[0].upper()}{fair[1:]}*: the displacement by rows along one direction of the "
        f"attackers' own with the weight of any other client, {1 / N:g} each.",
    ]
    for k, goal in enumerate(GOALS):
        heads = " | ".join(f"round {round_}" for round_ in args.rounds)
        lines += ["", f"## {goal.capitalize()}, the worst of seeds {_spaced(args.seeds)}", ""]
        lines += [f"| defence | {heads} | worst |", "|---" * (len(args.rounds) + 2) + "|"]
        for name, values in found.items():
            worst = values[:, :, k].amax(dim=0)
            lines.append(_row(name, worst, 1 - worst if goal == "least progress" else worst))
        if goal == "greatest displacement":
            lines.append(_row(f"*{fair}*", shares.amax(dim=0), shares.amax(dim=0)))
    return "\n".join(lines) + "\n"


def _row(name: str, badness: Tensor, shown: Tensor) -> str:
    """A line of a table; its last cell is the worst of the others."""
    cells = [f"{float(value):.2f}" for value in [*shown, shown[badness.argmax()]]]
    return f"| {name} | {' | '.join(cells)} |"


def _spaced(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def main() -> None:
    """Search, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evaluations", type=int, default=300, help="by goal, beyond the starts")
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12])
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--attackers", type=int, default=3)
    parser.add_argument("--records", type=Path, default=Path("runs/searched"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/searched.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    found, shares = search_all(args)
    text = page(args, found, shares, time.process_time() - began)
    print(text)
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
