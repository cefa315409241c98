"""benchmarks/searched.py, by hand. Not proven here: that its searches find much."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

import aggregators

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def searched():
    path = list(sys.path)
    sys.path.append(str(FOLDER))  # for its _path, which then puts the folder last
    spec = importlib.util.spec_from_file_location("searched", FOLDER / "searched.py")
    module = sys.modules["searched"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path[:] = path
        del sys.modules["searched"]


def test_three_rows_at_fair_weight_by_hand(searched):
    # Seven orthonormal honest rows, of mean m with |m|² = 1/7, and three rows at T: the mean of all
    # is 0.7 m + 0.3 T. So the push is 0.3, 0.3 of the progress is lost, and 0.3 (T - m) is the
    # displacement, of length 0.3 sqrt(8/7). Lengths are in honest ones: 4 makes no difference.
    room = searched.Room.of(16 * torch.eye(7, dtype=torch.float64), 3)
    rows = torch.zeros(3, 8, dtype=torch.float64)
    rows[:, -1] = 1
    got = room.outcome(rows, aggregators.plan("mean")).tolist()
    assert got == pytest.approx([0.3, 0.3, 0.3 * math.sqrt(8 / 7)])
    assert searched.fair_share(room) == pytest.approx(got[2])


def test_a_search_against_the_mean_goes_far_and_against_the_default_does_not(searched):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 30, generator=draw, dtype=torch.float64) + 0.3
    room = searched.Room.of(rows @ rows.T, 3)

    def worst(name):
        plan = aggregators.plan(name)
        generator = torch.Generator().manual_seed(1)
        return room.worst(plan, evaluations=12, restarts=1, generator=generator)

    plain = worst("mean")
    assert (plain > 0.6).all()  # twice what rows of honest length get: lengths are searched
    assert torch.equal(plain, worst("mean"))
    default = worst("capped_spectral")
    assert (default < 0.7 * plain).all()
    assert (default > 0.1).all()
