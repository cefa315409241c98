"""Which key was meant, and what to write for a number in quotes."""

import pytest

from fedtune.recipe import RecipeError, load_recipe
from fedtune.recipe.meant import ALIASES, meant, number_in_quotes
from fedtune.recipe.reference import keys
from fedtune.recipe.trl_keys import quoted_numbers, trl_keys
from fedtune.runs.checks.at_once import problems_at_once


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("lora.rank=8", "did you mean 'r'?"),
        ("lora.alpha=8", "did you mean 'lora_alpha'?"),
        ("lora.target_module=[q_proj]", "did you mean 'target_modules'?"),
        ("lora.lr=1", "did you mean 'train.learning_rate'?"),
        ("federation.rounds=8", "did you mean 'num_rounds'?"),
        ("federation.clients=8", "did you mean 'num_clients'?"),
        ("federation.num_round=8", "did you mean 'num_rounds'?"),
        ("learning_rate=8", "did you mean 'train.learning_rate'?"),
        ("num_rounds=8", "did you mean 'federation.num_rounds'?"),
        ("data.batch_size=8", "did you mean 'train.per_device_train_batch_size'?"),
        ("evaluation.maxrows=8", "did you mean 'max_rows'?"),
        ("federtion={}", "did you mean 'federation'?"),
        ("model=gpt2", "needs a section with keys such as name_or_path"),
        ('attack.scale="10"', "scale needs a number: got the text '10'; write 10"),
        ('aggregator.mixing=[{name: bucketing, s: "2"}]', "s needs a number"),
    ],
)
def test_the_key_that_was_meant_is_named(override, hint):
    with pytest.raises(RecipeError) as refused:
        load_recipe("quickstart", [override])
    assert hint in str(refused.value)


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("lr", "learning_rate"),
        ("batch_size", "per_device_train_batch_size"),
        ("max_seq_length", "max_length"),
        ("learning_rat", "learning_rate"),
        ("warmup_ratio", "warmup_steps"),
        ("xyzzy", ""),
    ],
)
def test_what_other_tools_call_it_is_known(word, key):
    assert meant(word, trl_keys("sft")) == key


def test_every_alias_leads_to_a_key_that_there_is():
    known = {name.rpartition(".")[2] for name in keys()} | set(trl_keys("sft"))
    for alias, leads_to in ALIASES.items():
        assert known & set(leads_to), alias


def test_a_number_in_quotes_is_named_with_what_to_write():
    recipe = load_recipe("quickstart", ['train.learning_rate="2e-4"', 'train.optim="sgd"'])
    assert problems_at_once(recipe) == [
        "train.learning_rate: needs a number: got the text '2e-4'; write 2e-4"
    ]
    assert number_in_quotes("yes") == ""
    # TRL takes text for these, a number among it
    assert list(quoted_numbers("sft", {"run_name": "7", "lr_scheduler_kwargs": "{}"})) == []
