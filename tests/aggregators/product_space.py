"""Clients with LoRA factors to test geometry on, and the dense matrices that it never forms."""

import numpy as np
import torch

from aggregators.geometry import Factors, Module

SHAPES = ((7, 5), (6, 9))  # (d_out, d_in) of two modules


def describe(ranks=(2, 3), scales=(2.0, 0.5), *, shapes=SHAPES, plain=4):
    """A row as plain columns, then for each module A before B; some plain columns at the end."""
    modules, start = [], plain // 2
    for rank, scale, (d_out, d_in) in zip(ranks, scales, shapes, strict=True):
        a = (start, start + rank * d_in)
        b = (a[1], a[1] + rank * d_out)
        modules.append(Module(a, b, rank, scale))
        start = b[1]
    ends = [(0, plain // 2), (start, start + plain - plain // 2)]
    held = tuple((first, stop) for first, stop in ends if stop > first)
    return Factors(tuple(modules), held, start + plain - plain // 2)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def anchor_row(factors, seed=0, *, dtype=torch.float64):
    return torch.randn(factors.num_columns, generator=generator(seed), dtype=torch.float64).to(
        dtype
    )


def delta_rows(n, factors, seed=1, *, size=0.3, dtype=torch.float64):
    rows = torch.randn(n, factors.num_columns, generator=generator(seed), dtype=torch.float64)
    return (size * rows).to(dtype)


def matrices(row, factors):
    """Each module's s B A of a whole row, by numpy, from the columns."""
    row = row.to(torch.float64).numpy()
    found = []
    for m in factors.modules:
        a = m.fixed_a.numpy() if m.a is None else row[slice(*m.a)].reshape(m.rank, -1)
        b = m.fixed_b.numpy() if m.b is None else row[slice(*m.b)].reshape(-1, m.rank)
        found.append(m.scale * b @ a)
    return found


def plain_values(row, factors):
    row = row.to(torch.float64).numpy()
    return np.concatenate([row[first:stop] for first, stop in factors.plain] or [row[:0]])


def dense_change(row, anchor, factors):
    """s (B_i A_i - B A) of all modules and the plain columns as one long numpy vector.

    By s (dB A_i + B dA): the same matrix without the rounding of a difference of large ones.
    """
    base, delta = anchor.to(torch.float64).numpy(), row.to(torch.float64).numpy()
    parts = []
    for m in factors.modules:
        b = m.fixed_b.numpy() if m.b is None else base[slice(*m.b)].reshape(-1, m.rank)
        a = m.fixed_a.numpy() if m.a is None else base[slice(*m.a)].reshape(m.rank, -1)
        db = 0 * b if m.b is None else delta[slice(*m.b)].reshape(-1, m.rank)
        da = 0 * a if m.a is None else delta[slice(*m.a)].reshape(m.rank, -1)
        parts.append((m.scale * (db @ (a + da) + b @ da)).ravel())
    return np.concatenate([*parts, plain_values(row, factors)])


def dense_point(point):
    """A LowRank as one long numpy vector, in the order of ``dense_change``."""
    parts = [(left @ right).numpy().ravel() for left, right in point.pairs]
    return np.concatenate([*parts, point.plain.numpy()])


def best(matrix, rank):
    """The best approximation of a rank, and the energy that it leaves out, by dense SVD."""
    u, s, vh = np.linalg.svd(matrix)
    return (u[:, :rank] * s[:rank]) @ vh[:rank], (s[rank:] ** 2).sum()


def in_other_gauge(row, anchor, factors, seed, *, condition=10.0, scale=1.0):
    """The delta row of (B S, S⁻¹ A), S random of this condition, times ``scale``."""
    local = (anchor.to(torch.float64) + row.to(torch.float64)).clone()
    draw = generator(seed)
    for m in factors.modules:
        u, v = (
            torch.linalg.qr(torch.randn(m.rank, m.rank, generator=draw, dtype=torch.float64)).Q
            for _ in range(2)
        )
        s = scale * u @ torch.diag(torch.logspace(0, np.log10(condition), m.rank).double()) @ v
        b = local[slice(*m.b)].reshape(-1, m.rank) @ s
        a = torch.linalg.solve(s, local[slice(*m.a)].reshape(m.rank, -1))
        local[slice(*m.b)], local[slice(*m.a)] = b.flatten(), a.flatten()
    return (local - anchor.to(torch.float64)).to(row.dtype)
