"""Spectra of low-rank matrices from Gram matrices, held to the SVD of the matrix itself.

Not proven here: how much less they cost (benchmarks/server_step.py).
"""

import pytest
import torch

from aggregators.geometry import spectrum as module
from aggregators.geometry.spectrum import spectrum


def sides(values, d_out=40, d_in=30, q=12, seed=0, repeat=0):
    """Stacks of q columns and rows whose product has the given singular values."""
    draw = torch.Generator().manual_seed(seed)

    def basis(d):
        return torch.linalg.qr(torch.randn(d, len(values), generator=draw).double()).Q

    mix = torch.linalg.qr(torch.randn(q, len(values), generator=draw).double()).Q
    left = basis(d_out) * torch.tensor(values).double() @ mix.T
    right = mix @ basis(d_in).T
    if repeat:  # rows that stand there twice, as the anchor's A does in a round's target
        left = torch.cat([left, -left[:, :repeat]], dim=1)
        right = torch.cat([right, right[:repeat]])
        left[:, :repeat] *= 2
    return left, right


def exact(left, right, most):
    u, values, vh = torch.linalg.svd(left @ right)
    return (u[:, :most] * values[:most]) @ vh[:most], values


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (30, 30)])
@pytest.mark.parametrize("repeat", [0, 3])
@pytest.mark.parametrize("last", [1e-1, 1e-3, 1e-4, 1e-6, 0.0])
def test_leading_triples_are_those_of_the_matrix(shape, repeat, last):
    values = [1.0, 0.7, 0.5, last, last / 10, last / 100]
    left, right = sides(values, *shape, repeat=repeat)
    found = spectrum(left, right, 4)
    best, singular = exact(left, right, 4)
    made, lead = found.pair(0, 4)
    assert torch.allclose(made @ lead, best, rtol=0, atol=1e-11)
    known = min(len(found.values), len(singular))
    assert torch.allclose(found.values[:known], singular[:known], rtol=0, atol=1e-7)
    assert found.energy() == pytest.approx(float(singular.square().sum()), rel=1e-12)
    eye = torch.eye(3, dtype=torch.float64)
    for vectors in (found.left, found.right):
        assert torch.allclose(vectors[:, :3].T @ vectors[:, :3], eye, atol=1e-10)


def test_a_value_that_a_gram_matrix_does_not_know_is_found_by_orthonormal_bases(monkeypatch):
    calls = []
    by_gram = module._by_gram
    monkeypatch.setattr(module, "_by_gram", lambda *a: calls.append(by_gram(*a)) or calls[-1])
    spectrum(*sides([1.0, 0.5, 1e-4, 1e-7]), 3)
    spectrum(*sides([1.0, 0.5, 1e-6, 1e-7]), 3)
    assert [found is None for found in calls] == [False, True]


@pytest.mark.parametrize("most", [0, None])
def test_all_triples_or_none(most):
    left, right = sides([1.0, 0.5, 1e-3])
    found = spectrum(left, right, most)
    assert found.left.shape[1] == (0 if most == 0 else 12)
    if most is None:
        assert torch.allclose(found.pair(0)[0] @ found.pair(0)[1], left @ right, atol=1e-13)
