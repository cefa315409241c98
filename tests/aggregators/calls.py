"""How the shared tests call a rule: with the reference and the generator that some take."""

import torch

import aggregators
from aggregators import AGGREGATORS, MIXINGS

CHAINS = [
    (),
    ("nnm",),
    ("nnm", "nnm"),
    *[(name,) for name in MIXINGS if name != "nnm"],
    *[("arc", "nnm")][: "arc" in MIXINGS],
    *[("nnm", "bucketing")][: "bucketing" in MIXINGS],
]
# n = 11 and f = 2 suit every rule: Bulyan needs 4f + 3.
N, F = 11, 2

# F(x + c) is not F(x) + c: they look at norms, at directions, or only at signs.
NOT_EQUIVARIANT = {
    *("cge", "fltrust", "foolsgold", "flame", "norm_clip", "sign_majority", "rlr"),
    *("clipping", "arc"),
}
# The weights do not sum to one: the rest is no change, or the centre.
NOT_AN_AVERAGE = {"centered_clipping", "fltrust", "foolsgold", "flame", "norm_clip", "clipping",
                  "arc"}  # fmt: skip
# With all rows equal, they may still not return the row: a sign has no length.
NOT_IDEMPOTENT = {"sign_majority"}
DRAWS = {"bucketing"}


def defined(name, chain, n, f):
    """Whether the rule may run after these mixings at this n and f."""
    try:
        aggregators.plan(name, mixing=chain).check_clients(n, f)
    except ValueError:
        return False
    return True


PAIRS = [(name, chain) for name in AGGREGATORS for chain in CHAINS if defined(name, chain, N, F)]


def named(name, chain):
    return "+".join((*chain, name))


def takes(name, rows, *, seed=0):
    """What the rule is handed beside the rows."""
    given = {"generator": torch.Generator().manual_seed(seed)}
    if AGGREGATORS[name].takes_reference:
        given["reference"] = rows.to(torch.float64).median(dim=0).values.to(rows.dtype)
    return given


def report(rows, name, f, chain=(), **options):
    return aggregators.aggregate_with_report(
        rows, name, f=f, mixing=chain, **{**takes(name, rows.detach()), **options}
    )


def call(rows, name, f, chain=(), **options):
    return report(rows, name, f, chain, **options).aggregate
