"""The server_data section: when the loss on the server's own rows undoes a round's step."""

from __future__ import annotations

from pydantic import Field

from fedtune.recipe.section import Section


class ServerData(Section):
    """After every round the candidate anchor is tried on ``data.server_rows``."""

    tolerance: float = Field(
        0.0,
        ge=0,
        le=1e3,
        allow_inf_nan=False,
        description="undo a step when the loss on data.server_rows rose by more, in the units of "
        "the task's loss (sft: nats a token)",
    )
