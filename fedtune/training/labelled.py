"""TRL's LM head on labelled positions alone, whatever the device.

TRL's fused head projects the positions that have a label where Triton is at hand. Elsewhere it
projects all of them, prompts and padding too, so that a compiler for fixed shapes need not start
anew with each batch, and throws away what has none. No device of ours compiles so, and on a CPU
most of a small model's step is the head.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from functools import cache

_CHOICE = "compact = _use_triton("


@contextlib.contextmanager
def labelled_alone() -> Iterator[None]:
    """Within it TRL's fused heads leave out positions without a label.

    Log-probabilities of the others, and gradients, are the same; what a position without a label
    gets is zero in both. A TRL that chooses in another way is left as it is.
    """
    from trl.trainer import utils

    if not _chooses():
        yield
        return
    found = utils._use_triton
    utils._use_triton = lambda device: True
    try:
        yield
    finally:
        utils._use_triton = found


@cache
def _chooses() -> bool:
    """Whether this TRL chooses as is known here."""
    from trl.trainer import utils

    source = inspect.getsource(utils.add_fused_lm_head)
    return hasattr(utils, "_use_triton") and source.count(_CHOICE) == 1
