"""What attacks keep in the scene's memory, what they leave alone, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from drifting_clients import federate

import attacks
from attacks import Scene

HONEST = torch.tensor([[1.0, -4.0, 4.0], [2.0, -1.0, 4.0], [3.0, 2.0, 4.0]])
OWN = torch.tensor([[5.0, 0.5, -2.0], [-1.0, 8.0, 3.0]])
NAMES = [
    "neurotoxin",
    "constrain_and_scale",
    "stale",
    "replay",
    "free_rider",
    "slow_drift",
    "on_off",
    "copy_cat",
    "mimic",
]
VARIANTS = [
    *[(name, {}) for name in NAMES],
    ("neurotoxin", {"of": "own"}),
    ("replay", {"of": "own"}),
    ("free_rider", {"mode": "noise"}),
    ("slow_drift", {"towards": "against"}),
    ("on_off", {"period": 2}),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rows(rows: int, d: int) -> torch.Tensor:
    return torch.randn(rows, d, generator=seeded(), dtype=torch.float64)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_round_tried_again_changes_nothing(name: str, options: dict[str, object]) -> None:
    once = federate(name, rounds=8, options=options)
    thrice = federate(name, rounds=8, tries=3, options=options)
    assert torch.equal(torch.stack(once.lies), torch.stack(thrice.lies))


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_what_is_remembered_is_in_the_scene(name: str, options: dict[str, object]) -> None:
    # a module global or a live tensor that is not a copy would be lost or changed here
    whole = federate(name, rounds=8, options=options)
    again = federate(name, rounds=8, reload_after=4, options=options)
    assert torch.equal(torch.stack(whole.lies), torch.stack(again.lies))


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_one_liar_one_row_and_untouched_input(
    name: str, options: dict[str, object], dtype: torch.dtype
) -> None:
    for rows in (torch.zeros(3, 30, dtype=dtype), random_rows(1, 30).to(dtype)):
        if len(rows) == 1 and name == "slow_drift":
            continue
        memory: dict[str, torch.Tensor] = {}
        for round_, last in ((1, None), (2, torch.zeros(30)), (3, torch.ones(30))):
            own, before = rows[:1].clone(), (rows.clone(), rows[:1].clone())
            scene = Scene(round_=round_, last=last, memory=memory)
            sent = attacks.craft(
                rows, name, num_attackers=1, own=own, generator=seeded(), scene=scene, **options
            )
            assert (sent.shape, sent.dtype) == ((1, 30), dtype)
            sent += 1e3  # shares no memory with the input, nor with what is remembered
            assert torch.equal(rows, before[0])
            assert torch.equal(own, before[1])
            own += 1e3
            assert all(kept.abs().max() < 500 for kept in memory.values())
            assert not any(kept.requires_grad for kept in memory.values())


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("neurotoxin", {"of": "own"}, "got None; pass own, or set of=mean"),
        ("neurotoxin", {"keep": 0.3}, r"keep \* d >= 1.*got 0.3 \* 3; raise keep"),
        ("neurotoxin", {"keep": 1.1}, r"in \[0.001, 1\]: got 1.1"),
        ("neurotoxin", {"scene": Scene(last=torch.ones(4))}, r"d=3 columns.*got \(4,\)"),
        ("neurotoxin", {"scene": Scene(last=HONEST)}, r"shape \(d,\): got \(3, 3\)"),
        ("free_rider", {"scene": Scene(last=torch.full((3,), math.nan))}, "finite.*got NaN"),
        ("constrain_and_scale", {}, "got own=None; pass own"),
        ("constrain_and_scale", {"alpha": 1.5}, "got 1.5"),
        ("stale", {}, "got own=None; pass own"),
        ("stale", {"delay": 0}, "got 0"),
        ("replay", {"of": "own"}, "got None; pass own, or set of=honest"),
        ("replay", {"scene": Scene(memory={"replay.honest": torch.ones(1, 2)})}, r"got \(1, 2\)"),
        ("free_rider", {"generator": None}, "free_rider needs a generator: got None"),
        ("slow_drift", {"generator": None}, "slow_drift needs a generator: got None"),
        ("slow_drift", {"honest": HONEST[:1]}, "needs >= 2 visible updates.*got 1; widen"),
        ("on_off", {}, "got own=None; pass own"),
        ("copy_cat", {"which": 3}, r"which in \[0, 2\].*got 3; lower which"),
    ],
)
def test_refusals(name: str, given: dict[str, object], words: str) -> None:
    call = {"honest": HONEST, "generator": seeded(), "num_attackers": 1, **given}
    with pytest.raises(ValueError, match=words):
        attacks.craft(name=name, **call)  # type: ignore[arg-type]


def test_stale_refuses_a_memory_of_other_liars() -> None:
    memory: dict[str, torch.Tensor] = {}
    attacks.craft(OWN, "stale", num_attackers=2, own=OWN, scene=Scene(memory=memory))
    with pytest.raises(ValueError, match=r"got 1 now.*give each attacker a separate memory"):
        attacks.craft(
            OWN, "stale", num_attackers=1, own=OWN[:1], scene=Scene(round_=9, memory=memory)
        )
