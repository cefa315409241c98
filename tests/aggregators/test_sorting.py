"""The column kernel gives the order statistics, whatever the count, the ranks and the numbers.

By the 0-1 principle a network of minima and maxima that sorts every 0-1 input sorts every input.
For up to 10 rows every 0-1 input is tried, beyond that random ones.

Not proven here: speed (benchmarks/aggregators.py), and any device but the CPU.
"""

import itertools

import pytest
import torch

from aggregators.engine import sorting
from aggregators.engine.sorting import on_sorted, selection_network, sorted_chunks

COUNTS = range(1, 61)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def used_ranks(m):
    """Ranks and loose ranks as the rules ask for them: all, middles, every trim, every window."""
    middles = range((m - 1) // 2, m // 2 + 1)
    asked = [(range(m), ()), (middles, ())]
    for f in range((m + 1) // 2):
        asked.append((range(f, m - f), range(f + 1, m - f - 1)))
        asked.append((range(m), range(f + 1, m - f - 1)))
        asked.append((range(m), sorted(set(range(f + 1, m - f - 1)) - set(middles))))
    return asked


def check(block, ranks, loose):
    """Compare with torch.sort, the loose ranks as a set."""
    want = block.sort(dim=0).values[ranks.start : ranks.stop].to(torch.float64)
    where = [rank - ranks.start for rank in loose]
    for columns, rows in sorted_chunks(block, ranks, loose=loose):
        got = torch.stack(list(rows)).to(torch.float64)
        got[where] = got[where].sort(dim=0).values
        assert torch.equal(got, want[:, columns])


@pytest.mark.parametrize("m", COUNTS)
def test_every_count_and_every_ranks_used(m):
    generator = torch.Generator().manual_seed(m)
    spread = torch.randn(m, 40, generator=generator)
    tied = torch.randint(-1, 2, (m, 40), generator=generator).to(torch.float32)
    bits = torch.randint(0, 2, (m, 40), generator=generator).to(torch.float32)
    payload = spread * 10 ** torch.randint(-30, 9, (m, 40), generator=generator)
    block = torch.cat([spread, tied, bits, payload], dim=1)
    # Widely apart counts of f suffice for the large m: the first, the last and some between.
    asked = used_ranks(m)
    for ranks, loose in asked[:8] + asked[8 :: max(1, m // 4)]:
        check(block, ranks, loose)


@pytest.mark.parametrize("m", range(1, 11))
def test_every_input_of_zeros_and_ones(m):
    block = torch.tensor(list(itertools.product([0.0, 1.0], repeat=m))).t().contiguous()
    for ranks, loose in used_ranks(m):
        check(block, ranks, loose)
    for start, stop in itertools.combinations(range(m + 1), 2):
        check(block, range(start, stop), ())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 7, 20, 48, 49])
def test_every_dtype_and_layout_is_read_and_never_written(m, dtype):
    block = torch.randn(m, 300, generator=torch.Generator().manual_seed(m)).to(dtype)
    layouts = [
        block,
        block.repeat_interleave(2, dim=1)[:, ::2],
        block.t().contiguous().t(),
        torch.cat([block, block], dim=1)[:, 300:],
        block.clone().requires_grad_(),
    ]
    for layout in layouts:
        before = layout.detach().clone()
        check(layout.detach(), range(m), ())
        for _, rows in sorted_chunks(layout, range(m)):
            assert not any(row.requires_grad for row in rows)
        assert torch.equal(layout, before)


@pytest.mark.parametrize("m", [3, 48, 49, 60])
def test_chunks_cover_a_wide_block(m, monkeypatch):
    monkeypatch.setattr(sorting, "_ROW_BYTES", 400)  # 100 columns of float32
    monkeypatch.setattr(sorting, "_SORTED_VALUES", 100 * m)
    for width in (1, 99, 100, 101, 777):
        block = torch.randn(m, width, generator=torch.Generator().manual_seed(width))
        ends = [(c.start, c.stop) for c, _ in sorted_chunks(block, range(m))]
        assert [a for a, _ in ends] == [0, *(b for _, b in ends[:-1])]
        assert ends[-1][1] == width
        assert len(ends) == -(-width // 100)
        check(block, range(1, m - 1), ())


def test_what_is_kept_of_the_chunks_is_put_together(monkeypatch):
    monkeypatch.setattr(sorting, "_ROW_BYTES", 400)

    def finish(rows, kept):
        kept.values.copy_(rows[1])
        kept.low.copy_(rows[0])
        kept.high.copy_(rows[2])

    block = torch.randn(5, 250, generator=torch.Generator().manual_seed(0))
    want = block.sort(dim=0).values
    kept = on_sorted(block, range(1, 4), finish)
    assert kept.values.dtype == torch.float64
    assert torch.equal(kept.low, want[1])
    assert torch.equal(kept.values, want[2].to(torch.float64))
    assert torch.equal(kept.high, want[3])


def test_a_program_never_writes_to_its_input():
    for m in (1, 2, 3, 5, 8, 13, 20, 30, 48):
        for ranks, loose in used_ranks(m):
            network = selection_network(m, ranks, frozenset(loose))
            assert all(into >= m for _, _, _, into in network.steps)
            # A buffer for each row and one more suffice; so a chunk's memory is known.
            assert network.num_buffers <= m + 1


def test_networks_are_pruned():
    # Minima and maxima needed. Two rows: one each. Three: sorted by three comparators, 6; the
    # median alone is max(min(a, b), min(max(a, b), c)), 4; the least alone 2.
    assert len(selection_network(2, range(2)).steps) == 2
    assert len(selection_network(3, range(3)).steps) == 6
    assert len(selection_network(3, range(1, 2)).steps) == 4
    assert len(selection_network(3, range(1)).steps) == 2
    # The least of m takes m - 1 minima; the order of loose ranks costs nothing.
    for m in (5, 20, 48):
        assert len(selection_network(m, range(1)).steps) == m - 1
        assert not selection_network(m, range(m), frozenset(range(m))).steps
    # Of 20 rows: what the module says.
    assert len(selection_network(20, range(9, 11)).steps) == 126
    assert len(selection_network(20, range(4, 16), frozenset(range(5, 15))).steps) == 160
    assert len(selection_network(20, range(20)).steps) == 194
