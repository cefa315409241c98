"""The rows of python-docs for each task: what is right, and how the wrong is made."""

from collections import Counter

import pytest

from fedtune.nano import python_docs
from fedtune.nano.python_tasks import KINDS, pairs, rows_for


@pytest.fixture(scope="module")
def docs():
    return python_docs.rows()


@pytest.fixture(scope="module")
def made(docs):
    return pairs(docs)


def row(name, completion, module="m"):
    return {"prompt": f"def {name}():\n", "completion": completion, "module": module, "name": name}


def of_kind(kind, *, count=1):
    """Names that the hash deals a kind, found by asking for pairs of enough rows."""
    rows = [row(f"m.f{i}", f"text of f{i}") for i in range(60)] + [row("z.z", "far off", "z")]
    found = [each["name"] for each in pairs(rows) if each["kind"] == kind and each["module"] == "m"]
    return found[:count]


def test_a_pair_for_each_row_in_their_order(docs, made):
    assert [each["name"] for each in made] == [each["name"] for each in docs]
    assert [each["chosen"] for each in made] == [each["completion"] for each in docs]
    assert [each["prompt"] for each in made] == [each["prompt"] for each in docs]
    assert list(made[0]) == ["prompt", "chosen", "rejected", "module", "name", "kind"]


def test_the_wrong_answer_is_never_the_right_one(made):
    assert all(each["chosen"].split() != each["rejected"].split() for each in made)
    assert all(each["rejected"].strip() for each in made)


def test_each_kind_has_about_a_third(made):
    shares = {kind: count / len(made) for kind, count in Counter(e["kind"] for e in made).items()}
    assert set(shares) == set(KINDS)
    # 4,000 draws of a third: a standard deviation of 0.7 points.
    assert all(abs(share - 1 / 3) < 0.03 for share in shares.values())


def test_where_each_kind_of_wrong_comes_from(docs, made):
    modules = {}
    for each in docs:
        modules.setdefault(each["completion"], set()).add(each["module"])
    for each in made:
        if each["kind"] == "damaged":
            assert Counter(each["rejected"].split()) == Counter(each["chosen"].split())
        else:
            same = each["module"] in modules[each["rejected"]]
            assert same == (each["kind"] == "neighbour")


def test_a_neighbour_is_the_next_definition_and_the_last_ones_is_the_first(docs, made):
    by_module = {}
    for place, each in enumerate(docs):
        by_module.setdefault(each["module"], []).append(place)
    wrapped = 0
    for place, each in enumerate(made):
        if each["kind"] == "neighbour":
            mine = by_module[each["module"]]
            follower = mine[(mine.index(place) + 1) % len(mine)]
            assert each["rejected"] == docs[follower]["completion"]
            wrapped += follower < place
    assert wrapped > 0


def test_a_row_is_paired_alike_whatever_the_seed_or_the_rows_of_other_modules(docs, made):
    assert pairs(list(docs)) == made
    some = [each for each in docs if each["module"] in {"email", "json", "math", "os"}]
    alone = {e["name"]: e["rejected"] for e in pairs(some) if e["kind"] != "elsewhere"}
    whole = {e["name"]: e["rejected"] for e in made if e["kind"] != "elsewhere"}
    assert len(alone) > 20
    assert all(whole[name] == rejected for name, rejected in alone.items())


def test_the_answers_from_elsewhere_are_spread(made):
    """Else a few answers would be learnt by heart as wrong."""
    counts = Counter(each["rejected"] for each in made if each["kind"] == "elsewhere")
    assert max(counts.values()) <= 10


def test_a_module_of_one_definition_has_no_neighbour():
    (name,) = of_kind("neighbour")
    single, other = row(name, "the only one"), row("z.z", "another text", "z")
    first = pairs([single, other])[0]
    assert (first["kind"], first["rejected"]) == ("elsewhere", "another text")


def test_a_neighbour_with_the_same_text_is_passed_over():
    (name,) = of_kind("neighbour")
    rows = [row(name, "twice"), row("m.a", "twice"), row("m.b", "once"), row("z.z", "far", "z")]
    assert (pairs(rows)[0]["kind"], pairs(rows)[0]["rejected"]) == ("neighbour", "once")
    rows = [row(name, "twice"), row("m.a", "twice"), row("z.z", "far", "z")]
    assert (pairs(rows)[0]["kind"], pairs(rows)[0]["rejected"]) == ("elsewhere", "far")


@pytest.mark.parametrize("text", ["a b a", "x y x y x", "no no yes no no", "one two"])
def test_damage_is_seen_even_in_what_reads_alike_backwards(text):
    for name in of_kind("damaged", count=8):
        made = pairs([row(name, text), row("z.z", "far", "z")])[0]
        assert made["kind"] == "damaged"
        assert made["rejected"] != text
        assert sorted(made["rejected"].split()) == sorted(text.split())


@pytest.mark.parametrize("text", ["word", "no no no"])
def test_words_without_another_order_are_not_damaged(text):
    (name,) = of_kind("damaged")
    made = pairs([row(name, text), row("z.z", "far", "z")])[0]
    assert (made["kind"], made["rejected"]) == ("elsewhere", "far")


def test_one_module_alone_is_refused():
    (name,) = of_kind("elsewhere")
    with pytest.raises(ValueError, match="need rows of two modules: got one"):
        pairs([row(name, "a"), row("m.b", "b")])


def test_the_rows_of_each_task(docs, made):
    assert rows_for("sft") == docs
    assert rows_for("reward") == rows_for("dpo") == made
    prompts = rows_for("grpo")
    assert [set(each) for each in prompts[:1]] == [{"prompt", "answer", "module", "name"}]
    assert [each["answer"] for each in prompts] == [each["completion"] for each in docs]
