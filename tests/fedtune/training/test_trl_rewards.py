"""A reward function written for TRL's GRPOTrainer is an entry point as it stands.

A client's round with it is the plain TRL run, call by call and to the bit.
"""

import math
import re
import sys
from pathlib import Path

import pytest
import torch
from plain_trl import (
    FEDERATION,
    KEYS,
    SEED,
    language_model,
    plain_trainer,
    row_of,
    rows_in_order,
)
from pydantic import TypeAdapter

from fedtune.recipe.reward import AnyReward
from fedtune.runs.checks.tried import problems_when_tried
from fedtune.seeds import derive
from fedtune.simulation.adversary import byzantine_clients
from fedtune.simulation.poisoning import poison_of
from fedtune.training.rewards import check_rewards
from fedtune.training.tasks import grpo
from fedtune.training.trl_rewards import scoring, takes_lists

PAGE = Path(__file__).parents[3] / "docs" / "adding.md"
GRPO = {"num_generations": 4, "max_completion_length": 8, "per_device_train_batch_size": 8}
OF_MINE = [{"name": "entry_point", "entry": "short_sums"}, {"name": "format", "weight": 0.5}]
WAITED = """
import short_sums as plain

SEEN = []

async def short_sums(prompts, completions, completion_ids, trainer_state, **kwargs):
    told = {"step": trainer_state.global_step, "ids": completion_ids, **kwargs}
    SEEN.append((prompts, completions, told))
    found = plain.short_sums(prompts, completions, **kwargs)
    return [None if len(ids) % 3 == 0 else each for ids, each in zip(completion_ids, found)]
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package of docs/adding.md, installed, and beside it one that keeps what it is told."""
    code = re.findall(r"```python\n(# short_sums.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    info = tmp_path / "short_sums-1.0.dist-info"
    info.mkdir()
    (tmp_path / "short_sums.py").write_text(code[0])
    (tmp_path / "waited.py").write_text(WAITED)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: short_sums\nVersion: 1.0\n")
    points = ["[fedtune.rewards]", "short_sums = short_sums:short_sums"]
    points += ["waited = waited:short_sums", "short = builtins:len"]
    (info / "entry_points.txt").write_text("\n".join(points))
    for name in ("short_sums", "waited"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def section(entry):
    return TypeAdapter(AnyReward).validate_python({"name": "entry_point", "entry": entry})


@pytest.mark.parametrize("format", ["prompts", "prompts_messages"])
def test_a_round_is_what_plain_trl_makes_of_the_same_function(
    package, make_worker, tiny_model_folder, small_data, format
):
    import waited
    from peft import set_peft_model_state_dict
    from trl import GRPOConfig, GRPOTrainer

    rewards = [OF_MINE[0] | {"entry": "waited", "weight": 2.0}]
    keys = {"task": "grpo", "train": KEYS | GRPO, "federation": FEDERATION, "rewards": rewards}
    worker = make_worker(format=format, **keys)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    ours = waited.SEEN.copy()
    waited.SEEN.clear()
    source, mine = small_data("jsonl", format), worker.data.parts[0].train
    rows = rows_in_order(source, mine, per_round=8)
    own = {"seed": derive(SEED, "dropout", 0, 1), "shuffle_dataset": False, "reward_weights": [2.0]}
    folder, more = tiny_model_folder("llama"), {"reward_funcs": [waited.short_sums]}
    model = language_model(folder)
    trainer = plain_trainer(
        GRPOTrainer, GRPOConfig, model, rows, folder, more=more, **KEYS | GRPO | own
    )
    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(worker.initial))
    trainer.train()
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - worker.initial)
    assert trained.delta.abs().max() > 1e-3
    for mine_, theirs in zip(ours, waited.SEEN, strict=True):
        assert mine_[:2] == theirs[:2]
        logs = ("log_metric", "log_extra")
        told, known = ({k: v for k, v in each[2].items() if k not in logs}
                       for each in (mine_, theirs))  # fmt: skip
        assert told == known
        assert set(known) == {"step", "ids", "answer", "topic"}
    logged = [entry["spare_words"] for entry in trainer.state.log_history if "spare_words" in entry]
    assert trained.figures["spare_words"] == pytest.approx(sum(logged) / len(logged))
    assert trained.figures["rewards/entry_point/mean"] < 0  # no bound of ours


def test_held_out_figures_are_means_over_what_was_scored(package, make_worker):
    worker = make_worker(task="grpo", rewards=OF_MINE)
    rows = worker.data.held_out(None)
    answers = grpo._answers(rows, worker.learner, batch_size=4)
    by_hand = [-max(0.0, len(each.text.split()) - 1) for each in answers]
    forms = [worker.learner.rewards[1].score("", each.text, {}) for each in answers]
    found = grpo.measure(rows, worker.learner, batch_size=4)
    assert found.others["rewards/entry_point"] == pytest.approx(sum(by_hand) / len(rows))
    # 1 x the one, 0.5 x the other
    whole = sum(by_hand) / len(rows) + 0.5 * sum(forms) / len(rows)
    assert found.others["reward"] == pytest.approx(whole)
    unanswered = rows.map(
        lambda row: {"row": row["row"].replace('"answer": "', '"answer": null, "x": "')}
    )
    found = grpo.measure(unanswered, worker.learner, batch_size=4)
    assert math.isnan(found.others["rewards/entry_point"])  # nothing is said of any
    assert found.others["reward"] == pytest.approx(0.5 * sum(forms) / len(rows))
    (shown, *_) = grpo.show(unanswered, worker.learner, max_new_tokens=8)
    assert shown.completion.startswith(f"{0.5 * forms[0]:.2f} for: ")


def test_the_signature_is_told_by_the_arguments():
    assert takes_lists(lambda prompts, completions, **kwargs: [], "x")
    assert takes_lists(lambda completions, **_: [], "x")
    assert takes_lists(lambda completion_ids, **_: [], "x")
    assert takes_lists(lambda **kwargs: [], "x")
    assert not takes_lists(lambda prompt, completion, row: 0.0, "x")
    assert not takes_lists(lambda a, b, c, d=1: 0.0, "x")
    with pytest.raises(ValueError, match=r"entry point 'x' needs the arguments \(prompt, compl"):
        takes_lists(lambda text: 0.0, "x")


def test_what_cannot_be_called_or_counted_is_refused(package):
    check_rewards([section("short_sums")], ["prompt", "answer"])
    with pytest.raises(ValueError, match="cannot be called as TRL does: missing a required"):
        check_rewards([section("short_sums")], ["prompt", "solution"])
    with pytest.raises(ValueError, match="'short' needs the arguments"):
        check_rewards([section("short")], ["prompt"])
    three = {"prompts": [1, 2, 3]}
    with pytest.raises(ValueError, match="one reward for each of 3 completions; got 2"):
        scoring(lambda prompts: [1.0, 2.0], "x")(**three)
    with pytest.raises(ValueError, match="needs to return numbers or None; got str"):
        scoring(lambda prompts: [1, 2, "3"], "x")(**three)
    mixed = scoring(lambda prompts: [math.inf, torch.tensor(-3.0), None], "x")
    assert mixed(**three) == [None, -3.0, None]


def test_attacks_that_need_bounds_are_refused(package, make_worker):
    attack = {"name": "reward_flip", "num_attackers": 1}
    keys = {"task": "grpo", "rewards": OF_MINE, "attack": attack}
    federation = {"num_clients": 4, "clients_per_round": 4}
    worker = make_worker(**keys, federation=federation, aggregator={"name": "mean"})
    needed = "reward_flip changes rewards within their bounds"
    assert any(needed in each for each in problems_when_tried(worker.recipe))
    (attacker,) = byzantine_clients(worker.recipe)
    with pytest.raises(ValueError, match=needed):
        poison_of(worker.recipe, attacker).reprice(worker.learner.rewards)
