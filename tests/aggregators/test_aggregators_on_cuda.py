"""Every rule on a CUDA device, against the CPU.

Not proven here: speed, and anything without such a device, where this file is not run.
"""

import pytest
import torch

from aggregators import AGGREGATORS, aggregate_with_report

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("chain", [(), ("nnm",)], ids="+".join)
@pytest.mark.parametrize("name", AGGREGATORS)
def test_the_device_does_not_matter(name, chain):
    rows = torch.randn(20, 30_001, generator=torch.Generator().manual_seed(0))
    rows[3] *= 1e8
    state = {"center": rows[5] / 2} if AGGREGATORS[name].state else None
    here = aggregate_with_report(rows, name, f=4, mixing=chain, state=state)
    there = aggregate_with_report(rows.cuda(), name, f=4, mixing=chain, state=state)
    assert there.aggregate.device.type == "cuda"
    assert there.weights.device.type == "cpu"
    assert torch.allclose(there.aggregate.cpu(), here.aggregate, rtol=1e-5, atol=1e-6)
    assert torch.allclose(there.weights, here.weights, rtol=1e-6, atol=1e-12)
