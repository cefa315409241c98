"""Every rule on a CUDA device, against the CPU.

Not proven here: speed, and anything without such a device, where this file is not run.
"""

import pytest
import torch

from aggregators import AGGREGATORS, aggregate_with_report

pytestmark = pytest.mark.gpu


CASES = [
    (name, chain)
    for name, rule in AGGREGATORS.items()
    for chain in ((), ("nnm",))
    if not (chain and rule.memory == "history")
]


@pytest.mark.parametrize(("name", "chain"), CASES)
def test_the_device_does_not_matter(name, chain):
    rows = torch.randn(20, 30_001, generator=torch.Generator().manual_seed(0))
    rows[3] *= 1e8
    rule, given = AGGREGATORS[name], {"f": 4, "mixing": chain}
    if rule.memory == "center":
        given["state"] = {"center": rows[5] / 2}
    if rule.takes_reference:
        given["reference"] = rows[6] / 2
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    here = aggregate_with_report(rows, name, generator=draws[0], **given)
    there = aggregate_with_report(rows.cuda(), name, generator=draws[1], **given)
    assert there.aggregate.device.type == "cuda"
    assert there.weights.device.type == "cpu"
    assert torch.allclose(there.aggregate.cpu(), here.aggregate, rtol=1e-5, atol=1e-6)
    assert torch.allclose(there.weights, here.weights, rtol=1e-6, atol=1e-12)
