"""DPO against one reference for good: margins, the figures by a slow loop, every loss of TRL's."""

import math
from dataclasses import replace

import pytest
import torch
from plain_trl import an_anchor
from torch.nn.functional import logsigmoid

from fedtune.adapters import lora
from fedtune.training.tasks import dpo
from fedtune.training.tasks.running import run_steps

BASE_LOSS = math.log(2)  # -log sigmoid(0)
# All that DPOTrainer knows (trl 1.16), each of which runs on pairs.
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


def margins(worker, rounds, anchor):
    """The held-out margin at the start of each round, and after the last; fedavg of one client."""
    found = []
    for round_ in rounds:
        found.append(worker.evaluator.measure(anchor).others["rewards/margins"])
        anchor = anchor + worker.trainer.train(anchor, client=0, round_=round_).delta
    return [*found, worker.evaluator.measure(anchor).others["rewards/margins"]]


def test_the_margin_goes_on_from_round_to_round(make_worker):
    worker = make_worker(task="dpo", federation={"num_clients": 1, "num_rounds": 3})
    start, second, third, end = margins(worker, (1, 2, 3), worker.initial)
    assert start == pytest.approx(0, abs=1e-6)  # the base against itself, in other batches
    assert 0.05 < second < third < end


def test_the_margin_at_the_start_of_a_round_is_not_0_again(make_worker):
    """TRL handed the anchor would take it for the reference: 0 at the first step of each round."""
    federation = {"num_clients": 1, "num_rounds": 3, "local_steps": 2}
    worker = make_worker(task="dpo", federation=federation, train={"learning_rate": 2e-2})
    anchor, told = worker.initial, []
    for round_ in (1, 2, 3):
        trained = worker.trainer.train(anchor, client=0, round_=round_)
        told.append(trained.figures["rewards/margins/start"])
        assert told[-1] != trained.figures["rewards/margins"]  # the mean over both steps
        anchor = anchor + trained.delta
    assert told[0] == pytest.approx(0, abs=1e-5)
    assert told[1] > 0.01
    assert told[2] > told[1]


def test_the_base_has_the_loss_of_a_coin(make_worker):
    worker = make_worker(task="dpo")
    base = worker.evaluator.measure(worker.initial)
    assert base.loss == pytest.approx(BASE_LOSS, abs=1e-6)
    # The signs of margins of 0 are those of rounding: 0.667 was said of an untrained policy.
    assert "rewards/accuracies" not in base.others
    assert "rewards/accuracies" in worker.evaluator.measure(an_anchor(worker)).others
    assert worker.evaluator.measure(an_anchor(worker)).loss != pytest.approx(BASE_LOSS, abs=1e-4)


def test_from_the_initial_adapter_margins_start_at_0_once(make_worker, tmp_path):
    first = make_worker(task="dpo", federation={"num_clients": 1})
    start = an_anchor(first)
    first.save_adapter(start, tmp_path / "adapter")  # a run's folder holds it so
    given = {"initial_adapter": str(tmp_path), "federation": {"num_clients": 1, "num_rounds": 3}}
    worker = make_worker(task="dpo", reference="initial_adapter", **given)
    assert torch.equal(worker.initial, start)
    at_start, second, third, end = margins(worker, (1, 2, 3), worker.initial)
    assert at_start == pytest.approx(0, abs=1e-6)
    assert 0.05 < second < third < end
    assert worker.evaluator.measure(worker.initial).loss == pytest.approx(BASE_LOSS, abs=1e-6)
    # Against the base the same start is somewhere else.
    against_base = make_worker(task="dpo", **given)
    assert torch.equal(against_base.initial, start)
    assert abs(against_base.evaluator.measure(start).others["rewards/margins"]) > 1e-3
    assert against_base.base_hash != worker.base_hash


def test_a_reference_of_its_own(make_worker, tmp_path):
    first = make_worker(task="dpo")
    other = an_anchor(first, seed=2)
    first.save_adapter(other, tmp_path)
    worker = make_worker(task="dpo", reference=str(tmp_path))
    assert torch.equal(worker.initial, first.initial)
    assert worker.evaluator.measure(other).loss == pytest.approx(BASE_LOSS, abs=1e-6)
    # Whatever is better than the base by some margin, the base is worse than by the same.
    gained = first.evaluator.measure(other).others["rewards/margins"]
    assert abs(gained) > 1e-3
    assert worker.evaluator.measure(worker.initial).others["rewards/margins"] == pytest.approx(
        -gained, abs=1e-6
    )


def log_probability(model, prompt, answer):
    """Of an answer after its prompt, token by token, in float64."""
    ids = prompt + answer
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([ids])).logits[0].double()
    total = 0.0
    for place in range(len(prompt), len(ids)):
        before = logits[place - 1]
        total += (before[ids[place]] - before.exp().sum().log()).item()
    return total


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_figures_equal_a_slow_loop(make_worker, tmp_path, architecture):
    beta = 0.3
    first = make_worker(architecture, task="dpo")
    reference = an_anchor(first, seed=2)
    first.save_adapter(reference, tmp_path)
    worker = make_worker(
        architecture, task="dpo", train={"beta": beta}, reference=str(tmp_path),
        evaluation={"batch_size": 4},
    )  # fmt: skip
    row = worker.initial + 3 * (an_anchor(worker) - worker.initial)  # far, so that errors show
    figures = worker.evaluator.measure(row)
    rows = worker.data.held_out(None)
    asked = {}
    for name, adapter in (("policy", row), ("reference", reference)):
        lora.write(worker.model, worker.layout.unflatten(adapter))
        asked[name] = [
            [log_probability(worker.model, pair["prompt_ids"], pair[f"{which}_ids"])
             for which in ("chosen", "rejected")]
            for pair in rows
        ]  # fmt: skip
    rewards = beta * (torch.tensor(asked["policy"]) - torch.tensor(asked["reference"]))
    gained = rewards[:, 0] - rewards[:, 1]
    assert figures.loss == pytest.approx(-logsigmoid(gained).mean().item(), abs=1e-5)
    assert figures.as_dict() == {
        "loss": figures.loss,
        "rewards/accuracies": pytest.approx((gained > 0).double().mean().item()),
        "rewards/margins": pytest.approx(gained.mean().item(), abs=1e-5),
        "rewards/chosen": pytest.approx(rewards[:, 0].mean().item(), abs=1e-5),
        "rewards/rejected": pytest.approx(rewards[:, 1].mean().item(), abs=1e-5),
        "num_pairs": len(rows),
    }
    assert gained.abs().min() > 1e-4  # so that no sign hangs on rounding


def test_the_batch_size_is_of_no_account(make_worker):
    worker = make_worker(task="dpo")
    rows = worker.data.held_out(None)
    assert len(rows) == 6
    lora.write(worker.model, worker.layout.unflatten(an_anchor(worker)))
    alone = dpo.measure(rows, worker.learner, batch_size=1).as_dict()
    for batch_size in (2, 4, 5, 64):  # 4 and 5 leave a short last batch
        together = dpo.measure(rows, worker.learner, batch_size=batch_size).as_dict()
        assert together == pytest.approx(alone, abs=1e-6)


def all_rows(worker):
    return worker.data.drawn(0, range(len(worker.data.train_rows(0))))


def test_the_reference_is_asked_about_the_batches_of_rows_that_are_drawn(make_worker):
    worker, other = (make_worker(task="dpo", federation={"local_steps": 1}) for _ in range(2))
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    (asked,) = worker.data._known.values()
    size = worker.plan.train["per_device_train_batch_size"]
    assert 0 < len(asked) <= size * size < len(worker.data.train_rows(0))
    all_rows(other)
    assert torch.equal(other.trainer.train(other.initial, client=0, round_=1).delta, trained.delta)
    (whole,) = other.data._known.values()
    assert asked.items() <= whole.items()


@pytest.fixture(scope="module")
def one_step(make_worker):
    """Return a function: TRL's keys -> one step on four pairs, how far it went, what is measured.

    The rows are prepared once: what the reference says hangs on no loss.
    """
    worker = make_worker(task="dpo", federation={"local_steps": 1})
    anchor, rows = an_anchor(worker), all_rows(worker)

    def step(**keys):
        plan = replace(worker.plan, train=worker.plan.train | keys)
        learner = replace(worker.learner, plan=plan)
        lora.write(worker.model, worker.layout.unflatten(anchor))
        steps = run_steps(dpo.TASK, rows.select(range(4)), learner, first_step=0, seed=0)
        moved = worker.layout.flatten(lora.read(worker.model)) - anchor
        return steps, moved, dpo.measure(rows, learner, batch_size=8)

    return step


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_of_trls_takes_a_step(one_step, loss_type):
    more = {"label_smoothing": 0.1} if loss_type in {"exo_pair", "robust"} else {}
    steps, moved, figures = one_step(loss_type=loss_type, **more)
    assert math.isfinite(steps.loss)
    assert math.isfinite(figures.loss)
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize(
    "keys",
    [
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
        {"use_weighting": True},
        {"f_divergence_type": "js_divergence"},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
    ],
    ids=["several", "weighted", "js", "alpha"],
)
def test_so_do_the_keys_that_shape_a_loss(one_step, keys):
    steps, moved, figures = one_step(**keys)
    assert math.isfinite(figures.loss)
    assert moved.abs().max() > 1e-3
    assert steps.loss != one_step()[0].loss


def test_the_list_of_losses_is_trls(one_step):
    """The message by which TRL refuses another one names all that it knows."""
    with pytest.raises(ValueError, match="Unknown loss type: unheard_of") as caught:
        one_step(loss_type="unheard_of")
    listed = str(caught.value).split("one of ")[1].strip("[]").replace("'", "").split(", ")
    assert tuple(listed) == LOSSES


def test_what_trl_refuses_of_its_losses_is_said_in_its_words(one_step):
    with pytest.raises(ValueError, match="Label smoothing must be greater than 0"):
        one_step(loss_type="exo_pair")
    with pytest.raises(ValueError, match="is only supported for the following loss types"):
        one_step(loss_type="bco_pair", f_divergence_type="forward_kl")


def test_the_reference_is_asked_anew_for_other_keys_and_without_dropout(make_worker, tmp_path):
    """TRL's own way of asking once keeps what it was told on disk, whatever the keys are."""
    first = make_worker(task="dpo")
    reference = an_anchor(first)
    first.save_adapter(reference, tmp_path)
    asked = {}
    for ld_alpha in (None, 0.1):
        keys = {"ld_alpha": ld_alpha, "max_length": None, "disable_dropout": False}
        lora_section = {"lora_dropout": 0.5}
        worker = make_worker(task="dpo", train=keys, lora=lora_section, reference=str(tmp_path))
        worker.model.train()
        rows = all_rows(worker)
        assert worker.model.training
        asked[ld_alpha] = torch.tensor(rows["ref_rejected_logps"])
    lora.write(worker.model, worker.layout.unflatten(reference))
    truth = [log_probability(worker.model, row["prompt_ids"], row["rejected_ids"]) for row in rows]
    torch.testing.assert_close(asked[None], torch.tensor(truth), rtol=0, atol=1e-4)
    longer = [len(row["rejected_ids"]) > len(row["chosen_ids"]) for row in rows]
    assert 0 < sum(longer) < len(longer)
    assert (asked[0.1] > asked[None] + 1).tolist() == longer  # a tenth of what is beyond
