"""What is remembered of a client-round, and what it is bound to."""

import pytest
import torch

from fedtune.origin import code_hash
from fedtune.training import memo, trainer


def stored(folder):
    return sorted(path.name for path in folder.glob("*.safetensors"))


def test_a_client_round_is_recalled_bit_for_bit(make_worker, tmp_path):
    one = make_worker()
    with memo.remembering(tmp_path):
        first = one.trainer.train(one.initial, client=0, round_=1)
        names = stored(tmp_path)
        again = make_worker().trainer.train(one.initial, client=0, round_=1)
    assert torch.equal(first.delta, again.delta)
    assert first.train_loss == again.train_loss
    assert stored(tmp_path) == names
    assert len(names) == 1


def test_what_decides_on_a_client_round_is_in_its_key():
    anchor = torch.zeros(3)
    keys = {
        memo.key_of("facts", anchor, 0, 1, ""),
        memo.key_of("others", anchor, 0, 1, ""),
        memo.key_of("facts", anchor + 1, 0, 1, ""),
        memo.key_of("facts", anchor, 1, 1, ""),
        memo.key_of("facts", anchor, None, 1, ""),
        memo.key_of("facts", anchor, 0, 2, ""),
        memo.key_of("facts", anchor, 0, 1, "poison"),
    }
    assert len(keys) == 7


@pytest.mark.parametrize("other", ["code 0123456789ab torch 2.13.0", "code x torch 9.9"])
def test_another_code_or_torch_recalls_nothing(make_worker, tmp_path, monkeypatch, other):
    """Else a bug that is mended would live on in every bench that is run again."""
    with memo.remembering(tmp_path):
        one = make_worker()
        assert code_hash() in one.trainer.facts
        assert f"torch {torch.__version__}" in one.trainer.facts
        one.trainer.train(one.initial, client=0, round_=1)
        monkeypatch.setattr(trainer, "made_by", lambda: other)
        later = make_worker()
        later.trainer.train(later.initial, client=0, round_=1)
    assert len(stored(tmp_path)) == 2
