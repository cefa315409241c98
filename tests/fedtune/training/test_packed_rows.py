"""Packed rows are TRL's, to the bit of a plain run, and no row is read with the one before it.

Not proven here: flash attention, and bfloat16.
"""

import numpy as np
import pytest
import torch
from plain_trl import KEYS, SEED, language_model, places_in_order, plain_trainer, row_of

from fedtune.recipe import Model
from fedtune.runs.checks.rows import lines_of, look_at_rows
from fedtune.runs.checks.tried import problems_when_tried
from fedtune.seeds import derive
from fedtune.training.packing import (
    check_apart,
    check_architecture,
    packed,
    packing_refusals,
    unpacked,
)
from fedtune.training.tasks import sft

PACKED = {"packing": True, "max_length": 64, "per_device_train_batch_size": 2}
FEDERATION = {"num_clients": 1, "num_rounds": 2, "local_steps": 3, "seed": SEED}


@pytest.mark.parametrize("format", ["prompt_completion", "messages"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_a_round_on_packed_rows_is_a_plain_trl_run(
    make_worker, tiny_model_folder, small_data, architecture, format
):
    from datasets import load_dataset
    from peft import set_peft_model_state_dict
    from trl import SFTConfig, SFTTrainer

    worker = make_worker(architecture, format, train=KEYS | PACKED, federation=FEDERATION)
    rows, counts = worker.data.train_rows(0), worker.data.counts(0)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    source = load_dataset("json", data_files=str(small_data("jsonl", format)), split="train")
    names = [name for name in source.column_names if name != "topic"]
    mine = source.select(worker.data.parts[0].train).select_columns(names)
    folder = tiny_model_folder(architecture)
    keys = {"max_steps": 3, "seed": derive(SEED, "dropout", 0, 1),
            "train_sampling_strategy": "sequential"}  # fmt: skip
    trainer = plain_trainer(
        SFTTrainer, SFTConfig, language_model(folder), mine, folder, **KEYS | PACKED | keys
    )
    assert trainer.train_dataset.to_list() == rows.to_list()  # TRL's own packs, masks and lengths
    assert counts.packed == counts.drawn == len(rows) < counts.kept == len(mine)
    assert any(len(row["seq_lengths"]) > 1 for row in rows)
    order = places_in_order(len(rows), per_round=6)
    trainer.train_dataset = trainer.train_dataset.select(order)
    set_peft_model_state_dict(trainer.model, worker.layout.unflatten(worker.initial))
    trainer.train()
    assert torch.equal(trained.delta, row_of(worker, trainer.model) - worker.initial)
    assert trained.delta.abs().max() > 1e-3


def test_the_loss_of_packed_rows_is_that_of_the_rows(make_worker):
    """But for the order of the sums, in float32."""
    worker = make_worker(train=PACKED | {"completion_only_loss": True}, federation=FEDERATION)
    packs, model = worker.data.train_rows(0), worker.model
    alone = list(unpacked(packs))
    places = worker.data.counts(0).kept
    assert len(alone) == places
    whole = make_worker(train={"max_length": 64}, federation=FEDERATION).data.train_rows(0)
    plain = sorted(zip(whole["input_ids"], whole["labels"], strict=True))
    assert sorted(alone) == plain
    assert any(labels[0] == -100 for _, labels in alone)  # prompts are not learnt
    trainer = sft.make_trainer(packs, worker.learner, steps=1, seed=0)
    model.eval()
    batch = trainer.data_collator(list(packs.select(range(4))))
    loss = float(trainer.compute_loss(model, dict(batch)).detach())
    one_by_one = sft.measure(packs.select(range(4)), worker.learner, batch_size=8)
    assert loss == pytest.approx(one_by_one.loss, rel=1e-5)
    assert one_by_one.others["num_tokens"] == sum(
        label != -100 for _, labels in unpacked(packs.select(range(4))) for label in labels[1:]
    )


def test_a_round_goes_on_in_the_packed_rows_where_the_last_one_ended(make_worker, monkeypatch):
    from fedtune.training import trainer

    seen, real = [], trainer.run_steps

    def note(task, rows, *rest, **named):
        seen.append(rows.to_list())
        return real(task, rows, *rest, **named)

    monkeypatch.setattr(trainer, "run_steps", note)
    epochs = FEDERATION | {"local_steps": None, "local_epochs": 0.5}
    worker = make_worker(train=PACKED, federation=epochs)
    for round_ in (1, 2):
        worker.trainer.train(worker.initial, client=0, round_=round_)
    rows = worker.data.train_rows(0)
    steps = int(np.ceil(np.ceil(len(rows) / 2) / 2))  # half of the packs, two a step
    assert [len(each) for each in seen] == [2 * steps] * 2
    order = places_in_order(len(rows), rounds=(1, 2), per_round=2 * steps)
    assert seen[0] + seen[1] == rows.select(order).to_list()
    assert all("seq_lengths" not in row for row in worker.data.held_out(None))


def test_check_says_rows_and_packed_sequences(make_worker):
    recipe = make_worker(train=PACKED, federation=FEDERATION).recipe
    found = look_at_rows(recipe)
    assert not found.problems
    (line, _) = lines_of(found)
    counts = found.counts[0]
    assert line.startswith(f"client 0: {counts.kept} rows in {counts.packed} packed sequences, ")
    assert not problems_when_tried(recipe)


@pytest.mark.parametrize("architecture", ["opt", "bloom", "falcon", "mpt", "mamba"])
@pytest.mark.parametrize("key", ["packing", "padding_free"])
def test_architectures_that_read_on_are_refused(architecture, key):
    from transformers import AutoModelForCausalLM

    config = tiny(architecture)
    with pytest.raises(ValueError, match=rf"train\.{key}: this model does not keep rows apart"):
        check_architecture(Model(), config, {key: True})
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match=rf"train\.{key}: .*; leave it out"):
        check_apart(model, {key: True})
    check_apart(model, {})


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "gemma2", "mixtral"])
@pytest.mark.parametrize("attention", ["eager", None])
def test_architectures_that_keep_rows_apart_are_taken(architecture, attention):
    from transformers import AutoModelForCausalLM

    config = tiny(architecture)
    check_architecture(Model(attn_implementation=attention), config, {"packing": True})
    check_apart(AutoModelForCausalLM.from_config(config), {"packing": True})


def tiny(architecture):
    from architectures import CONFIGS, NO_DROPOUT
    from transformers import AutoConfig

    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    return AutoConfig.for_model(
        architecture, vocab_size=64, **ids, **NO_DROPOUT, **CONFIGS[architecture]
    )


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"packing_strategy": "wrapped"}, "wrapped cuts rows anywhere"),
        ({"packing_strategy": "bfd_split"}, "'bfd_split' is not taken: pieces of a split row"),
        ({"max_length": None}, "packing: needs a max_length"),
        ({"truncation_mode": "keep_end"}, "write truncation_mode: keep_start"),
    ],
)
def test_what_would_not_train_on_rows_is_refused_with_the_reason(train, said):
    (refusal,) = packing_refusals({"packing": True, **train})
    assert said in refusal
    with pytest.raises(ValueError, match="train"):
        check_apart(None, {"packing": True, **train})
    assert not list(packing_refusals(train))


def test_rows_that_are_packed_come_apart_again():
    from datasets import Dataset

    ids = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 10]]
    labels = [[-100, 2, 3], [-100, 5], [6], [-100, -100, 9, 10]]
    rows = packed(Dataset.from_dict({"input_ids": ids, "labels": labels}), 5)
    assert rows.num_rows == 2  # 4 + 1 and 3 + 2
    assert sorted(unpacked(rows)) == sorted(zip(ids, labels, strict=True))
