"""Zero, constant, scaled, the searched attacks, Min-Max and Min-Sum: by hand and by slow loops."""

from __future__ import annotations

import math

import pytest
import torch

import attacks
from attacks.updates.line_search import line_search
from attacks.updates.min_max import min_max
from attacks.updates.optimised_ipm import optimised_ipm
from attacks.updates.scaled import scaled

# means: 2, -1; ddof-1 deviations: 1 and 3
HONEST = torch.tensor([[1.0, -4.0], [2.0, -1.0], [3.0, 2.0]])
OWN = torch.tensor([[5.0, 0.5], [-1.0, 8.0]])


def random_rows(rows: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, d, generator=generator) + torch.randn(d, generator=generator)


def test_zero_is_zeros() -> None:
    assert attacks.craft(HONEST, "zero", num_attackers=2).tolist() == [[0.0, 0.0]] * 2


def test_constant_is_in_rms_coordinates() -> None:
    # RMS of (3, 4; 3, 4): sqrt(50 / 4) = 3.5355; the default is ten of them
    honest = torch.tensor([[3.0, 4.0], [3.0, 4.0]], dtype=torch.float64)
    for scale, value in ((None, 10 * math.sqrt(12.5)), (-0.5, -0.5 * math.sqrt(12.5))):
        options = {} if scale is None else {"scale": scale}
        crafted = attacks.craft(honest, "constant", num_attackers=2, **options)
        assert crafted.flatten().tolist() == pytest.approx([value] * 4, rel=1e-14)


def test_scaled_replaces_the_model_in_a_plain_mean() -> None:
    # 3 honest, 2 liars: gamma = 5 / 2
    crafted = attacks.craft(HONEST, "scaled", num_attackers=2, own=OWN)
    assert crafted.tolist() == [[12.5, 1.25], [-2.5, 20.0]]
    # of honest clients that have converged (updates near 0) the mean of all is the liars' own mean
    everyone = torch.cat([torch.zeros(3, 2), crafted]).mean(0)
    assert torch.allclose(everyone, OWN.mean(0))


def test_scaled_takes_its_factor_or_the_federations_count() -> None:
    one = OWN[:1]
    # alone in the view "own": n / 1
    assert attacks.craft(one, "scaled", num_attackers=1, own=one, num_clients=10)[0, 0] == 50.0
    assert attacks.craft(one, "scaled", num_attackers=1, own=one)[0, 0] == 10.0
    assert attacks.craft(one, "scaled", num_attackers=1, own=one, gamma=3.0)[0, 0] == 15.0


def test_scaled_refuses() -> None:
    with pytest.raises(ValueError, match="own=None; pass own"):
        scaled(HONEST, num_attackers=1, own=None)
    with pytest.raises(ValueError, match="got 1 clients, 2 attackers"):
        attacks.craft(HONEST, "scaled", num_attackers=2, own=OWN, num_clients=1)


def cliff(step: float) -> float:
    """Climbs to 3 at 3, is dropped from there on, and climbs a little again far out."""
    return step if step <= 3 else 0.01 * step


@pytest.mark.parametrize(
    ("harm", "greatest"),
    [
        (cliff, 3.0),
        (lambda step: math.exp(-(math.log(step / 0.2) ** 2)), 1.0),
        # peaks a factor 1.25 beside a point of the grid, 1.878^5 / 16 = 1.459, on either side
        (lambda step: math.exp(-((4 * math.log(step * 1.25 / 1.459)) ** 2)), 1.0),
        (lambda step: math.exp(-((4 * math.log(step / 1.25 / 1.459)) ** 2)), 1.0),
        (lambda step: min(step, 10.0), 10.0),
        (lambda step: 5.0 if 0.9 < step < 2.0 else min(step, 1.0), 5.0),
        (lambda step: 1.0 if step < 0.001 else 0.0, 1.0),
    ],
)
def test_line_search_finds_what_a_dense_scan_finds(harm, greatest: float) -> None:
    asked: list[float] = []

    def counted(step: float) -> float:
        asked.append(step)
        return harm(step)

    found = line_search(counted, evaluations=20)
    assert len(asked) == len(set(asked)) == 20
    assert harm(found) == max(map(harm, asked))
    assert harm(found) >= 0.95 * greatest


def test_line_search_goes_on_where_there_is_no_bound() -> None:
    # 12 points up to 64, then eight factors of 4
    assert line_search(lambda step: step, evaluations=20) == pytest.approx(64 * 4**8)


def test_line_search_takes_the_least_of_equals() -> None:
    # harmless everywhere: from 1/16 down by eight factors of 4
    assert line_search(lambda step: 0.0, evaluations=20) == pytest.approx(4.0**-10)


def test_optimised_attacks_send_their_family_at_the_step_that_is_worst() -> None:
    # the defence is blind beyond 1.5 from 0 in the first coordinate, else feels the distance from
    # the mean (2, -1). ipm at epsilon 0.75: (-1.5, 0.75). alie: 2 - z = -1.5 at z = 3.5
    def defence(rows: torch.Tensor) -> float:
        assert rows.shape == (2, 2)
        assert rows.dtype == HONEST.dtype
        kept = rows[0] if rows[0, 0] >= -1.5 else HONEST.mean(0)
        return (kept - HONEST.mean(0)).norm().item()

    scene = attacks.Scene(defence=defence)
    for name, lie in (
        ("optimised_ipm", lambda step: [-2 * step, step]),
        ("optimised_alie", lambda step: [2 - step, -1 - 3 * step]),
    ):
        crafted = attacks.craft(HONEST, name, num_attackers=2, scene=scene, evaluations=40)
        step = -crafted[0, 0].item() / 2 if "ipm" in name else 2 - crafted[0, 0].item()
        assert crafted.tolist() == [pytest.approx(lie(step))] * 2
        assert -1.5 <= crafted[0, 0] <= -1.4


def test_more_evaluations_are_asked_for_and_made() -> None:
    asked: list[int] = []
    scene = attacks.Scene(defence=lambda rows: float(asked.append(1) or 0))
    attacks.craft(HONEST, "optimised_ipm", num_attackers=1, scene=scene, evaluations=7)
    assert len(asked) == 7


def test_a_lie_that_overflows_does_no_harm() -> None:
    half = HONEST.half()
    scene = attacks.Scene(defence=lambda rows: rows.double().norm().item())
    crafted = attacks.craft(half, "optimised_ipm", num_attackers=1, scene=scene)
    assert crafted.isfinite().all()
    assert crafted.abs().max() > 1000


def test_optimised_attacks_refuse() -> None:
    blind = attacks.Scene()
    with pytest.raises(ValueError, match=r"optimised_ipm needs scene.defence: got None"):
        attacks.craft(HONEST, "optimised_ipm", num_attackers=1)
    with pytest.raises(ValueError, match=r"line search needs scene.defence: got None"):
        optimised_ipm(HONEST, num_attackers=1, scene=blind)
    for bad in (math.nan, math.inf, -1.0):
        odd = attacks.Scene(defence=lambda rows, bad=bad: bad)
        with pytest.raises(ValueError, match=f"distance >= 0: got {bad} at step 0.0625; return 0"):
            attacks.craft(HONEST, "optimised_alie", num_attackers=1, scene=odd)
    seeing = attacks.Scene(defence=lambda rows: 0.0)
    with pytest.raises(ValueError, match=r"optimised_alie needs >= 2 visible.*got 1; widen"):
        attacks.craft(HONEST[:1], "optimised_alie", num_attackers=1, scene=seeing)


def test_min_max_by_hand() -> None:
    # (0, 0), (2, 0): mean (1, 0), diameter 2. unit p = (-1, 0): the far row is (2, 0), at
    # 1 + gamma = 2. sign p = (-1, 0) too. std: ddof-1 deviations sqrt(2), 0: p points the same way
    honest = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    for direction in ("unit", "sign", "std", "best"):
        crafted = attacks.craft(honest, "min_max", num_attackers=2, direction=direction)
        assert crafted.tolist() == [pytest.approx([0.0, 0.0], abs=1e-12)] * 2
    # (-1, 3), (1, 3): mean (0, 3), unit p = (0, -1): 1 + gamma^2 = 4
    honest = torch.tensor([[-1.0, 3.0], [1.0, 3.0]], dtype=torch.float64)
    crafted = attacks.craft(honest, "min_max", num_attackers=1, direction="unit")
    assert crafted[0].tolist() == pytest.approx([0.0, 3 - math.sqrt(3)])


def test_min_sum_by_hand() -> None:
    # 0, 0, 3: mean 1; sums of squares 9, 9, 18. 3 gamma^2 + (1 + 1 + 4) = 18: gamma = 2
    honest = torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
    for direction in ("unit", "sign", "std", "best"):
        crafted = attacks.craft(honest, "min_sum", num_attackers=1, direction=direction)
        assert crafted.item() == pytest.approx(-1.0)


def paper_search(honest: torch.Tensor, p: list[float], *, total: bool) -> list[float]:
    """The greatest gamma in plain Python floats: halving between feasible and infeasible."""
    rows = honest.double().tolist()
    h, d = len(rows), len(rows[0])
    mu = [sum(row[k] for row in rows) / h for k in range(d)]
    measure = sum if total else max

    def out(row: list[float]) -> float:
        return measure(math.dist(row, other) ** 2 for other in rows)

    bound = max(out(row) for row in rows)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        inside = out([m + middle * q for m, q in zip(mu, p, strict=True)]) <= bound
        low, high = (middle, high) if inside else (low, middle)
    return [m + low * q for m, q in zip(mu, p, strict=True)]


@pytest.mark.parametrize("name", ["min_max", "min_sum"])
@pytest.mark.parametrize("seed", range(3))
def test_distances_against_a_halving_search(name: str, seed: int) -> None:
    honest = random_rows(5, 6, seed).double()
    mu = honest.mean(0)
    directions = {"unit": -mu / mu.norm(), "sign": -mu.sign(), "std": -honest.std(0)}
    far = []
    for direction, p in directions.items():
        crafted = attacks.craft(honest, name, num_attackers=1, direction=direction)[0]
        expected = paper_search(honest, p.tolist(), total=name == "min_sum")
        assert crafted.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
        far.append((crafted - mu).norm().item())
    best = attacks.craft(honest, name, num_attackers=1, direction="best")[0]
    assert (best - mu).norm().item() == pytest.approx(max(far), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["min_max", "min_sum"])
def test_the_row_that_is_sent_is_within_the_bound(name: str, dtype: torch.dtype) -> None:
    for seed in range(20):
        # an offset far longer than the spread is where the cast would carry the row out
        honest = (random_rows(4, 50, seed) + (10.0 if seed % 2 else 0.0)).to(dtype)
        rows = honest.double()
        row = attacks.craft(honest, name, num_attackers=1)[0].double()
        apart = (rows[:, None] - rows).square().sum(-1)
        out = (row - rows).square().sum(-1)
        if name == "min_max":
            assert out.max() <= apart.max() * (1 + 1e-14)
        else:
            assert out.sum() <= apart.sum(1).max() * (1 + 1e-14)
        assert (row - rows.mean(0)).norm() > 0


def test_best_is_what_the_defence_feels_most() -> None:
    honest = random_rows(5, 6)
    for wanted in ("unit", "sign", "std"):
        one = attacks.craft(honest, "min_max", num_attackers=2, direction=wanted)
        scene = attacks.Scene(defence=lambda rows, one=one: float(torch.equal(rows, one)))
        found = attacks.craft(honest, "min_max", num_attackers=2, direction="best", scene=scene)
        assert torch.equal(found, one)


def test_directions_that_are_zero_leave_the_mean() -> None:
    # mean 0: unit and sign have no direction, std has: sqrt(3^2 + gamma^2 ...) within 2 * 3
    honest = torch.tensor([[3.0, 0.0], [-3.0, 0.0]])
    for direction in ("unit", "sign"):
        crafted = attacks.craft(honest, "min_max", num_attackers=1, direction=direction)
        assert crafted.tolist() == [[0.0, 0.0]]
    assert attacks.craft(honest, "min_max", num_attackers=1, direction="best")[0, 0] == -3.0
    for name in ("min_max", "min_sum"):
        equal = torch.full((3, 2), 0.1)
        assert torch.equal(attacks.craft(equal, name, num_attackers=2), equal[:2])


def test_distances_refuse() -> None:
    for name in ("min_max", "min_sum"):
        with pytest.raises(ValueError, match=f"{name} needs >= 2 visible updates.*got 1; widen"):
            attacks.craft(HONEST[:1], name, num_attackers=1)
        with pytest.raises(ValueError, match="got 'sgn'; did you mean 'sign'"):
            attacks.craft(HONEST, name, num_attackers=1, direction="sgn")
    with pytest.raises(ValueError, match=r"min_max.direction needs one of .*got 'median'"):
        min_max(HONEST, num_attackers=1, direction="median")
    for bad in (math.nan, math.inf, -1.0):
        odd = attacks.Scene(defence=lambda rows, bad=bad: bad)
        with pytest.raises(ValueError, match=f"min_sum .* >= 0: got {bad} at direction unit; ret"):
            attacks.craft(HONEST, "min_sum", num_attackers=1, direction="best", scene=odd)
