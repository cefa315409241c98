"""A real run with one client in another gauge, (100 B, A/100): the same model, other numbers.

Not proven here: that liars who hide in a gauge are caught (the attack suite), other ranks of S
(test_product_rounds.py).
"""

import pytest

from fedtune.adapters.ranks import side_of
from fedtune.messages import wire
from fedtune.simulation import client
from fedtune.training.process import get_worker
from fedtune.transport.local import LocalTransport

CLIENT, FACTOR = 2, 100.0


def regauged(anchor, delta, layout):
    """The same local adapter as (100 B, A/100), as a delta in float32."""
    local = layout.unflatten((anchor + delta).double())
    for name, values in local.items():
        side = side_of(name)
        values.mul_({"a": 1 / FACTOR, "b": FACTOR}[side[1]] if side else 1.0)
    return (layout.flatten({k: v.float() for k, v in local.items()}).double() - anchor).float()


class Regauging(LocalTransport):
    """The local transport, on which one honest client writes its adapter in another gauge."""

    def _reply_to(self, message):
        reply = super()._reply_to(message)
        if message.kind != "train" or message.node_id != CLIENT + 2:
            return reply
        order = message.content.config_records[wire.ORDER]
        layout = get_worker(str(order["recipe"])).layout
        anchor = wire.from_arrays(message.content.array_records[wire.ANCHOR], layout)
        delta = wire.from_arrays(reply.content.array_records[wire.DELTA], layout)
        content = wire.train_reply(
            regauged(anchor, delta, layout),
            layout,
            round_=order["round"],
            agreement=wire.read_agreement(order),
            train_loss=1.0,
        )
        return message.reply(content)


def losses(recipe, run):
    """The held-out loss of the base, of the run, of the run with the gauge; the client's weight."""
    found = []
    for grid_class in (LocalTransport, Regauging):
        transport = grid_class(client.app, recipe.federation.num_clients)
        records = run(recipe, transport=transport).read_metrics()
        found.append(records[-1]["eval"]["loss"])
    weight = records[-1]["clients"][str(CLIENT)]["weight"]
    return records[0]["eval"]["loss"], *found, weight


def of_nano(tiny_recipe, aggregator):
    """Four clients who learn docstrings on nano: B grows enough for a gauge to do harm."""
    return tiny_recipe(
        model={"name_or_path": "nano"},
        lora={"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
        data={"source": "python-docs", "max_rows": 400, "partition": {"by": "iid"}},
        train={"learning_rate": 2e-3, "per_device_train_batch_size": 8, "max_length": 128},
        federation={"num_clients": 4, "num_rounds": 2, "local_steps": 6},
        evaluation={"max_rows": 32},
        aggregator=aggregator,
    )


@pytest.mark.slow
def test_in_product_geometry_the_loss_is_the_same(tiny_recipe, run):
    recipe = of_nano(tiny_recipe, {"name": "mean", "geometry": "product"})
    base, plain, other, weight = losses(recipe, run)
    assert plain < base - 0.5
    assert other == pytest.approx(plain, abs=1e-3)
    assert weight == 0.25


@pytest.mark.slow
def test_in_factor_geometry_the_mean_is_ruined(tiny_recipe, run):
    base, plain, other, _ = losses(of_nano(tiny_recipe, {"name": "mean"}), run)
    assert plain < base - 0.5
    assert other > base + 0.5


@pytest.mark.parametrize("name", ["geometric_median", "trimmed_mean"])
@pytest.mark.parametrize("geometry", ["product", "factors"])
def test_only_product_geometry_keeps_the_honest_client(tiny_recipe, run, name, geometry):
    aggregator = {"name": name, "f": 1, "mixing": ["nnm"], "geometry": geometry}
    recipe = tiny_recipe(federation={"num_clients": 5, "num_rounds": 2}, aggregator=aggregator)
    _, plain, other, weight = losses(recipe, run)
    if geometry == "product":
        assert other == pytest.approx(plain, abs=1e-4)
        assert weight > 0.05
    else:
        assert weight == 0
