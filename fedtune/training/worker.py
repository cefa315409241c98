"""One process's base model, adapter and data, shared by every client that runs there."""

from __future__ import annotations

from fedtune.recipe import Recipe
from fedtune.training.client_data import ClientData
from fedtune.training.evaluator import Evaluator
from fedtune.training.loaded import LoadedModel
from fedtune.training.trainer import LocalTrainer


class Worker(LoadedModel):
    """The loaded model with what is done with it; a client-round writes, trains and reads it.

    Attributes:
        data: Whose rows are whose.
        trainer: Runs clients' local steps.
        evaluator: Measures adapters.
    """

    def __init__(self, recipe: Recipe, *, own: int | None = None) -> None:
        super().__init__(recipe)
        self.data = ClientData(recipe, self.learner, own=own)
        loaded = self.handle()
        self.trainer = LocalTrainer(loaded, self.data)
        self.evaluator = Evaluator(loaded, self.data)
