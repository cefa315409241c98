"""Each key that a server can send stands in a list of this node's: allowed in a range, or refused.

A key that a new version of TRL or transformers brings, or that we add to the schema, fails here
until somebody has put it into a list.
"""

import dataclasses
import math
from typing import get_args

import pytest
from pydantic import BaseModel

from fedtune.node.allowed_keys import JUDGED, KEYS, OWNERS, PLAIN, key_refusals
from fedtune.node.allowed_train import ALLOWED, REFUSED, train_refusals
from fedtune.recipe import Recipe, load_recipe, parse_recipe
from fedtune.recipe.source import shipped_recipes
from fedtune.recipe.stages import Pipeline, load
from fedtune.training.plan import OWNED
from fedtune.training.tasks import TASKS

LISTS = {"rewards", "evaluation.scores"}  # of sections that are told apart by their name
EVER_ALLOWED = set().union(*ALLOWED.values())


@pytest.mark.parametrize("task", sorted(TASKS))
def test_each_key_of_trls_configs_is_in_a_list(task):
    known = {each.name for each in dataclasses.fields(TASKS[task].config) if each.init}
    nowhere = known - EVER_ALLOWED - set(REFUSED)
    assert not nowhere, f"put these into allowed_train.py: {sorted(nowhere)}"
    assert not set(ALLOWED[task]) - known


def test_no_key_is_both_allowed_and_refused():
    assert not EVER_ALLOWED & set(REFUSED)
    owned = {*OWNED, *(key for task in TASKS.values() for key in task.owned)}
    assert owned <= set(REFUSED)  # what `check` refuses everywhere, a node refuses too


def test_each_key_of_the_schema_is_in_the_list():
    found = set(_leaves(Recipe, ""))
    assert not found - set(KEYS), f"put these into allowed_keys.py: {sorted(found - set(KEYS))}"
    assert not set(KEYS) - found


def test_each_key_of_pefts_config_that_we_hand_over_is_ours():
    from peft import LoraConfig

    # `attach` hands over these and no other: a recipe's lora section cannot reach the rest, among
    # them runtime_config, megatron_core (a module's name), loftq and corda (passes over the base).
    handed = {
        *("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_rslora"),
        *("use_dora", "bias", "rank_pattern", "alpha_pattern", "exclude_modules"),
        *("layers_to_transform", "layers_pattern", "target_parameters", "init_lora_weights"),
        *("ensure_weight_tying", "task_type"),
    }
    assert handed <= {each.name for each in dataclasses.fields(LoraConfig)}
    ours = {key.removeprefix("lora.") for key in KEYS if key.startswith("lora.")}
    assert ours - handed == {"train", "client_ranks"}


def _leaves(section, before):
    """Keys of a section and of those within it, dotted; of a list's members, by their name."""
    for name, field in section.model_fields.items():
        key = f"{before}{name}"
        if key in PLAIN or KEYS.get(key) in {JUDGED, OWNERS}:  # as a whole
            yield key
            continue
        inner = list(_sections(field.annotation))
        if not inner:
            yield key
        for each in inner:
            tag = each.model_fields.get("name")
            named = get_args(tag.annotation)[0] + "." if key in LISTS and tag else ""
            yield from _leaves(each, f"{key}.{named}")


def _sections(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def test_a_key_that_no_list_has_is_refused_while_a_node_runs():
    raw = load_recipe("three_nodes").model_dump(mode="json")
    assert list(key_refusals("sft", raw)) == []
    raw["federation"]["of_a_later_version"] = "x"
    raw["evaluation"]["plot"] = {"path": "/tmp/x"}
    assert list(key_refusals("sft", raw)) == [
        "federation.of_a_later_version: over a network, refused: no list of this node has it",
        "evaluation.plot.path: over a network, refused: no list of this node has it",
    ]


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_each_shipped_recipe_may_be_run_over_a_network(name):
    loaded = load(name)
    stages = [each.recipe for each in loaded.stages] if isinstance(loaded, Pipeline) else [loaded]
    for recipe in stages:
        assert list(key_refusals(recipe.task, recipe.model_dump(mode="json"))) == []


@pytest.mark.parametrize(
    ("task", "train"),
    [
        ("sft", {"accelerator_config": "/etc/passwd"}),
        ("sft", {"chat_template_path": "/home/me/.ssh/id_rsa"}),
        ("sft", {"push_to_hub": True}),
        ("sft", {"fsdp_config": "/etc/passwd"}),
        ("sft", {"deepspeed": "/etc/passwd"}),
        ("sft", {"dataloader_num_workers": 10_000}),
        ("sft", {"dataset_num_proc": 10_000}),
        ("sft", {"optim_target_modules": "(a+)+b"}),
        ("sft", {"torch_compile": True}),
        ("sft", {"gradient_checkpointing_kwargs": {"context_fn": "os.system"}}),
        ("sft", {"lr_scheduler_kwargs": "{}"}),
        ("sft", {"lr_scheduler_kwargs": {"timescale": 0}}),
        ("sft", {"log_level": "critical"}),
        ("sft", {"pad_to_multiple_of": 2**30}),
        ("sft", {"per_device_train_batch_size": 0}),
        ("sft", {"per_device_train_batch_size": True}),
        ("sft", {"learning_rate": math.nan}),
        ("sft", {"learning_rate": 1e38}),
        ("sft", {"learning_rate": "1e-3"}),
        ("sft", {"max_length": 2**40}),
        ("sft", {"eos_token": "\x1b[2J"}),
        ("sft", {"beta": 0.1}),
        ("sft", {"\x1b[2J": 1}),
        ("dpo", {"loss_type": ["sigmoid", "/etc/passwd"]}),
        ("dpo", {"loss_weights": [math.inf]}),
        ("grpo", {"vllm_server_base_url": "http://169.254.169.254/"}),
        ("grpo", {"generation_kwargs": {"custom_generate": "someone/code"}}),
        ("grpo", {"chat_template_kwargs": {"chat_template": "{{ 9**(9**9) }}"}}),
        ("grpo", {"chat_template_kwargs": {"max_length": 10**12, "padding": "max_length"}}),
        ("grpo", {"log_completions_hub_repo": "someone/else"}),
        ("grpo", {"cache_implementation": "offloaded"}),
        ("reward", {"model_init_kwargs": {"state_dict": "x"}}),
    ],
)
def test_what_would_reach_beyond_a_round_is_refused_by_name(task, train):
    (said,) = train_refusals(task, train)
    (key,) = train
    assert said.startswith(f"train.{key}: over a network, ")
    (value,) = train.values()
    assert str(value) not in said or isinstance(value, bool | int)  # a value is never quoted


def test_usual_keys_are_allowed():
    train = {
        "learning_rate": 2e-4,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": 0.03,
        "max_length": None,
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "optim": "adamw_torch_fused",
        "assistant_only_loss": True,
    }
    assert list(train_refusals("sft", train)) == []
    assert list(train_refusals("dpo", {"loss_type": ["sigmoid", "sft"], "beta": 0.1})) == []
    assert list(train_refusals("grpo", {"chat_template_kwargs": {"enable_thinking": False}})) == []


def test_defaults_of_trls_configs_are_in_their_ranges():
    for task, ranges in ALLOWED.items():
        for each in dataclasses.fields(TASKS[task].config):
            if each.name in ranges and each.default is not dataclasses.MISSING:
                assert ranges[each.name].holds(each.default), (task, each.name, each.default)


def test_check_holds_a_recipe_for_a_network_against_the_same_list(tmp_path):
    from fedtune.deployment.folder import DeploymentFolder
    from fedtune.runs.checks.preflight import find_problems

    folder = DeploymentFolder.create(tmp_path / "fed", 3, "127.0.0.1", 9).path
    over = [f"federation.deployment={folder}", f"output_dir={tmp_path / 'run'}"]
    keys = ["train.dataloader_num_workers=2"]
    assert find_problems(load_recipe("three_nodes", over)) == []
    (problem,) = find_problems(load_recipe("three_nodes", [*over, *keys]))
    assert problem == ("train.dataloader_num_workers: over a network, refused: it starts processes")
    locally = [*over, *keys, "federation.engine=local"]
    assert find_problems(load_recipe("three_nodes", locally)) == []
    assert parse_recipe({"aggregator": {"name": "mean"}}).train == {}
