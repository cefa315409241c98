"""A row that is written anew leaves nothing of the one before on the server's disk."""

import sys
from pathlib import Path

import pytest
import torch
from toy_federation import ANCHOR, toy_app, toy_recipe, toy_server

from fedtune.round.hooks import NoHooks
from fedtune.transport.local import LocalTransport

CLIENTS = 3


class WritesAnew(NoHooks):
    """Puts another row in the place of each client's, and then looks at what is mapped."""

    def __init__(self, spooled):
        self.spooled, self.mapped = str(spooled), []

    def on_updates(self, fresh, view):
        for client in fresh:
            view.spool.put(client, torch.full((16,), float(client)))
        maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        self.mapped = [line for line in maps if self.spooled in line]
        return {}


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux has mapped")
def test_no_row_stays_mapped_once_another_is_in_its_place(tmp_path):
    # A file that is mapped keeps its blocks when it is replaced: the rows of all clients, twice.
    recipe, hooks = toy_recipe(CLIENTS), WritesAnew(tmp_path)
    transport = LocalTransport(toy_app(), CLIENTS)
    server = toy_server(recipe, transport, hooks=hooks, folder=tmp_path)
    assert server.run_round(transport, 1)
    assert torch.equal(server.outer.anchor, ANCHOR + 1)  # the mean of 0, 1 and 2
    assert hooks.mapped == []
