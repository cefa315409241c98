"""What an adapter is worth on rows that were held out, and what the model says with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from torch import Tensor

from fedtune.adapters.ranks import widen
from fedtune.training.backdoor import Plant, backdoor_success, plant_prompts
from fedtune.training.client_data import ClientData
from fedtune.training.client_round import looked_at
from fedtune.training.generation import complete
from fedtune.training.loaded import LoadedModel
from fedtune.training.questions import Question, questions
from fedtune.training.scores import Score, load_scores, mean_scores, needs_truth
from fedtune.training.tasks import Figures, Shown

if TYPE_CHECKING:
    from datasets import Dataset


class Evaluator:
    """Measures adapters of a recipe.

    Args:
        loaded: The model.
        data: The rows.
    """

    def __init__(self, loaded: LoadedModel, data: ClientData) -> None:
        self._loaded, self._data = loaded, data
        self._section = loaded.recipe.evaluation
        self._asked: dict[int | None, list[Question]] = {}

    def measure(self, row: Tensor, *, client: int | None = None) -> Figures:
        """Held-out figures of an adapter: of the global split, or of one client's own rows.

        Args:
            row: A float32 row of the whole layout, or with ``client`` of the client's own.
            client: Whose rows.
        """
        asked = self._scored(client) if self._section.scores else []
        figures = self._measure(self._whole(row, client), self._data.held_out(client))
        if not asked:
            return figures
        answers = self._answer(asked, batch_size=self._section.batch_size)
        scores = mean_scores(self._scores, asked, answers)
        return replace(figures, others={**figures.others, **scores})

    def loss(self, row: Tensor, *, client: int) -> float:
        """The held-out loss alone; arguments are those of `measure`."""
        return self._measure(self._whole(row, client), self._data.held_out(client)).loss

    def _whole(self, row: Tensor, client: int | None) -> Tensor:
        loaded = self._loaded
        layout = loaded.layout if client is None else loaded.layout_of(client)
        return widen(row, layout, loaded.layout)

    def server_loss(self, row: Tensor) -> float:
        """Loss of an adapter, a float32 row of the whole layout, on the rows the server keeps."""
        count = len(self._data.train_rows(None))
        return self._measure(row, self._data.drawn(None, range(count))).loss

    def loss_on_rows_of(self, clients: Sequence[int], row: Tensor, *, each: int) -> float:
        """Mean loss of an adapter, a float32 row of the whole layout, on some rows of each client.

        Args:
            clients: Whose rows, those that they train on.
            row: The adapter.
            each: How many of each, the first ones.
        """
        losses = []
        for client in clients:
            count = min(each, len(self._data.train_rows(client)))
            losses.append(self._measure(row, self._data.drawn(client, range(count))).loss)
        return sum(losses) / len(losses)

    def _measure(self, row: Tensor, rows: Dataset) -> Figures:
        loaded = self._loaded
        loaded.write(row)  # after the rows: a reference that is asked about them writes
        return loaded.task.measure(rows, loaded.learner, batch_size=self._section.batch_size)

    def backdoor_success(self, row: Tensor, *, plant: Plant, target: str) -> float:
        """Share of held-out prompts that, with a trigger in them, are answered with the target.

        Args:
            row: A float32 row of the whole layout.
            plant: Puts the trigger into the prompt of a data row.
            target: The text.
        """
        loaded, section = self._loaded, self._section
        chosen = self._data.split.test[: section.backdoor_rows]
        rows = looked_at(self._data.rows.select(chosen), loaded.task)
        prompts = plant_prompts(rows.to_list(), loaded.learner, plant=plant, target=target)
        loaded.write(row)
        return backdoor_success(
            prompts,
            loaded.model,
            loaded.base.tokenizer,
            target=target,
            batch_size=section.batch_size,
        )

    def samples(self, row: Tensor) -> list[Shown]:
        """The first held-out rows, and what the model makes of them under an adapter."""
        loaded, section = self._loaded, self._section
        if loaded.task.asks and (asked := self._questions(None, section.samples)):
            loaded.write(row)
            pairs = zip(asked, self._answer(asked, batch_size=1), strict=True)
            return [Shown(each.prompt, each.truth, text) for each, text in pairs]
        rows = self._data.held_out(None)
        rows = rows.select(range(min(section.samples, len(rows))))
        loaded.write(row)
        return loaded.task.show(rows, loaded.learner, max_new_tokens=section.max_new_tokens)

    @cached_property
    def _scores(self) -> dict[str, Score]:
        return load_scores(self._section.scores)

    def _scored(self, client: int | None) -> list[Question]:
        """The held-out rows whose answers are scored; made once."""
        if client not in self._asked:
            section = self._section
            asked = self._questions(client, section.max_rows)
            if needs_truth(section.scores):
                asked = [each for each in asked if each.truth]
            if not asked:
                whose = "the" if client is None else f"client {client}'s"
                raise ValueError(
                    f"evaluation.scores: {whose} held-out rows have no prompt with a right answer; "
                    "name a source with prompt and completion, or leave scores out"
                )
            self._asked[client] = asked[: section.score_rows]
        return self._asked[client]

    def _answer(self, asked: Sequence[Question], *, batch_size: int) -> list[str]:
        """What the model, as it stands, answers greedily."""
        loaded = self._loaded
        return complete(
            [each.ids for each in asked],
            loaded.model,
            loaded.base.tokenizer,
            max_new_tokens=self._section.max_new_tokens,
            batch_size=batch_size,
        )

    def _questions(self, client: int | None, most: int) -> list[Question]:
        """The first held-out rows of which something may be asked, as questions."""
        data, loaded, section = self._data, self._loaded, self._section
        data.held_out(client)  # to prepare rows may give the tokenizer its template
        split = data.split if client is None else data.parts[client]
        rows = looked_at(data.rows.select(split.test[: section.max_rows]), loaded.task)
        room = section.max_new_tokens
        return list(islice(questions(rows, loaded.learner, max_new_tokens=room), most))
