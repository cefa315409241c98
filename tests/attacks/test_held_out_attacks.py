"""What the held-out attacks reach against the default rule, by its public interface.

The bounds hold the defence to what was measured, with a margin, and show the attacks to bite.
Measured: 3 liars of 10, non-IID rows whose cosines are near 0.02, as in late rounds of real runs.
There the honest mean is mostly the clients' own, so that progress along it is a strict measure.
The rows are plain numbers and have no products: the rule is tried as on factors.

Not proven here: that training suffers. The bounds say what is left.
"""

from __future__ import annotations

import pytest
import torch
from held_out import crowding_out, drift_direction, quiet_drift, searched_span, vouched_reversal
from torch import Tensor

import aggregators
from attacks import Scene

LIARS = 3
AGREED = {"name": "caf", "mixing": ["agreement"]}
OLDER = {"name": "geometric_median", "mixing": ["agreement", "nnm"]}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def honest_rows(seed: int, *, d: int = 1000) -> Tensor:
    draw = generator(seed)
    common = 0.15 * torch.randn(d, generator=draw, dtype=torch.float64)
    spread = 0.5 + torch.rand(d, generator=draw, dtype=torch.float64)
    return common + spread * torch.randn(7, d, generator=draw, dtype=torch.float64)


RULE = {"name": "capped_spectral", "geometry": "product"}


def defended(honest: Tensor, lies: Tensor, defence=RULE) -> aggregators.Aggregation:
    rule = {key: value for key, value in defence.items() if key not in {"name", "geometry"}}
    return aggregators.aggregate_with_report(
        torch.cat([honest, lies]), defence["name"], f=LIARS, **rule
    )


def progress(aggregate: Tensor, honest: Tensor) -> float:
    """1 for the honest mean, 0.7 where the three liars of ten are zeros in a plain mean."""
    mean = honest.mean(dim=0)
    return float(aggregate @ mean / (mean @ mean))


@pytest.mark.parametrize("attack", [vouched_reversal, crowding_out, quiet_drift])
def test_rows_are_of_honest_length_and_drawn_from_the_generator(attack):
    honest = honest_rows(0)
    kept = honest.clone()
    lies = attack(honest, num_attackers=LIARS, generator=generator(1))
    assert lies.shape == (LIARS, 1000)
    length = float(honest.norm(dim=1).median())
    assert lies.norm(dim=1).tolist() == pytest.approx([length] * LIARS)
    again = attack(honest, num_attackers=LIARS, generator=generator(1))
    assert torch.allclose(lies, again)  # the solvers may differ in the last digit
    assert not torch.allclose(lies, attack(honest, num_attackers=LIARS, generator=generator(2)))
    assert torch.equal(honest, kept)


def test_vouched_reversal_stands_as_it_says():
    # 7 honest and 3 liars: of a liar's 9 cosines the fifth decides; 2 fellows and 3 friends are 5.
    honest = honest_rows(0)
    lies = vouched_reversal(honest, num_attackers=LIARS, generator=generator(1))
    cosines = torch.nn.functional.cosine_similarity(lies[:, None], honest[None], dim=2)
    for liar in range(LIARS):
        friends = (torch.arange(3) + liar) % 7
        assert (cosines[liar, friends] > 0).all()
        assert (cosines[liar] > 0).sum() == 3
    agreed = defended(honest, lies, AGREED).report["mixing[0].agreement.agreement"]
    assert isinstance(agreed, list)
    assert min(agreed[7:]) > 0
    assert progress(lies.mean(dim=0), honest) < -1


def test_vouched_reversal_frames_no_one():
    # Measured over seeds 0 to 5: progress 0.67 to 0.69, no weight below 0.028; of agreement, nnm
    # and the geometric median 0.24 to 0.47; of the plain mean 0.2.
    for seed in range(6):
        honest = honest_rows(seed)
        lies = vouched_reversal(honest, num_attackers=LIARS, generator=generator(seed))
        held = defended(honest, lies)
        assert (held.weights > 0.02).all()
        assert 0.6 < progress(held.aggregate, honest) < 0.8
        assert progress(defended(honest, lies, OLDER).aggregate, honest) < 0.6


@pytest.mark.parametrize("seed", range(3))
def test_crowding_out_takes_honest_weight_but_no_progress(seed):
    honest = honest_rows(seed)
    lies = crowding_out(honest, num_attackers=LIARS, generator=generator(seed))
    result = defended(honest, lies)
    mean = honest.mean(dim=0)
    error = float((result.aggregate - mean).square().sum() / mean.square().sum())
    assert progress(result.aggregate, honest) > 0.85  # 0.91
    assert 0.5 < error < 0.8  # 0.60 to 0.70
    assert result.weights[4:7].max() < 0.5 * result.weights[:4].min()
    assert result.weights[4:7].min() > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_quiet_drift_moves_the_default_as_a_mean_would_be_moved(seed):
    honest = honest_rows(seed)
    lies = quiet_drift(honest, num_attackers=LIARS, generator=generator(seed))
    axis, length = drift_direction(honest), honest.mean(dim=0).norm()
    plain = torch.cat([honest, lies]).mean(dim=0) @ axis / length
    moved = defended(honest, lies).aggregate @ axis / length
    assert plain == pytest.approx(0.37, abs=0.05)
    assert moved <= plain + 0.03
    # louder, and the three share less weight: 0.34 to 0.35
    loud = quiet_drift(honest, num_attackers=LIARS, generator=generator(seed), share=0.9)
    assert defended(honest, loud).aggregate @ axis / length < plain


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_search_in_the_honest_span_finds_more_than_any_of_these(seed):
    honest = honest_rows(seed, d=300)

    def harm(lies: Tensor) -> float:
        return 1 - progress(defended(honest, lies).aggregate, honest)

    scene = Scene(defence=harm)
    assert scene.defence is not None
    lies = searched_span(
        honest, num_attackers=LIARS, generator=generator(5), defence=scene.defence, steps=300
    )
    known = [
        harm(attack(honest, num_attackers=LIARS, generator=generator(5)))
        for attack in (vouched_reversal, crowding_out, quiet_drift)
    ]
    # measured over seeds 0 and 1: 0.43 and 0.44, beside 0.34; of agreement and caf 0.88 to 1.48
    assert max(known) < harm(lies) < 0.6
