"""A SuperLink of three nodes, quiet and looked at without a pause."""

import logging

import pytest
from superlink_in_memory import SuperLink

from fedtune.federation.link import grid as grids


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(grids, "SWEEP_S", 0.0)
    monkeypatch.setattr(logging.getLogger("flwr"), "disabled", True)


@pytest.fixture
def link(at_once):
    return SuperLink(3)
