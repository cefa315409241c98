"""FoolsGold: by hand, and with histories over rounds in which not every client takes part.

Not proven here: that it finds sybils who take care to differ; its paper says that it does not.
Agreement with the slow loops on many cases is in test_filter_rules.py.
"""

import math

import numpy as np
import pytest
import torch
from reference_filters import foolsgold, foolsgold_trust
from test_rules_against_reference import assert_close, gaussian

from aggregators import AGGREGATORS, aggregate, aggregate_with_report
from aggregators.engine.gram import gram


def run(rows, name, **options):
    return aggregate_with_report(rows, name, f=0, **options)


def test_foolsgold():
    # a (1, 0, 0) and b (3, 4, 0): cosine 0.6. c (0, 0, 2) is like nobody. One minus: 0.4 0.4 1.
    # logit(0.4) + 0.5 = ln(2/3) + 0.5 = 0.0945; c's is infinite, cut to 1.
    rows = torch.tensor([[1.0, 0.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    trust = math.log(2 / 3) + 0.5
    result = run(rows, "foolsgold")
    assert result.report["trust"] == pytest.approx([trust, trust, 1])
    assert result.report["likeness"] == pytest.approx([0.6, 0.6, 0])
    shares = [t / (1 + 2 * trust) for t in (trust, trust, 1)]
    assert result.weights.tolist() == pytest.approx(shares)
    doubled = run(rows, "foolsgold", kappa=2.0).report["trust"]
    assert doubled == pytest.approx([2 * trust, 2 * trust, 1])


def test_foolsgold_pardons_the_less_alike():
    # c turned towards b, cosine 0.28; still none to a. v = 0.6 0.6 0.28, so c's cosine to b is
    # pardoned to 0.28 * 0.28 / 0.6 and its one minus is 0.8693; a and b: 0.4 / 0.8693 = 0.4601.
    rows = torch.tensor([[1, 0, 0], [0.6, 0.8, 0], [0, 0.35, (1 - 0.35**2) ** 0.5]])
    share = 0.4 / (1 - 0.28**2 / 0.6)
    trust = math.log(share / (1 - share)) + 0.5
    got = run(rows.to(torch.float64), "foolsgold").report["trust"]
    assert got == pytest.approx([trust, trust, 1], rel=1e-6)


def test_foolsgold_puts_sybils_out_and_agreeing_clients_too():
    rows = gaussian(8, 200)
    rows[5:] = rows[5] * torch.tensor([[1.0], [2.0], [1e8]])  # one direction, three lengths
    weights = run(rows, "foolsgold").weights
    assert weights[5:].tolist() == [0, 0, 0]
    assert (weights[:5] > 0.1).all()
    # Its weakness: equal honest clients are sybils as well, and nothing changes.
    result = run(gaussian(1, 20).repeat(5, 1), "foolsgold")
    assert result.weights.tolist() == [0] * 5
    assert not result.aggregate.any()


def test_foolsgold_does_not_put_out_who_resembles_nobody():
    # Client 0 is against all others, at most by -0.12 against 4, which has 0.02 to its nearest.
    # Taken literally, the pardon makes a cosine of -0.12 * -0.12 / 0.02 = 0.7 of that.
    rows = [[-0.8, -0.6, 0], [1, 0.1, 0], [1, -0.1, 0], [1, 0.05, 0], [0, 0.2, 0.98]]
    assert run(torch.tensor(rows), "foolsgold").report["trust"][0] == 1


def test_foolsgold_remembers_the_clients_of_other_rounds():
    # Three rounds of five of seven clients: 2 and 4 push one way over time, with noise of their
    # own in each round. By the state: the history, one row for each client ever seen.
    aim, sums, state = gaussian(1, 9, seed=9)[0], {}, None
    for seed, clients in enumerate(([0, 1, 2, 3, 4], [6, 4, 2, 5, 0], [2, 3, 4, 5, 6])):
        rows = gaussian(5, 9, seed=20 + seed)
        for k, client in enumerate(clients):
            rows[k] += aim if client in (2, 4) else 0
        past = np.array([sums.get(client, np.zeros(9)) for client in clients])
        before = {} if state is None else {key: value.clone() for key, value in state.items()}
        result = run(rows, "foolsgold", state=state, clients=clients)
        assert_close(result.aggregate, foolsgold(rows.numpy(), 0, history=past), 1e-10)
        trust = foolsgold_trust(rows.numpy(), past)
        assert result.report["trust"] == pytest.approx(trust, abs=1e-10)
        forgetful = aggregate(rows, "foolsgold", f=0)
        assert torch.equal(result.aggregate, forgetful) == (state is None)
        assert all(torch.equal(state[key], value) for key, value in before.items())
        for client, row in zip(clients, rows, strict=True):
            sums[client] = sums.get(client, 0) + row.numpy()
        state = result.state
        assert state["clients"].tolist() == sorted(sums)
        assert np.allclose(state["history"].numpy(), [sums[k] for k in sorted(sums)], rtol=1e-14)


def test_sybils_at_the_end_of_float32_do_not_break_their_history():
    # 3e38 + 3e38 is inf in float32, and a history that is not finite is refused in every round.
    state, honest = None, []
    for seed in range(3):
        rows = gaussian(8, 30, seed=seed).to(torch.float32)
        rows[6:] = 3e38
        result = aggregate_with_report(rows, "foolsgold", f=2, state=state)
        state = result.state
        assert result.weights[6:].tolist() == [0, 0]
        honest.append(rows[:6].to(torch.float64))
    assert state["history"].dtype == torch.float64
    assert state["history"][6:].tolist() == [[3 * float(rows[6, 0])] * 30] * 2
    assert torch.equal(state["history"][:6], honest[0] + honest[1] + honest[2])


def test_a_history_in_float32_is_taken_up_in_float64():
    # As an older state has it: 2**24 + 1 is 2**24 in float32.
    rows = torch.eye(3)
    state = {"history": torch.eye(3) * 2**24, "clients": torch.arange(3)}
    after = aggregate_with_report(rows, "foolsgold", f=0, state=state).state["history"]
    assert after.dtype == torch.float64
    assert after.diagonal().tolist() == [2**24 + 1] * 3


def test_foolsgold_needs_the_histories_in_a_gram_handed_in():
    rows = gaussian(8, 4)
    with pytest.raises(ValueError, match=r"foolsgold needs n=8 extra points, .* got 0; compute"):
        AGGREGATORS["foolsgold"].function(gram(rows), f=0)
    points = gram(rows, extra=list(torch.zeros_like(rows)))
    got = aggregate(rows, "foolsgold", f=0, gram=points)
    assert torch.equal(got, aggregate(rows, "foolsgold", f=0))
