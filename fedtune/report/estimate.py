"""What a client needs, in lines for the screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedtune.report.text import duration, size

if TYPE_CHECKING:
    from fedtune.training.estimate import Estimate


def reckoned(needs: Estimate, *, device: str, speed: float) -> Iterator[str]:
    """Memory, traffic and time of one client-round, reckoned and not measured.

    Args:
        needs: Of the recipe.
        device: What it would run on here.
        speed: Floating-point operations a second of a matrix product there.
    """
    yield (
        f"reckoned: {_count(needs.parameters)} parameters, {_count(needs.trained)} trained; a "
        f"client needs about {size(needs.training_bytes)} to train (base {size(needs.base_bytes)}, "
        f"adapter and optimizer {size(needs.adapter_bytes)}, one step up to "
        f"{size(needs.activation_bytes)}), and {size(needs.base_bytes + needs.evaluation_bytes)} "
        f"to be measured"
    )
    seconds = needs.flops / speed
    took = f"{seconds:.1f} s" if seconds < 60 else duration(seconds)
    yield (
        f"a client-round: up to {needs.tokens:,} tokens, which take this machine's {device} "
        f"{took} or more; {size(needs.upload_bytes)} up"
    )


def _count(number: int) -> str:
    for unit, least in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if number >= least:
            return f"{number / least:.3g} {unit}"
    return str(number)
