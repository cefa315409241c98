"""Each attack of the field against rules that fall to it, on synthetic non-IID rows.

Harm is the aggregate's distance from the honest mean, beside what it is when the liars send their
honest updates. Not proven here: that training suffers; the bench measures that.
"""

from __future__ import annotations

import statistics

import pytest
import torch

import aggregators
import attacks

# attack, options, rule, mixing, and the factor of harm; the measured factor stands beside it
REACHED = [
    ("constant", {}, "mean", (), 10.0),  # 16
    ("scaled", {}, "mean", (), 2.0),  # 3.2
    ("optimised_alie", {}, "krum", (), 1.5),  # 1.8
    ("optimised_alie", {}, "trimmed_mean", ("nnm",), 1.5),  # 1.8
    ("optimised_ipm", {}, "geometric_median", ("nnm",), 1.5),  # 1.9
    ("min_max", {"direction": "best"}, "meamed", (), 1.5),  # 2.0
    ("min_max", {"direction": "unit"}, "multi_krum", (), 1.4),  # 1.7
    ("min_max", {"direction": "sign"}, "multi_krum", (), 1.4),  # 1.7
    ("min_max", {}, "median", (), 1.5),  # 2.1
    ("min_sum", {}, "median", (), 1.5),  # 2.0
    ("min_sum", {"direction": "best"}, "trimmed_mean", ("nnm",), 1.5),  # 1.8
    ("mimic", {}, "geometric_median", (), 2.0),  # 3.1
    ("mimic", {}, "median", (), 1.4),  # 1.8
    ("fang_krum", {}, "krum", (), 1.2),  # 1.5
    ("fang_trimmed_mean", {}, "trimmed_mean", (), 1.8),  # 2.5
]


def non_iid_rows(num_clients: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shared = 0.5 * torch.randn(d, generator=generator)
    spread = 2 * torch.rand(d, generator=generator)
    return shared + spread * torch.randn(num_clients, d, generator=generator)


@pytest.mark.parametrize(("name", "options", "rule", "mixing", "factor"), REACHED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_harm(name, options, rule, mixing, factor, dtype) -> None:
    told, honestly = [], []
    for seed in range(3):
        rows = non_iid_rows(10, 300, seed).to(dtype)
        honest, own = rows[:7], rows[7:]

        def moved(crafted: torch.Tensor, honest: torch.Tensor = honest) -> float:
            everyone = torch.cat([honest, crafted])
            f = 0 if rule == "mean" else 3
            aggregate = aggregators.aggregate(everyone, rule, f=f, mixing=mixing)
            return (aggregate.double() - honest.double().mean(0)).norm().item()

        crafted = attacks.craft(
            honest,
            name,
            num_attackers=3,
            own=own,
            generator=torch.Generator().manual_seed(seed),
            scene=attacks.Scene(defence=moved),
            **options,
        )
        told.append(moved(crafted))
        honestly.append(moved(own))
    assert statistics.mean(told) > factor * statistics.mean(honestly)


@pytest.mark.parametrize("rule", ["mean", "geometric_median", "trimmed_mean", "caf"])
def test_zero_draws_a_share_for_no_work(rule: str) -> None:
    rows = non_iid_rows(10, 300, 0)
    lies = attacks.craft(rows[:7], "zero", num_attackers=3)
    done = aggregators.aggregate_with_report(
        torch.cat([rows[:7], lies]), rule, f=0 if rule == "mean" else 3
    )
    assert (done.weights[7:] > 0.05).all()


ALIE, IPM = ("optimised_alie", "z"), ("optimised_ipm", "epsilon")
KRUM, MULTI_KRUM, MEAMED = ("krum", ()), ("multi_krum", ()), ("meamed", ())
MIXED_MEAN = ("trimmed_mean", ("nnm",))


@pytest.mark.parametrize(
    ("name", "family", "rule", "mixing"),
    [
        (*ALIE, *KRUM),
        (*IPM, *MEAMED),
        (*ALIE, *MULTI_KRUM),
        (*IPM, *MIXED_MEAN),
        pytest.param(*IPM, *KRUM, marks=pytest.mark.slow),
        pytest.param(*ALIE, *MEAMED, marks=pytest.mark.slow),
        pytest.param(*IPM, *MULTI_KRUM, marks=pytest.mark.slow),
        pytest.param(*ALIE, *MIXED_MEAN, marks=pytest.mark.slow),
    ],
)
def test_the_search_comes_near_the_worst_of_a_dense_scan(name, family, rule, mixing) -> None:
    honest = non_iid_rows(7, 100, 1)

    def moved(crafted: torch.Tensor) -> float:
        everyone = torch.cat([honest, crafted])
        aggregate = aggregators.aggregate(everyone, rule, f=3, mixing=mixing)
        return (aggregate.double() - honest.double().mean(0)).norm().item()

    plain = name.removeprefix("optimised_")
    dense = max(
        moved(attacks.craft(honest, plain, num_attackers=3, **{family: 2 ** (step / 20)}))
        for step in range(-100, 140)
    )
    scene = attacks.Scene(defence=moved)
    found = moved(attacks.craft(honest, name, num_attackers=3, scene=scene))
    assert found >= 0.95 * dense
