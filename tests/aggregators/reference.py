"""Slow float64 loops of the papers, on the vectors themselves; no Gram matrix, no torch.

Written from the definitions. Each takes rows of shape (n, d) and returns a vector of shape (d,),
``nnm`` rows of shape (n, d).
"""

import math

import numpy as np
from reference_ties import FAR_TIE, order, squared_distance


def mean(rows, f):
    total = np.zeros(rows.shape[1])
    for row in rows:
        total = total + row
    return total / len(rows)


def median(rows, f):
    out = np.zeros(rows.shape[1])
    n = len(rows)
    for k in range(rows.shape[1]):
        column = sorted(float(value) for value in rows[:, k])
        middle = n // 2
        out[k] = column[middle] if n % 2 else 0.5 * (column[middle - 1] + column[middle])
    return out


def trimmed_mean(rows, f):
    out = np.zeros(rows.shape[1])
    n = len(rows)
    for k in range(rows.shape[1]):
        column = sorted(float(value) for value in rows[:, k])
        out[k] = math.fsum(column[f : n - f]) / (n - 2 * f)
    return out


def _distance(a, b):
    return math.sqrt(math.fsum(float(v) ** 2 for v in a - b))


def _krum_order(rows, f):
    """Client indices from the best Krum score to the worst, scores equal to 1e-9 by index."""
    n = len(rows)
    scores = []
    for i in range(n):
        others = sorted(squared_distance(rows[i], rows[j]) for j in range(n) if j != i)
        scores.append(math.fsum(others[: n - f - 2]))
    return order(scores)


def krum(rows, f):
    return rows[_krum_order(rows, f)[0]].copy()


def multi_krum(rows, f, m=None):
    return mean(rows[_krum_order(rows, f)[: len(rows) - f if m is None else m]], f)


def _middle(values):
    ordered = sorted(values)
    n = len(ordered)
    return 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])


def geometric_median(rows, f, max_steps=32, nu=1e-6, tolerance=1e-8):
    medians = [_middle([_distance(a, b) for b in rows]) for a in rows]
    if min(medians) == 0:
        start = [1.0 if m == 0 else 0.0 for m in medians]
    else:
        start = [(min(medians) / m) ** 2 for m in medians]
    z = np.zeros(rows.shape[1])
    for weight, row in zip(start, rows, strict=True):
        z = z + weight / math.fsum(start) * row
    scale = _middle([_distance(row, z) for row in rows])
    if scale == 0:
        return z
    for _ in range(max_steps):
        weights = [1 / max(nu * scale, _distance(row, z)) for row in rows]
        following = np.zeros_like(z)
        for weight, row in zip(weights, rows, strict=True):
            following = following + weight / math.fsum(weights) * row
        moved = _distance(following, z)
        z = following
        if moved <= tolerance * scale:
            break
    return z


def centered_clipping(rows, f, steps=5, radius=None, center=None):
    v = np.zeros(rows.shape[1]) if center is None else np.array(center, dtype=np.float64)
    for _ in range(steps):
        lengths = [_distance(row, v) for row in rows]
        tau = _middle(lengths) if radius is None else radius
        pull = np.zeros_like(v)
        for row, length in zip(rows, lengths, strict=True):
            pull = pull + (row - v) * (1.0 if length <= tau else tau / length)
        v = v + pull / len(rows)
    return v


def nnm(rows, f):
    n = len(rows)
    out = np.zeros_like(rows)
    for i in range(n):
        nearest = order([squared_distance(rows[i], row) for row in rows], share=FAR_TIE)
        nearest.remove(i)
        out[i] = mean(rows[[i, *nearest][: n - f]], f)
    return out


RULES = {
    "mean": mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multi_krum": multi_krum,
    "geometric_median": geometric_median,
    "centered_clipping": centered_clipping,
}
