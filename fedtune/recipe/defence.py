"""The defence section: what the server does beyond the rule of the round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from fedtune.recipe.section import Section
from fedtune.recipe.server_data import ServerData
from fedtune.recipe.vote import Vote

if TYPE_CHECKING:
    from fedtune.recipe.aggregator import Aggregator


class Defence(Section):
    """Parts that go with a rule on the Gram matrix; momentum with either of the others.

    The trial on server data and the vote look at the step alone, and go with every rule.
    """

    momentum: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="the rule sees each client's mean over its rounds, so much of it from before",
    )
    suspicion: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="how much of the suspicion of earlier rounds stays; who has lost more than "
        "half of its share on that average is left out, up to f",
    )
    server_data: ServerData | None = Field(
        None,
        description="undo a step that raises the loss on data.server_rows; true: with the defaults",
    )
    vote: Vote | None = Field(
        None,
        description="undo a step that the median client's held-out loss speaks against; true: "
        "with the defaults",
    )

    @field_validator("server_data", mode="before", json_schema_input_type=bool | ServerData | None)
    @classmethod
    def _server_data_or_not(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        return _yes_or_no(value)

    @field_validator("vote", mode="before", json_schema_input_type=bool | Vote | None)
    @classmethod
    def _vote_or_not(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        return _yes_or_no(value)

    def check(self, aggregator: Aggregator, *, server_rows: int) -> None:
        """Refuse parts that do not go with the rule.

        Raises:
            ValueError: Naming the key, and what to write instead.
        """
        if self.server_data and server_rows == 0:
            raise ValueError(
                "defence.server_data: needs data.server_rows: got 0; write 256, say: rows of your "
                "own that are like the clients'"
            )
        if self.momentum is not None and aggregator.combined_by != "factors":
            raise ValueError(
                "defence.momentum: averages rows, and needs aggregator.combination: factors: got "
                f"{aggregator.combined_by}; write it, or leave the momentum to outer"
            )
        if self.suspicion is not None:
            self._check_suspicion(aggregator)

    def _check_suspicion(self, aggregator: Aggregator) -> None:
        from aggregators import AGGREGATORS

        rule = AGGREGATORS[aggregator.name]
        if aggregator.f == 0:
            raise ValueError("defence.suspicion: leaves out up to f clients: got f=0; raise f")
        if rule.memory == "history" or aggregator.client_weights is not None:
            what = "client_weights" if aggregator.client_weights else aggregator.name
            raise ValueError(f"defence.suspicion: cannot go with {what}; leave out one of the two")
        if aggregator.combined_by == "dense":
            raise ValueError("defence.suspicion: cannot go with combination: dense")
        picks = aggregator.name == "krum" or aggregator.options.get("m") is not None
        if picks:
            raise ValueError(
                f"defence.suspicion: needs a rule that weighs most clients in every round: got "
                f"{aggregator.name}, under which honest ones lose their share; name caf, say"
            )
        if rule.kind != "gram":
            raise ValueError(
                f"defence.suspicion: needs a rule that weighs clients: got {aggregator.name}, "
                "which weighs coordinates; name caf, geometric_median or multi_krum, say"
            )


def _yes_or_no(value: object) -> object:
    return ({} if value else None) if isinstance(value, bool) else value
