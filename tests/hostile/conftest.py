"""A SuperLink of three nodes, quiet and looked at without a pause."""

import logging
import sqlite3
import warnings

import pytest
from flwr.supercore import sql_mixin
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.servicer.fleet import fleet_handlers
from superlink_in_memory import SuperLink

from fedtune.transport.flower import grid as grids
from fedtune.transport.flower.replies_alone import guard_handlers


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


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Flower's tables, which it takes seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "superlink.db"
    with warnings.catch_warnings():  # alembic, of how Flower configures it
        warnings.simplefilter("ignore", DeprecationWarning)
        ObjectStoreFactory(str(path)).store()
    return path


@pytest.fixture
def sql(at_once, tmp_path, empty_database, monkeypatch):
    """As the SuperLink of a deployment: its store is a database."""
    path = tmp_path / "superlink.db"
    with sqlite3.connect(empty_database) as made, sqlite3.connect(path) as copy:
        made.backup(copy)
    monkeypatch.setattr(sql_mixin, "run_migrations", lambda engine: None)
    return SuperLink(3, str(path))
