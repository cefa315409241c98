"""Keep the loggers of transformers and TRL from telling what is meant to be so."""

from __future__ import annotations

import logging as standard
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_warnings() -> Iterator[None]:
    """Let its errors through, and nothing less."""
    from transformers.utils import logging

    level, trl = logging.get_verbosity(), standard.getLogger("trl")
    before = trl.level
    logging.set_verbosity_error()
    trl.setLevel(standard.ERROR)  # what it warns of in rows is counted, and told by client
    try:
        yield
    finally:
        logging.set_verbosity(level)
        trl.setLevel(before)
