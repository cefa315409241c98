"""How the shared tests call a rule: with the reference and the generator that some take."""

import pytest
import torch

import aggregators
from aggregators import AGGREGATORS

CHAINS = [
    (),
    ("nnm",),
    ("nnm", "nnm"),
    ("bucketing",),
    ("clipping",),
    ("arc",),
    ("arc", "nnm"),
    ("agreement",),
]
# n = 11 and f = 2 suit every rule: Bulyan needs 4f + 3.
N, F = 11, 2

ON_GRAM = [name for name, rule in AGGREGATORS.items() if rule.kind == "gram"]
SCALES = {"clipping", "arc"}  # the mixings whose rows do not sum to one
FROM_ZERO = {"agreement"}  # the mixings that look at directions from the origin
# F(x + c) is not F(x) + c: they look at norms, at directions, or only at signs.
NOT_EQUIVARIANT = {
    "capped_spectral",
    "cge",
    "fltrust",
    "foolsgold",
    "flame",
    "norm_clip",
    "sign_majority",
    "rlr",
}
# The weights do not sum to one: the rest is no change, or the centre.
NOT_AN_AVERAGE = {
    "capped_spectral",
    "centered_clipping",
    "fltrust",
    "foolsgold",
    "flame",
    "norm_clip",
}
# With all rows equal they do not return the row: FoolsGold takes them for sybils, a sign has no
# length.
NOT_IDEMPOTENT = {"foolsgold", "sign_majority"}
# A majority of equal rows is outvoted: these have no bound against one huge row.
NOT_FOR_THE_MAJORITY = {"mean", "cge", "dnc", "fltrust", "foolsgold", "norm_clip", "rlr",
                        "sign_majority"}  # fmt: skip


def equivariant(name, chain):
    return name not in NOT_EQUIVARIANT and not (SCALES | FROM_ZERO) & set(chain)


def averages(name, chain):
    return name not in NOT_AN_AVERAGE and not SCALES & set(chain)


def defined(name, chain, n, f):
    """Whether the rule may run after these mixings at this n and f."""
    try:
        aggregators.plan(name, mixing=chain).check_clients(n, f)
    except ValueError:
        return False
    return True


def pairs(n=N, f=F, chains=CHAINS):
    """Every rule after every chain after which it is defined, as pytest's parameters."""
    return [
        pytest.param(name, chain, id="+".join((*chain, name)))
        for name in AGGREGATORS
        for chain in chains
        if defined(name, chain, n, f)
    ]


def fast_part(params, turn, *, bare=True):
    """Leave to the slow tier all but each rule bare and after one chain, another one each turn.

    In a full product of rules and chains (and cases) the fast tier so meets every pair of a rule
    and a chain in some test, and every rule and every chain in every test.

    Args:
        params: pytest's parameters. The one value that is a tuple is the chain.
        turn: Which chain is first; a different number for each test.
        bare: Whether the rule after no chain is kept beside the one of this turn.
    """
    ways = {}  # a rule (and a case) -> its parameters, by chain
    for param in params:
        chain = next(value for value in param.values if isinstance(value, tuple))
        key = tuple(value for value in param.values if value is not chain)
        ways.setdefault(key, {})[chain] = param
    chains = list(dict.fromkeys(chain for each in ways.values() for chain in each))
    kept = set()
    for k, each in enumerate(ways.values()):
        turned = [chains[(turn + k + i) % len(chains)] for i in range(len(chains))]
        mixed = [chain for chain in turned if chain in each and (chain or not bare)]
        wanted = [*mixed[:1], ()] if bare else mixed[:1]
        kept |= {each[chain].id for chain in wanted if chain in each}
    return [
        param
        if param.id in kept
        else pytest.param(*param.values, id=param.id, marks=pytest.mark.slow)
        for param in params
    ]


def in_a_dtype(names, cases, dtypes=(torch.float64, torch.float32)):
    """Every name, case and dtype, as pytest's parameters; the fast tier takes one dtype each.

    Neighbours take the other dtype, so every name and every case meets both.
    """
    return [
        pytest.param(
            name,
            case,
            dtype,
            id=f"{name}-{case if isinstance(case, str) else k}-{dtype}",
            marks=() if (i + k + t) % 2 == 0 else pytest.mark.slow,
        )
        for i, name in enumerate(names)
        for k, case in enumerate(cases)
        for t, dtype in enumerate(dtypes)
    ]


def takes(name, rows, *, seed=0):
    """What the rule is handed beside the rows."""
    given = {"generator": torch.Generator().manual_seed(seed)}
    if AGGREGATORS[name].takes_reference and len(rows):
        given["reference"] = rows.to(torch.float64).median(dim=0).values.to(rows.dtype)
    return given


def report(rows, name, f, chain=(), **options):
    return aggregators.aggregate_with_report(
        rows, name, f=f, mixing=chain, **{**takes(name, rows.detach()), **options}
    )


def call(rows, name, f, chain=(), **options):
    return report(rows, name, f, chain, **options).aggregate
