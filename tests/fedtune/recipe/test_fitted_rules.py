"""What becomes of a recipe's rule where fewer reply, or attackers are proven: by hand."""

import pytest

from aggregators import plan
from fedtune.recipe import parse_recipe
from fedtune.recipe.defaults import SHARE


def section_of(n=10, **aggregator):
    return parse_recipe({"federation": {"num_clients": n}, "aggregator": aggregator}).aggregator


def test_unfit_skips_a_mixing_whose_condition_fails():
    # nnm needs 2f + 1 rows.
    assert plan("mean", mixing=["nnm"]).unfit(7, 3) == []
    assert plan("mean", mixing=["nnm"]).unfit(6, 3) == [0]


def test_unfit_skips_a_mixing_that_leaves_the_rule_too_few():
    # bucketing in pairs leaves half, rounded up; the median needs 2f + 1 = 3.
    assert plan("median", mixing=["bucketing"]).unfit(5, 1) == []
    assert plan("median", mixing=["bucketing"]).unfit(4, 1) == [0]


def test_unfit_counts_the_rows_that_earlier_mixings_leave():
    # Of 12 rows bucketing leaves 6 and then 3; the median at f = 2 needs 5. The second is skipped.
    assert plan("median", mixing=["bucketing", "bucketing"]).unfit(12, 2) == [1]
    assert plan("median", mixing=["bucketing", "bucketing"]).unfit(17, 2) == []  # 9, then 5


def test_fitted_keeps_rule_f_and_all_other_keys():
    section = section_of(
        name="geometric_median", f=3, mixing=["nnm"], geometry="product", max_condition=50
    )
    assert section.fitted(10, 3) is section
    fitted = section.fitted(6, 3)
    assert fitted.mixing == []
    assert fitted == section.model_copy(update={"mixing": []})


def test_objection_names_the_rule_not_the_mixing_that_is_skipped():
    section = section_of(name="median", f=3, mixing=["nnm"])
    assert section.objection(range(7)) is None
    assert section.is_defined(range(7))
    assert section.objection(range(6)).startswith("median needs n >= 2f + 1: got n=6, f=3")
    assert not section.is_defined(range(6))
    assert section.is_defined(range(6), 2)  # one of the f is proven to be none of them


@pytest.mark.parametrize(
    ("aggregator", "clients", "f", "spare"),
    [
        ({"name": "capped_spectral", "f": 3}, 10, 3, 3),  # 10 - 7
        ({"name": "capped_spectral", "f": 3}, 10, 2, 5),
        ({"name": "capped_spectral", "f": 3}, 6, 3, 0),  # not defined at all
        ({"name": "mean", "f": 3}, 4, 3, 3),  # one must stay
        ({"name": "krum", "f": 3}, 10, 3, 1),  # 10 - 9
        # Bucketing leaves half, rounded up, and the median needs 3: five are enough. Of four it
        # is skipped, and three are.
        ({"name": "median", "f": 1, "mixing": ["bucketing"]}, 10, 1, 5),
        ({"name": "median", "f": 1, "mixing": ["bucketing"]}, 4, 1, 1),
    ],
)
def test_how_many_can_be_left_out(aggregator, clients, f, spare):
    assert section_of(**aggregator).spare(clients, f) == spare


@pytest.mark.parametrize("n", range(1, 60))
def test_the_default_runs_with_any_number_up_to_f_silent_or_refused(n):
    # f = 0.3 n rounded down: n - f >= 2f + 1 wherever n >= 3f + 1, which 0.3 n always is.
    section = parse_recipe({"federation": {"num_clients": n}}).aggregator
    assert section.f == int(SHARE * n + 1e-9)
    for gone in range(section.f + 1):
        for proven in range(gone + 1):
            assert section.is_defined(range(n - gone), section.f - proven), (gone, proven)
