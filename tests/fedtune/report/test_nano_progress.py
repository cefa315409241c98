"""`fedtune nano build` from the command line, a few steps long, on what is installed here.

Not proven here: that the shipped weights come out again; that takes half an hour.
"""

import pytest
from typer.testing import CliRunner

from fedtune.cli import app

runner = CliRunner()


@pytest.mark.slow
def test_nano_build_makes_a_model_that_loads(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = runner.invoke(app, ["nano", "build", str(tmp_path / "nano"), "--steps", "2"])
    assert result.exit_code == 0, result.output
    assert "bits per byte" in result.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "nano")
    assert model.num_parameters() > 900_000
    assert AutoTokenizer.from_pretrained(tmp_path / "nano")("def f():").input_ids


def test_a_full_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    result = runner.invoke(app, ["nano", "build", str(tmp_path)])
    assert result.exit_code == 2
    assert "not empty" in result.output
