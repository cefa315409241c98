"""What the tests of the rules share."""

import pytest


@pytest.fixture(params=["small blocks", pytest.param("real blocks", marks=pytest.mark.slow)])
def shrink(request, monkeypatch):
    """How many times smaller the engine's blocks and stretches are than in use: 64, or 1 (slow).

    A test divides its number of columns by it, and gets as many blocks at a fraction of the work.
    """
    from aggregators.engine import columns, rows

    if request.param == "real blocks":
        return 1
    for module, name in (
        (rows, "_BLOCK_VALUES"),
        (rows, "_STRETCH_VALUES"),
        (rows, "_NARROWEST"),
        (rows, "_SHORTEST"),
        (columns, "_COUNT_ALL_BELOW"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name) // 64)
    return 64
