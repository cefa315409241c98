"""MDA, minimum variance, SMEA and CAF: by hand, against enumeration, at a hundred clients.

Not proven here: that the searches end on every input within their limits (a search of this kind
can take exponential time; the limits say so), agreement where enumeration is not feasible beyond
the planted answers, and any device but the CPU.
"""

import itertools
import math
import time

import numpy as np
import pytest
import reference_subsets as reference
import torch

from aggregators.engine.gram import gram
from aggregators.engine.rows import combine
from aggregators.rules.exact import mda, minimum_variance, smea
from aggregators.rules.exact.removal import best_removal
from aggregators.rules.exact.subset import Search
from aggregators.rules.exact.vertex_cover import bits, vertex_cover
from aggregators.rules.gram import caf

RULES = {
    "mda": mda.mda,
    "minimum_variance": minimum_variance.minimum_variance,
    "smea": smea.smea,
    "caf": caf.caf,
}
SUBSETS = {name: rule for name, rule in RULES.items() if name != "caf"}


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lattice(n, d, seed, values=3):
    """Rows with small whole coordinates: full of copies and of equal distances, all exact."""
    drawn = torch.randint(values, (n, d), generator=torch.Generator().manual_seed(seed))
    return drawn.to(torch.float64)


def column(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


def payload(rows, f, scale):
    rows = rows.clone()
    rows[1 : 2 * f : 2] *= scale
    return rows


def duplicates():
    rows = gaussian(11, 9, seed=2)
    rows[3] = rows[7]
    rows[4] = rows[7]
    rows[9] = rows[1]
    return rows


def corners():
    cube = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    return torch.cat([cube, cube[[5, 2]]])


CASES = {  # name -> (rows, f)
    "gaussian": (gaussian(11, 37), 3),
    "even": (gaussian(12, 5, seed=3), 2),
    "no liar": (gaussian(7, 11, seed=4), 0),
    "outliers 1e8": (payload(gaussian(11, 13, seed=1), 3, 1e8), 3),
    "outliers 1e30": (payload(gaussian(11, 13, seed=1), 3, 1e30), 3),
    "offset, spread 1": (gaussian(11, 17, seed=5) + 1000, 2),
    "offset, spread 1e-3": (gaussian(11, 17, seed=6) * 1e-3 + 1000, 2),
    "lora sized": (gaussian(11, 17, seed=7) * 1e-9, 2),
    "huge": (gaussian(11, 17, seed=8) * 1e30, 2),
    "duplicates": (duplicates(), 2),
    "ties": (corners(), 2),
    "most liars": (gaussian(13, 4, seed=15), 6),
    "one coordinate": (gaussian(13, 1, seed=10), 3),
    "one coordinate, even": (gaussian(12, 1, seed=11), 2),
}


def run(name, rows, f, **options):
    """The aggregate, the weights and the facts."""
    combination = RULES[name](gram(rows), f=f, **options)
    return combine(list(rows), combination.weights), combination.weights, combination.facts


# By hand


def test_mda_by_hand():
    # 0 1 2 4 9, f = 2: of the triples 0 1 2 has diameter 2, 1 2 4 has 3, 2 4 9 has 7.
    aggregate, weights, facts = run("mda", column(9, 0, 4, 1, 2), 2)
    assert aggregate.tolist() == pytest.approx([1])
    assert weights.tolist() == pytest.approx([0, 1 / 3, 0, 1 / 3, 1 / 3])
    assert facts["selected"] == [1, 3, 4]
    assert facts["diameter"] == 2


def test_mda_takes_the_first_of_equal_diameters():
    # 0 1 2 3 4, f = 2: 0 1 2, 1 2 3 and 2 3 4 have diameter 2. By index, with the rows given
    # as 4 0 3 1 2: clients {0 2 4} are 4 3 2, {1 3 4} are 0 1 2, {2 3 4} are 3 1 2.
    _, _, facts = run("mda", column(4, 0, 3, 1, 2), 2)
    assert facts["selected"] == [0, 2, 4]
    assert facts["diameter"] == 2


def test_minimum_variance_by_hand():
    # 0 3 4 5 9, f = 2: 3 4 5 has squares 1 + 1 + 4 = 6 over its pairs, 0 3 4 has 9 + 16 + 1.
    # The variance is 6 / 3² = 2/3.
    aggregate, _, facts = run("minimum_variance", column(9, 0, 4, 5, 3), 2)
    assert aggregate.tolist() == pytest.approx([4])
    assert facts["selected"] == [2, 3, 4]
    assert facts["variance"] == pytest.approx(2 / 3)
    # 0 0 3 3 5 5.5, f = 2: 0 0 3 3 has 4 * 9 = 36, 3 3 5 5.5 has 2 * 4 + 2 * 6.25 + 0.25 =
    # 20.75, and the variance 20.75 / 16.
    rows = column(0, 0, 3, 3, 5, 5.5)
    assert run("minimum_variance", rows, 2)[2]["variance"] == pytest.approx(20.75 / 16)


def test_variance_and_diameter_are_different_searches():
    # An equilateral triangle of side 1 (squares 3 in all, diameter 1) against a pair at one point
    # and a third row at 1.1 from it (squares 2 * 1.21 = 2.42, diameter 1.1). Three of six are no
    # majority, which the rules refuse, so the searches are called.
    triangle = [[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]]
    rows = torch.tensor([*triangle, [50.0, 0.0], [50.0, 0.0], [51.1, 0.0]], dtype=torch.float64)
    distances = gram(rows).squared_distances()
    assert distances[:3, :3].sum() == pytest.approx(2 * 3)
    assert distances[3:, 3:].sum() == pytest.approx(2 * 2.42)
    removed = best_removal(distances, [0, 1, 3], Search("test", 1000, 6, 3))
    assert removed == [0, 1, 2]
    far = mda._farther(distances, 1.0 + 1e-9)
    cover = vertex_cover(far, 0b111111, 3, Search("test", 1000, 6, 3))
    assert list(bits(cover)) == [3, 4, 5]


def test_smea_by_hand():
    # f = 1 of 4. A cross of half-width 1, rows (1,0) (-1,0) (0,1), and (0,-3). The first three:
    # mean (0, 1/3); x spread 2/3, y spread (1/9 + 1/9 + 4/9) / 3 = 2/9: top 2/3. With (0,-3),
    # y spreads more: e.g. (1,0) (0,1) (0,-3) has y mean -2/3, spread (4/9 + 25/9 + 49/9) / 3.
    rows = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -3]], dtype=torch.float64)
    aggregate, weights, facts = run("smea", rows, 1)
    assert aggregate.tolist() == pytest.approx([0, 1 / 3])
    assert facts["selected"] == [0, 1, 2]
    assert facts["eigenvalue"] == pytest.approx(2 / 3)
    assert facts["subsets"] == 4
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_caf_by_hand():
    # 0 0 4, f = 1. c = 1: mean 4/3, tau 16/9 16/9 64/9, eigenvalue (16 + 16 + 64) / 27 = 32/9.
    # c = 3/4 3/4 0, sum 1.5 > 1: mean 0, eigenvalue 0, and all of tau is 0: done. Answer 0.
    aggregate, weights, facts = run("caf", column(0, 0, 4), 1)
    assert aggregate.tolist() == [0]
    assert weights.tolist() == pytest.approx([0.5, 0.5, 0])
    assert (facts["steps"], facts["chosen_step"], facts["active"]) == (2, 1, 2)
    # 0 1 5, f = 1. Mean 2, tau 4 1 9, eigenvalue 14/3. c = 5/9 8/9 0, sum 13/9 > 1: mean 8/13,
    # eigenvalue (5/9 * 64/169 + 8/9 * 25/169) / (13/9) = 40/169, the least: tau 64/169 25/169,
    # c = 0 and 8/9 * 39/64 = 13/24, sum < 1: done.
    aggregate, weights, facts = run("caf", column(0, 1, 5), 1)
    assert aggregate.tolist() == pytest.approx([8 / 13])
    assert weights.tolist() == pytest.approx([5 / 13, 8 / 13, 0])
    assert facts["eigenvalue"] == pytest.approx(40 / 169)


# Against the references


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RULES)
def test_agrees_with_enumeration(name, case, dtype):
    rows, f = CASES[case]
    rows = rows.to(dtype).to(torch.float64)
    got = run(name, rows, f)[0].numpy()
    want = reference.RULES[name](rows.numpy(), f)
    assert np.abs(got - want).max() <= 1e-10 * np.abs(want).max()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", SUBSETS)
def test_the_first_of_tied_subsets(name, seed):
    # Whole coordinates: the reference's ties are exact, and the subset must be the same one.
    n, d, f = [(9, 2, 4), (10, 3, 3), (8, 1, 2)][seed % 3]
    rows = lattice(n, d, seed)
    want = getattr(reference, f"{name}_subset")(rows.numpy(), f)
    assert run(name, rows, f)[2]["selected"] == want.tolist()


@pytest.mark.parametrize("name", ["mda", "minimum_variance"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "f"), [(21, 5), pytest.param(30, 6, marks=pytest.mark.slow)])
def test_many_clients_against_each_of_their_20_349_or_593_775_subsets(n, f, name, seed):
    rows = [gaussian(n, 7, seed=9), lattice(n, 4, seed=1), payload(gaussian(n, 3), 2, 1e8)][seed]
    want = getattr(reference, f"{name}_subset")(rows.numpy(), f)
    assert run(name, rows, f)[2]["selected"] == want.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_vertex_cover_against_every_cover(seed):
    generator = torch.Generator().manual_seed(seed)
    n, density = 9, (seed % 5 + 1) / 6
    edges = torch.rand(n, n, generator=generator).triu(1)
    edges = (edges > 1 - density) & (edges > 0)
    neighbours = mda._farther((edges | edges.T).to(torch.float64), 0.5)
    covers = [
        mask
        for mask in range(1 << n)
        if all(mask >> i & 1 or mask >> j & 1 for i, j in edges.nonzero().tolist())
    ]
    least = min(mask.bit_count() for mask in covers)
    for most in range(n):
        found = vertex_cover(neighbours, (1 << n) - 1, most, Search("test", 10_000, n, most))
        assert (found is None) == (most < least)
        assert found is None or (found in covers and found.bit_count() <= most)


# A hundred clients


def planted(kind, f):
    """100 rows of which f are to go, and the others that stay: by any of the measures."""
    rows = gaussian(100, 50, seed=21)
    honest = torch.ones(100, dtype=torch.bool)
    honest[torch.randperm(100, generator=torch.Generator().manual_seed(22))[:f]] = False
    if kind == "apart":
        rows[~honest] *= 1e8
    elif kind == "together":
        rows[~honest] = 40 + gaussian(f, 50, seed=23) * 1e-3
    elif kind == "two groups":
        rows[~honest] += 30 * torch.sign(rows[~honest, :1])
    return rows, honest.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("kind", ["apart", "together", "two groups"])
@pytest.mark.parametrize(("name", "f"), [("mda", 20), ("minimum_variance", 6)])
def test_a_hundred_clients_with_a_planted_answer(name, f, kind):
    rows, honest = planted(kind, f)
    start = time.process_time()
    _, _, facts = run(name, rows, f)
    assert facts["selected"] == honest
    assert time.process_time() - start < 5  # 10 ms measured


def test_mda_of_a_hundred_random_clients_cannot_be_beaten():
    # No answer to compare with: but below its diameter there is none, and at it this one.
    rows = gaussian(100, 200, seed=24)
    start = time.process_time()
    _, _, facts = run("mda", rows, 20)
    assert time.process_time() - start < 5
    selected = [int(i) for i in facts["selected"]]
    distances = gram(rows).squared_distances()
    diameter = float(distances[selected][:, selected].max())
    assert math.sqrt(diameter) == pytest.approx(facts["diameter"])
    shorter = float(distances[distances < diameter * (1 - 1e-9)].max())
    far = mda._farther(distances, shorter)
    assert vertex_cover(far, (1 << 100) - 1, 20, Search("test", 100_000, 100, 20)) is None
    assert _least_after_a_swap(distances, selected) >= diameter * (1 - 1e-9)


def _least_after_a_swap(distances, selected):
    """Least squared diameter after any exchange of one selected row for another."""
    best = math.inf
    for out in selected:
        for into in set(range(len(distances))) - set(selected):
            trial = [into if i == out else i for i in selected]
            best = min(best, float(distances[trial][:, trial].max()))
    return best


def test_minimum_variance_of_a_hundred_random_clients_cannot_be_beaten_by_a_swap():
    rows = gaussian(100, 20, seed=25)
    _, _, facts = run("minimum_variance", rows, 6)
    selected = [int(i) for i in facts["selected"]]
    distances = gram(rows).squared_distances()
    total = float(distances[selected][:, selected].sum())
    assert facts["variance"] == pytest.approx(total / 2 / 94**2)
    for out in selected:
        for into in set(range(100)) - set(selected):
            trial = [into if i == out else i for i in selected]
            assert float(distances[trial][:, trial].sum()) >= total * (1 - 1e-9)
