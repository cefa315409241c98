"""When an attack is on, what is sent between, and where attackers who climb the loss begin."""

import pytest
import torch
import toy_federation
from product_server import LAYOUT
from test_attacks_in_a_run import ANCHOR, TOOLS, learnt
from toy_federation import ANCHOR as START
from toy_federation import toy_app, toy_recipe, toy_server

from fedtune.recipe import RecipeError, parse_recipe
from fedtune.round.broadcast import Broadcast
from fedtune.simulation.adversary import byzantine_clients, is_on, trains_for_nothing
from fedtune.simulation.poisoning import poison_of
from fedtune.simulation.training_ahead import Tools, trained_ahead
from fedtune.transport.local import LocalTransport


def recipe_of(num_rounds=4, **attack):
    return parse_recipe(
        {
            "lora": {"r": 3, "lora_alpha": 6},
            "federation": {"num_clients": 10, "num_rounds": num_rounds},
            "aggregator": {"name": "mean"},
            "attack": {"name": "ipm", "epsilon": 5.0, "num_attackers": 3, **attack},
        }
    )


def sent_rows(recipe, round_):
    """The honest rows of a round of toy clients, and the attackers', as they reach the rule."""
    transport = LocalTransport(toy_app(learnt), 10)
    server = toy_server(recipe, transport, layout=LAYOUT, anchor=ANCHOR, tools=TOOLS)
    seen = {}
    combine = server.geometry.combine

    def watched(spool, *given, **named):
        seen.update({client: spool.row(client).clone() for client in spool.clients})
        return combine(spool, *given, **named)

    server.geometry.combine = watched
    assert server.run_round(transport, round_)
    liars = sorted(byzantine_clients(recipe))
    honest = torch.stack([seen[k] for k in sorted(seen) if k not in liars])
    return honest, torch.stack([seen[k] for k in liars])


@pytest.mark.parametrize(
    ("rounds", "on"),
    [("every", [1, 2, 3, 4]), ("first", [1]), ("last", [4]), ([2, 3], [2, 3])],
)
def test_an_attack_is_on_in_its_rounds(rounds, on):
    recipe = recipe_of(rounds=rounds)
    assert [k for k in range(1, 5) if is_on(recipe, k)] == on
    for round_ in (1, 2, 4):
        honest, lying = sent_rows(recipe, round_)
        mean = honest.double().mean(0)
        wanted = -5.0 * mean if round_ in on else mean
        assert torch.allclose(lying.double(), wanted.expand(3, -1), atol=1e-5)


def test_between_its_rounds_a_client_may_send_its_own():
    recipe = recipe_of(rounds="last", between="own")
    silent = recipe.model_copy(update={"attack": None})
    liars = sorted(byzantine_clients(recipe))
    transport = LocalTransport(toy_app(learnt), 10)
    server = toy_server(silent, transport, layout=LAYOUT, anchor=ANCHOR)
    assert server.run_round(transport, 2)
    _, lying = sent_rows(recipe, 2)
    own = [facts.norm for k, facts in server.record.clients.items() if int(k) in liars]
    assert torch.allclose(lying.norm(dim=1), torch.tensor(own), rtol=1e-5)


def test_who_sends_its_own_between_is_poisoned_in_its_rounds_alone():
    given = {"name": "denoised_backdoor", "poison": "trigger", "rounds": [3]}

    def poisoned(**more):
        recipe = parse_recipe(
            {
                "federation": {"num_clients": 10, "num_rounds": 4},
                "attack": {**given, "num_attackers": 3, **more},
            }
        )
        liar = min(byzantine_clients(recipe))
        return [poison_of(recipe, liar, k) is not None for k in range(1, 5)]

    assert poisoned(between="own") == [False, False, True, False]
    assert poisoned(between="mean") == [True] * 4  # it learns from them


def test_who_trains_for_nothing_and_when():
    def idle(**attack):
        recipe = recipe_of(rounds="last", **attack)
        liar = min(byzantine_clients(recipe))
        return [trains_for_nothing(recipe, liar, k) for k in (1, 4)]

    assert idle() == [True, True]  # made of the honest updates alone
    assert idle(between="own") == [False, True]
    assert idle(knowledge="fellows") == [False, False]

    def of(name, **attack):
        section = {"name": name, "num_attackers": 3, "rounds": "last", **attack}
        counts = {"num_clients": 10, "num_rounds": 4}
        recipe = parse_recipe({"federation": counts, "attack": section})
        liar = min(byzantine_clients(recipe))
        return [trains_for_nothing(recipe, liar, k) for k in (1, 4)]

    assert of("capture") == [True, False]
    assert of("denoised_backdoor") == [False, False]  # it learns in every round
    assert of("capture", poison="ascent") == [True, True]  # trained ahead, by the adversary


def test_who_climbs_begins_where_the_server_will_stand():
    """Two honest rows with mean m; a burst adds e to where it began.

    Attackers start at m: the first burst learns e. The second starts at m + e, cut back to half
    of an honest length if it is longer, and learns e again.
    """
    poison = {"name": "ascent", "bursts": 2, "reach": 0.5}
    recipe = toy_recipe(2, attack={"name": "capture", "num_attackers": 1, "poison": poison})
    sent = Broadcast(recipe, toy_federation.LAYOUT, START, round_=1)
    d = toy_federation.LAYOUT.size
    honest = {0: torch.zeros(d), 1: torch.zeros(d)}
    honest[0][0] = honest[1][1] = 2.0
    e, began = torch.zeros(d), []
    e[2] = 3.0

    def train(anchor, client, round_):
        began.append((anchor - START).clone())
        return e

    tools = Tools(train, lambda *_: 0.0)
    (row,) = trained_ahead(recipe.attack, honest, [7], tools, sent, 1)
    m = (honest[0] + honest[1]) / 2
    assert torch.allclose(began[0], m, atol=1e-6)
    # |e| = 3 is more than half of 2: cut back to 1
    assert torch.allclose(began[1], m + e / 3, atol=1e-6)
    assert torch.allclose(row, m + e / 3 + e, atol=1e-6)


def test_ascent_raises_the_loss_in_a_real_run(tiny_recipe, run):
    losses = {}
    for name in ("ascent", "silence"):
        recipe = tiny_recipe(
            aggregator={"name": "mean", "f": 0}, attack={"name": name, "num_attackers": 2}
        )
        losses[name] = run(recipe).read_metrics()[-1]["eval"]["loss"]
    assert losses["ascent"] > losses["silence"]


def test_a_takeover_is_one_attack_section_and_runs(tiny_recipe, run):
    recipe = tiny_recipe(
        aggregator={"name": "caf", "f": 1, "mixing": ["agreement"], "geometry": "product"},
        attack={
            "name": "framing", "num_attackers": 1, "poison": {"name": "ascent", "bursts": 2},
            "rounds": "last", "between": "own", "search": {"evaluations": 40, "restarts": 2},
        },
    )  # fmt: skip
    last = run(recipe).read_metrics()[-1]
    assert last["round"] == 3
    assert last["refused"] == {}


def test_past_trial_tries_its_lies_on_the_attackers_rows(tiny_recipe, run):
    recipe = tiny_recipe(
        data={"server_rows": 4},
        defence={"server_data": True},
        aggregator={"name": "caf", "f": 1, "mixing": ["agreement"]},
        federation={"num_rounds": 1},
        attack={"name": "past_trial", "num_attackers": 1, "poison": "ascent",
                "search": {"evaluations": 20}},
    )  # fmt: skip
    record = run(recipe).read_metrics()[-1]
    # Its step does not raise the loss on the attackers' rows, nor on the server's, which are alike.
    assert record["trial"]["tries"] == [
        {"scale": 1.0, "change": record["trial"]["tries"][0]["change"], "undone": False}
    ]


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"rounds": [3, 2]}, "rounds must ascend, none twice: got [3, 2]"),
        ({"rounds": [2, 2]}, "rounds must ascend"),
        ({"rounds": []}, "rounds needs one at least"),
        ({"rounds": [0]}, "attack.rounds"),
        ({"rounds": [5]}, "attack.rounds: got round 5 of 4; lower it"),
        ({"rounds": "never"}, "attack.rounds"),
        ({"name": "silence", "rounds": "last"}, "rounds and between are of attacks on updates"),
        ({"name": "trigger", "between": "own"}, "name an attack on updates and write trigger"),
        ({"search": {}}, "ipm has no numbers to search for: search is for capture"),
        ({"name": "capture", "search": {"evaluations": 0}}, "attack.search.evaluations"),
        ({"name": "capture", "search": {"trials": 9}}, "attack.search.trials"),
    ],
)
def test_refusals(section, told):
    options = {} if "name" in section else {"epsilon": 1.0}
    with pytest.raises(RecipeError) as error:
        parse_recipe(
            {
                "federation": {"num_clients": 10, "num_rounds": 4},
                "attack": {"name": "ipm", "num_attackers": 2, **options, **section},
            }
        )
    assert told in str(error.value)
