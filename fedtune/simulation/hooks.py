"""A simulated attack as hooks on the round: on the wire, on the updates, after the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from torch import Tensor

from aggregators.geometry import Renewed
from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.round.hooks import RoundView
from fedtune.simulation.adversary import Adversary
from fedtune.simulation.forging import with_attackers
from fedtune.simulation.span import view_of
from fedtune.simulation.training_ahead import Tools


class SimulatedAttack:
    """The recipe's attack; without one nothing changes.

    Args:
        recipe: The run's.
        tools: What attackers can do with the model; None where there is none.
    """

    def __init__(self, recipe: Recipe, tools: Tools | None = None) -> None:
        self._recipe, self._tools = recipe, tools
        self.adversary = Adversary(recipe)

    def on_wire(
        self, transport: Transport, client_of: Mapping[int, int], *, round_: int
    ) -> tuple[Transport, AbstractSet[str]]:
        """The transport with the attackers of an attack on the protocol on it."""
        return with_attackers(transport, self._recipe, client_of, round_=round_)

    def on_updates(self, fresh: Sequence[int], view: RoundView) -> dict[int, Tensor]:
        """What the attackers of an attack on updates send in place of their honest ones."""
        return self.adversary.crafted(view.spool, fresh, view_of(view, self._tools))

    def after_step(self, step: Tensor, renewed: Renewed | None) -> None:
        """The next broadcast tells anyone how the anchor moved: attackers remember it."""
        self.adversary.note_step(step, renewed)

    def state_dict(self) -> dict[str, Tensor]:
        """What the attackers remember."""
        return {name: tensor.clone() for name, tensor in self.adversary.memory.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from that."""
        self.adversary.memory = {name: tensor.clone() for name, tensor in state.items()}
