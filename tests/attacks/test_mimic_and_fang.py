"""Mimic, and Fang's two attacks: by hand, by loops of the papers, and over rounds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import attacks
from attacks.updates.fang_krum import fang_krum
from attacks.updates.fang_trimmed_mean import fang_trimmed_mean
from attacks.updates.mimic import mimic


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rows(rows: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, d, generator=drawn(seed)).double()


def test_mimic_copies_the_row_that_stands_out() -> None:
    # centred: first coordinate -2, -1, 3, second -0.1, 0.2, -0.1: the top direction is nearly
    # (1, 0), and the third row lies farthest along it
    honest = torch.tensor([[0.0, 0.0], [1.0, 0.3], [5.0, 0.0]])
    assert attacks.craft(honest, "mimic", num_attackers=2).tolist() == [[5.0, 0.0]] * 2
    # turned round, the direction turns with it: the outlier, not the greatest coordinate
    assert attacks.craft(-honest, "mimic", num_attackers=1).tolist() == [[-5.0, 0.0]]


def test_mimic_of_one_or_of_equal_rows_copies_the_first() -> None:
    for honest in (torch.ones(1, 3), torch.zeros(4, 3), torch.full((4, 3), 0.1)):
        assert torch.equal(attacks.craft(honest, "mimic", num_attackers=2), honest[:1].repeat(2, 1))


def test_mimic_turns_by_the_authors_step_at_unit_length() -> None:
    rounds = [random_rows(4, 3, seed) for seed in range(4)]
    memory: dict[str, torch.Tensor] = {}
    z, mu = None, None
    for t, honest in enumerate(rounds):
        scene = attacks.Scene(round_=t + 1, memory=memory)
        sent = attacks.craft(honest, "mimic", num_attackers=1, scene=scene, warmup_rounds=10)
        mean = [sum(column) / 4 for column in honest.T.tolist()]
        mu = mean if mu is None else [(t * a + b) / (t + 1) for a, b in zip(mu, mean, strict=True)]
        if z is None:
            z = scene.memory["mimic.z"].tolist()
            scatter = torch.cov(honest.T)
            top = torch.linalg.eigh(scatter).eigenvectors[:, -1]
            assert abs(float(top @ scene.memory["mimic.z"])) == pytest.approx(1.0)
        else:
            step = [0.0] * 3
            for row in honest.tolist():
                c = [a - b for a, b in zip(row, mu, strict=True)]
                along = sum(a * b for a, b in zip(c, z, strict=True))
                step = [a + along * b for a, b in zip(step, c, strict=True)]
            length = math.hypot(*step)
            z = [t * a + b / length for a, b in zip(z, step, strict=True)]
            z = [a / math.hypot(*z) for a in z]
        assert scene.memory["mimic.z"].tolist() == pytest.approx(z, rel=1e-9)
        along = [sum(a * b for a, b in zip(row, z, strict=True)) for row in honest.tolist()]
        assert torch.equal(sent[0], honest[along.index(max(along))])
    assert memory["mimic.rounds"] == 4


def test_mimic_counts_rounds_and_not_calls() -> None:
    # the round is tried three times: it is one round of the warm-up, and one row is sent in it
    memory: dict[str, torch.Tensor] = {}
    for round_ in (1, 2):
        honest = random_rows(4, 3, round_)
        scene = attacks.Scene(round_=round_, memory=memory)
        sent = [attacks.craft(honest, "mimic", num_attackers=1, scene=scene) for _ in range(3)]
        assert all(torch.equal(one, sent[0]) for one in sent)
        assert memory["mimic.rounds"] == round_


def test_mimic_settles_on_one_client_after_the_warm_up() -> None:
    # client 2 stands apart in coordinate 0 in every round, beside noise of a third of that
    memory: dict[str, torch.Tensor] = {}
    for round_ in range(12):
        scene = attacks.Scene(round_=round_ + 1, memory=memory)
        honest = random_rows(6, 20, round_) / 3
        honest[2, 0] += 5.0
        if round_ >= 4:
            honest[2, 0] = -5.0  # now another row is the farthest along z
        sent = attacks.craft(honest, "mimic", num_attackers=2, scene=scene, warmup_rounds=4)
        assert torch.equal(sent, honest[2].repeat(2, 1))
    assert abs(memory["mimic.z"][0]) > 0.95
    assert memory["mimic.rounds"] == 4
    assert all(isinstance(kept, torch.Tensor) for kept in memory.values())


def test_mimic_copies_along_z_when_a_client_is_absent() -> None:
    honest = torch.tensor([[0.0, 0.0], [1.0, 0.3], [5.0, 0.0]])
    scene = attacks.Scene()
    mimic(honest, num_attackers=1, scene=scene, warmup_rounds=1)
    assert mimic(honest[:2], num_attackers=1, scene=scene, warmup_rounds=1)[0, 0] == 1.0
    assert mimic(honest, num_attackers=1, scene=scene, warmup_rounds=1)[0, 0] == 5.0


def test_mimic_starts_anew_where_it_could_not_see_a_direction() -> None:
    scene = attacks.Scene()
    mimic(torch.zeros(3, 2), num_attackers=1, scene=scene)
    honest = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]])
    scene = attacks.Scene(round_=2, memory=scene.memory)
    assert mimic(honest, num_attackers=1, scene=scene)[0, 0] == 5.0


def test_mimic_refuses_updates_of_another_length() -> None:
    scene = attacks.Scene()
    mimic(torch.ones(3, 2), num_attackers=1, scene=scene)
    with pytest.raises(ValueError, match=r"as long as those it remembers, 2: got 3; begin"):
        mimic(torch.ones(3, 3), num_attackers=1, scene=scene)


def krum_picks(rows: list[list[float]], f: int) -> int:
    """The paper's Krum in plain floats."""
    scores = []
    for i, row in enumerate(rows):
        apart = sorted(math.dist(row, other) ** 2 for j, other in enumerate(rows) if j != i)
        scores.append(sum(apart[: len(rows) - f - 2]))
    return scores.index(min(scores))


def test_fang_krum_by_hand() -> None:
    # honest 1, 2, 3, 4; one liar; h - 2 = 2 neighbours. Bound: least sum of two nearest squares is
    # 1 + 1 (rows 2 and 3), (h - 2) d = 2: sqrt(2 / 2) + 4 = 5. mu > 0, so the lie is -lambda:
    # -5: 36 + 49; -2.5: 12.25 + 20.25; -1.25: 5.06 + 10.56; -0.625: 2.64 + 6.89; each more than 2;
    # so are all down to 0 (1 + 4 = 5): none works, the last is 5 / 2^17
    honest = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
    crafted = attacks.craft(honest, "fang_krum", num_attackers=1, generator=drawn())
    assert crafted.item() == -5.0 / 2**17
    # two liars stand at distance 0 from each other: (h - 3) d = 1, bound sqrt(2) + 4 = 5.414. A lie
    # scores 0 + (1 + lambda)^2, row 2 scores 1 + 1: the first lambda below 0.414 is 5.414 / 16
    crafted = attacks.craft(honest, "fang_krum", num_attackers=2, generator=drawn(), epsilon=0.0)
    assert crafted.flatten().tolist() == pytest.approx([-(math.sqrt(2) + 4) / 16] * 2)


@pytest.mark.parametrize("seed", range(4))
def test_fang_krum_is_the_first_halving_that_krum_picks(seed: int) -> None:
    h, k, d = 7, 3, 12
    honest = random_rows(h, d, seed) + 0.3
    crafted = attacks.craft(honest, "fang_krum", num_attackers=k, generator=drawn(), epsilon=0.0)
    rows, signs = honest.tolist(), honest.mean(0).sign().tolist()
    least = min(
        sum(sorted(math.dist(row, other) ** 2 for other in rows)[1 : h - 1]) for row in rows
    )
    reach = max(math.hypot(*row) for row in rows)
    size = math.sqrt(least / ((h - k - 1) * d)) + reach / math.sqrt(d)
    for _ in range(18):
        lie = [-size * sign for sign in signs]
        if krum_picks(rows + [lie] * k, k) >= h:
            break
        size /= 2
    assert size > 1e-3  # one was found
    assert crafted.tolist() == [pytest.approx(lie, rel=1e-9)] * k


def test_no_lie_longer_than_the_bound_is_picked() -> None:
    for seed, factor in itertools.product(range(5), (1.0001, 2.0, 10.0)):
        honest = random_rows(7, 5, seed)
        rows, signs = honest.tolist(), honest.mean(0).sign().tolist()
        least = min(sum(sorted(math.dist(row, o) ** 2 for o in rows)[1:6]) for row in rows)
        bound = math.sqrt(least / (3 * 5)) + max(math.hypot(*row) for row in rows) / math.sqrt(5)
        assert krum_picks(rows + [[-factor * bound * s for s in signs]] * 3, 3) < 7


def test_fang_krums_supporters_are_near_and_their_own() -> None:
    honest = random_rows(7, 30) + 0.3
    crafted = attacks.craft(honest, "fang_krum", num_attackers=3, generator=drawn(), epsilon=0.05)
    offsets = (crafted[1:] - crafted[0]).norm(dim=1) / crafted[0].norm()
    assert (offsets > 0).all()
    assert (offsets <= 0.05).all()
    assert not torch.equal(crafted[1], crafted[2])
    again = attacks.craft(honest, "fang_krum", num_attackers=3, generator=drawn(), epsilon=0.05)
    assert torch.equal(crafted, again)


def test_fang_krum_of_liars_who_see_each_other_alone() -> None:
    # 4 liars of 20: they add one crafted row to their own four first; Krum of 5 rows, f = 1
    own = random_rows(4, 12) + 0.3
    crafted = fang_krum(own, num_attackers=4, generator=drawn(), epsilon=0.0, num_clients=20)
    assert torch.equal(crafted, crafted[:1].repeat(4, 1))
    picks = [
        krum_picks(own.tolist() + crafted[:count].tolist(), count) >= 4 for count in range(1, 3)
    ]
    assert any(picks)


def test_fang_krum_of_zeros_is_zeros() -> None:
    crafted = attacks.craft(torch.zeros(7, 3), "fang_krum", num_attackers=3, generator=drawn())
    assert torch.equal(crafted, torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("h", "k", "options", "words"),
    [
        (2, 1, {}, r">= 3 visible updates.*got 2 visible, 1 attackers, num_clients 3"),
        (4, 3, {}, r">= num_attackers \+ 2 honest updates.*got 4 of 7 clients; use fewer"),
        (4, 2, {"num_clients": 5}, r"those and the attackers: got 4 .* num_clients 5"),
        (7, 3, {"generator": None}, r"fang_krum needs a generator: got None; .*, or set epsilon=0"),
    ],
)
def test_fang_krum_refuses(h: int, k: int, options: dict[str, int | None], words: str) -> None:
    given = {"generator": drawn(), **options}
    with pytest.raises(ValueError, match=words):
        fang_krum(torch.ones(h, 2), num_attackers=k, **given)


def test_fang_krum_needs_no_draw_for_one_or_for_copies() -> None:
    honest = random_rows(7, 4)
    assert fang_krum(honest, num_attackers=1, generator=None).shape == (1, 4)
    copies = fang_krum(honest, num_attackers=2, generator=None, epsilon=0.0)
    assert torch.equal(copies[0], copies[1])


def test_fang_trimmed_mean_is_beyond_the_extreme() -> None:
    # means: 2 (rises), -2 (falls), 1/3 (rises), -1/3 (falls), 0 (as rising)
    honest = torch.tensor(
        [[1.0, -1.0, -2.0, 1.0, -3.0], [2.0, -2.0, 1.0, 1.0, 0.0], [3.0, -3.0, 2.0, -3.0, 3.0]]
    )
    crafted = attacks.craft(honest, "fang_trimmed_mean", num_attackers=500, generator=drawn())
    # min 1 -> [1/2, 1]; max -1 -> [-1, -1/2]; min -2 -> [-4, -2]; max 1 -> [1, 2];
    # min -3 -> [-6, -3]
    low = torch.tensor([0.5, -1.0, -4.0, 1.0, -6.0])
    high = torch.tensor([1.0, -0.5, -2.0, 2.0, -3.0])
    assert (crafted >= low).all()
    assert (crafted <= high).all()
    # 500 uniform draws reach within 5 % of both ends but for (0.95)^500 = 7e-12
    assert (crafted.min(0).values < low + 0.05 * (high - low)).all()
    assert (crafted.max(0).values > high - 0.05 * (high - low)).all()
    wide = attacks.craft(honest, "fang_trimmed_mean", num_attackers=500, generator=drawn(), b=10.0)
    assert wide[:, 4].min() < -28


def test_fang_trimmed_mean_guesses_the_extremes_of_what_is_not_seen() -> None:
    # means 2, -1; deviations 1, 3: rises -> 2 - [3, 4]; falls -> -1 + 3 * [3, 4]
    own = torch.tensor([[1.0, -4.0], [2.0, -1.0], [3.0, 2.0]])
    crafted = attacks.craft(
        own, "fang_trimmed_mean", num_attackers=3, generator=drawn(), num_clients=10
    )
    assert ((crafted[:, 0] >= -2) & (crafted[:, 0] <= -1)).all()
    assert ((crafted[:, 1] >= 8) & (crafted[:, 1] <= 11)).all()


def test_fang_trimmed_mean_refuses() -> None:
    one = torch.ones(1, 2)
    with pytest.raises(ValueError, match="fang_trimmed_mean needs a generator: got None"):
        attacks.craft(one, "fang_trimmed_mean", num_attackers=1)
    with pytest.raises(ValueError, match=r">= 2 visible updates.*got 1; widen"):
        fang_trimmed_mean(one, num_attackers=1, generator=drawn(), num_clients=5)
    with pytest.raises(ValueError, match="got 3 visible, 2 attackers, num_clients 4"):
        fang_trimmed_mean(torch.ones(3, 2), num_attackers=2, generator=drawn(), num_clients=4)
    # every honest update is seen, though there is one only: no deviation is needed
    lie = fang_trimmed_mean(one, num_attackers=1, generator=drawn())
    assert ((lie >= 0.5) & (lie <= 1.0)).all()
