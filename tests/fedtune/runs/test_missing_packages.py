"""Optimizers and kernels that need a package are refused before a model is loaded."""

import pytest

from fedtune.runs.checks import packages
from fedtune.runs.checks.at_once import problems_at_once
from fedtune.runs.checks.packages import missing_packages


@pytest.mark.parametrize(
    ("train", "module"),
    [
        ({"optim": "galore_adamw"}, "galore_torch"),
        ({"optim": "adamw_8bit"}, "bitsandbytes"),
        ({"optim": "paged_adamw_32bit"}, "bitsandbytes"),
        ({"optim": "adamw_torch_8bit"}, "torchao"),
        ({"use_liger_kernel": True}, "liger_kernel"),
    ],
)
def test_a_package_that_is_not_here_is_named(tiny_recipe, monkeypatch, train, module):
    monkeypatch.setattr(packages, "_is_here", lambda _: False)
    (problem,) = problems_at_once(tiny_recipe(train=train))
    assert f"needs the package {module}" in problem
    monkeypatch.setattr(packages, "_is_here", lambda _: True)
    assert list(missing_packages(train)) == []


def test_what_torch_brings_needs_none():
    for train in ({}, {"optim": "adamw_torch"}, {"optim": "adafactor"}, {"use_vllm": False}):
        assert list(missing_packages(train)) == []
