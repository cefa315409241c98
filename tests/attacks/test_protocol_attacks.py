"""What each protocol attack makes of one small reply, by hand; what it refuses to make.

Not proven here: what a server does with it (tests/fedtune/simulation/test_protocol_attackers.py).
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

import attacks
from attacks import Reply
from attacks.protocol import PROTOCOL
from attacks.protocol.huge import huge
from attacks.protocol.inf import inf
from attacks.protocol.nan import nan
from attacks.protocol.oversized import oversized
from attacks.protocol.reply_twice import reply_twice
from attacks.protocol.wrong_keys import wrong_keys
from attacks.protocol.wrong_revision import wrong_revision
from attacks.protocol.wrong_shape import wrong_shape

WORDS = {"round": 4, "base_hash": "ab" * 32, "tokenizer_hash": "cd" * 32, "anchor_hash": "ef" * 32}


def honest() -> Reply:
    arrays = {
        "b": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        "a": torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]]),
        "c": torch.tensor([7.0, 8.0]),
    }
    return Reply(arrays, dict(WORDS))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lists(reply: Reply) -> dict[str, list[float]]:
    return {name: array.tolist() for name, array in reply.arrays.items()}


ALL = [
    (name, {key: choice})
    for name, attack in PROTOCOL.items()
    for key, option in attack.options.items()
    for choice in (option.choices or (option.default,))
] + [("silence", {})]


@pytest.mark.parametrize(("name", "options"), ALL)
def test_the_honest_reply_stays_as_it_is_and_only_the_seed_decides(
    name: str, options: dict[str, object]
) -> None:
    reply = honest()
    first, again = (attacks.forge(reply, name, generator=generator(3), **options) for _ in range(2))
    assert lists(reply) == lists(honest())
    assert reply.words == WORDS
    assert len(first) == len(again) == {"silence": 0, "reply_twice": 2}.get(name, 1)
    for one, other in zip(first, again, strict=True):
        assert str(lists(one)) == str(lists(other))  # as text, NaN equals NaN
        assert one.words == other.words
        assert {array.dtype for array in one.arrays.values()} == {torch.float32}
    forged = [(str(lists(one)), one.words) for one in first]
    assert forged != [(str(lists(honest())), WORDS)]


@pytest.mark.parametrize(
    ("name", "options", "value"),
    [
        ("nan", {}, math.nan),
        ("inf", {}, math.inf),
        ("inf", {"sign": "minus"}, -math.inf),
        ("huge", {"where": "one"}, 3e38),
        ("huge", {"where": "one", "value": -1e30}, -1e30),
    ],
)
def test_one_value_is_put_in_any_place_and_the_rest_is_honest(
    name: str, options: dict[str, object], value: float
) -> None:
    before = torch.cat([array.flatten() for array in honest().arrays.values()])
    places = Counter()
    draw = generator()
    for _ in range(560):
        (reply,) = attacks.forge(honest(), name, generator=draw, **options)
        assert list(reply.arrays) == ["b", "a", "c"]
        assert [tuple(array.shape) for array in reply.arrays.values()] == [(2, 3), (2, 3), (2,)]
        after = torch.cat([array.flatten() for array in reply.arrays.values()])
        changed = (after != before).nonzero().flatten().tolist()
        assert len(changed) == 1
        assert torch.equal(after[changed], torch.tensor([value])) or (
            math.isnan(value) and after[changed].isnan()
        )
        places[changed[0]] += 1
    # 14 places, 40 each, sd 6.1
    assert len(places) == 14
    assert max(places.values()) < 70
    assert min(places.values()) > 15


def test_a_value_is_put_everywhere() -> None:
    assert all(
        array.isnan().all()
        for array in nan(honest(), where="all", generator=generator())[0].arrays.values()
    )
    minus = inf(honest(), where="all", sign="minus", generator=generator())[0]
    assert lists(minus)["c"] == [-math.inf] * 2
    top = huge(honest(), generator=generator())[0]
    # 3e38 in float32 is 2.9999998...e38: within 2e31 of it, and its square is not
    assert top.arrays["b"].flatten().tolist() == pytest.approx([3e38] * 6)
    assert torch.isfinite(top.arrays["b"]).all()
    assert top.arrays["b"].square().isinf().all()


@pytest.mark.parametrize("value", [3.4028234e38, -3.4028234e38])
def test_the_ends_of_float32_are_finite_still(value: float) -> None:
    (reply,) = attacks.forge(honest(), "huge", generator=generator(), value=value)
    assert all(torch.isfinite(array).all() for array in reply.arrays.values())


def test_wrong_shapes_by_hand() -> None:
    # a and b are the largest, and a is the first of them in the order of names
    axis = wrong_shape(honest())[0]
    assert tuple(axis.arrays["a"].shape) == (1, 2, 3)
    assert lists(axis)["a"] == [lists(honest())["a"]]
    shorter = wrong_shape(honest(), how="shorter")[0]
    assert lists(shorter)["a"] == [-1.0, -2.0, -3.0, -4.0, -5.0]
    longer = wrong_shape(honest(), how="longer")[0]
    assert lists(longer)["a"] == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, 0.0]
    for reply in (axis, shorter, longer):
        assert lists(reply) | {"a": []} == lists(honest()) | {"a": []}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3,), (2, 1)])
@pytest.mark.parametrize("how", ["axis", "shorter", "longer"])
def test_a_wrong_shape_is_never_the_right_one(shape: tuple[int, ...], how: str) -> None:
    reply = Reply({"a": torch.ones(shape)}, WORDS)
    (forged,) = attacks.forge(reply, "wrong_shape", generator=generator(), how=how)
    assert tuple(forged.arrays["a"].shape) != shape


def test_wrong_keys_by_hand() -> None:
    plain = lists(honest())
    assert lists(wrong_keys(honest())[0]) == {
        "b": plain["b"], "a.forged": plain["a"], "c": plain["c"]
    }  # fmt: skip
    assert lists(wrong_keys(honest(), how="missing")[0]) == {"b": plain["b"], "c": plain["c"]}
    assert lists(wrong_keys(honest(), how="extra")[0]) == {**plain, "a.forged": [0.0]}
    assert lists(wrong_keys(honest(), how="swapped")[0]) == {
        "a": plain["b"], "b": plain["a"], "c": plain["c"]
    }  # fmt: skip


def test_a_swap_that_changes_nothing_is_no_attack() -> None:
    same = Reply({"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(3)}, WORDS)
    with pytest.raises(ValueError, match="two different arrays of one shape: got 3 arrays"):
        wrong_keys(same, how="swapped")


def test_wrong_revisions_by_hand() -> None:
    assert wrong_revision(honest())[0].words == {**WORDS, "anchor_hash": "0" * 64}
    assert wrong_revision(honest(), of="base_hash")[0].words == {**WORDS, "base_hash": "0" * 64}
    forged = wrong_revision(honest(), of="tokenizer_hash")[0]
    assert forged.words == {**WORDS, "tokenizer_hash": "0" * 64}
    assert lists(forged) == lists(honest())
    assert wrong_revision(honest(), of="round")[0].words == {**WORDS, "round": 3}


def test_a_word_that_was_never_said_cannot_be_a_wrong_one() -> None:
    with pytest.raises(ValueError, match=r"that says base_hash: got \['round'\]"):
        wrong_revision(Reply(honest().arrays, {"round": 4}), of="base_hash")


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.5, 1000.0])
def test_an_oversized_reply_weighs_factor_times_and_a_mebibyte(factor: float) -> None:
    # 14 numbers of 4 bytes are 56; whole numbers of 4 bytes, so up to 3 bytes more
    (reply,) = oversized(honest(), factor=factor)
    total = sum(4 * array.numel() for array in reply.arrays.values())
    assert 0 <= total - (56 * factor + 2**20) < 4
    assert lists(reply) | {"a": []} == lists(honest()) | {"a": []}
    assert reply.arrays["a"][:8].tolist() == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -1.0, -2.0]


def test_the_second_reply_is_the_first_one_turned_round() -> None:
    first, second = reply_twice(honest(), scale=2.0)
    assert lists(first) == lists(honest())
    assert lists(second)["b"] == [[-2.0, -4.0, -6.0], [-8.0, -10.0, -12.0]]
    assert first.words == second.words == WORDS


def test_a_reply_without_numbers_cannot_be_forged() -> None:
    for arrays in ({}, {"a": torch.ones(0, 3)}):
        for name in ("nan", "inf", "huge", "wrong_shape", "wrong_keys", "oversized"):
            with pytest.raises(ValueError, match=f"needs numbers to forge: got {len(arrays)}"):
                attacks.forge(Reply(arrays, WORDS), name, generator=generator())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nan", {"where": "some"}, "nan.where needs one of one, all: got 'some'"),
        ("inf", {"sign": "plsu"}, "one of plus, minus: got 'plsu'; did you mean 'plus'"),
        ("huge", {"value": 3.5e38}, "huge.value needs a finite float"),
        ("huge", {"value": math.inf}, "huge.value needs a finite float"),
        ("wrong_shape", {"how": "flat"}, "one of axis, shorter, longer: got 'flat'"),
        ("wrong_keys", {"how": "swaped"}, "got 'swaped'; did you mean 'swapped'"),
        ("wrong_revision", {"of": "layout_hash"}, "got 'layout_hash'"),
        ("oversized", {"factor": 0.9}, r"in \[1, 1000\]: got 0.9"),
        ("reply_twice", {"scale": -1.0}, "reply_twice.scale needs"),
        ("ipm", {}, "got ipm, of level 'update'; use one of: nan, inf, huge"),
    ],
)
def test_forge_refuses(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attacks.forge(honest(), name, generator=generator(), **options)


def test_functions_called_alone_refuse_forgery_options_too() -> None:
    for call, words in [
        (lambda: nan(honest(), where="some", generator=generator()), "where needs one of one, all"),
        (lambda: inf(honest(), sign="+", generator=generator()), "inf.sign needs one of plus"),
        (lambda: huge(honest(), value=math.nan, generator=generator()), "within 3.40282e.38"),
        (lambda: wrong_shape(honest(), how="flat"), "wrong_shape.how needs one of axis"),
        (lambda: wrong_keys(honest(), how="flat"), "wrong_keys.how needs one of renamed"),
        (lambda: wrong_revision(honest(), of="flat"), "wrong_revision.of needs one of anchor"),
        (lambda: oversized(honest(), factor=math.nan), "factor needs at least 1: got nan"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


def test_protocol_attacks_look_at_no_update() -> None:
    assert all(attack.knowledge == () for attack in PROTOCOL.values())
    assert [name for name, attack in PROTOCOL.items() if attack.goal != "refused"] == ["huge"]
