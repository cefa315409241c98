"""Product space: the change of the model by a LoRA update, s (B_i A_i - B A), in low rank.

``product_gram`` measures it, ``combine_products`` adds it up and writes factors again, ``align``
brings each client's factors to the anchor's gauge for rules on the columns, ``combine_dense`` runs
such a rule on the products themselves.
"""

from aggregators.geometry.clients import Change, Client, combined_change, gather
from aggregators.geometry.dense import combine_dense
from aggregators.geometry.gauge import Aligned, AnchorGauge, GaugeError, align
from aggregators.geometry.layout import (
    Factors,
    LowRank,
    Module,
    Pair,
    Point,
    join,
    split,
    stacked,
    weighted_sum,
)
from aggregators.geometry.products import product_gram
from aggregators.geometry.readout import Gauge
from aggregators.geometry.recompress import (
    Step,
    combine_products,
    receive,
    step,
    step_by_module,
)
from aggregators.geometry.renewal import Renewed, renew
from aggregators.geometry.spectrum import truncate

__all__ = [
    "Aligned",
    "AnchorGauge",
    "Change",
    "Client",
    "Factors",
    "Gauge",
    "GaugeError",
    "LowRank",
    "Module",
    "Pair",
    "Point",
    "Renewed",
    "Step",
    "align",
    "combine_dense",
    "combine_products",
    "combined_change",
    "gather",
    "join",
    "product_gram",
    "receive",
    "renew",
    "split",
    "stacked",
    "step",
    "step_by_module",
    "truncate",
    "weighted_sum",
]
