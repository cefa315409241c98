"""What simulated attackers may do with the model of the server's process."""

from __future__ import annotations

from functools import partial

import torch

from fedtune.recipe import Recipe
from fedtune.simulation.poisoning import poison_of
from fedtune.simulation.training_ahead import Tools
from fedtune.training.worker import Worker

ROWS_OF_A_TRIAL = 32  # of each simulated attacker, where it tries an update on its own rows


def tools_of(recipe: Recipe, worker: Worker) -> Tools:
    """What simulated attackers do with the model on their own rows."""

    def train(anchor: torch.Tensor, client: int, round_: int) -> torch.Tensor:
        poison = poison_of(recipe, client, round_)
        return worker.trainer.train(anchor, client=client, round_=round_, poison=poison).delta

    return Tools(train, partial(worker.evaluator.loss_on_rows_of, each=ROWS_OF_A_TRIAL))
