"""Byzantine-robust aggregation of client updates: (n, d) -> (d,), in torch and NumPy.

>>> import torch, aggregators
>>> updates = torch.tensor([[1.0], [2.0], [3.0], [1e8]])
>>> aggregators.aggregate(updates, "trimmed_mean", f=1)
tensor([2.5000])

A rule works on the Gram matrix of the updates or on their columns; a mixing runs before either.
Everything that there is stands in ``AGGREGATORS`` and ``MIXINGS``.
"""

from aggregators.api import aggregate, aggregate_with_report, weigh
from aggregators.engine.aggregation import Aggregation, Weighing
from aggregators.engine.files import FileRows
from aggregators.engine.gram import Gram
from aggregators.engine.plans import Plan, Step
from aggregators.engine.rule import Combination, Kept, Mixture, Option, Rule
from aggregators.plugins import load_installed, register
from aggregators.registry import AGGREGATORS, MIXINGS, Mixing, plan

__all__ = [
    "AGGREGATORS",
    "MIXINGS",
    "Aggregation",
    "Combination",
    "FileRows",
    "Gram",
    "Kept",
    "Mixing",
    "Mixture",
    "Option",
    "Plan",
    "Rule",
    "Step",
    "Weighing",
    "aggregate",
    "aggregate_with_report",
    "plan",
    "register",
    "weigh",
]

load_installed()
