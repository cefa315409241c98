"""Float64 references of the rules that choose subsets or filter rows, on the vectors themselves.

Written from the definitions: every subset is looked at. No Gram code, no torch. Each takes rows
of shape (n, d) and returns a vector of shape (d,).
"""

import functools
import itertools
import math

import numpy as np
from reference_ties import TIE, squared_distance


@functools.cache
def _subsets(n, f):
    """Every (n-f)-subset of n rows in lexicographic order, as rows of ones and zeros."""
    chosen = np.array(list(itertools.combinations(range(n), n - f)))
    members = np.zeros((len(chosen), n), dtype=bool)
    np.put_along_axis(members, chosen, True, axis=1)
    return members


def _first_least(members, measures):
    """Indices of the lexicographically first subset whose measure is least, to 1e-9 of it."""
    first = np.flatnonzero(measures <= measures.min() * (1 + TIE))[0]
    return np.flatnonzero(members[first])


def _squares(rows):
    n = len(rows)
    squares = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            squares[i, j] = squares[j, i] = squared_distance(rows[i], rows[j])
    return squares


def _mean(rows):
    return np.array([math.fsum(column) / len(rows) for column in rows.T])


def mda_subset(rows, f):
    squares, members = _squares(rows), _subsets(len(rows), f)
    diameters = np.zeros(len(members))
    for i, j in itertools.combinations(range(len(rows)), 2):
        both = members[:, i] & members[:, j]
        diameters[both] = np.maximum(diameters[both], squares[i, j])
    return _first_least(members, diameters)


def mda(rows, f, max_nodes=None):
    return _mean(rows[mda_subset(rows, f)])


def minimum_variance_subset(rows, f):
    squares, members = _squares(rows), _subsets(len(rows), f)
    sums = np.zeros(len(members))
    for i, j in itertools.combinations(range(len(rows)), 2):
        sums[members[:, i] & members[:, j]] += squares[i, j]
    return _first_least(members, sums)


def minimum_variance(rows, f, max_nodes=None):
    return _mean(rows[minimum_variance_subset(rows, f)])


def smea_subset(rows, f):
    members = _subsets(len(rows), f)
    tops = np.zeros(len(members))
    for k, member in enumerate(members):
        kept = rows[member] - rows[member].mean(axis=0)
        wide = kept.shape[1] > kept.shape[0]
        tops[k] = max(np.linalg.eigvalsh(kept @ kept.T if wide else kept.T @ kept)[-1], 0.0)
    return _first_least(members, tops)


def smea(rows, f):
    return _mean(rows[smea_subset(rows, f)])


def caf(rows, f):
    """To 1e-9: the earliest least eigenvalue, one eigenspace, weights that sum to n - 2f.

    Active rows whose top eigenvalue is 1e-13 of their squared length are one point.
    """
    # About one of the rows, which moves nothing but keeps the digits of a common offset.
    norms = np.linalg.norm(rows, axis=1)
    about = rows[np.argsort(norms, kind="stable")[(len(rows) - 1) // 2]]
    x = rows - about
    n = len(x)
    c = np.ones(n)
    best, answer, first = math.inf, x[0], True
    while first or c.sum() > (n - 2 * f) * (1 + TIE):
        first = False
        mu = np.zeros(x.shape[1])
        for i in range(n):
            if c[i] > 0:
                mu = mu + c[i] / c.sum() * x[i]
        active = [i for i in range(n) if c[i] > 0]
        scaled = np.array([math.sqrt(c[i] / c.sum()) * (x[i] - mu) for i in active])
        _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
        eigenvalues = singular**2
        if eigenvalues[0] <= 1e-13 * max(float(x[i] @ x[i]) for i in active):
            eigenvalues = 0 * eigenvalues
        if eigenvalues[0] < best * (1 - TIE):
            best, answer = eigenvalues[0], mu
        if eigenvalues[0] == 0:
            break
        tau = np.zeros(n)
        for value, v in zip(eigenvalues, directions, strict=True):
            if value >= eigenvalues[0] * (1 - TIE):
                for i in active:
                    tau[i] += float((x[i] - mu) @ v) ** 2
        for i in active:
            left = 1 - tau[i] / tau.max()
            c[i] = c[i] * left if left > 1e-9 else 0.0
    return about + answer


RULES = {
    "mda": mda,
    "minimum_variance": minimum_variance,
    "smea": smea,
    "caf": caf,
}
