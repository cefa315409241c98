"""Slow float64 loops of the papers' rules on columns; no Gram matrix, no sorting network, no torch.

Written from the definitions, on rows of shape (n, d). The mean around a point sorts all values by
their distance to it; the code slides a window over the sorted column instead.
"""

import math

import numpy as np
from reference_ties import first_least, order, squared_distance


def _column(rows, k):
    return [float(value) for value in rows[:, k]]


def _middle(values):
    ordered = sorted(values)
    n = len(ordered)
    return 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])


def _mean_nearest(values, point, count):
    """Average the count values nearest the point; of two equally near to 1e-9 the lower."""
    ordered = sorted(values)
    nearest = order([abs(value - point) for value in ordered])[:count]
    return math.fsum(ordered[i] for i in nearest) / count


def meamed(rows, f):
    out = np.zeros(rows.shape[1])
    for k in range(rows.shape[1]):
        column = _column(rows, k)
        out[k] = _mean_nearest(column, _middle(column), len(column) - f)
    return out


def phocas(rows, f):
    out = np.zeros(rows.shape[1])
    for k in range(rows.shape[1]):
        column = _column(rows, k)
        n = len(column)
        trimmed = math.fsum(sorted(column)[f : n - f]) / (n - 2 * f)
        out[k] = _mean_nearest(column, trimmed, n - f)
    return out


def bulyan_selection(rows, f):
    """List the picks: n - 2f times Krum's choice among the rows left, ties by index."""
    left, picks = list(range(len(rows))), []
    while len(picks) < len(rows) - 2 * f:
        scores = []
        for i in left:
            others = sorted(squared_distance(rows[i], rows[j]) for j in left if j != i)
            scores.append(math.fsum(others[: max(len(left) - f - 2, 1)]))
        picks.append(left.pop(first_least(scores)))
    return picks


def bulyan(rows, f):
    picked = rows[bulyan_selection(rows, f)]
    out = np.zeros(rows.shape[1])
    for k in range(rows.shape[1]):
        column = _column(picked, k)
        out[k] = _mean_nearest(column, _middle(column), len(column) - 2 * f)
    return out


def _sign(value):
    return int(value > 0) - int(value < 0)


def sign_majority(rows, f, step=None):
    if step is None:
        step = _middle([math.sqrt(math.fsum(row**2) / len(row)) for row in rows])
    out = np.zeros(rows.shape[1])
    for k in range(rows.shape[1]):
        out[k] = step * _sign(sum(_sign(value) for value in rows[:, k]))
    return out


def rlr(rows, f, theta=None):
    theta = 2 * f + 1 if theta is None else theta
    out = np.zeros(rows.shape[1])
    for k in range(rows.shape[1]):
        column = _column(rows, k)
        agreed = abs(sum(_sign(value) for value in column)) >= theta
        out[k] = math.fsum(column) / len(column) * (1 if agreed else -1)
    return out


RULES = {
    "meamed": meamed,
    "phocas": phocas,
    "bulyan": bulyan,
    "sign_majority": sign_majority,
    "rlr": rlr,
}
