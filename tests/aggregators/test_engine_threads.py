"""The engine's threads: the same bits from any number of them, and the caller's left as they were.

Not proven here: that more threads are quicker, and other devices than the CPU.
"""

import os
import subprocess
import sys
import threading

import pytest
import torch

from aggregators.engine.columns import walk_columns
from aggregators.engine.gram import gram
from aggregators.engine.pool import limit_threads, one_thread
from aggregators.engine.rows import combine, distances_to, squared_norms, stretches
from aggregators.engine.rule import Kept


def gaussian(n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def test_bits_do_not_depend_on_the_number_of_threads(shrink):
    rows = gaussian(21, 600_000 // shrink) + 1000
    weights = torch.rand(21, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = torch.full((21, 21), 1 / 21, dtype=torch.float64) + torch.eye(21)
    before, seen = torch.get_num_threads(), []

    def middle_row(block):
        ordered = block.sort(dim=0).values
        return Kept(ordered[10], ordered[9], ordered[11])

    try:
        for threads, pool in ((1, 1), (1, 2), (2, 1), (2, 3), (4, 7)):
            torch.set_num_threads(threads)
            with limit_threads(pool):
                walk = walk_columns(rows, middle_row, matrix=matrix)
                there = distances_to(rows, walk.aggregate)
                sums = (gram(rows).centred, squared_norms(rows), combine(rows, weights))
                seen.append((*sums, walk.aggregate, walk.used, walk.distances, there))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(stretches(rows)) >= 6  # or there would be nothing to share out
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


IN_A_FRESH_PROCESS = """
import torch
from aggregators.engine.pool import in_order, limit_threads
rows = torch.randn(21, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
seen = []
for threads in (1, 2):
    with limit_threads(threads):
        in_order([0, 1], lambda *_: rows @ rows.T, seen.append, device=rows.device)
assert all(torch.equal(seen[0], other) for other in seen)
"""


def test_a_new_thread_multiplies_on_one_thread():
    # Where the environment allows two, MKL takes both in a new thread, though torch says one.
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS], env=environment, check=True)


def test_the_pool_leaves_the_callers_threads_alone():
    rows, before = gaussian(21, 600_000), torch.get_num_threads()
    inside = []

    def seen(block):
        inside.append((threading.get_ident(), torch.get_num_threads()))
        return Kept(block[0], block[0], block[0])

    with limit_threads(3):
        walk_columns(rows, seen)
    assert {threads for _, threads in inside} == {1}
    assert threading.get_ident() not in {thread for thread, _ in inside}
    later = []
    new = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert (torch.get_num_threads(), later) == (before, [before])


def test_an_error_in_a_thread_comes_out_and_ends_the_pool():
    before, running = torch.get_num_threads(), threading.active_count()

    def stop(block):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), limit_threads(3):
        walk_columns(gaussian(21, 600_000), stop)
    assert (torch.get_num_threads(), threading.active_count()) == (before, running)


@pytest.mark.parametrize("most", [0, -1, True, 1.0, None])
def test_threads_are_a_count(most):
    with pytest.raises(ValueError, match="the engine needs threads >= 1"), limit_threads(most):
        pass


def test_one_thread_gives_the_threads_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="stop"), one_thread():
        raise RuntimeError("stop")
    assert torch.get_num_threads() == before
