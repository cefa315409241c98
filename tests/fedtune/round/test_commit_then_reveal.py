"""With commitments no client can answer to another's reply, and the run is the same run."""

import pytest
from left_by_a_run import adapter_bytes

from fedtune.messages import wire
from fedtune.messages.message import REVEAL, ConfigRecord, Message, RecordDict
from fedtune.node.kept_back import kept_back, shown
from fedtune.records.events import Refused
from fedtune.records.folder import RunFolder
from fedtune.round.screening.commitments import Occasion
from fedtune.runs.loop import Run
from fedtune.simulation import client
from fedtune.transport.local import LocalTransport

BOUND = {"commit_then_reveal": True}


def run_of(recipe, observer=lambda event: None, transport=None):
    folder, recipe = RunFolder.create(recipe)
    transport = transport or LocalTransport(client.app, recipe.federation.num_clients)
    Run(recipe, folder, observer).serve(transport)
    return folder


class TamperingTransport(LocalTransport):
    """Client 1's replies pass through a function before the server sees them."""

    def __init__(self, tamper, num_clients=4):
        super().__init__(client.app, num_clients)
        self.tamper, self.seen = tamper, {}

    def pull(self, ids):
        replies = super().pull(ids)
        for reply in replies:
            kind, node = reply.kind, reply.node_id
            if node == 3:
                reply.content = self.tamper(kind, reply.content, self.seen)
            self.seen[kind, node] = reply.content
        return replies


def test_a_run_with_commitments_ends_in_the_bits_of_one_without(tiny_recipe):
    plain = run_of(tiny_recipe())
    seen = []
    bound = run_of(tiny_recipe(federation=BOUND), seen.append)
    assert adapter_bytes(bound) == adapter_bytes(plain)
    assert not [event for event in seen if isinstance(event, Refused)]


@pytest.mark.parametrize("kind", ["copied", "copied both", "changed", "silent", "unbound"])
def test_who_answers_to_another_is_refused_by_name(tiny_recipe, kind):
    def tamper(step, content, seen):
        revealed = step == REVEAL
        if kind == "copied" and revealed:  # the first client's reply, once it is shown
            return seen[REVEAL, 2]
        if kind == "copied both" and step != "query":
            return seen.get((step, 2), content)
        if kind == "changed" and revealed:
            content[wire.ABOUT]["note"] = "an afterthought"
        if kind == "silent" and step == "train":
            return RecordDict()
        if kind == "unbound" and step == "train":
            return RecordDict({wire.ABOUT: ConfigRecord({"commitment": "f" * 64})})
        return content

    refused = []

    def observe(event):
        if isinstance(event, Refused):
            refused.append((event.client, event.reason))

    recipe = tiny_recipe(federation={**BOUND, "num_rounds": 1}, aggregator={"name": "mean"})
    folder = run_of(recipe, observe, TamperingTransport(tamper))
    ((who, reason),) = refused
    assert who == 1
    expected = "it committed to nothing" if kind == "silent" else "not what it committed to"
    assert expected in reason
    record = folder.read_metrics()[-1]
    assert set(record["clients"]) == {"0", "2", "3"}
    assert set(record["refused"]) == {"1"}


def test_simulated_liars_on_the_protocol_lie_when_they_show(tiny_recipe):
    attack = {"name": "nan", "num_attackers": 1}
    recipe = tiny_recipe(federation={**BOUND, "num_rounds": 1}, attack=attack)
    record = run_of(recipe).read_metrics()[-1]
    assert ["not what it committed to" in why for why in record["refused"].values()] == [True]


def test_a_reply_is_shown_once_and_for_its_round_alone():
    state = RecordDict()
    reply = RecordDict({wire.ABOUT: ConfigRecord({"round": 3})})
    kept_back(reply, state, Occasion("run", 3, 1))
    with pytest.raises(ValueError, match="kept back for round 4"):
        shown(state, 4)
    salted = shown(state, 3)
    assert set(salted) == {wire.ABOUT, "salt"}
    assert not list(state)
    with pytest.raises(ValueError, match="there is none"):
        shown(state, 3)


def test_an_order_to_show_carries_no_anchor(tiny_recipe):
    sent = []

    class Noting(LocalTransport):
        def push(self, message, *, most):
            sent.append(message)
            return super().push(message, most=most)

    recipe = tiny_recipe(federation={**BOUND, "num_rounds": 1})
    run_of(recipe, transport=Noting(client.app, 4))
    orders = [each for each in sent if each.kind == REVEAL]
    assert len(orders) == 4
    assert all(isinstance(each, Message) and set(each.content) == {wire.ORDER} for each in orders)
