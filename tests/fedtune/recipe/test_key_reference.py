"""The key reference: every key of a recipe, by the schema alone, in a page that is what it says.

Not proven here: that a meaning is true; that it is there, and that its example is read, is.
"""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.recipe import RecipeError
from fedtune.recipe.key_examples import DEFAULTS, EXAMPLES, UNITS
from fedtune.recipe.key_page import keys_as_markdown
from fedtune.recipe.reference import keys, look_up
from fedtune.recipe.stages import load
from fedtune.recipe.trl_keys import CONFIGS, trl_keys

ROOT = Path(__file__).parents[3]


def explained(*words):
    shown = CliRunner().invoke(app, ["explain", *words], env={"COLUMNS": "200"})
    return shown.exit_code, shown.output


def test_the_page_is_what_the_schema_says():
    page = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
    assert page == keys_as_markdown(), "run `make docs`"


def test_every_key_has_a_meaning_and_a_default_or_is_needed():
    for key in keys().values():
        assert key.meaning, f"{key.name}: give its Field a description"
        assert key.default or key.is_section, key.name
        assert key.kind, key.name


def test_every_example_is_read_beside_the_quickstart():
    for key in keys().values():
        if key.is_section and not key.default:
            continue
        assert key.example, f"{key.name}: add one to EXAMPLES"
        load("quickstart", shlex.split(key.example))


def test_the_notes_name_keys_that_there_are():
    assert {*UNITS, *DEFAULTS, *EXAMPLES} <= set(keys())


def test_bounds_kind_and_unit_are_the_schemas():
    rows, dropout = keys()["evaluation.max_rows"], keys()["lora.lora_dropout"]
    assert (rows.bounds, rows.unit, rows.default) == ("1 to 1000000", "rows", "512")
    assert (dropout.kind, dropout.bounds) == ("number", "at least 0, below 1")
    assert keys()["outer.betas"].bounds == "2 entries"
    assert keys()["federation.engine"].kind == "one of local, ray, superlink"
    assert keys()["attack.num_attackers"].default == "needed"


def test_a_section_is_told_with_its_keys():
    assert [key.name for key in look_up("checkpoint")] == ["checkpoint", "checkpoint.keep"]
    with pytest.raises(RecipeError, match=r"did you mean 'evaluation.max_rows'"):
        look_up("evaluation.max_row")


def test_the_command_prints_all_of_a_key():
    code, shown = explained("evaluation.max_rows")
    assert code == 0
    for words in ("held-out rows used", "1 to 1000000", "rows", "512", "evaluation.max_rows=512"):
        assert words in shown
    assert "evaluation.samples" in explained("evaluation")[1]
    assert "federation" in explained()[1]
    assert explained("nothing")[0] == 2


def test_keys_of_trl_are_what_trl_says():
    import dataclasses

    from trl import SFTConfig

    known = {field.name: field for field in dataclasses.fields(SFTConfig)}
    told = trl_keys("sft")
    assert told.keys() <= known.keys()
    assert set(known) - set(told) == set()
    assert float(told["learning_rate"].default) == known["learning_rate"].default
    assert told["max_length"].help == " ".join(known["max_length"].metadata["help"].split())
    assert all(len(trl_keys(task)) > 50 for task in CONFIGS)
    code, shown = explained("train.learning_rate")
    assert code == 0
    assert "2e-05" in shown
    assert "did you mean 'learning_rate'" in explained("train.learning_rat")[1]
