"""What a node's owner allows: all else in a recipe that came over the network is refused."""

import json
from pathlib import Path

import pytest

from fedtune.deployment.node import NodeConfig, load_node_config
from fedtune.messages.message import ConfigRecord, RecordDict
from fedtune.messages.node_errors import NotAllowedError, code_of
from fedtune.messages.packing import pack
from fedtune.nano import model_folder
from fedtune.node import client as node_client
from fedtune.node.client import MOST_TRAINED, OWN_ROWS, TELLS_ROWS
from fedtune.node.limits import exceeded, rows_at_once, tokens_of
from fedtune.node.owner import adapt, adapter_of
from fedtune.node.worker import Desk
from fedtune.recipe import find_recipe, load_recipe, parse_recipe, shipped_recipes
from fedtune.simulation import client
from fedtune.training.model_hash import hash_model

GRPO = {"task": "grpo", "rewards": [{"name": "python_docs"}]}
FEW = {
    "federation": {"num_clients": 3, "num_rounds": 2, "local_steps": 4},
    "aggregator": {"name": "mean"},
}


def recipe(**sections):
    return parse_recipe({**FEW, **sections}).model_dump_json()


def refused(said, config=None, **sections):
    with pytest.raises(NotAllowedError, match=said):
        adapt(recipe(**sections), config or NodeConfig(), Path("/nowhere"))


def test_device_threads_rows_and_folders_are_the_owners(tmp_path):
    config = NodeConfig(data="/mine/rows.jsonl", device="cpu", threads=2)
    told = {"eval_source": "/of/the/server.jsonl", "columns": {"prompt": "{module}"}}
    sent = recipe(output_dir="/etc/of-the-server", report_to=["tensorboard"], data=told)
    run = parse_recipe(adapt(sent, config, tmp_path))
    assert (run.model.device, run.federation.threads_per_client) == ("cpu", 2)
    assert (run.data.source, run.data.eval_source) == ("/mine/rows.jsonl", None)
    sent_embedded = recipe(data={"eval_source": "/of/the/server.jsonl"})
    assert parse_recipe(adapt(sent_embedded, NodeConfig(), tmp_path)).data.eval_source is None
    assert run.output_dir == tmp_path / "run"
    assert run.report_to == []
    changed = {"model", "federation", "data", "output_dir", "report_to", "aggregator"}
    assert run.model_dump(exclude=changed) == parse_recipe(sent).model_dump(exclude=changed)


def test_which_columns_are_read_is_the_owners_to_say(tmp_path):
    columns = {"prompt": "{private}", "completion": "answer"}
    config = NodeConfig(data="/mine/rows.jsonl", columns={"prompt": "question"})
    run = parse_recipe(adapt(recipe(data={"columns": columns}), config, tmp_path))
    assert run.data.columns == {"prompt": "question"}
    refused(r"data\.columns: the owner's to say", data={"columns": columns})


def test_what_the_server_alone_reads_is_not_even_parsed(tmp_path):
    sent = json.loads(recipe(outer={"name": "adam"}, lora={"train": "b_only"}))
    for section in ("aggregator", "outer", "defence", "report_to"):
        sent[section] = {"name": "of a later version", "options": [[1e999]]}
    run = parse_recipe(adapt(json.dumps(sent), NodeConfig(), tmp_path))
    assert (run.aggregator.name, run.outer.name, run.report_to) == ("mean", "fedavg", [])
    assert run.lora.train == "b_only"


def test_a_clients_own_rank_is_taken(tmp_path):
    ranks = {"lora": {"r": 8, "client_ranks": [8, 4, 2]}}
    product = {"aggregator": {"name": "mean", "geometry": "product"}}
    assert parse_recipe(
        adapt(recipe(**ranks, **product), NodeConfig(), tmp_path)
    ).lora.client_ranks == [8, 4, 2]


def test_the_launchers_folders_and_a_pile_of_states_do_not_come_along(tmp_path):
    sent = recipe(federation={**FEW["federation"], "deployment": "/home/launcher/fed"})
    assert parse_recipe(adapt(sent, NodeConfig(), tmp_path)).federation.deployment is None
    keep = {"federation": {**FEW["federation"], "inner_optimizer": "keep"}}
    refused("checkpoint.keep: 21 of at most 20", **keep, checkpoint={"keep": 21})
    adapt(recipe(**keep, checkpoint={"keep": 20}), NodeConfig(), tmp_path)
    adapt(recipe(checkpoint={"keep": 100}), NodeConfig(), tmp_path)  # the server's own


def test_limits_are_kept_to_the_last_step():
    config = NodeConfig(max_local_steps=4, max_rounds=2)
    adapt(recipe(), config, Path("/nowhere"))
    refused("local_steps: 4 of at most 3", NodeConfig(max_local_steps=3))
    refused("num_rounds: 2 of at most 1", NodeConfig(max_rounds=1))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": {"source": "/etc/passwd"}}, "data.source"),
        ({"data": {"source": "someone/data"}}, "data.source"),
        ({"initial_adapter": "/home/me/adapter"}, "initial_adapter"),
        (
            {"task": "dpo", "initial_adapter": "/a", "reference": "initial_adapter"},
            "reference: base alone",
        ),
        ({"task": "dpo", "reference": "/home/me/adapter"}, "reference: base alone"),
        (
            {"evaluation": {"scores": [{"name": "entry_point", "entry": "mine"}]}},
            "evaluation.scores: entry_point",
        ),
        (
            {"task": "grpo", "rewards": [{"name": "entry_point", "entry": "mine"}]},
            "rewards: entry_point",
        ),
        (
            {"task": "grpo", "rewards": [{"name": "reward_model", "adapter": "/a"}]},
            "rewards: reward_model",
        ),
        ({"attack": {"name": "sign_flip", "num_attackers": 1}}, "attack: this is no simulation"),
        ({"model": {"name_or_path": "someone/model"}}, "allowed_models"),
        ({"model": {"name_or_path": "/root/model"}}, "allowed_models"),
        ({"model": {"name_or_path": "../model"}}, "allowed_models"),
        ({"model": {"name_or_path": "nano", "revision": "main"}}, "allowed_models"),
        ({"train": {"accelerator_config": "/etc/passwd"}}, "train.accelerator_config: .* path"),
        ({"train": {"deepspeed": "/etc/passwd"}}, "train.deepspeed: .* opens a path"),
        ({"train": {"hub_token": "x", "push_to_hub": True}}, "train.push_to_hub: .* machine"),
        ({"train": {"learning_rate": 1e38}}, "train.learning_rate: .* needs a number of 0 to 10"),
        ({"lora": {"modules_to_save": ["(a+)+"]}}, "lora.modules_to_save: .* names of modules"),
        ({"lora": {"modules_to_save": ["layers"]}}, "lora.modules_to_save: .* end in one of"),
        ({"lora": {"modules_to_save": ["model.layers.0.mlp"]}}, "lora.modules_to_save: .* end in"),
    ],
)
def test_nothing_reaches_a_file_or_a_function_of_the_node(sections, said):
    refused(said, **sections)


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_what_is_trained_whole_counts_before_a_weight_is_loaded(tmp_path, name, monkeypatch):
    # Of nano a head or its embeddings have 2,048 x 128 numbers, whatever rank the owner allows.
    monkeypatch.setattr(node_client, "get_worker", lambda *_, **__: pytest.fail("it was loaded"))
    (tmp_path / "node.yaml").write_text("max_trained_parameters: 262_143\n")
    sent = recipe(lora={"r": 1, "target_modules": ["q_proj"], "modules_to_save": [name]})
    order = RecordDict({"order": ConfigRecord({"recipe": sent})})
    desk = Desk(client.app, adapter_of(tmp_path))
    for kind in ("query", "train", "evaluate"):
        words = {"kind": kind, "client": 0, "run_id": 1, "node_id": 2}
        with pytest.raises(NotAllowedError, match=r"26\d,\d{3} of at most 262,143 \(max_trained"):
            desk.reply_to(words, pack(order))


def test_all_that_is_not_allowed_is_said_at_once():
    refused(
        "num_rounds.*attack", NodeConfig(max_rounds=1), attack={"name": "zero", "num_attackers": 1}
    )


def test_a_model_is_allowed_by_the_hash_of_its_files():
    by_hash = NodeConfig(allowed_models=[f"sha256:{hash_model(model_folder())}"])
    adapt(recipe(), by_hash, Path("/nowhere"))
    refused("nor is its hash", NodeConfig(allowed_models=["sha256:" + "0" * 64]))
    refused("not in allowed_models", by_hash, model={"name_or_path": str(model_folder())})


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ("{", "Expecting"),
        ("[]", "needs a mapping"),
        ('{"fedration": {}}', "unknown key"),
        ("[" * 2**17, "recursion"),
        ("9" * 5000, "digits"),
    ],
)
def test_what_is_no_recipe_is_refused(sent, why):
    with pytest.raises(ValueError, match=why) as failed:
        adapt(sent, NodeConfig(), Path("/nowhere"))
    assert code_of(failed.value) == "no-recipe"
    with pytest.raises(NotAllowedError, match="at most"):
        adapt(json.dumps("x" * 2**19), NodeConfig(), Path("/nowhere"))


def test_the_owners_file_is_read_anew(tmp_path):
    (tmp_path / "node.yaml").write_text("max_rounds: 2\n")
    adapted = adapter_of(tmp_path)
    assert adapted(recipe())[1] == {
        OWN_ROWS: False, MOST_TRAINED: 200_000_000, TELLS_ROWS: False
    }  # fmt: skip
    (tmp_path / "node.yaml").write_text("max_rounds: 1\n")
    with pytest.raises(NotAllowedError):
        adapted(recipe())
    (tmp_path / "node.yaml").write_text("data: rows.jsonl\ntell_row_counts: true\n")
    text, told = adapted(recipe())
    assert told == {OWN_ROWS: True, MOST_TRAINED: 200_000_000, TELLS_ROWS: True}
    assert json.loads(text)["data"]["source"] == str(tmp_path / "rows.jsonl")
    assert load_node_config(tmp_path).data == tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"train": {"gradient_accumulation_steps": 10**6}}, "tokens to train: 32,768,000,000 of"),
        ({"train": {"per_device_train_batch_size": 65}}, "rows at once: 65 of at most 64"),
        ({"evaluation": {"batch_size": 65}}, "rows at once: 65 of at most 64"),
        ({"train": {"max_length": 10**6}}, "tokens to train: 32,000,000 of"),
        ({"train": {"max_length": None}}, "train.max_length: needs a whole number"),
        ({"train": {"max_length": True}}, "train.max_length: needs a whole number"),
        ({"train": {"gradient_accumulation_steps": 2.0}}, "gradient_accumulation_steps: needs a"),
        ({"evaluation": {"max_rows": 10**6}}, "tokens to evaluate: 1,024,000,000 of at most"),
        ({"lora": {"r": 65}}, "lora.r: 65 of at most 64"),
        ({"lora": {"rank_pattern": {"q_proj": 65}}}, "lora.r: 65 of at most 64"),
        ({"lora": {"rank_pattern": {"(a+)+X": 2}}}, "rank_pattern: needs names of modules"),
        ({"lora": {"alpha_pattern": {".*": 2}}}, "alpha_pattern: needs names of modules"),
        ({"lora": {"exclude_modules": "(a+)+X"}}, "exclude_modules: a list of names, no pattern"),
        ({"lora": {"target_parameters": ["(a+)+"]}}, "target_parameters: needs names of modules"),
        (
            {
                "lora": {
                    "layers_to_transform": [0],
                    "layers_pattern": ["(a+)+"],
                    "target_modules": ["q_proj"],
                }
            },
            "layers_pattern: needs names of modules",
        ),
        ({"lora": {"target_modules": "([a-z._0-9]+)+X"}}, "list of names, no pattern"),
        ({"lora": {"target_modules": ".*q_proj"}}, "list of names, no pattern"),
        ({"lora": {"target_modules": ["q_proj", "(a+)+"]}}, "target_modules: needs names of mod"),
        ({"lora": {"target_modules": ["q_proj"] * 257}}, "target_modules: 257 of at most 256"),
        ({"lora": {"modules_to_save": ["a|b"]}}, "modules_to_save: needs names of modules"),
        ({**GRPO, "train": {"steps_per_generation": 9}}, "rows at once: 72 of at most 64"),
        ({**GRPO, "train": {"generation_batch_size": 128}}, "rows at once: 128 of at most 64"),
        ({**GRPO, "train": {"max_completion_length": 10**6}}, "tokens to train: "),
    ],
)
def test_what_multiplies_work_is_held_to_the_owners_limits(sections, said):
    refused(said, **sections)


def test_names_of_modules_and_all_of_them_are_taken():
    for targets in ("all-linear", ["q_proj", "layers.0.self_attn.v_proj"]):
        adapt(recipe(lora={"target_modules": targets}), NodeConfig(), Path("/nowhere"))


def test_tokens_are_steps_times_rows_times_tokens():
    train = {
        "gradient_accumulation_steps": 3, "per_device_train_batch_size": 2, "max_length": 100
    }  # fmt: skip
    sft = parse_recipe({**FEW, "train": train, "evaluation": {"max_rows": 7}})
    assert tokens_of("train", sft) == 4 * 3 * 2 * 100
    assert tokens_of("evaluate", sft) == 7 * 100
    assert tokens_of("evaluate.vote", sft) == 2 * 7 * 100  # the candidate and the accepted anchor
    assert (tokens_of("query", sft), tokens_of("train.reveal", sft)) == (0, 0)
    dpo = parse_recipe({**FEW, "task": "dpo", "train": train})
    assert tokens_of("train", dpo) == 2 * 4 * 3 * 2 * 100  # pairs
    grpo = parse_recipe(
        {
            **FEW,
            **GRPO,
            "train": {
                "per_device_train_batch_size": 8, "steps_per_generation": 2, "num_iterations": 2,
                "max_completion_length": 24,
            },
        }
    )  # fmt: skip
    # 4 steps of 8 completions are trained; 16 are written for 2 steps of 2 passes each: once.
    assert tokens_of("train", grpo) == (4 * 8 + 16) * (1024 + 24)
    assert rows_at_once(grpo) == 32  # the evaluation's; 16 are written at a time
    assert rows_at_once(sft) == 32


def test_every_shipped_recipe_is_within_what_a_new_node_allows():
    for name in shipped_recipes():
        text = find_recipe(name).read_text()
        if "federation:" not in text or "stages:" in text or "4bit" in name:
            continue
        assert list(exceeded(load_recipe(name), NodeConfig())) == [], name
