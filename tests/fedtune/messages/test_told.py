"""What a node tells of a failure: one line of a closed list, whatever the exception says."""

import pickle

import pytest
import torch

from fedtune.failing import during
from fedtune.messages.node_errors import CODES, NotAllowedError, code_of, failure, told
from fedtune.training.rendering import TemplateEndedError


class OfAStrangerError(ValueError):
    code = "secret of the owner"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("/home/me/rows.jsonl: line 3: 'hunter2'"), "failed"),
        (OfAStrangerError("x"), "failed"),
        (RecursionError("deep"), "failed"),
        (FileNotFoundError(2, "No such file", "/home/me/model"), "no-file"),
        (MemoryError("7 GB of /home"), "no-memory"),
        (torch.OutOfMemoryError("of 80 GB"), "no-memory"),
        (TemplateEndedError("row 3"), "template"),
        (failure("private"), "private"),
        (failure("bad-anchor", "layers.0 of /x"), "bad-anchor"),
    ],
)
def test_a_code_and_our_own_sentence_are_all_that_is_told(error, code):
    assert code_of(error) == code
    assert told(error) == f"{code}: {CODES[code]}"


@pytest.mark.parametrize("part", ["loading", "rows", "training", "measuring"])
def test_what_nobody_foresaw_is_told_by_the_part_of_the_work_alone(part):
    def fail(error):
        with pytest.raises(type(error)), during("training"), during(part):
            raise error
        return code_of(error)

    assert fail(KeyError("row 17 of /home/me/rows.jsonl")) == part
    assert fail(ValueError("label")) == part
    assert fail(MemoryError()) == "no-memory"
    assert fail(failure("private")) == "private"


def test_a_refusal_names_what_the_owner_does_not_allow_in_one_line_that_prints():
    said = told(NotAllowedError("local_steps: 9 of at most 1;\n\x1b[2J" + "x" * 1000))
    assert said.startswith("not-allowed: local_steps: 9 of at most 1; ?[2Jxxx")
    assert len(said) == 300


def test_a_failure_keeps_its_code_from_process_to_process():
    again = pickle.loads(pickle.dumps(failure("not-finite", "layer 3")))
    assert (code_of(again), str(again)) == ("not-finite", "layer 3")
    with pytest.raises(KeyError):
        failure("of no list")
