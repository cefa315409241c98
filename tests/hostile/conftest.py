"""A SuperLink of three nodes, quiet and looked at without a pause."""

import logging

import pytest
from flwr.superlink.servicer.fleet import fleet_handlers
from superlink_in_memory import SuperLink

from fedtune.federation.link import grid as grids
from fedtune.federation.link.replies_alone import guard_handlers


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(grids, "SWEEP_S", 0.0)
    monkeypatch.setattr(logging.getLogger("flwr"), "disabled", True)


@pytest.fixture
def link(at_once):
    return SuperLink(3)


@pytest.fixture
def guarded(monkeypatch):
    """fedtune's checks before the handlers of what nodes ask."""
    for name, handler in guard_handlers(fleet_handlers).items():
        monkeypatch.setattr(fleet_handlers, name, handler)
