"""The tie rule of the references: numbers equal to 1e-9 of themselves tie; then the lowest index.

Stated here on its own; nothing of the code is used.
"""

import itertools
import math

TIE = 1e-9
FAR_TIE = 1e-12  # of what is measured from a payload, too, and decides among the others


def order(values, share=TIE, floor=0.0):
    """Indices from the least value up; values within a share of a neighbour tie, by index."""
    ranked = sorted(range(len(values)), key=lambda i: values[i])
    groups = [ranked[:1]]
    for before, i in itertools.pairwise(ranked):
        if values[i] - values[before] > share * values[i] + floor:
            groups.append([])
        groups[-1].append(i)
    return [i for group in groups for i in sorted(group)]


def first_least(values):
    return min(i for i in range(len(values)) if values[i] <= min(values) * (1 + TIE))


def squared_distance(a, b):
    """Square the distance; of rows that differ by rounding alone, as equal mixed rows do, 0."""
    squared = math.fsum((a - b) ** 2)
    return squared if squared > 1e-24 * math.fsum(a**2 + b**2) else 0.0
