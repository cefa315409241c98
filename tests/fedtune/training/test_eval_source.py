"""Held-out rows of a source of their own, and rows named by their place in their source."""

import json

import pytest

PAIRS = [{"prompt": f"p{i:02} ", "completion": "c", "who": "ab"[i % 2]} for i in range(40)]
OTHERS = [{"prompt": f"e{i} ", "completion": "d", "cat": "x"} for i in range(6)]
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.fixture
def data_of(make_worker, tmp_path):
    """Return a function: rows, held-out rows -> the data of a worker that deals them."""

    def make(rows, others=None, *, task="sft", **data):
        for name, lines in (("rows", rows), ("others", others or [])):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / f"{name}.jsonl").write_text(text)
        section = {"source": str(tmp_path / "rows.jsonl"), "partition": {"min_rows": 4}, **data}
        if others is not None:
            section["eval_source"] = str(tmp_path / "others.jsonl")
        return make_worker(task=task, data=section).data

    return make


@pytest.mark.parametrize("max_rows", [None, 30])
def test_all_rows_are_dealt_and_the_others_are_held_out(data_of, max_rows):
    found = data_of(PAIRS, OTHERS, max_rows=max_rows)
    dealt = sorted(i for part in found.parts.values() for i in (*part.train, *part.test))
    assert dealt == list(range(max_rows or 40))
    held_out = [found.rows[i]["prompt"] for i in found.split.test]
    assert sorted(held_out) == [f"e{i} " for i in range(6)]
    assert held_out != sorted(held_out)  # a seeded order: the first ones are a fair sample
    assert found.held_out_counts(None).kept == 6
    assert len(found.held_out(None)) == 6
    assert found.data_hash != data_of(PAIRS, OTHERS[:5], max_rows=max_rows).data_hash


def test_turns_with_other_keys_lie_beneath(data_of):
    named = [{**CHAT[0], "name": "x"}, CHAT[1]]
    found = data_of([{"messages": CHAT}] * 40, [{"messages": named}] * 3)
    assert found.rows[0]["messages"] == CHAT
    assert found.rows[found.split.test[0]]["messages"] == named


@pytest.mark.parametrize(
    ("rows", "others", "task", "words"),
    [
        (PAIRS, [{"messages": CHAT}], "sft", "needs columns prompt, completion, as data.source"),
        (PAIRS, [{"prompt": "a", "completion": None}], "sft", "column 'completion' needs"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 40,
         [{"prompt": "a", "chosen": CHAT[1:], "rejected": CHAT[1:]}], "dpo",
         "column 'prompt' needs text, as in data.source"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_under_its_own_key(data_of, rows, others, task, words):
    with pytest.raises(ValueError, match=rf"^data\.eval_source: .*{words}"):
        assert data_of(rows, others, task=task).rows


def test_a_file_that_is_not_there_is_refused_under_its_own_key(data_of):
    with pytest.raises(FileNotFoundError, match=r"data\.eval_source: no file /no/such\.jsonl"):
        assert data_of(PAIRS, eval_source="/no/such.jsonl").rows


@pytest.mark.parametrize("max_rows", [None, 39])
def test_a_row_that_cannot_be_tokenised_is_named_by_its_place_in_the_file(data_of, max_rows):
    rows = [{"messages": CHAT, "chat_template_kwargs": {"date": "today"}} for _ in range(40)]
    rows[17]["chat_template_kwargs"] = {"chat_template": "{{ raise_exception('no system') }}"}
    found = data_of(rows, max_rows=max_rows, partition={"by": "replicate"})
    place = [len(row["chat_template_kwargs"].get("date", "")) for row in found.rows].index(0)
    assert (place == 17) is (max_rows is None)
    whole = place in found.split.test
    prepare = found.counts if place in found.parts[0].train else found.held_out_counts
    with pytest.raises(ValueError, match="cannot be tokenised: no system; write data") as caught:
        prepare(None if whole else 0)
    assert str(caught.value).startswith("data.source: row 17 of rows.jsonl, of ")


def test_a_held_out_row_is_named_by_its_own_source(data_of):
    bad = {"messages": CHAT, "chat_template_kwargs": {"chat_template": "{{ raise_exception('') }}"}}
    good = {"messages": CHAT, "chat_template_kwargs": {"date": "today"}}
    with pytest.raises(
        ValueError, match=r"^data\.eval_source: row 1 of others\.jsonl, of the held"
    ):
        data_of([good] * 40, [good, bad, good]).held_out(None)
