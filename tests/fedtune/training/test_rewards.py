"""What a completion is worth, worked by hand; nothing that a function returns breaks a bound.

Not proven here: a reward model, and that a policy learns from any of these.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from plug_ins import installed  # noqa: F401  a fixture
from pydantic import TypeAdapter

from fedtune.recipe import parse_recipe
from fedtune.recipe.reward import AnyReward
from fedtune.training.rewards import bounded, check_rewards, repeats, scorer, text_of
from fedtune.training.starting import price

SIGNATURE = "def json.dump_all(values, file):\n"


def section(name, **options):
    return TypeAdapter(AnyReward).validate_python({"name": name, **options})


def worth(name, completion, *, prompt=SIGNATURE, row=None, **options):
    return scorer(section(name, **options))(prompt, completion, row or {})


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("a b c d", 1.0),
        ("a b c", 0.75),  # 1 - |3 - 4| / 4
        ("a b c d e f", 0.5),  # 1 - 2 / 4
        ("", 0.0),  # 1 - 4 / 4
        ("a b c d e f g h", 0.0),  # 1 - 4 / 4
        ("a b c d e f g h i j", 0.0),  # 1 - 6 / 4, brought up to 0
        ("  a\n b\tc  d ", 1.0),  # white space divides, and that is all
    ],
)
def test_length_falls_on_both_sides_of_the_best(completion, expected):
    assert worth("length", completion, words=4) == expected


@pytest.mark.parametrize(
    ("completion", "options", "expected"),
    [
        ("Returns it.", {}, 1.0),
        ("  Returns it.\n", {}, 1.0),
        ("returns it.", {}, 0.75),  # no capital
        ("Returns it", {}, 0.75),  # no full stop
        ("Returns\nit.", {}, 0.75),  # two lines
        ("Returns it it it.", {}, 1.0),  # "it." is another word than "it"
        ("Returns it it it now.", {}, 0.75),  # thrice in a row
        ("it it it\nit", {}, 0.0),
        ("", {}, 0.0),  # what is empty has no form
        ("> yes!", {"begins": "> ", "ends": "!"}, 1.0),
        ("Yes!", {"begins": "> ", "ends": "!"}, 0.75),
    ],
)
def test_form_is_the_share_of_four_checks(completion, options, expected):
    assert worth("format", completion, **options) == expected


def test_contains_is_all_or_nothing():
    assert worth("contains", "well, 42!", text="42") == 1.0
    assert worth("contains", "well, 4 2!", text="42") == 0.0
    assert worth("contains", "YES", text="yes") == 0.0


@pytest.mark.parametrize(
    ("completion", "row", "expected"),
    [
        ("Forty  two\n", {"answer": "forty two"}, 1.0),
        ("forty two.", {"answer": "forty two"}, 0.0),
        ("42", {"answer": 42}, 1.0),
        ("42", {"answer": 42.0}, 0.0),  # "42.0", as Python writes it
        ("42.0", {"answer": 42.0}, 1.0),
        ("true", {"answer": True}, 0.0),
        ("none", {"answer": None}, 0.0),
        ("", {}, 0.0),
        ("a", {"answer": ["a"]}, 0.0),
    ],
)
def test_an_answer_is_exact_but_for_white_space_and_case(completion, row, expected):
    assert worth("exact_answer", completion, row=row) == expected
    moved = {"solution": row.get("answer")}
    assert worth("exact_answer", completion, row=moved, column="solution") == expected


@pytest.mark.parametrize(
    ("completion", "checks"),
    [
        ("Return all values of the file.", 5),
        ("return all values of the file.", 4),  # no capital
        ("Gizmo all values of the file.", 4),  # no opening of such sentences
        ("Return all values of the file", 4),  # no full stop
        ("Return all values\nof the file.", 4),  # two lines
        ("Return values.", 4),  # two words
        ("Return it of file.", 5),  # four words
        ("Return " + "some of the " * 12 + "values of it.", 5),  # 1 + 36 + 3 words: 40
        ("Return " + "some of the " * 12 + "values of it all.", 4),  # 41
        ("Return it to whom it may concern.", 4),  # nothing of the signature
        ("Return what they def for it.", 4),  # of its syntax alone
        ("Return the values values values.", 5),  # "values." is another word than "values"
        ("Return the file file file now.", 4),
        ("", 0),
        ("Of.", 2),  # the full stop on one line, and no word thrice
    ],
)
def test_python_docs_is_the_share_of_five_checks(completion, checks):
    assert worth("python_docs", completion) == pytest.approx(checks / 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a a", False),
        ("a a a", True),
        ("x a A a", True),
        ("a b a b", False),
        ("a b a b a b", True),
        ("a a b a a b a", False),
        ("a b c a b c a b c", False),  # three words and more may come again
        ("", False),
    ],
)
def test_what_counts_as_repeating(text, expected):
    assert repeats(text) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.25, 0.25),
        (-0.1, 0.0),
        (1.5, 1.0),
        (1, 1.0),
        (True, 1.0),
        (False, 0.0),
        (10**400, 1.0),
        (-(10**400), 0.0),
        (math.nan, 0.0),
        (math.inf, 0.0),
        (-math.inf, 0.0),
        ("1", 0.0),
        (None, 0.0),
        ([0.5], 0.0),
        (0.5 + 0j, 0.0),
        (Fraction(1, 2), 0.0),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), 0.0),
        (np.int64(3), 1.0),
        (np.bool_(1), 1.0),
        (np.array([0.5]), 0.0),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([0.5]), 0.0),
    ],
    ids=repr,
)
def test_whatever_a_function_returns_is_a_number_from_0_to_1(value, expected):
    found = bounded(value)
    assert type(found) is float
    assert found == expected


def test_text_of_messages():
    assert text_of("as it is ") == "as it is "
    turns = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    assert text_of(turns) == "be\nhi"
    assert text_of([]) == text_of(None) == ""


def test_rewards_of_one_name_are_numbered():
    rewards = [
        {"name": "length", "words": 4},
        {"name": "format"},
        {"name": "length", "weight": 3, "words": 2},
    ]
    priced = price(parse_recipe({"task": "grpo", "rewards": rewards}))
    assert [(each.name, each.weight) for each in priced] == [
        ("length", 1.0),
        ("format", 1.0),
        ("length_2", 3.0),
    ]
    assert [each.score("", "One two", {}) for each in priced] == [0.5, 0.75, 1.0]


def test_a_function_of_ones_own_is_found_by_its_entry_point(installed):  # noqa: F811
    code = "def share(prompt, completion, row):\n    return row['top'] * len(completion) / 10\n"
    installed("rewards_of_mine", code, share="share")
    score = scorer(section("entry_point", entry="share"))
    assert score("p", "abc", {"top": 1}) == 0.3
    assert score("p", "abc", {"top": 100}) == 1.0
    assert score("p", "abc", {"top": -1}) == 0.0
    assert score("p", "abc", {"top": math.nan}) == 0.0


def test_an_entry_point_that_is_not_there_is_refused(installed):  # noqa: F811
    with pytest.raises(ValueError, match=r"no entry point 'own' in the group fedtune\.rewards"):
        scorer(section("entry_point", entry="own"))
    installed("two_rewards", "first = second = len", second="second", first="first")
    with pytest.raises(ValueError, match="installed: first, second"):
        scorer(section("entry_point", entry="own"))


def test_an_entry_point_that_is_no_function_or_two_is_refused(installed):  # noqa: F811
    installed("no_function", "wrong = 3", mine="wrong")
    with pytest.raises(ValueError, match="entry point 'mine' is no function"):
        scorer(section("entry_point", entry="mine"))
    installed("another_one", "right = len", mine="right")
    with pytest.raises(ValueError, match="as another_one:right and no_function:wrong; uninstall"):
        scorer(section("entry_point", entry="mine"))


def test_an_entry_point_that_cannot_be_imported_is_a_fault_of_its_package(installed):  # noqa: F811
    installed("halved", "import no_such_module_here", mine="mine")
    with pytest.raises(ValueError, match="entry point 'mine' cannot be loaded: ModuleNotFoundErr"):
        scorer(section("entry_point", entry="mine"))


def test_a_reward_that_can_never_be_earned_is_refused_before_a_run():
    check_rewards([section("exact_answer", column="solution")], ["prompt", "solution"])
    with pytest.raises(ValueError, match="no column 'answer'; the data has prompt, solution"):
        check_rewards([section("exact_answer")], ["prompt", "solution"])
    with pytest.raises(ValueError, match="no entry point 'own'"):
        check_rewards([section("entry_point", entry="own")], ["prompt"])
