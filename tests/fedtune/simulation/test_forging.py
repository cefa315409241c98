"""A transport with attackers on it: what they draw, what passes, and that screening holds.

What the lies do to a run is in test_protocol_attackers.py.
"""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_federation import (
    LAYOUT,
    ShuffledTransport,
    toy_app,
    toy_content,
    toy_delta,
    toy_recipe,
    toy_rounds,
    toy_server,
)

import attacks
from attacks.protocol import PROTOCOL
from fedtune.adapters.layout import Layout
from fedtune.messages import wire
from fedtune.messages.message import QUERY, Message, RecordDict
from fedtune.records.events import RunStoppedError
from fedtune.round.gather import Gathered, Limits, stream
from fedtune.round.screening.screen import RefusedError, screen_content
from fedtune.simulation.adversary import byzantine_clients
from fedtune.simulation.forging import ForgingTransport, read_reply, with_attackers, write_reply
from fedtune.transport.local import LocalTransport


def lying_recipe(name, num_clients, num_attackers, *, where=None, **federation):
    options = {} if where is None else {"where": where}
    attack = {"name": name, "num_attackers": num_attackers, **options}
    return toy_recipe(num_clients, attack=attack, **federation)


def forged_rows(recipe, transport, round_):
    """What each liar sends in a round, as it leaves the lying transport."""
    server = toy_server(recipe, transport)
    server.begin_round(round_)
    server.record.attempt = 0
    messages = server.orders_to_train(round_)
    client_of = {node: client for client, node in server.roster.nodes.items()}
    by_client = {client_of[message.node_id]: message for message in messages}
    lying, lost = with_attackers(transport, recipe, client_of, round_=round_)
    gathered, limits = Gathered(), Limits(None, 10**9)
    replies = stream(lying, by_client, gathered, limits=limits, stop=threading.Event(), lost=lost)
    rows = {gathered.sender(reply): read_reply(reply.content).arrays for reply in replies}
    return {client: LAYOUT.flatten(rows[client]) for client in byzantine_clients(recipe)}


def test_what_a_liar_draws_follows_the_seed_the_round_and_itself_and_not_the_order():
    recipe = lying_recipe("huge", 7, 5, where="one")
    first = forged_rows(recipe, LocalTransport(toy_app(), 7), 1)
    for seed in range(3):
        again = forged_rows(recipe, ShuffledTransport(toy_app(), 7, seed=seed), 1)
        assert all(torch.equal(first[client], again[client]) for client in first)

    def places(round_, **federation):
        recipe = lying_recipe("huge", 7, 5, where="one", **federation)
        rows = forged_rows(recipe, LocalTransport(toy_app(), 7), round_)
        return [int(row.argmax()) for _, row in sorted(rows.items())]

    # 5 places of 16 are drawn by each: all alike by chance once in 16^4, two rounds in 16^5.
    assert len(set(places(1))) > 1
    assert places(1) != places(2)
    assert places(1) != places(1, seed=1)


def test_an_attack_that_cannot_be_carried_out_stops_the_run_and_says_so():
    recipe = toy_recipe(3, attack={"name": "wrong_keys", "how": "swapped", "num_attackers": 1})
    alike = toy_app(lambda message, client: toy_content(message, torch.ones(16)))
    liar = min(byzantine_clients(recipe))
    with pytest.raises(
        RunStoppedError,
        match=f"attack failed at client {liar}: .*swapped needs two different arrays of one shape",
    ):
        toy_rounds(recipe, alike)


def test_other_attacks_and_honest_runs_keep_their_grid():
    transport = LocalTransport(toy_app(), 3)
    for attack in (None, {"name": "alie", "z": 1.0, "num_attackers": 1}):
        same, lost = with_attackers(
            transport, toy_recipe(3, attack=attack), {2: 0, 3: 1, 4: 2}, round_=1
        )
        assert same is transport
        assert not lost


def test_a_lying_grid_is_the_true_one_in_all_else():
    transport = LocalTransport(toy_app(), 3)
    recipe = lying_recipe("silence", 3, 3)
    lying, lost = with_attackers(transport, recipe, {2: 0, 3: 1, 4: 2}, round_=1)
    assert isinstance(lying, ForgingTransport)
    assert lying.node_ids() == [2, 3, 4]
    assert lying.public_keys() is None
    pushed = lying.push(Message(RecordDict(), 2, QUERY), most=10**6)
    (reply,) = lying.pull([pushed])
    assert reply.reply_to == pushed
    assert not lost


def test_a_reply_that_is_read_and_written_again_is_the_same_to_the_byte():
    LocalTransport(toy_app(), 1)
    agreement = wire.Agreement("base", "tokenizer", "anchor")
    content = wire.train_reply(
        toy_delta(0, 1), LAYOUT, round_=3, agreement=agreement, train_loss=0.5
    )
    again = write_reply(read_reply(content), content)
    for name, array in content.array_records[wire.DELTA].items():
        assert again.array_records[wire.DELTA][name].data == array.data
    assert again.config_records[wire.ABOUT] == content.config_records[wire.ABOUT]
    assert again.metric_records[wire.METRICS] == content.metric_records[wire.METRICS]


FORGERIES = [
    (name, {key: choice})
    for name, attack in PROTOCOL.items()
    for key, option in attack.options.items()
    for choice in (option.choices or (option.default,))
]
SHAPES = st.lists(
    st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple), min_size=1, max_size=4
)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(SHAPES, st.sampled_from(FORGERIES), st.integers(0, 2**31), st.floats(-3, 38))
def test_no_forgery_crashes_the_screen(shapes, forgery, seed, exponent):
    name, options = forgery
    layout = Layout(tuple((f"t{k}", shape) for k, shape in enumerate(shapes)))
    agreement = wire.Agreement("base", "tokenizer", "anchor")
    draw = torch.Generator().manual_seed(seed)
    row = torch.rand(layout.size, generator=draw) * 10**exponent
    content = wire.train_reply(row, layout, round_=2, agreement=agreement, train_loss=1.0)
    try:
        sent = attacks.forge(read_reply(content), name, generator=draw, **options)
    except ValueError as error:
        assert "swapped needs two different arrays" in str(error)  # noqa: PT017
        return
    well_formed = name in ("huge", "reply_twice") or options.get("how") == "swapped"
    for forged in sent:
        finite = all(torch.isfinite(array).all() for array in forged.arrays.values())
        said = read(write_reply(forged, content), layout, agreement)
        # The second of two replies is ten times the first, and may leave float32.
        assert (said is None) == (well_formed and finite), said
        assert len(said or "") <= 300


def read(content, layout, agreement):
    """Why the screen refuses it; None if it does not, and then the row is finite."""
    try:
        row, _ = screen_content(content, layout, round_=2, agreement=agreement)
    except RefusedError as refusal:
        return str(refusal)
    assert torch.isfinite(row).all()
    return None
