"""Everything that is refused, and in which words: need; got; do.

Not proven here: that nothing else ought to be refused.
"""

import re

import pytest
import torch
from calls import call, defined

from aggregators import AGGREGATORS, MIXINGS, aggregate, aggregate_with_report, plan
from aggregators.engine.gram import gram

LISTED = {**AGGREGATORS, **MIXINGS}
FEWEST = {  # worked from the papers, not read from the code: f -> least n
    **dict.fromkeys(["mean", "fltrust", "foolsgold"], lambda f: 1),
    **dict.fromkeys(["krum", "multi_krum"], lambda f: 2 * f + 3),
    "bulyan": lambda f: 4 * f + 3,
    **dict.fromkeys(
        ["median", "trimmed_mean", "meamed", "phocas", "sign_majority", "rlr", "geometric_median",
         "centered_clipping", "mda", "minimum_variance", "smea", "caf", "cge", "dnc", "flame",
         "norm_clip", "capped_spectral"],
        lambda f: 2 * f + 1,
    ),
}  # fmt: skip


def refuse(message):
    return pytest.raises(ValueError, match=re.escape(message))


@pytest.mark.parametrize("f", [0, 1, 2, 5])
@pytest.mark.parametrize("name", AGGREGATORS)
def test_the_condition_is_exact(name, f):
    fewest = FEWEST[name](f)
    assert AGGREGATORS[name].min_clients(f) == fewest
    assert call(torch.randn(fewest, 4), name, f).shape == (4,)
    with refuse(f"{name} needs {AGGREGATORS[name].condition}: got n={fewest - 1}, f={f};"):
        aggregate(torch.zeros(fewest - 1, 4), name, f=f)


@pytest.mark.parametrize("name", LISTED)
def test_the_condition_in_words_is_the_condition(name):
    rule = LISTED[name]
    words = re.sub(r"(\d)f", r"\1*f", rule.condition)
    for f in range(4):
        holds = [n for n in range(20) if eval(words, {"n": n, "f": f})]
        assert min(holds) == rule.min_clients(f)


def test_krum_refusal_word_for_word():
    with pytest.raises(ValueError, match="krum") as caught:
        aggregate(torch.zeros(4, 2), "krum", f=1)
    assert str(caught.value) == (
        "krum needs n >= 2f + 3: got n=4, f=1; lower f or wait for 5 clients"
    )


def test_without_liars_there_is_no_f_to_lower():
    with refuse("krum needs n >= 2f + 3: got n=2, f=0; wait for 3 clients"):
        aggregate(torch.zeros(2, 2), "krum", f=0)
    with refuse("mean needs n >= 1: got n=0, f=3; wait for 1 client"):
        aggregate(torch.zeros(0, 2), "mean", f=3)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_n_is_checked_before_values(name):
    fewest = FEWEST[name](2)
    with refuse("wait for"):
        call(torch.full((fewest - 1, 3), torch.nan), name, 2)


def test_mixing_has_its_own_condition():
    with refuse("nnm needs n >= 2f + 1: got n=4, f=2; lower f or wait for 5 clients"):
        aggregate(torch.zeros(4, 2), "mean", f=2, mixing=("nnm",))


@pytest.mark.parametrize("f", [-1, True, 1.0, None, "1"])
@pytest.mark.parametrize("name", AGGREGATORS)
def test_f_is_a_count(name, f):
    with refuse(f"{name} needs f >= 0, a whole number: got f={f!r}"):
        aggregate(torch.zeros(9, 2), name, f=f)


@pytest.mark.parametrize("payload", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", AGGREGATORS)
def test_rows_that_are_not_finite_are_named(name, payload):
    rows = torch.zeros(11, 9000)
    rows[3, 8999] = payload
    rows[7, 0] = payload
    reference = torch.ones(9000)
    for chain in [(), ("nnm",)] if defined(name, ("nnm",), 11, 2) else [()]:
        given = {"reference": reference} if AGGREGATORS[name].takes_reference else {}
        with refuse("got inf or nan in rows [3, 7]; reject these clients"):
            aggregate(rows, name, f=2, mixing=chain, **given)


def test_squares_beyond_float64_are_named():
    rows = torch.zeros(9, 4, dtype=torch.float64)
    rows[5] = 1e200
    with refuse("got an overflow in rows [5]"):
        aggregate(rows, "median", f=2)


@pytest.mark.parametrize("shape", [(9,), (9, 2, 2), ()])
def test_updates_are_a_matrix(shape):
    with refuse(f"updates needs the shape (n, d), dense: got {tuple(shape)}"):
        aggregate(torch.zeros(shape), "mean", f=0)


def test_updates_are_dense():
    with refuse("updates needs the shape (n, d), dense"):
        aggregate(torch.eye(3).to_sparse(), "mean", f=0)


def test_updates_are_a_tensor():
    with pytest.raises(TypeError, match="updates needs to be a torch tensor: got list"):
        aggregate([[1.0]], "mean", f=0)


def test_updates_have_coordinates():
    with refuse("updates needs d >= 1 coordinates: got the empty shape (3, 0)"):
        aggregate(torch.zeros(3, 0), "mean", f=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_updates_are_floating(dtype):
    with refuse(f"got {dtype}; convert it first"):
        aggregate(torch.zeros(3, 2).to(dtype), "mean", f=0)


def test_unknown_names_are_answered_with_the_nearest():
    with refuse("unknown aggregator: got 'trimed_mean'; did you mean 'trimmed_mean'? known: "):
        aggregate(torch.zeros(3, 2), "trimed_mean", f=0)
    with refuse("unknown mixing: got 'NNN'; did you mean 'nnm'? known: agreement, arc, bucketing"):
        aggregate(torch.zeros(3, 2), "mean", f=0, mixing=("NNN",))
    with refuse("unknown aggregator: got 'xyz'; known: bulyan, caf, capped_spectral,"):
        aggregate(torch.zeros(3, 2), "xyz", f=0)


def test_mixing_is_a_sequence_of_names():
    with refuse("mixing needs a sequence of names: got 'nnm'; write ('nnm',)"):
        aggregate(torch.zeros(3, 2), "mean", f=0, mixing="nnm")


def test_unknown_options_are_refused():
    # ByzFL turns {"F": 1} into f = 0 without a word.
    with refuse("unknown option of krum: got 'F'; known: none"):
        aggregate(torch.zeros(9, 2), "krum", f=2, F=1)
    with refuse("unknown option of geometric_median: got 'max_step'; did you mean 'max_steps'?"):
        aggregate(torch.zeros(9, 2), "geometric_median", f=2, max_step=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("multi_krum", {"m": 0}, "multi_krum needs m >= 1, a whole number, or null: got 0"),
        ("multi_krum", {"m": 2.0}, "needs m >= 1, a whole number, or null: got 2.0"),
        ("multi_krum", {"m": True}, "got True"),
        ("multi_krum", {"m": 8}, "multi_krum needs 1 <= m <= n - f: got m=8, n=9, f=2; set m to 7"),
        ("geometric_median", {"max_steps": 0}, "needs 1 <= max_steps <= 100000, a whole number"),
        ("geometric_median", {"nu": 0.0}, "needs 1e-09 <= nu <= 1, a finite number: got 0.0"),
        ("geometric_median", {"nu": None}, "got None; default 1e-06"),
        ("geometric_median", {"tolerance": torch.nan}, "got nan"),
        ("centered_clipping", {"steps": -1}, "needs 1 <= steps <= 100000"),
        ("centered_clipping", {"radius": 0.0}, "needs radius >= 1e-30, a finite number, or null"),
        ("centered_clipping", {"radius": torch.inf}, "got inf"),
        ("centered_clipping", {"radius": "median"}, "got 'median'"),
    ],
)
def test_options_out_of_bounds_are_refused(name, options, message):
    with refuse(message):
        aggregate(torch.randn(9, 2), name, f=2, **options)


def test_options_come_back_with_their_defaults():
    check = AGGREGATORS["geometric_median"].check_options
    assert check({}) == {"max_steps": 32, "nu": 1e-6, "tolerance": 1e-8}
    assert check({"tolerance": 1}) == {"max_steps": 32, "nu": 1e-6, "tolerance": 1.0}
    assert AGGREGATORS["multi_krum"].check_options({"m": None}) == {"m": None}


@pytest.mark.parametrize("name", LISTED)
def test_every_rule_says_what_it_is(name):
    rule = LISTED[name]
    assert rule.name == name
    assert rule.kind in ("gram", "columns", "mixing")
    assert "https://arxiv.org/abs/" in rule.source or "https://doi.org/" in rule.source
    assert 10 < len(rule.summary) < 90
    assert rule.needs_f == (name not in {"mean", "fltrust", "foolsgold", "bucketing"})
    assert rule.cost
    assert rule.kappa
    assert rule.reading
    assert rule.function.__name__ == name
    for section in ("Args:", "Returns:", "Source:"):
        assert section in rule.function.__doc__


def test_state_of_another_rule_is_refused():
    state = {"center": torch.zeros(2)}
    with refuse("krum carries the state none: got 'center'; leave it out"):
        aggregate_with_report(torch.zeros(9, 2), "krum", f=2, state=state)
    with refuse("centered_clipping carries the state center: got 'centre'"):
        aggregate_with_report(torch.zeros(9, 2), "centered_clipping", f=2, state={"centre": 1})


@pytest.mark.parametrize(
    "center", [torch.zeros(3), torch.full((2,), torch.nan), torch.zeros(2, dtype=torch.int64)]
)
def test_a_centre_that_does_not_fit_is_refused(center):
    with refuse("centered_clipping needs a finite floating center of shape (2,)"):
        aggregate(torch.zeros(9, 2), "centered_clipping", f=2, state={"center": center})


def test_a_gram_that_does_not_fit_is_refused():
    rows = torch.randn(9, 2)
    with refuse("krum needs a Gram over n=9 clients and 0 extra points: got 8 and 0"):
        aggregate(rows, "krum", f=2, gram=gram(rows[:8]))
    state = {"center": torch.zeros(2)}
    with refuse("centered_clipping needs a Gram over n=9 clients and 1 extra points: got 9 and 0"):
        aggregate(rows, "centered_clipping", f=2, state=state, gram=gram(rows))


def test_more_than_one_centre_is_refused():
    rows = torch.randn(9, 2)
    points = gram(rows, extra=[rows[0], rows[1]])
    with refuse("centered_clipping needs at most one extra point"):
        AGGREGATORS["centered_clipping"].function(points, f=2)


def test_an_unknown_option_is_refused_before_anything_is_computed():
    with refuse("unknown option of median: got 'typo'"):
        aggregate(torch.full((1, 3), torch.nan), "median", f=2, typo=1)


def test_mixings_that_leave_too_few_rows_are_refused_with_the_count():
    # 10 clients in buckets of 2 are 5 rows: Krum at f=2 needs 7.
    draw = torch.Generator().manual_seed(0)
    message = "krum needs n >= 2f + 3: got n=5, f=2; lower f or wait for 7 clients (the mixings"
    with refuse(message):
        aggregate(torch.randn(10, 2), "krum", f=2, mixing=("bucketing",), generator=draw)
    mixing = [{"name": "bucketing", "s": 1}]
    assert aggregate(torch.randn(10, 2), "krum", f=2, mixing=mixing, generator=draw).shape == (2,)


def test_a_plan_knows_how_few_clients_are_enough():
    assert plan("krum").min_clients(2) == 7
    assert plan("krum", mixing=("bucketing",)).min_clients(2) == 13
    assert plan("krum", mixing=("bucketing", "bucketing")).min_clients(2) == 25
    assert plan("bulyan", mixing=("nnm",)).min_clients(2) == 11
    assert plan("multi_krum", m=9).min_clients(2) == 11


def test_a_history_takes_no_mixing():
    with refuse("foolsgold takes no mixing"):
        aggregate(torch.randn(9, 2), "foolsgold", f=0, mixing=("nnm",))


def test_what_is_drawn_needs_a_generator():
    with refuse("bucketing needs a generator: got None"):
        aggregate(torch.randn(9, 2), "mean", f=0, mixing=("bucketing",))
    with refuse("noise needs a generator"):
        aggregate(torch.randn(9, 2), "norm_clip", f=0, noise=0.1)


def test_a_rule_that_compares_needs_what_to_compare_with():
    with refuse("fltrust needs the server's own update: got no reference"):
        aggregate(torch.randn(9, 2), "fltrust", f=0)
    with refuse("fltrust needs a finite floating reference of shape (2,)"):
        aggregate(torch.randn(9, 2), "fltrust", f=0, reference=torch.zeros(3))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("krum", [1.0] * 9, "krum takes no client weights"),
        ("median", [1.0] * 9, "median takes no client weights"),
        ("mean", [1.0] * 8, "client weights need 9 positive finite numbers"),
        ("mean", [1.0] * 8 + [0.0], "client weights need 9 positive finite numbers"),
        ("mean", [1.0] * 8 + [torch.nan], "client weights need 9 positive finite numbers"),
        ("geometric_median", [9.0] + [1.0] * 8, "the f=1 largest to stay under half of the sum"),
    ],
)
def test_client_weights_that_do_not_fit_are_refused(name, weights, message):
    with refuse(message):
        aggregate(torch.randn(9, 2), name, f=1, client_weights=torch.tensor(weights))
    if name == "mean" and len(weights) == 9:
        with refuse("client weights need a rule without mixing"):
            fine = torch.ones(9)
            aggregate(torch.randn(9, 2), name, f=1, mixing=("nnm",), client_weights=fine)
