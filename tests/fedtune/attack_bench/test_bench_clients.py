"""What a bench says of its clients and of its code, worked by hand: who was dropped, who weighed.

Not proven here: the gains (test_bench_numbers).
"""

import pytest
from hand_made_bench import cell_of, client, summary_of
from typed_records import typed

from fedtune.attack_bench.measured import measured, standing
from fedtune.origin import code_hash
from fedtune.records.bench_result import ClientStanding


def test_shares_of_attackers_and_honest_clients():
    def fare(told):
        clients = {
            "0": client(False, dropped=1, weight=1.2),
            "1": client(True, dropped=1, refused=2, weight=0.5),
            "2": client(False, refused=1, weight=0.8),
            "3": client(True, dropped=4, weight=0.0),
        }
        return told | {"clients": clients, "backdoor": {"before": 0.0, "after": 0.5}}

    _, table = summary_of(fare)
    cell = cell_of(table, "alie", "b")
    assert cell["refused_share"] == 2 / 8
    assert cell["attackers_dropped_share"] == 7 / 8
    assert cell["honest_dropped_share"] == 2 / 8
    assert cell["attacker_weight"] == 0.25
    assert cell["backdoor"]["mean"] == 0.5
    assert cell["worst_client"]["values"] == {"0": 5.5, "1": 6.5}
    assert cell["oracle_worst_client"]["mean"] == 6.0


def test_the_states_of_the_code_are_told():
    """Of all results, those that stopped too; what never ran has none."""

    def change(told):
        ran = told["status"] == "done"
        told |= {"code": f"state {told['seed']}", "clients": {}} if ran else {"code": None}
        return told | ({"status": "stopped"} if told["seed"] else {})

    told, _ = summary_of(change)
    assert told["code"] == ["state 0", "state 1"]
    assert told["code_now"] == code_hash()


def test_standing_over_rounds_by_hand():
    records = [
        {"round": 0, "eval": {"loss": 4.0}},
        {
            "round": 1, "eval": {"loss": 3.5}, "sampled": [0, 1, 2], "refused": {"1": "nan"},
            "clients": {"0": {"weight": 0.5, "dropped": False},
                        "2": {"weight": 0.5, "dropped": False}},
        },
        {
            "round": 2, "eval": {"loss": 3.0}, "sampled": [0, 1, 2], "refused": {},
            "clients": {"0": {"weight": 0.7, "dropped": False},
                        "1": {"weight": 0.0, "dropped": True},
                        "2": {"weight": 0.3, "dropped": False}},
            "client_eval": {"0": {"loss": 3.1}, "1": {"loss": 9.0}, "2": {"loss": 3.3}},
        },
    ]  # fmt: skip
    before = {"0": {"loss": 4.5}, "1": {"loss": 4.0}, "2": {"loss": 4.25}, "3": {"loss": 4.75}}
    records[1]["client_eval_before"] = before
    told = measured(typed(records), {1})
    assert told.clients[1] == ClientStanding(
        attacker=True, asked=2, dropped=1, refused=1, reason="nan", weight=0.0
    )
    # 3 asked: a fair share is 1/3, so 0.5 and 0.7 are 1.5 and 2.1: mean 1.8
    assert told.clients[0].weight == pytest.approx(1.8)
    # client 1 is the attacker, and does not count
    assert (told.worst_client.client, told.worst_client.loss) == (2, 3.3)
    assert told.mean_client == pytest.approx(3.2)
    assert {client: (each.before, each.after) for client, each in told.own.items()} == {
        0: (4.5, 3.1),
        2: (4.25, 3.3),
        3: (4.75, None),  # its loss is no finite number any more
    }
    assert told.curve == [(0, 4.0), (1, 3.5), (2, 3.0)]
    assert (told.base, told.loss, told.backdoor) == (4.0, 3.0, None)


def test_a_rule_without_weights_gives_none():
    def alone(round_, weight):
        return {"round": round_, "sampled": [0], "clients": {"0": {"weight": weight}}}

    record, more = typed([alone(1, None), alone(2, 0.0)])
    assert standing([record], set())[0].weight is None
    assert standing([record], set())[0].dropped is None  # not known, and not: none
    assert standing([more, record], set())[0].dropped is None
    assert standing([more, more], set())[0].dropped == 2


def test_shares_of_dropped_replies_are_not_known_where_the_rule_does_not_say():
    def fare(told):
        clients = {"0": client(False, dropped=None, weight=None), "1": client(True, refused=4)}
        return told | {"clients": clients}

    cell = cell_of(summary_of(fare)[1], "alie", "b")
    assert cell["honest_dropped_share"] is None
    assert (cell["attackers_dropped_share"], cell["refused_share"]) == (1.0, 1.0)
    # as results were written before: a rule without weights had dropped none

    def before(told):
        return told | {"clients": {"0": client(False, dropped=0, weight=None)}}

    assert cell_of(summary_of(before)[1], "alie", "b")["honest_dropped_share"] is None


def test_who_was_silenced_by_hand():
    """Weight 0 or refused: 0 in 1 of 4 rounds, 2 in 3 of 4, 3 in none: 4 of 12 rounds, of two."""

    def fare(told):
        clients = {
            "0": client(False, dropped=1),
            "1": client(True, dropped=4),
            "2": client(False, dropped=2, refused=1),
            "3": client(False),
        }
        names = ["", "", "topic code", ""]
        return told | {"clients": clients, "client_names": names} if told["seed"] else told

    _, table = summary_of(fare)
    told = table["defences"][1]["silenced"]
    # the other seed has client 0 in 4 rounds, never dropped: 4 of 16 over the two runs of b
    assert told["free"] == {
        "clients": 2, "of": 3, "share": 0.25,
        "longest": {"client": 2, "name": "topic code", "rounds": 3, "asked": 4, "attack": "none",
                    "seed": 1},
    }  # fmt: skip
    assert told["attacked"]["share"] == 0.25  # alie, nan and noise alike
    assert told["attacked"]["longest"]["attack"] == "alie"


def test_a_rule_without_weights_silences_no_one_that_is_known():
    def fare(told):
        return told | {"clients": {"0": client(False, dropped=None, weight=None)}}

    _, table = summary_of(fare)
    assert table["defences"][0]["silenced"] == {"free": None, "attacked": None}
