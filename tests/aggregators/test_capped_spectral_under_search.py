"""The bound of capped_spectral, held against an evolutionary search over the attackers' rows.

|aggregate - honest mean|² <= C f/(n-2f) times the honest variance (the trace), with C <= 4, from
honest rows that nearly agree to rows of pure noise. Random attacks would prove nothing.

Not proven here: that no search finds more.
"""

import pytest
import torch

from aggregators import aggregate

DTYPE = torch.float64
COUNTS = [(7, 1), (7, 2), (7, 3), (10, 1), (10, 3), (10, 4), (20, 1), (20, 6), (20, 9)]
SPREADS = [(1.0, 1e-4), (1.0, 0.1), (1.0, 1.0), (0.0, 1.0)]  # of the common step, of the rest
KINDS = ("normal", "outlier", "halves", "lengths")


def honest_rows(kind, count, d, common, spread, seed):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, d, generator=draw, dtype=DTYPE) / d**0.5
    if kind == "outlier":
        rows *= 0.1
        rows[0] *= 30
    if kind == "halves":
        rows *= 0.3
        rows[: count // 2, 0] += 1
        rows[count // 2 :, 0] -= 1
    if kind == "lengths":
        rows *= torch.randn(count, 1, generator=draw, dtype=DTYPE).exp()
    step = torch.randn(d, generator=draw, dtype=DTYPE)
    # One more dimension that no honest client moves in.
    return torch.nn.functional.pad(common * step / step.norm() + spread * rows, (0, 1))


class Searched:
    """How far f rows can move the aggregate, in units of f/(n-2f) times the honest variance."""

    def __init__(self, honest, f, seed):
        self.honest, self.f, self.draw = honest, f, torch.Generator().manual_seed(seed)
        self.mean = honest.mean(dim=0)
        variance = float((honest - self.mean).square().sum(dim=1).mean())
        n = len(honest) + f
        self.unit = f / (n - 2 * f) * variance
        self.spread = variance**0.5

    def score(self, lies):
        out = aggregate(torch.cat([self.honest, lies]), "capped_spectral", f=self.f)
        return float((out - self.mean).square().sum()) / self.unit

    def starts(self):
        """Alike or apart, along a direction of their own, an axis between honest rows, the mean."""
        apart = self.honest - self.mean
        own = torch.zeros_like(self.mean)
        own[-1] = self.spread
        half = apart[: len(apart) // 2].sum(dim=0) - apart[len(apart) // 2 :].sum(dim=0)
        half = half / half.norm() * self.spread
        for size in (0.03, 0.3, 1.0, 1.5, 2.0, 3.0, 10.0, 1e3, 1e6):
            for direction in (own, apart[0], -apart[0], half, -half):
                yield (self.mean + size * direction).expand(self.f, -1).clone()
            noise = torch.randn(self.f, len(self.mean), generator=self.draw, dtype=DTYPE)
            yield self.mean + size * self.spread * noise
        for times in (-10.0, -1.0, 0.0, 0.5, 2.0):
            yield (times * self.mean).expand(self.f, -1).clone()

    def worst(self, evaluations):
        found = sorted(((self.score(lies), k, lies) for k, lies in enumerate(self.starts())),
                       key=lambda each: (-each[0], each[1]))[:4]  # fmt: skip
        best = found[0][0]
        for value, _, lies in found:
            size = 0.3
            for _ in range(evaluations // 4):
                away = lies - self.mean
                step = torch.randn(lies.shape, generator=self.draw, dtype=DTYPE)
                if torch.rand(1, generator=self.draw) < 0.5:
                    step[:] = step[0].clone()  # all attackers alike
                step *= size * away.norm() / step.norm()
                grown = float(torch.exp(0.3 * torch.randn(1, generator=self.draw)))
                tried = self.mean + grown * away + step
                got = self.score(tried)
                if got > value:
                    lies, value, size = tried, got, size * 1.3
                else:
                    size = max(size * 0.9, 0.01)
            best = max(best, value)
        return best


@pytest.mark.parametrize(
    ("n", "f", "kind", "which"), [(7, 3, "outlier", 1), (10, 3, "halves", 2), (20, 1, "outlier", 2)]
)
def test_no_search_moves_it_beyond_the_bound(n, f, kind, which):
    common, spread = SPREADS[which]
    honest = honest_rows(kind, n - f, 12, common, spread, seed=which)
    assert Searched(honest, f, seed=which).worst(evaluations=24) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 12, 40])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "f"), COUNTS)
def test_no_long_search_moves_it_beyond_the_bound(n, f, kind, d, capsys):
    worst = 0.0
    for k, (common, spread) in enumerate(SPREADS):
        honest = honest_rows(kind, n - f, d, common, spread, seed=100 * n + f + k)
        worst = max(worst, Searched(honest, f, seed=k).worst(evaluations=400))
    with capsys.disabled():
        print(f"\nC = {worst:.2f} (n={n}, f={f}, {kind}, d={d})")
    assert worst <= 4
