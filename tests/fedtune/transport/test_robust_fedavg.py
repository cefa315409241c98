"""The Flower Strategy in somebody else's Flower app: real messages, a real ServerApp loop.

The app is a least-squares model whose clients send whole weights back, as Flower's examples do.
Not proven here: Flower's other grids (the messages are the same), and models with more arrays.
"""

import numpy as np
import pytest
import torch
from flower_grid import FlowerGrid
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

import aggregators
from fedtune.transport.flower.robust_fedavg import RobustFedAvg

TARGET = np.array([[1.0, -2.0], [0.5, 3.0]], dtype=np.float32)
INITIAL = ArrayRecord(
    {"w": Array(np.zeros((2, 2), np.float32)), "count": Array(np.array([3], np.int64))}
)
LIARS = {1, 4}


def towards(client, w):
    """An honest step: half the way to a target that differs a little between clients."""
    own = TARGET + 0.01 * client
    return (w + 0.5 * (own - w)).astype(np.float32)


def app_of(lie):
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        w = message.content["arrays"]["w"].numpy()
        arrays = {"w": Array(towards(client, w)), "count": Array(np.array([99], np.int64))}
        metrics = {"loss": float(client), "num-examples": 10}
        if client in LIARS:
            lie(arrays, metrics, w)
        content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)}
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        return Message(
            RecordDict({"metrics": MetricRecord({"loss": 1.0, "num-examples": 1})}),
            reply_to=message,
        )

    return app


def far(arrays, metrics, w):
    arrays["w"] = Array(np.full((2, 2), -1e6, np.float32))
    metrics["num-examples"] = 10**9


def run(strategy, lie, rounds=6):
    grid = FlowerGrid(app_of(lie), num_clients=9)
    result = strategy.start(grid, INITIAL, num_rounds=rounds)
    return result.arrays["w"].numpy() if "w" in result.arrays else None


def test_liars_do_not_move_it_and_flowers_own_mean_is_ruined():
    robust = RobustFedAvg("trimmed_mean", f=2, mixing=("nnm",))
    w = run(robust, far)
    assert np.abs(w - TARGET).max() < 0.2
    assert {robust.report["weights"][client + 2] for client in LIARS} == {0.0}
    plain = run(RobustFedAvg("mean", f=0), far)
    assert np.abs(plain - TARGET).max() > 1e4


def test_without_liars_the_mean_is_the_mean_of_what_clients_sent():
    w = run(RobustFedAvg("mean", f=0), lambda *_: None, rounds=1)
    want = np.mean([towards(c, np.zeros((2, 2), np.float32)) for c in range(9)], axis=0)
    assert np.allclose(w, want, atol=1e-6)


def test_counters_stay_the_servers():
    strategy = RobustFedAvg("median", f=2)
    result = strategy.start(FlowerGrid(app_of(far), num_clients=9), INITIAL, num_rounds=2)
    assert result.arrays["count"].numpy().tolist() == [3]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda a: a.update(w=Array(np.full((2, 2), np.nan, np.float32))), "not finite"),
        (lambda a: a.update(w=Array(np.zeros((2, 3), np.float32))), "needs"),
        (lambda a: a.update(w=Array(np.zeros((2, 2), np.float64))), "needs"),
        (lambda a: a.pop("w"), "differs in 'w'"),
        (lambda a: a.update(more=Array(np.zeros(1, np.float32))), "differs in 'more'"),
        (lambda a: a.update(w=Array(np.zeros(10**6, np.float32))), "at most"),
        (lambda a: a["w"].__dict__.update(data=b"nonsense"), ""),
    ],
)
def test_a_bad_reply_is_refused_by_node_and_reason(spoil, reason):
    strategy = RobustFedAvg("krum", f=2)
    w = run(strategy, lambda arrays, metrics, w: spoil(arrays), rounds=5)
    assert np.abs(w - TARGET).max() < 0.3
    assert set(strategy.report["refused"]) == {client + 2 for client in LIARS}
    assert all(reason in why for why in strategy.report["refused"].values())


def test_a_reply_that_only_float64_can_hold_is_refused_and_the_run_goes_on():
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        w = towards(client, message.content["arrays"]["w"].numpy()).astype(np.float64)
        if client in LIARS:
            w[0, 1] = 1e300
        content = {"arrays": ArrayRecord({"w": Array(w)})}
        content["metrics"] = MetricRecord({"loss": 0.0, "num-examples": 1})
        return Message(RecordDict(content), reply_to=message)

    strategy = RobustFedAvg("geometric_median", f=2, fraction_evaluate=0.0)
    start = ArrayRecord({"w": Array(np.zeros((2, 2)))})
    result = strategy.start(FlowerGrid(app, num_clients=9), start, num_rounds=5)
    assert np.abs(result.arrays["w"].numpy() - TARGET).max() < 0.2
    assert set(strategy.report["refused"]) == {client + 2 for client in LIARS}
    assert all("within float32" in why for why in strategy.report["refused"].values())


def reply_of(node, w):
    content = {"arrays": ArrayRecord({"w": Array(w)}), "metrics": MetricRecord({"num-examples": 1})}
    message = Message(RecordDict(content), dst_node_id=1, message_type="train")
    message.metadata._src_node_id = node
    return message


def strategy_that_sent(w, rule, **how):
    strategy = RobustFedAvg(rule, **how)
    strategy._sent = {"w": w}
    return strategy


def test_what_the_rule_refuses_moves_nothing():
    # The rows are good; the exact search of minimum_variance over random ones needs many nodes.
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(12, 30)).astype(np.float32)
    strategy = strategy_that_sent(rows[0] * 0, "minimum_variance", f=4, options={"max_nodes": 1})
    replies = [reply_of(k, row) for k, row in enumerate(rows, start=1)]
    assert strategy.aggregate_train(1, replies) == (None, None)
    assert "weights" not in strategy.report


def test_a_model_that_would_not_be_finite_moves_nothing():
    # No client's reply in float16 is beyond 65,504; noise of 1e9 times their norms is.
    sent = np.full(3, 6e4, np.float16)
    strategy = strategy_that_sent(sent, "norm_clip", f=0, options={"noise": 1e9})
    replies = [reply_of(k, sent - np.float16(k * 32)) for k in range(1, 6)]
    assert strategy.aggregate_train(1, replies) == (None, None)


def test_histories_follow_nodes_whose_ids_fill_64_bits():
    high = 2**63 + 5
    strategy = strategy_that_sent(np.zeros(3, np.float32), "foolsgold", f=0)
    rows = {high: [1, 0, 0], 7: [0, 1, 0], 2**64 - 1: [0, 0, 1]}
    for nodes in ([high, 7, 2**64 - 1], [2**64 - 1, high]):
        replies = [reply_of(node, np.array(rows[node], np.float32)) for node in nodes]
        moved, _ = strategy.aggregate_train(1, replies)
        assert moved is not None
        assert set(strategy.report["weights"]) == set(nodes)
    # By number: 7 first, once, then 2**63 + 5 and 2**64 - 1, twice.
    assert strategy._state["history"].tolist() == [[0, 1, 0], [2, 0, 0], [0, 0, 2]]


def test_too_few_good_replies_move_nothing():
    strategy = RobustFedAvg("krum", f=3)  # needs 9, and two are refused
    run(strategy, lambda arrays, metrics, w: arrays.pop("w"), rounds=1)
    assert strategy._state == {}
    replies, none = strategy.aggregate_train(1, [])
    assert (replies, none) == (None, None)


def test_metrics_that_cannot_be_read_do_not_end_the_run():
    def lie(arrays, metrics, w):
        metrics.clear()

    w = run(RobustFedAvg("median", f=2), lie, rounds=2)
    assert np.isfinite(w).all()


def test_a_history_follows_the_node():
    strategy = RobustFedAvg("centered_clipping", f=2, options={"steps": 2})
    run(strategy, far, rounds=2)
    assert set(strategy._state) == {"center"}
    assert torch.isfinite(strategy._state["center"]).all()


def test_what_a_rule_refuses_is_refused_when_it_is_named():
    with pytest.raises(ValueError, match="did you mean 'krum'"):
        RobustFedAvg("krumm", f=1)
    with pytest.raises(ValueError, match="unknown option of krum"):
        RobustFedAvg("krum", f=1, options={"m": 3})


def test_it_aggregates_as_the_library_does():
    strategy = RobustFedAvg("geometric_median", f=2)
    grid = FlowerGrid(app_of(far), num_clients=9)
    result = strategy.start(grid, INITIAL, num_rounds=1)
    zero = np.zeros((2, 2), np.float32)
    rows = [np.full((2, 2), -1e6) if c in LIARS else towards(c, zero) for c in range(9)]
    stacked = torch.tensor(np.stack(rows).reshape(9, 4), dtype=torch.float32)
    want = aggregators.aggregate(stacked, "geometric_median", f=2).reshape(2, 2)
    assert np.allclose(result.arrays["w"].numpy(), want.numpy(), atol=1e-6)


def test_what_a_node_says_of_its_failure_is_logged_plain(caplog):
    hostile = "first\n\x1b]0;owned\x07\x9b2J\u202eround 3 moves nothing"
    strategy = RobustFedAvg("median", f=0)
    order = Message(RecordDict(), 7, "train")
    order.metadata.__dict__["_message_id"] = "of-this-test"
    reply = Message(error=Error(2, hostile), reply_to=order)
    with caplog.at_level("WARNING", logger="flwr"):
        strategy.aggregate_train(1, [reply])
    assert len(caplog.messages) == 2
    assert all(message.isprintable() for message in caplog.messages)
    assert all(reason.isprintable() for reason in strategy.report["refused"].values())
