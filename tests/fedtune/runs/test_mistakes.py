"""One mistake in a small recipe: `check` finds it before a model is loaded, and says what to write.

Each message is one line that begins with the key. What `check` cannot find is at the end, with why.
"""

import json
import shutil

import pytest

from fedtune import api, nano
from fedtune.recipe import RecipeError
from fedtune.runs.checks import packages
from fedtune.runs.checks.preflight import find_problems
from fedtune.training import base
from tests.helpers.architectures import save_tiny

PAIR = {"prompt": "say", "completion": " word"}
DUEL = {"prompt": "say", "chosen": " a", "rejected": " b"}
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
SYSTEM = {"role": "system", "content": "Be kind."}
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
)
GRPO = {
    "task": "grpo",
    "train": {"max_completion_length": 4, "num_generations": 2, "max_length": ...},
    "rewards": [{"name": "length", "words": 3}],
}


@pytest.fixture(autouse=True)
def no_model_and_few_packages(monkeypatch):
    """No weight may be loaded, and nothing is installed that a key may ask for."""

    def loaded(*given, **named):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(base, "_load_model", loaded)
    monkeypatch.setattr(packages, "_is_here", lambda module: False)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_tokenizer):
    """A folder of files and models, each with one thing wrong."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "file").write_text("x")
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text("{}")
    (folder / "rows[1]").mkdir()
    (folder / "rows[1]/train.jsonl").write_text(json.dumps(PAIR))
    latin = '{"prompt": "café", "completion": "x"}\n'.encode("latin-1")
    (folder / "latin.jsonl").write_bytes(2 * (json.dumps(PAIR).encode() + b"\n") + latin)
    (folder / "bad.jsonl").write_text(3 * (json.dumps(PAIR) + "\n") + '{"prompt": }\n')
    _nano(folder / "no_template", template="")
    _nano(folder / "no_system", template=NO_SYSTEM)
    _nano(folder / "few_tokens", vocab_size=100)
    save_tiny("gpt2", tiny_tokenizer, folder / "gpt2")
    save_tiny("mamba", tiny_tokenizer, folder / "mamba")
    return folder


def _nano(folder, *, template=None, **config):
    shutil.copytree(nano.model_folder(), folder)
    if template is not None:
        (folder / "chat_template.jinja").unlink()
    if template:
        (folder / "chat_template.jinja").write_text(template)
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**known, **config}))


def problems_of(place, sections, rows=None):
    rows = rows or [PAIR if sections.get("task") in {None, "sft", "grpo"} else DUEL] * 24
    path = place / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = {
        "model": {"name_or_path": "nano", "device": "cpu"},
        "data": {"source": str(path), "partition": {"by": "iid", "min_rows": 2}},
        "train": {"learning_rate": 1e-3, "per_device_train_batch_size": 2, "max_length": 32},
        "federation": {"num_clients": 3, "num_rounds": 1, "local_steps": 1},
        "aggregator": {"name": "mean"},
        "evaluation": {"samples": 0, "max_rows": 4},
        "output_dir": str(place / "run"),
    }
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section} if isinstance(section, dict) else section
    raw["train"] = {key: value for key, value in raw["train"].items() if value is not ...}
    text = json.dumps(raw).replace("PLACE", str(place))
    try:
        recipe = api.load_recipe(json.loads(text))
        return find_problems(recipe, quick=True) or find_problems(recipe)  # as the command does
    except RecipeError as error:
        return error.problems


def trained(**keys):
    return {"train": keys}


MISTAKES = {
    "a wrong key": ({"federation": {"num_round": 2}}, "federation.num_round: unknown key; did you"),
    "a wrong section": ({"fedration": {}}, "fedration: unknown key; did you mean 'federation'?"),
    "a wrong key of TRL": (
        trained(lerning_rate=1), "train.lerning_rate: unknown to TRL; did you mean 'learning_rate"),
    "a number in quotes": (
        trained(learning_rate="1e-3"), "train.learning_rate: needs a number: got the text '1e-3'"),
    "a wrong type": (trained(max_length="long"), "train.max_length: must be at least 1, a whole"),
    "a rate of 0": (trained(learning_rate=0), "train.learning_rate: must be above 0: got 0"),
    "a rate below 0": (trained(learning_rate=-0.1), "train.learning_rate: must be above 0: got -0"),
    "a batch of 0": (
        trained(per_device_train_batch_size=0), "train.per_device_train_batch_size: must be at l"),
    "an optimizer that is none": (trained(optim="adamm"), "train.optim: adamm is not a valid"),
    "a schedule that is none": (
        trained(lr_scheduler_type="cosin"), "train.lr_scheduler_type: cosin is not a valid"),
    "a loss that is none": (trained(loss_type="mse"), "train.loss_type: Invalid `loss_type` mse"),
    "an end that is no token": (trained(eos_token="<x>"), "train.eos_token: The specified `eos_t"),
    "galore": (trained(optim="galore_adamw"), "train.optim: galore_adamw needs the package galore"),
    "liger": (trained(use_liger_kernel=True), "train.use_liger_kernel: needs the package liger_k"),
    "bitsandbytes": (trained(optim="adamw_8bit"), "train.optim: adamw_8bit needs the package bits"),
    "PEFT's reference of a DPO": (
        {"task": "dpo", "train": {"ref_adapter_name": "ref"}},
        "train.ref_adapter_name: fedtune sets it; write reference"),
    "a key that fedtune owns": (trained(bf16=True), "train.bf16: fedtune sets it; write model.dty"),
    "more clients than rows": (
        {"federation": {"num_clients": 40}}, "federation.num_clients: 40 clients need 2 rows each"),
    "more clients a round than clients": (
        {"federation": {"clients_per_round": 5}},
        "federation: clients_per_round must be at most num_clients: got 5 of 3"),
    "more rows for the server than rows": (
        {"data": {"server_rows": 100}}, "data.server_rows: needs fewer than the 22 rows"),
    "columns that are missing": (
        {}, "data.source: task sft needs columns prompt+completion or", [{"q": "a", "b": "c"}] * 9),
    "rows of another task": ({"task": "dpo"}, "data.source: task dpo needs columns", [PAIR] * 9),
    "a column to deal by": (
        {"data": {"partition": {"by": "natural_id", "column": "who", "min_rows": 2}}},
        "data.partition.column: no column 'who'; the data has prompt, completion"),
    "a template of no column": (
        {"data": {"columns": {"prompt": "{question}"}}},
        "data.columns.prompt: no column 'question'; got prompt, completion"),
    "Latin-1": (
        {"data": {"source": "PLACE/latin.jsonl"}},
        "data.source: PLACE/latin.jsonl, line 3, is not UTF-8 (perhaps Latin-1)"),
    "broken JSON": (
        {"data": {"source": "PLACE/bad.jsonl"}}, "data.source: PLACE/bad.jsonl, line 4, is no JSO"),
    "a pattern for a folder": (
        {"data": {"source": "PLACE/rows[1]"}}, "data.source: PLACE/rows[1]: rename the folder"),
    "a file that is not there": (
        {"data": {"source": "PLACE/no.jsonl"}}, "data.source: no file PLACE/no.jsonl"),
    "held-out rows that are not there": (
        {"data": {"eval_source": "PLACE/no.jsonl"}}, "data.eval_source: no file PLACE/no.jsonl"),
    "a margin that is text": (
        {"task": "reward"}, "data.source: column 'margin' needs numbers; got string",
        [{**DUEL, "margin": "much"}] * 24),
    "empty prompts": (
        {}, "data.source: client 0's training rows teach nothing: an empty prompt in 7 of 7; take",
        [{"prompt": "", "completion": "x"}] * 24),
    "equal answers": (
        {"task": "dpo"}, "data.source: client 0's training rows teach nothing: equal answers in 7",
        [{"prompt": "a", "chosen": "x", "rejected": "x"}] * 24),
    "chats without an answer": (
        {}, "data.source: client 0's training rows teach nothing: no assistant turn in 7 of 7; ta",
        [{"messages": CHAT[:1]}] * 24),
    "rows that are too long": (
        trained(max_length=1), "data.source: train.max_length leaves none of 7 of client 0's"),
    "a model that is not there": (
        {"model": {"name_or_path": "PLACE/no"}}, "model.name_or_path: 'PLACE/no' is no folder"),
    "an adapter for a model": (
        {"model": {"name_or_path": "PLACE/adapter"}},
        "model.name_or_path: PLACE/adapter is an adapter; name its base, merged or bare"),
    "no chat template": (
        {"model": {"name_or_path": "PLACE/no_template"}},
        "model.name_or_path: the rows are conversations, and the tokenizer has no chat template",
        [{"messages": CHAT}] * 24),
    "a template without a system": (
        {"model": {"name_or_path": "PLACE/no_system"}},
        "data.source: row 23 of rows.jsonl, of client 2's training rows, cannot be tokenised: Sys",
        [{"messages": CHAT}] * 23 + [{"messages": [SYSTEM, *CHAT]}]),
    "tokens beyond the embedding": (
        {"model": {"name_or_path": "PLACE/few_tokens"}},
        "model.name_or_path: client 0's rows hold token 780, and the model's embedding has 100"),
    "rows beyond the positions": (
        {"model": {"name_or_path": "PLACE/gpt2"}, "train": {"max_length": None}},
        "train.max_length: the model has 256 positions, and the longest of client 0's rows has 80",
        [{"text": "a b " * 200}] * 24),
    "modules that match nothing": (
        {"lora": {"target_modules": ["q_prj"]}}, "lora.target_modules: no module 'q_prj'; did you"),
    "Mamba's modules": (
        {"model": {"name_or_path": "PLACE/mamba"}, "lora": {"target_modules": ["out_proj"]}},
        "lora.target_modules: [PEFT:PeftType.LORA] Module 'out_proj' is incompatible with Mamba"),
    "an adapter that is not there": (
        {"initial_adapter": "PLACE/no"}, "initial_adapter: no adapter at PLACE/no"),
    "a reference that is not there": (
        {"task": "dpo", "reference": "PLACE/no"}, "reference: no adapter at PLACE/no"),
    "f for so few clients": (
        {"aggregator": {"name": "krum", "f": 1}},
        "aggregator.f: f=1 does not fit n=3 clients a round: krum needs n >= 2f + 3"),
    "products for a rule on columns": (
        {"aggregator": {"name": "median", "geometry": "product"}},
        "aggregator: median has no use for products without a mixing"),
    "a geometry that is none": (
        {"aggregator": {"geometry": "sphere"}}, "aggregator.geometry: input should be 'factors' o"),
    "an attack that is none": (
        {"attack": {"name": "sign_flop", "num_attackers": 1}}, "attack: no attack 'sign_flop'; di"),
    "float16 on a CPU": (
        {"model": {"dtype": "float16"}}, "model.dtype: float16 does not train on a CPU; write"),
    "a reward that is none": (
        {**GRPO, "rewards": [{"name": "lenght"}]}, "rewards.0: unknown name 'lenght'; did you mea"),
    "a reward's column": (
        {**GRPO, "rewards": [{"name": "exact_answer"}]}, "rewards.exact_answer.column: no column"),
    "a reward that is not installed": (
        {**GRPO, "rewards": [{"name": "entry_point", "entry": "nope"}]},
        "rewards: no entry point 'nope' in the group fedtune.rewards"),
    "a group that does not divide": (
        {**GRPO, "train": {**GRPO["train"], "num_generations": 3}},
        "train.num_generations: generation_batch_size (2) must be divisible by num_generations"),
    "more samples than are taken": (
        {"evaluation": {"samples": 500}}, "evaluation.samples: input should be less than or equal"),
    "a file for a folder": ({"output_dir": "PLACE/file"}, "output_dir: PLACE/file is a file; name"),
    "a folder that cannot be made": (
        {"output_dir": "/proc/no/run"}, "output_dir: /proc cannot be written to; name another fol"),
    "a tracker that is none": ({"report_to": "mlflow"}, "report_to.0: input should be 'tensorboa"),
}  # fmt: skip


COSTLY = {"Mamba's modules", "rows beyond the positions", "tokens beyond the embedding"}
MARKED = [pytest.param(name, marks=[pytest.mark.slow] * (name in COSTLY)) for name in MISTAKES]


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:.*fan_in_fan_out")
@pytest.mark.parametrize("name", MARKED)
def test_a_mistake_is_found_before_a_model_is_loaded(place, name):
    sections, told, *rows = MISTAKES[name]
    problems = problems_of(place, sections, *rows)
    assert len(problems) == 1, problems
    assert problems[0].startswith(told.replace("PLACE", str(place)))
    assert "\n" not in problems[0]


def test_a_device_that_is_not_there(place, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (problem,) = problems_of(place, {"model": {"device": "cuda"}})
    assert problem == "model.device: cuda is not there; write auto or cpu"


def test_a_tracker_that_is_not_installed(place, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    (problem,) = [
        each for each in problems_of(place, {"report_to": "wandb"}) if each.startswith("report")
    ]
    assert problem == "report_to: wandb is not installed; pip install wandb"


def test_what_is_no_mistake(place):
    """Without a mistake nothing is found.

    A folder that holds a run gets a neighbour; samples are as many as there are rows.

    A run that is resumed with another recipe is not `check`'s to find, which sees no run: see
    test_resume_with_other_inputs.
    """
    (place / "run").mkdir()
    (place / "run/recipe.yaml").write_text("{}")
    assert problems_of(place, {"evaluation": {"samples": 5, "max_rows": 4}}) == []
