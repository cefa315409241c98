"""f through a whole round: no silence and no refusal stops a run or lowers f without proof.

Of n clients the default assumes f attackers. They are split in all ways into silent, refused with
proof (no correct client sends such a reply), refused without it, and accepted. Not proven here: how
far the accepted move the model, see test_capped_spectral_under_search.py.
"""

import math

import pytest
import torch
from splits_of_attackers import ACCEPTED, ANCHOR, PROVABLE, UNPROVABLE, WORDS, Table, splits
from toy_federation import (
    SilentTransport,
    honest,
    toy_app,
    toy_content,
    toy_delta,
    toy_recipe,
    toy_rounds,
    toy_server,
)
from written import as_written

from fedtune.records.events import RunStoppedError
from fedtune.round.hooks import NoHooks
from fedtune.transport.local import LocalTransport

ALL_OF_TWENTY = pytest.param(20, 6, 1, marks=pytest.mark.slow)


@pytest.mark.parametrize(("n", "f", "every"), [(7, 2, 1), (10, 3, 1), (20, 6, 7), ALL_OF_TWENTY])
def test_no_split_of_the_attackers_stops_a_round_or_silences_more_than_f(n, f, every):
    table = Table(n)
    assert table.f == f
    seen, rounds = set(), 0
    for split in list(splits(f))[::every]:
        silent, proven, refused, accepted = split
        kinds = table.kinds(split)
        server, stepped = table.round(kinds)
        record = as_written(server.record)
        assert stepped, split
        left = n - silent - proven - refused
        assert record["f"] == max(f - proven, 1), split
        assert record["proven_faulty"] == [k for k in kinds if kinds[k] in PROVABLE], split
        assert set(record["refused"]) == {str(k) for k in kinds if kinds[k] in WORDS}
        for client, reason in record["refused"].items():
            assert WORDS[kinds[int(client)]] in reason
        assert "skipped_mixings" not in record
        weights = {int(k): facts["weight"] for k, facts in record["clients"].items()}
        assert len(weights) == left == n - f + accepted, split
        assert max(weights.values()) <= 1 / (left - record["f"]) + 1e-12, split
        assert sum(weight == 0 for weight in weights.values()) <= record["f"], split
        assert sum(facts["dropped"] for facts in record["clients"].values()) <= record["f"], split
        assert server.outer.anchor.isfinite().all()
        assert not torch.equal(server.outer.anchor, ANCHOR)
        seen |= set(kinds.values())
        rounds += 1
    # Four groups: as many splits as ways to set three bars among f attackers.
    assert rounds == math.comb(f + 3, 3) / every
    if f > 2:  # two attackers do not go round all kinds
        assert seen == {"silent", *PROVABLE, *UNPROVABLE, *ACCEPTED}


@pytest.mark.parametrize("kind", ["silent", "gauge"])
def test_one_more_than_f_leaves_too_few_and_moves_nothing(kind):
    # 2f + 1 = 7 of ten are needed at f = 3: the control of the test above.
    table = Table(10)
    server, stepped = table.round(dict.fromkeys([1, 4, 7, 8], kind))
    assert not stepped
    assert server.objection().startswith("capped_spectral needs n >= 2f + 1: got n=6, f=3")
    assert torch.equal(server.outer.anchor, ANCHOR)


def test_one_of_f_stays_however_many_are_proven_faulty():
    # Five of ten send no number, more than f = 3. At f = 0 a sixth key would meet the mean.
    table = Table(10)
    server, stepped = table.round(dict.fromkeys([1, 4, 7, 8, 9], "not finite"))
    assert stepped
    assert server.record.f == 1
    weights = [facts.weight for facts in server.record.clients.values()]
    assert len(weights) == 5
    assert 0 < min(weights) <= max(weights) <= 1 / 4 + 1e-12


def test_silence_by_the_clock_takes_nothing_off_f():
    recipe = toy_recipe(
        10, aggregator={"name": "capped_spectral", "f": 3}, engine="ray", round_timeout_s=0.4
    )
    transport = SilentTransport(toy_app(), 10, silent=[0, 4, 9])
    server, stepped = toy_rounds(recipe, toy_app(), transport=transport)
    assert stepped == [True]
    assert (server.record.f, len(server.record.clients)) == (3, 7)
    assert server.record.proven_faulty == []


class SendsNoNumber(NoHooks):
    """A simulated attacker, client 0, whose update holds no number."""

    def on_updates(self, fresh, view):
        return {0: torch.full((16,), math.nan)} if 0 in fresh else {}


@pytest.mark.parametrize("simulated", [False, True])
def test_a_simulated_attacker_that_is_refused_counts_as_a_real_one_does(simulated):
    def content_of(message, client):
        no_number = client == 0 and not simulated
        row = torch.full((16,), math.nan) if no_number else toy_delta(client, 1)
        return toy_content(message, row)

    recipe = toy_recipe(7, aggregator={"name": "capped_spectral", "f": 2})
    transport = LocalTransport(toy_app(content_of), 7)
    hooks = SendsNoNumber() if simulated else None
    server = toy_server(recipe, transport, hooks=hooks)
    assert server.run_round(transport, 1)
    record = as_written(server.record)
    assert (record["f"], record["proven_faulty"], len(record["clients"])) == (1, [0], 6)
    assert "not finite" in record["refused"]["0"]


def retried(second):
    """Seven at f = 2: client 0 sends no number and four fail; then `second` replies for client 0.

    Two good replies at f = 1 are too few, so that there is a second try.
    """
    tried = []

    def content_of(message, client):
        first = client not in tried
        tried.append(client)
        if client == 0 and first:
            return toy_content(message, torch.full((16,), float("nan")))
        if client < 5 and first:
            raise ConnectionError("gone")
        return second(message, client) if client == 0 else honest(message, client)

    recipe = toy_recipe(7, aggregator={"name": "capped_spectral", "f": 2}, max_retries=1)
    server, stepped = toy_rounds(recipe, toy_app(content_of))
    assert stepped == [True]
    assert server.record.attempt == 1
    assert server.record.proven_faulty == [0]
    return as_written(server.record)


def test_a_client_once_proven_faulty_that_replies_well_is_one_of_the_f():
    record = retried(honest)
    assert (record["f"], len(record["clients"])) == (2, 7)


def test_a_client_proven_faulty_twice_is_counted_once():
    record = retried(lambda message, client: toy_content(message, torch.full((16,), math.inf)))
    assert (record["f"], len(record["clients"])) == (1, 6)


def test_a_client_proven_faulty_that_falls_silent_stays_counted():
    def silent(message, client):
        raise ConnectionError("gone")

    record = retried(silent)
    assert (record["f"], len(record["clients"])) == (1, 6)


def test_a_client_refuses_to_send_what_is_not_finite(tiny_recipe, run):
    # A rate of 1e38 leaves NaN. The client says so itself: sent, it would be taken for an attack.
    recipe = tiny_recipe(
        federation={"num_rounds": 1, "max_retries": 0}, train={"learning_rate": 1e38}
    )
    words = "client 0: the client failed: ValueError: local training left a value that is not fin"
    with pytest.raises(RunStoppedError, match=words):
        run(recipe)
