"""A mean over seeds and how far it can be trusted: Student's t, 95 %."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedtune.records.bench_figures import Stat

# The 0.975 quantile of Student's t by degrees of freedom, from 1.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def stat(values: Mapping[int, float | None]) -> Stat | None:
    """Mean and 95 % t-interval of one number per seed; seeds without one are left out.

    Args:
        values: By seed; at most 31 of them.

    Returns:
        The statistic, without an interval of one seed; None without any value.
    """
    known = {seed: value for seed, value in values.items() if value is not None}
    if not known:
        return None
    n, told = len(known), {str(seed): value for seed, value in known.items()}
    mean = math.fsum(known.values()) / n
    if n == 1:
        return Stat(mean=mean, values=told)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in known.values()) / (n - 1))
    half = T_975[n - 2] * spread / math.sqrt(n)
    return Stat(mean=mean, low=mean - half, high=mean + half, values=told)
