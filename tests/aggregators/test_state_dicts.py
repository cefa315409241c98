"""State dicts in, a state dict out: the face for somebody else's training loop.

Not proven here: the rules themselves, which see rows.
"""

import pytest
import torch

from aggregators import aggregate
from aggregators.state_dicts import flatten, unflatten


def updates(n=7, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    return [
        {
            "b": torch.randn(2, 3, generator=draw, dtype=torch.float64).to(dtype),
            "a": torch.randn(4, generator=draw, dtype=torch.float64).to(dtype),
        }
        for _ in range(n)
    ]


@pytest.mark.parametrize("name", ["trimmed_mean", "krum", "geometric_median", "median"])
def test_it_is_the_same_as_on_rows(name):
    given = updates()
    rows = torch.stack([torch.cat([each["a"], each["b"].flatten()]) for each in given])
    got = aggregate(given, name, f=2, mixing=("nnm",))
    want = aggregate(rows, name, f=2, mixing=("nnm",))
    assert list(got) == ["b", "a"]  # as the first client has them
    assert torch.equal(torch.cat([got["a"], got["b"].flatten()]), want)
    assert got["b"].shape == (2, 3)


def test_the_order_of_a_clients_names_is_not_the_order_of_its_numbers():
    given = updates()
    turned = [dict(reversed(each.items())) for each in given]
    assert torch.equal(flatten(given), flatten(turned))


def test_a_row_goes_back_to_what_it_was():
    (one,) = updates(1)
    back = unflatten(flatten([one])[0], one)
    assert all(torch.equal(back[name], one[name]) for name in one)


def test_options_and_weights_pass_through():
    given = updates()
    weights = torch.tensor([1.0, 2, 1, 1, 1, 1, 1])
    got = aggregate(given, "mean", f=0, client_weights=weights)
    want = sum(w * each["a"].double() for w, each in zip(weights, given, strict=True)) / 8
    assert torch.allclose(got["a"].double(), want, atol=1e-6)
    with pytest.raises(ValueError, match="unknown option of krum: got 'm'"):
        aggregate(given, "krum", f=1, m=2)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda u: u.pop("a"), "client 3 and client 0 differ in 'a'"),
        (lambda u: u.update(c=torch.zeros(1)), "differ in 'c'"),
        (lambda u: u.update(a=torch.zeros(5)), r"'a' as torch.float32 \(4,\)"),
        (lambda u: u.update(a=torch.zeros(4, dtype=torch.float64)), "has torch.float64"),
        (lambda u: u.update(a=torch.zeros(4, dtype=torch.int64)), "needs floating tensors"),
        (lambda u: u.update(a=[1.0] * 4), "'a' of list"),
        (lambda u: u["a"].fill_(torch.nan), r"inf or nan in rows \[3\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_client_and_name(spoil, message):
    given = updates()
    spoil(given[3])
    with pytest.raises(ValueError, match=message):
        aggregate(given, "median", f=1)


def test_a_counter_in_every_client_is_refused_too():
    given = [{**each, "steps": torch.tensor(3)} for each in updates()]
    with pytest.raises(ValueError, match="leave counters and the like out"):
        aggregate(given, "median", f=1)
