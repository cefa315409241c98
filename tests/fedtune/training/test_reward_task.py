"""The reward model's head travels beside the adapter, and its figures equal a slow loop."""

import pytest
import torch
from plain_trl import an_anchor
from torch.nn.functional import logsigmoid

from fedtune.adapters import lora
from fedtune.adapters.ranks import side_of
from fedtune.training.tasks import reward

HEAD = "base_model.model.score.weight"


def head(worker, row):
    return worker.layout.unflatten(row)[HEAD]


@pytest.fixture(scope="module")
def reward_worker(make_worker):
    return make_worker(task="reward")


def test_all_workers_of_a_seed_have_one_head(make_worker, reward_worker):
    torch.manual_seed(99)
    again = make_worker(task="reward")
    assert torch.equal(again.initial, reward_worker.initial)
    assert head(again, again.initial).any()
    other = make_worker(task="reward", federation={"seed": 4})
    assert not torch.equal(head(other, other.initial), head(again, again.initial))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_the_head_is_a_plain_tensor_of_the_layout(make_worker, architecture):
    worker = make_worker(architecture, task="reward")
    assert dict(worker.layout.shapes)[HEAD] == (1, 32)  # one label, 32 hidden
    assert [name for name, _ in worker.layout.shapes if side_of(name) is None] == [HEAD]
    for train in ("both", "b_only"):  # trained in every round, whichever factor is
        one = make_worker(architecture, task="reward", lora={"train": train})
        part = one.part(0, 1)
        assert HEAD in dict(part.layout.shapes)
        moved = part.layout.unflatten(one.trainer.train(one.initial, client=0, round_=1).delta)
        assert moved[HEAD].abs().max() > 1e-3


def test_clients_agree_on_the_base_whatever_their_seed(make_worker, reward_worker):
    """The head is no part of what no one changes."""
    other = make_worker(task="reward", federation={"seed": 4})
    assert other.base_hash == reward_worker.base_hash == make_worker().base_hash


def test_nobodys_score_hangs_on_the_base_as_it_was_loaded(make_worker, reward_worker):
    """The head that is measured is the row's, and not the one that a model was loaded with."""
    row = an_anchor(reward_worker)
    other = make_worker(task="reward", federation={"seed": 4})
    rows = reward_worker.data.held_out(None)
    lora.write(reward_worker.model, reward_worker.layout.unflatten(row))
    lora.write(other.model, other.layout.unflatten(row))
    assert reward.measure(rows, other.learner, batch_size=4) == reward.measure(
        rows, reward_worker.learner, batch_size=4
    )


def slowly(rows, model):
    """The rewards of each pair, one text at a time, without padding."""
    found = []
    for pair in rows:
        with torch.no_grad():
            found.append(
                [
                    model.eval()(input_ids=torch.tensor([pair[name]])).logits[0, 0].double().item()
                    for name in ("chosen_ids", "rejected_ids")
                ]
            )
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_figures_equal_a_slow_loop(make_worker, architecture):
    worker = make_worker(architecture, task="reward", evaluation={"batch_size": 4})
    row = worker.initial + 10 * (an_anchor(worker) - worker.initial)  # far, so that errors show
    figures = worker.evaluator.measure(row)
    rows = worker.data.held_out(None)
    scores = slowly(rows, worker.model)
    margin = scores[:, 0] - scores[:, 1]
    assert margin.abs().min() > 1e-4  # so that no sign hangs on rounding
    assert len(rows) == 6
    assert figures.as_dict() == {
        "loss": pytest.approx(-logsigmoid(margin).mean().item(), abs=1e-6),
        "accuracy": pytest.approx((margin > 0).double().mean().item()),
        "margin": pytest.approx(margin.mean().item(), abs=1e-6),
        "mean_reward": pytest.approx(scores.mean().item(), abs=1e-6),
        "num_pairs": 6,
    }


def test_the_batch_size_is_of_no_account(reward_worker):
    worker = reward_worker
    rows = worker.data.held_out(None)
    lora.write(worker.model, worker.layout.unflatten(an_anchor(worker)))
    alone = reward.measure(rows, worker.learner, batch_size=1).as_dict()
    for batch_size in (2, 4, 5, 64):  # 4 and 5 leave a short last batch
        together = reward.measure(rows, worker.learner, batch_size=batch_size).as_dict()
        assert together == pytest.approx(alone, abs=1e-6)


def test_measuring_leaves_the_mode_as_it_was(reward_worker):
    rows, model = reward_worker.data.held_out(None), reward_worker.model
    for training in (True, False):
        model.train(training)
        reward.measure(rows, reward_worker.learner, batch_size=4)
        reward.show(rows, reward_worker.learner, max_new_tokens=1)
        assert model.training is training


def test_the_right_answers_come_out_ahead(make_worker):
    worker = make_worker(
        task="reward", federation={"num_clients": 1, "num_rounds": 1, "local_steps": 30}
    )
    before = worker.evaluator.measure(worker.initial)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    after = worker.evaluator.measure(worker.initial + trained.delta)
    assert after.loss < 0.1 < before.loss
    assert after.others["accuracy"] == 1
    assert after.others["margin"] > 1 > before.others["margin"]


def test_samples_show_both_answers_with_their_rewards(make_worker):
    worker = make_worker(task="reward", evaluation={"samples": 2})
    row = an_anchor(worker)
    shown = worker.evaluator.samples(row)
    pairs = worker.data.rows.select(worker.data.split.test[:2])
    scores = slowly(worker.data.held_out(None).select(range(2)), worker.model)
    for one, pair, (good, bad) in zip(shown, pairs, scores.tolist(), strict=True):
        told = (one.prompt + one.truth).replace(" ", "")
        assert told == (pair["prompt"] + pair["chosen"]).replace(" ", "")
        assert one.completion.startswith(f"{good:+.2f} for it, {bad:+.2f} for: ")
        assert pair["rejected"].endswith(one.completion.split("for: ")[1])


def test_a_base_in_bfloat16_trains_a_float32_head(make_worker):
    worker = make_worker(task="reward", model={"dtype": "bfloat16"})
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    moved = head(worker, trained.delta)
    assert moved.any()
    assert not torch.equal(moved, moved.bfloat16().float())
    full = make_worker(task="reward")
    row = worker.initial + trained.delta
    assert worker.evaluator.measure(row).loss == pytest.approx(
        full.evaluator.measure(row).loss, rel=0.02
    )
