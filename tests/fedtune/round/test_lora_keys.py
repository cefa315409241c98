"""PEFT's keys in both geometries, by numbers: what docs/recipes.md says of each, it does.

The rows are drawn, not trained: what is at stake is what the server makes of them, held against
what PEFT makes of each client's adapter. That TRL trains under each key is in the slow tier.
"""

import json
import re
from pathlib import Path

import pytest
import torch

from fedtune.adapters import lora
from fedtune.adapters.layout import Layout
from fedtune.adapters.logits import some_logits, some_rows
from fedtune.adapters.part import Part
from fedtune.adapters.ranks import side_of
from fedtune.recipe import Lora, RecipeError, parse_recipe
from fedtune.round.aggregation.factors import describe
from fedtune.training.adapted import modules_of, no_product
from fedtune.trust.adapter_config import check_config
from tests.fedtune.round.test_architectures import as_rounds_end, said, trained_by_one
from tests.helpers.architectures import save_tiny
from tests.helpers.product_server import Round

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")

DOCS = Path(__file__).parents[3] / "docs" / "recipes.md"
NAMES = {"target_modules": ["c_attn", "c_fc"]}
FUSED = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
# Key -> (architecture, sections): exact in both geometries.
EXACT = {
    "use_rslora": ("gpt2", [{"use_rslora": True}]),
    "use_dora": ("gpt2", [{"use_dora": True}, {"use_dora": True, "rank_pattern": {"c_fc": 2}}]),
    "bias": ("gpt2", [{"bias": "all"}, {"bias": "lora_only"}]),
    "rank_pattern": ("gpt2", [{"rank_pattern": {"c_attn": 2, r"h\.1\.mlp\.c_fc": 6}}]),
    "alpha_pattern": (
        "gpt2",
        [
            {"alpha_pattern": {"c_attn": 32}},
            {"alpha_pattern": {"c_fc": 3.5}, "rank_pattern": {"c_fc": 2}, "use_rslora": True},
        ],
    ),
    "exclude_modules": ("gpt2", [{"exclude_modules": ["c_fc"]}, {"exclude_modules": r".*\.c_fc"}]),
    "layers_to_transform": ("gpt2", [{"layers_to_transform": 1, **NAMES}]),
    "layers_pattern": (
        "gpt2",
        [{"layers_to_transform": [0], "layers_pattern": "h", **NAMES}],
    ),
    "init_lora_weights: gaussian": ("gpt2", [{"init_lora_weights": "gaussian"}]),
    "target_parameters: of one matrix": (
        "llama",
        [{"target_modules": ["v_proj"], "target_parameters": ["q_proj.weight"]}],
    ),
}
# Key -> (architecture, section, why not in products).
FACTORS_ALONE = {
    "init_lora_weights: orthogonal": (
        "gpt2",
        {"init_lora_weights": "orthogonal"},
        "draws an A of rank r/2",
    ),
    "target_parameters: of experts": ("mixtral", FUSED, "its product BA is no expert's"),
}
CASES = [
    pytest.param(architecture, section, id=f"{key}-{at}")
    for key, (architecture, sections) in EXACT.items()
    for at, section in enumerate(sections)
]


@pytest.fixture(scope="module")
def folder_of(tiny_tokenizer, tmp_path_factory):
    """Return a function: architecture -> a tiny model's folder."""
    made = {}

    def find(architecture):
        if architecture not in made:
            path = tmp_path_factory.mktemp(architecture)
            made[architecture] = save_tiny(architecture, tiny_tokenizer, path)
        return made[architecture]

    return find


class Drawn:
    """An adapter on a tiny model, and rows that clients could have sent."""

    def __init__(self, folder, section):
        from transformers import AutoModelForCausalLM

        self.section = {"r": 4, "lora_alpha": 8, **section}
        base = AutoModelForCausalLM.from_pretrained(folder)
        self.lora = Lora(**self.section)
        self.model = lora.attach(base, self.lora, task_type="CAUSAL_LM", seed=0).eval()
        fresh = lora.read(self.model)
        self.layout = Layout.of(fresh)
        self.initial = self.layout.flatten(fresh)

    def delta(self, seed):
        generator = torch.Generator().manual_seed(seed)
        return 0.05 * torch.randn(self.layout.size, generator=generator)

    def after(self, rows, geometry):
        recipe = parse_recipe(
            {
                "lora": self.section,
                "federation": {"num_clients": len(rows)},
                "aggregator": {"name": "mean", "geometry": geometry},
            }
        )
        server = Round(recipe, self.initial, self.layout)
        server.run(rows)
        assert not server.refused
        return server.outer.anchor

    def logits(self, row):
        lora.write(self.model, self.layout.unflatten(row))
        return some_logits(self.model, some_rows(self.model))

    def weight_changes(self, row):
        """What PEFT adds to each weight, and what is trained whole."""
        lora.write(self.model, self.layout.unflatten(row))
        layers = dict(self.model.get_base_model().named_modules())
        products = {
            name: layers[name].get_delta_weight("default").detach().double()
            for name in modules_of(self.model)
        }
        plain = {
            name: part.double()
            for name, part in lora.read(self.model).items()
            if side_of(name) is None
        }
        return products, plain


@pytest.mark.parametrize(("architecture", "section"), CASES)
def test_both_geometries_are_exact(folder_of, architecture, section):
    drawn = Drawn(folder_of(architecture), section)
    one, other = drawn.delta(1), drawn.delta(2)
    alone = drawn.logits(drawn.initial + one)
    moved = float((alone - drawn.logits(drawn.initial)).abs().max())
    assert moved > 1e-3
    for geometry in ("factors", "product"):
        ended = drawn.logits(drawn.after([one] * 3, geometry))
        torch.testing.assert_close(ended, alone, rtol=0, atol=2e-4 * moved)

    # Two who differ: the mean of what PEFT makes of each, at the best of each module's rank.
    halves = [drawn.weight_changes(drawn.initial + each) for each in (one, other)]
    products, plain = drawn.weight_changes(drawn.after([one, other], "product"))
    ranks = {name: module.rank for name, module in modules_of(drawn.model).items()}
    for name, found in products.items():
        mean = (halves[0][0][name] + halves[1][0][name]) / 2
        u, s, v = torch.linalg.svd(mean, full_matrices=False)
        best = u[:, : ranks[name]] * s[: ranks[name]] @ v[: ranks[name]]
        assert (found - best).abs().max() <= 1e-5 * s[0], name
    for name, found in plain.items():
        torch.testing.assert_close(
            found, (halves[0][1][name] + halves[1][1][name]) / 2, rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize(("architecture", "section"), CASES)
def test_products_are_scaled_as_peft_scales_them(folder_of, architecture, section):
    """Between modules: a mean of one module alone would hide another scale."""
    drawn = Drawn(folder_of(architecture), section)
    layers = dict(drawn.model.get_base_model().named_modules())
    factors = describe(Part("both", drawn.layout), None, drawn.lora)
    scales = [layers[name].scaling["default"] for name in sorted(modules_of(drawn.model))]
    assert [module.scale for module in factors.modules] == pytest.approx(scales)


@pytest.mark.parametrize("key", FACTORS_ALONE)
def test_what_is_no_product_is_refused_there_and_exact_in_factors(folder_of, key):
    architecture, section, reason = FACTORS_ALONE[key]
    drawn = Drawn(folder_of(architecture), section)
    one = drawn.delta(1)
    alone = drawn.logits(drawn.initial + one)
    assert torch.equal(drawn.logits(drawn.after([one, one], "factors")), alone)
    recipe = parse_recipe({"lora": drawn.section, "aggregator": {"geometry": "product"}})
    objection = no_product(recipe, modules_of(drawn.model))
    assert reason in objection
    assert "geometry: factors" in objection


def test_a_rank_that_hides_experts_is_seen(folder_of):
    """Four experts at rank 1 have an A of four rows, as many as r."""
    drawn = Drawn(folder_of("mixtral"), {**FUSED, "r": 1})
    recipe = parse_recipe({"lora": {**drawn.section, "r": 4}})
    assert "experts in one tensor" in no_product(recipe, modules_of(drawn.model))


VERIFIED = [*CASES, pytest.param("mixtral", {}, id="experts"), pytest.param("mixtral", FUSED)]


@pytest.mark.parametrize(("architecture", "section"), VERIFIED)
def test_verify_takes_the_folder_and_no_other(folder_of, tmp_path, architecture, section):
    folder = folder_of(architecture)
    drawn = Drawn(folder, section)
    lora.save(drawn.model, tmp_path)
    raw = {"lora": drawn.section, "model": {"name_or_path": str(folder)}}
    recipe = parse_recipe({**raw, "aggregator": {"geometry": "factors"}})
    names = [name for name, _ in drawn.layout.shapes]
    assert not list(check_config(tmp_path, names, recipe))
    config = tmp_path / "adapter_config.json"
    said = json.loads(config.read_text())
    for key, forged in (
        ("alpha_pattern", {"q_proj": 512}),
        ("rank_pattern", {"c_attn": 5}),
        ("use_dora", not said["use_dora"]),
        ("bias", "all" if said["bias"] != "all" else "none"),
        ("target_modules", [*said["target_modules"], "lm_head"]),
    ):
        config.write_text(json.dumps({**said, key: forged}))
        patterned = key == "target_modules" and isinstance(section.get("exclude_modules"), str)
        assert bool(list(check_config(tmp_path, names, recipe))) != patterned, key


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"rank_pattern": {"c_atn": 2}}, "lora.rank_pattern: no adapted module matches 'c_atn'"),
        ({"alpha_pattern": {"q_proj": 2}}, "lora.alpha_pattern: no adapted module matches"),
        ({"exclude_modules": ["c_fcc"]}, "lora.exclude_modules: no module 'c_fcc'"),
        ({"exclude_modules": "c_fc"}, "lora.exclude_modules: no module matches 'c_fc'; write"),
        ({"target_parameters": ["experts.up"]}, "lora.target_parameters: no parameter"),
        ({"layers_to_transform": [0, 2], **NAMES}, "lora.layers_to_transform: .* layer 2, from 0"),
    ],
)
def test_a_name_of_nothing_is_refused(folder_of, section, told):
    """PEFT would train something else, with a warning at most."""
    with pytest.raises(ValueError, match=told):
        Drawn(folder_of("gpt2"), section)


def test_biases_that_are_not_there_or_not_float32_are_refused(folder_of):
    from transformers import AutoModelForCausalLM

    with pytest.raises(ValueError, match=r"lora\.bias: all finds no bias in this model"):
        Drawn(folder_of("llama"), {"bias": "all"})
    base = AutoModelForCausalLM.from_pretrained(folder_of("gpt2"), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"lora\.bias: .* write model\.dtype: float32"):
        lora.attach(base, Lora(bias="all"), task_type="CAUSAL_LM", seed=0)


@pytest.mark.parametrize("section", [{"use_dora": True}, {"rank_pattern": {"c_attn": 2}}])
def test_on_bfloat16_all_of_it_is_float32_and_saved_as_it_is(folder_of, tmp_path, section):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder_of("gpt2"), dtype=torch.bfloat16)
    model = lora.attach(base, Lora(**section), task_type="CAUSAL_LM", seed=0)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    lora.write(model, {name: part + 2**-20 for name, part in lora.read(model).items()})
    lora.save(model, tmp_path)


@pytest.mark.parametrize(
    ("lora_section", "told"),
    [
        ({"init_lora_weights": "eva"}, "eva depends on data"),
        ({"init_lora_weights": "corda"}, "corda depends on data"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga depends on data"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16 changes the base model"),
        ({"init_lora_weights": "olora"}, "olora changes the base model"),
        ({"init_lora_weights": "loftq"}, "loftq changes the base model"),
        ({"init_lora_weights": "mica"}, "mica trains A alone"),
        ({"init_lora_weights": False}, "draws A and B"),
        ({"init_lora_weights": "orthogonal", "r": 3}, "orthogonal needs an even rank: got 3"),
        ({"layers_to_transform": [0]}, "layers_to_transform needs target_modules as a list"),
        ({"layers_pattern": "h", **NAMES}, "layers_pattern says nothing without"),
        ({**FUSED, "use_dora": True}, "use_dora: PEFT has none on target_parameters"),
        ({**FUSED, "lora_dropout": 0.1}, "lora_dropout: PEFT has none on target_parameters"),
        ({**FUSED, "rank_pattern": {"q_proj": 2}}, "leave out rank_pattern, alpha_pattern"),
        ({"client_ranks": [2] * 10, "rank_pattern": {"q_proj": 2}}, "leave out rank_pattern"),
        ({"client_ranks": [2] * 10, "use_dora": True}, "not proven beside use_dora"),
        ({"rank_pattern": {"(": 2}}, "is no regular expression"),
        ({"exclude_modules": "q("}, "lora.exclude_modules: 'q(' is no regular expression"),
    ],
)
def test_what_goes_with_nothing_is_refused_with_the_reason(lora_section, told):
    with pytest.raises(RecipeError, match=re.escape(told)):
        parse_recipe({"lora": lora_section})


@pytest.mark.parametrize(
    "more",
    [
        {"task": "grpo", "rewards": [{"name": "format"}]},
        {"model": {"dtype": "bfloat16"}},
        {"model": {"load_in_4bit": True}},
    ],
)
def test_biases_are_refused_where_they_cannot_be_trained(more):
    with pytest.raises(RecipeError, match=r"lora\.bias"):
        parse_recipe({"lora": {"bias": "all"}, **more})


def test_the_table_in_the_docs_says_the_same():
    rows = re.findall(r"^\| `lora\.(.+?)` \| (\w+) \| (\w+) \|", DOCS.read_text(), flags=re.M)
    said = {key.replace("`", ""): (factors, product) for key, factors, product in rows}
    expected = dict.fromkeys(EXACT, ("exact", "exact"))
    assert said == expected | dict.fromkeys(FACTORS_ALONE, ("exact", "refused"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("architecture", "section"), CASES)
def test_trl_trains_them_and_equal_clients_are_one(folder_of, small_data, architecture, section):
    worker, delta = trained_by_one(
        folder_of(architecture), small_data("jsonl"), **{"target_modules": "all-linear", **section}
    )
    one = said(worker, worker.initial + delta)
    moved = float((one - said(worker, worker.initial)).abs().max())
    assert moved > 1e-3
    for geometry in ("factors", "product"):
        ended = as_rounds_end(worker, [delta] * 4, geometry)
        torch.testing.assert_close(said(worker, ended), one, rtol=0, atol=1e-3 * moved)
