"""Nobody commits to a try of a round once anyone has shown a reply to it, whatever goes wrong.

The clients are toys, whose delta tells by its numbers of which try it is; they commit, keep back
and show as the real client does. Not proven here: that other seeds hide the second try's updates
from whoever saw the first one's; both start from one anchor, and learn from the same rows.
"""

import json

import pytest
import torch
from left_by_a_run import adapter_bytes
from toy_federation import (
    ANCHOR,
    CountingTransport,
    introduction,
    toy_app,
    toy_content,
    toy_recipe,
    toy_server,
)
from written import as_written

from fedtune.messages import wire
from fedtune.messages.message import Client, RecordDict
from fedtune.node.kept_back import kept_back, shown
from fedtune.records.events import Replied, RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.round.screening.commitments import Occasion
from fedtune.runs.loop import Run
from fedtune.simulation import client as real_client
from fedtune.training.process import get_worker
from fedtune.transport.local import LocalTransport

F, CLIENTS = 3, 10
ATTACKERS = {0, 1, 2}
AWAY = 9  # an honest client


def order_of(message):
    return message.content.config_records[wire.ORDER]


def learnt(message, client):
    """A delta of numbers that name the round and the try, near the same for all."""
    order = order_of(message)
    row = torch.full((16,), order["round"] + order["try"] / 8 + client / 1000)
    return toy_content(message, row)


def committing_app(*, silent=lambda step, client, order: False, content_of=learnt):
    """The toy Client that commits and shows; ``silent`` says who fails at which step."""
    app = Client()

    @app.on("query")
    def query(message, context):
        return message.reply(introduction(context.node_config["partition-id"]))

    @app.on("train")
    def commit(message, context):
        client, order = context.node_config["partition-id"], order_of(message)
        if silent("commit", client, order):
            raise ValueError("away")
        occasion = Occasion(order["anchor_hash"], order["round"], client, order["try"])
        said = kept_back(content_of(message, client), context.state, occasion)
        return message.reply(said)

    @app.on("train.reveal")
    def reveal(message, context):
        client, order = context.node_config["partition-id"], order_of(message)
        if silent("show", client, order):
            raise ValueError("away")
        said = shown(context.state, order["round"], try_=order["try"])
        return message.reply(said)

    return app


def recipe_of(**federation):
    keys = {"num_rounds": 3, "commit_then_reveal": True, **federation}
    return toy_recipe(CLIENTS, aggregator={"name": "trimmed_mean", "f": F}, **keys)


def played(app, *, rounds=1, folder=None, **federation):
    """The server after so many rounds, whether each stepped, and who was asked what."""
    transport = CountingTransport(app, CLIENTS)
    server = toy_server(recipe_of(**federation), transport, folder=folder)
    stepped = [server.run_round(transport, round_) for round_ in range(1, rounds + 1)]
    return server, stepped, transport.asked


def asked_for(kind, asked):
    return [client for each, client in asked if each == kind]


@pytest.mark.parametrize("step", ["commit", "show"])
def test_f_who_never_show_neither_void_a_round_nor_stop_a_run(step):
    app = committing_app(silent=lambda now, client, _: now == step and client in ATTACKERS)
    server, stepped, asked = played(app, rounds=3)
    assert stepped == [True] * 3
    assert asked_for("train", asked) == [*range(CLIENTS)] * 3  # once a round: nothing was void
    assert not server.record.void
    assert (server.record.try_number, server.record.attempt) == (0, 0)


def missing_at_first(step, client, order):
    """Attackers commit and never show; one honest client is away while the first try lasts."""
    if client in ATTACKERS:
        return step == "show"
    return client == AWAY and order["try"] == 0


def test_a_try_that_was_shown_and_is_too_small_is_void_and_the_next_has_other_seeds():
    # 10 commit or are away: 6 show, trimmed_mean at f = 3 needs 7. The second try asks the six and
    # who was away, not the three: 7 of mean 1 + 1/8 + (3 + ... + 9) / 7000, the median of them.
    server, stepped, asked = played(committing_app(silent=missing_at_first))
    assert stepped == [True]
    assert asked_for("train", asked) == [*range(CLIENTS), *range(3, CLIENTS)]
    assert asked_for("train.reveal", asked) == [*range(9), *range(3, CLIENTS)]
    record = as_written(server.record)
    assert (record["try"], record["attempt"]) == (1, 1)
    (void,) = record["void"]
    assert (void["try"], set(void["clients"])) == (0, {"3", "4", "5", "6", "7", "8"})
    assert "needs n >= 2f + 1: got n=6" in void["reason"]
    for client in void["clients"]:  # what was shown and does not count stays in the record
        assert void["clients"][client]["reply"] != record["clients"][client]["reply"]
    need = "it committed in try 0 of this round and showed no good reply"
    assert record["refused"] == dict.fromkeys("012", need)
    moved = server.outer.anchor - ANCHOR
    torch.testing.assert_close(moved, torch.full((16,), 1 + 1 / 8 + 6 / 1000))


def test_who_was_away_is_never_asked_to_commit_to_a_try_that_others_have_shown():
    """The attack: stay silent, look at what the others show, and commit in the retry."""
    orders = []

    def noting(step, client, order):
        orders.append((step, client, order["round"], order["try"]))
        return missing_at_first(step, client, order)

    played(committing_app(silent=noting))
    open_tries = {}
    for step, client, *which in orders:
        if step == "show":
            open_tries.setdefault(tuple(which), client)
        else:
            assert tuple(which) not in open_tries, f"client {client} commits after others showed"
    assert len(open_tries) == 2


def test_too_few_commitments_are_kept_and_none_is_shown_before_there_are_enough():
    away = dict.fromkeys(range(3, 8), 1)  # at the first order, and there at the second

    def late(step, client, order):
        return step == "commit" and away.pop(client, 0) > 0

    server, stepped, asked = played(committing_app(silent=late))
    assert stepped == [True]
    assert asked_for("train", asked) == [*range(CLIENTS), *range(3, 8)]
    assert asked_for("train.reveal", asked) == [*range(CLIENTS)]
    assert asked.index(("train.reveal", 0)) > asked.index(("train", 7))
    assert server.record.try_number == 0
    assert not server.record.void


def test_a_run_that_never_gets_enough_commitments_stops_and_has_shown_nothing():
    server, stepped, asked = played(
        committing_app(silent=lambda step, client, _: step == "commit" and client < 4)
    )
    assert stepped == [False]
    assert asked_for("train.reveal", asked) == []
    assert "got n=6" in server.objection()
    assert torch.equal(server.outer.anchor, ANCHOR)


def test_who_shows_something_else_than_it_committed_to_is_not_asked_again():
    def content_of(message, client):
        content = learnt(message, client)
        if client in ATTACKERS:
            content.config_records[wire.ABOUT]["round"] = 7  # bound to it, and no good reply
        return content

    app = committing_app(
        silent=lambda _, client, order: client == AWAY and order["try"] == 0, content_of=content_of
    )
    _, stepped, asked = played(app)
    assert stepped == [True]
    assert asked_for("train", asked) == [*range(CLIENTS), *range(3, CLIENTS)]


def test_a_run_that_goes_on_after_a_stop_does_not_ask_again_for_what_was_shown(tmp_path):
    app = committing_app(silent=missing_at_first)
    first, stepped, _ = played(app, folder=tmp_path, max_retries=0)
    assert stepped == [False]
    assert not first.record.void
    # Another process, the same folder: the file that the first one left says that try 0 was shown.
    app = committing_app(silent=lambda *_: False)
    server, stepped, asked = played(app, folder=tmp_path, max_retries=0)
    assert stepped == [True]
    assert asked_for("train", asked) == [*range(CLIENTS)]
    (void,) = server.record.void
    assert (void.number, set(void.clients)) == (0, set(range(9)))
    assert void.reason == "the run stopped after replies were shown"
    assert server.record.try_number == 1
    told = json.loads((tmp_path / "tries.json").read_text())
    assert [each["try"] for each in told["void"]] == [0, 1]
    server.tries.close()
    assert not (tmp_path / "tries.json").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"round": 1}', '{"round": 1, "void": [{"try": 3}]}', '{"void": []}']
)
def test_a_damaged_note_of_what_was_shown_stops_the_run_by_name(tmp_path, text):
    (tmp_path / "tries.json").write_text(text)
    with pytest.raises(RunStoppedError, match=r"tries\.json is damaged"):
        played(committing_app(), folder=tmp_path)


def test_a_note_of_another_round_says_nothing_of_this_one(tmp_path):
    (tmp_path / "tries.json").write_text('{"round": 4, "void": [{"try": 0}]}')
    server, stepped, _ = played(committing_app(), folder=tmp_path)
    assert stepped == [True]
    assert server.record.try_number == 0


def test_without_commitments_good_replies_stay_and_no_try_is_void():
    away = set(range(4))

    def once(message, client):
        if client in away:
            away.remove(client)
            raise ValueError("away")
        return learnt(message, client)

    server, stepped, asked = played(toy_app(once), commit_then_reveal=False)
    assert stepped == [True]
    assert asked_for("train", asked) == [*range(CLIENTS), *range(4)]
    assert not {"try_number", "void"} & server.record.model_fields_set
    assert server.outer.anchor.sub(ANCHOR).lt(1.1).all()  # the next try's would be 1 + 1/8


@pytest.mark.parametrize("odd", [True, -1, 1.0, "1", [0]])
def test_a_try_is_a_count(odd):
    assert wire.try_of({}) == 0
    assert wire.try_of({"try": 2}) == 2
    with pytest.raises(ValueError, match="needs a try that is a count"):
        wire.try_of({"try": odd})


def test_a_client_shows_no_reply_of_another_try():
    state = RecordDict()
    kept_back(RecordDict(), state, Occasion("run", 3, 1, 1))
    with pytest.raises(ValueError, match="kept back for round 3, try 0"):
        shown(state, 3)
    assert set(shown(state, 3, try_=1)) == {"salt"}


def test_another_try_draws_other_rows_and_the_first_one_those_of_before(tiny_recipe):
    worker = get_worker(tiny_recipe().model_dump_json())
    before = worker.trainer.train(worker.initial, client=0, round_=2)
    again, other, third = (
        worker.trainer.train(worker.initial, client=0, round_=2, try_=try_) for try_ in range(3)
    )
    assert torch.equal(again.delta, before.delta)
    assert not torch.equal(other.delta, before.delta)
    assert not torch.equal(third.delta, other.delta)
    same = worker.trainer.train(worker.initial, client=0, round_=2, try_=1)
    assert torch.equal(other.delta, same.delta)


def test_a_run_killed_while_replies_are_shown_goes_on_under_other_seeds(tiny_recipe):
    recipe = tiny_recipe(federation={"commit_then_reveal": True, "num_rounds": 2})
    folder, recipe = RunFolder.create(recipe)

    def interrupt(event):
        if isinstance(event, Replied) and event.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run(recipe, folder, interrupt).serve(LocalTransport(real_client.app, 4))
    assert (folder.path / "tries.json").is_file()
    Run(recipe, folder).serve(LocalTransport(real_client.app, 4))
    first, second = folder.read_metrics()[1:]
    assert (first["try"], second["try"]) == (0, 1)
    assert [each["try"] for each in second["void"]] == [0]
    assert not (folder.path / "tries.json").exists()
    undisturbed, recipe = RunFolder.create(recipe)
    Run(recipe, undisturbed).serve(LocalTransport(real_client.app, 4))
    assert adapter_bytes(folder) != adapter_bytes(undisturbed)
