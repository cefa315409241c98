"""Slow float64 loops of the papers of the filters and mixings, on the vectors; no Gram, no torch.

Written from the definitions. A rule takes rows of shape (n, d) and f and returns a vector of
shape (d,); a mixing returns rows. ``reference``, ``history`` and ``order`` are what the rule is
handed: the server's update, the clients' sums of earlier updates, the shuffle.
"""

import math
from fractions import Fraction

import numpy as np
from reference_ties import FAR_TIE, TIE, order


def _norm(row):
    return math.sqrt(math.fsum(float(v) ** 2 for v in row))


def _middle(values):
    ordered = sorted(values)
    n = len(ordered)
    return 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])


def _average(rows):
    total = np.zeros(len(rows[0]))
    for row in rows:
        total = total + row
    return total / len(rows)


def _clip(row, radius):
    length = _norm(row)
    return row * (radius / length) if length > radius else row.copy()


def _to_simplex(weights, cap):
    """Positive weights of sum one, none above the cap: those above come to it, the rest grows."""
    total = math.fsum(weights)
    weights = [w / total for w in weights]
    full = set()
    while over := {i for i, w in enumerate(weights) if w > cap} - full:
        full |= over
        rest = math.fsum(w for i, w in enumerate(weights) if i not in full)
        left = max(1 - cap * len(full), 0.0)
        weights = [cap if i in full else w * left / rest for i, w in enumerate(weights)]
    return weights


def _spread(vectors, weights):
    """Schatten norm of order 12 of the weighted covariance, and x' C^11 x of each centred row."""
    mean = sum(w * v for w, v in zip(weights, vectors, strict=True))
    away = [v - mean for v in vectors]
    rooted = np.stack([math.sqrt(w) * v for w, v in zip(weights, away, strict=True)])
    _, singular, directions = np.linalg.svd(rooted, full_matrices=False)
    if singular[0] <= 0:
        return 0.0, [1.0] * len(vectors)
    relative = (singular / singular[0]) ** 2  # eigenvalues of the covariance, over the largest
    pulls = [float(((directions @ v) ** 2) @ relative**11) for v in away]
    return float(singular[0] ** 2 * (relative**12).sum() ** (1 / 12)), pulls


def capped_spectral(rows, f):
    n = len(rows)
    if f == 0:
        return _average(rows)
    norms = [_norm(row) for row in rows]
    median = _middle(norms)
    radius = min(sorted(norms, reverse=True)[f], 1.5 * median)
    cut = [_clip(row, radius) for row in rows]
    if median == 0:
        return _average(cut)
    both = []
    for k, (row, length) in enumerate(zip(rows, norms, strict=True)):
        whole = row * (median / max(length, 1e-3 * median))
        own = np.zeros(n)  # what a short row lacks of the median norm, in a direction of its own
        if length < 1e-3 * median:
            own[k] = math.sqrt(median**2 - _norm(whole) ** 2)
        both.append(np.concatenate([cut[k], whole, own]) / median)
    weights, path = [1 / n] * n, []
    for step in range(54):
        spread, pulls = _spread(both, weights)
        path.append((max(spread, 1e-14), weights))
        if spread <= 1e-14:
            break
        average = math.fsum(w * pull for w, pull in zip(weights, pulls, strict=True))
        size = 0.1 if step < 5 else 0.25
        moved = [
            w * math.exp(-size * (min(pull / average, 10) - 1))
            for w, pull in zip(weights, pulls, strict=True)
        ]
        weights = _to_simplex(moved, 1 / (n - f))
    first = min(5, len(path) - 1)
    bound = 2 * min(spread for spread, _ in path[first:])
    at = next(k for k in range(first, len(path)) if path[k][0] <= bound)
    share = 1.0
    if at > first:
        before, after = math.log(path[at - 1][0]), math.log(path[at][0])
        share = (before - math.log(bound)) / (before - after)
    out = np.zeros(rows.shape[1])
    for k, row in enumerate(cut):
        earlier = path[at - 1][1][k] if at > first else 0.0
        out = out + ((1 - share) * earlier + share * path[at][1][k]) * row
    return out


def cge(rows, f):
    shortest = order([_norm(row) for row in rows])
    return _average([rows[i] for i in shortest[: len(rows) - f]])


def dnc_scores(rows):
    """Squared projections on the top right singular vector; on all of them where they tie."""
    centred = rows - _average(rows)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    scores = np.zeros(len(rows))
    for value, direction in zip(singular, directions, strict=True):
        if value**2 >= singular[0] ** 2 * (1 - TIE):
            scores = scores + np.array([math.fsum(row * direction) ** 2 for row in centred])
    return scores


def dnc(rows, f, c=1.0):
    lengths = [math.sqrt(score) for score in dnc_scores(rows)]
    least = order(lengths, share=FAR_TIE, floor=1e-14 * max(lengths))
    return _average([rows[i] for i in least[: len(rows) - math.ceil(Fraction(str(c)) * f)]])


def _cosine(a, b):
    if not a.any() or not b.any():
        return 0.0
    return math.fsum(a / _norm(a) * (b / _norm(b)))


def fltrust(rows, f, reference):
    trust = [max(0.0, _cosine(row, reference)) for row in rows]
    out = np.zeros(rows.shape[1])
    for score, row in zip(trust, rows, strict=True):
        if score > 0:
            out = out + score / math.fsum(trust) * _norm(reference) * (row / _norm(row))
    return out


def _apart(a, b):
    """One minus the cosine: half the squared distance of the directions, which keeps its digits.

    A zero vector has no direction: 1. Below 1e-28 it is the rounding of the two directions: 0.
    """
    if not a.any() or not b.any():
        return 1.0
    half = 0.5 * math.fsum((a / _norm(a) - b / _norm(b)) ** 2)
    return half if half > 1e-28 else 0.0


def foolsgold_trust(rows, history, kappa=1.0):
    n = len(rows)
    summed = rows + history
    apart = [[min(1.0, _apart(summed[i], summed[j])) for j in range(n)] for i in range(n)]
    v = [max([1 - apart[i][j] for j in range(n) if j != i], default=0.0) for i in range(n)]
    alpha = []
    for i in range(n):
        pardoned = []
        for j in range(n):
            if j != i:
                cosine = 1 - apart[i][j]
                pardoned.append(cosine * v[i] / v[j] if v[j] > v[i] else cosine)
        alpha.append(1 - max(pardoned, default=0.0) if summed[i].any() else 0.0)
    if max(alpha) == 0:
        return [0.0] * n
    trust = []
    for value in alpha:
        share = value / max(alpha)
        logit = (
            math.inf if share == 1 else -math.inf if share == 0 else math.log(share / (1 - share))
        )
        trust.append(min(1.0, max(0.0, kappa * (logit + 0.5))))
    return trust


def foolsgold(rows, f, history=None, kappa=1.0):
    history = np.zeros_like(rows) if history is None else history
    trust = foolsgold_trust(rows, history, kappa)
    out = np.zeros(rows.shape[1])
    for weight, row in zip(trust, rows, strict=True):
        if weight > 0:
            out = out + weight / math.fsum(trust) * row
    return out


def majority(distances):
    """The connected set of the least threshold at which one holds more than half.

    Distances within 1e-9 of the threshold are at it.
    """
    n = len(distances)
    for threshold in sorted({float(v) for row in distances for v in row}):
        for start in range(n):
            found, queue = {start}, [start]
            while queue:
                i = queue.pop()
                for j in range(n):
                    if j not in found and distances[i][j] <= threshold * (1 + TIE):
                        found.add(j)
                        queue.append(j)
            if len(found) >= n // 2 + 1:
                return sorted(found)
    return None


def flame(rows, f, noise=0.0):
    n = len(rows)
    distances = [[_apart(rows[i], rows[j]) if i != j else 0.0 for j in range(n)] for i in range(n)]
    radius = _middle([_norm(row) for row in rows])
    return _average([_clip(rows[i], radius) for i in majority(distances)])


def norm_clip(rows, f, radius=None, noise=0.0):
    radius = _middle([_norm(row) for row in rows]) if radius is None else radius
    return _average([_clip(row, radius) for row in rows])


def bucketing(rows, f, order, s=2):
    shuffled = [rows[i] for i in order]
    return np.array([_average(shuffled[k : k + s]) for k in range(0, len(rows), s)])


def clipping(rows, f, radius=None):
    radius = _middle([_norm(row) for row in rows]) if radius is None else radius
    return np.array([_clip(row, radius) for row in rows])


def arc(rows, f):
    n = len(rows)
    lengths = sorted((_norm(row) for row in rows), reverse=True)
    return np.array([_clip(row, lengths[math.floor(Fraction(2 * f, n) * (n - f))]) for row in rows])


def agreement(rows, f):
    n = len(rows)
    agreed, spreads = [], []
    for i in range(n):
        cosines = []
        for j in range(n):
            if j != i:
                lengths = _norm(rows[i]) * _norm(rows[j])
                cosines.append(math.fsum(rows[i] * rows[j]) / lengths if lengths > 0 else 0.0)
        agreed.append(round(_middle(cosines), 9) if cosines else 0.0)
        here = _middle(cosines) if cosines else 0.0
        spreads.append(_middle([abs(value - here) for value in cosines]) if cosines else 0.0)
    upper = sorted(agreed, reverse=True)[: n - f]
    middle = _middle(upper)
    spread = 1.4826 * max(
        _middle([abs(value - middle) for value in upper]),
        1.2533 * _middle(spreads) / math.sqrt(max(n - 1, 1)),
    )
    against = [
        i
        for i in sorted(range(n), key=lambda i: (agreed[i], i))[:f]
        if agreed[i] < 0 and agreed[i] < middle - 2 * spread
    ]
    return np.array([rows[i] for i in range(n) if i not in against])


RULES = {
    "capped_spectral": capped_spectral,
    "cge": cge,
    "dnc": dnc,
    "fltrust": fltrust,
    "foolsgold": foolsgold,
    "flame": flame,
    "norm_clip": norm_clip,
}
MIXINGS = {"bucketing": bucketing, "clipping": clipping, "arc": arc, "agreement": agreement}
