"""The aggregator section: rule, mixings, geometry, and whether they go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from fedtune.recipe.defaults import Combination, combination_of, resolve, stretch_of
from fedtune.recipe.errors import nearest
from fedtune.recipe.meant import refuse_quoted
from fedtune.recipe.section import Named

if TYPE_CHECKING:
    from torch import Tensor

    from aggregators import Plan


class Aggregator(Named):
    """The rule that combines the updates; its own options stand beside `name`.

    A recipe that names none gets capped_spectral on products.
    """

    name: str = Field(description="a rule: one of `fedtune list aggregators`")
    f: int = Field(0, ge=0, le=5000, description="Byzantine clients to withstand, of each round's")
    mixing: list[str | dict[str, Any]] = Field(
        default_factory=list,
        description="mixings before the rule, in order: names, or {name: bucketing, s: 2}",
    )
    geometry: Literal["factors", "product"] = Field(
        "factors", description="judge A and B laid end to end, or what the model feels: BA"
    )
    combination: Combination | None = Field(
        None,
        description="product: exact (sum of w BA, back to rank r; the default of a rule on the "
        "Gram matrix), factors (rows in the anchor's gauge; the default of a rule on columns), "
        "dense (a rule on columns on BA itself, block by block: n d_out d_in each module)",
    )
    residual: Literal["drop", "carry"] = Field(
        "drop", description="exact, dense: what becomes of what rank r cannot hold"
    )
    max_condition: float = Field(
        1e3, gt=1, le=1e12, description="product: refuse a client in a more lopsided gauge"
    )
    max_stretch: float | None = Field(
        None,
        gt=1,
        le=1e6,
        description="product: refuse a client whose A left the anchor's rows; default: 3 where "
        "rows are combined as factors, 100 where their products are",
    )
    client_weights: list[Annotated[float, Field(gt=0, le=1e9)]] | None = Field(
        None, description="a weight per client, of your own choosing: sizes you know to be true"
    )

    @model_validator(mode="after")
    def _rule_is_known(self) -> Aggregator:
        from aggregators import AGGREGATORS, MIXINGS

        if self.name not in AGGREGATORS:
            raise ValueError(f"no aggregator {self.name!r}; {nearest(self.name, AGGREGATORS)}")
        for name in self.mixing_names:
            if name not in MIXINGS:
                raise ValueError(f"no mixing {name!r}; {nearest(name, MIXINGS)}")
        for each in self.mixing:
            if isinstance(each, dict):
                refuse_quoted(each, MIXINGS[str(each.get("name", ""))].options)
        rule = AGGREGATORS[self.name]
        self.refuse_misspelt(rule.options)
        resolve(self, {"combination": combination_of(self.geometry, rule.kind)})
        resolve(self, {"max_stretch": stretch_of(self.combined_by)})
        self._check_weights(self.plan())
        self._check_geometry()
        return self

    @property
    def mixing_names(self) -> list[str]:
        """The mixings' names, in order."""
        return [
            each if isinstance(each, str) else str(each.get("name", "")) for each in self.mixing
        ]

    @property
    def takes_reference(self) -> bool:
        """Whether the rule compares the clients with an update of the server's own."""
        from aggregators import AGGREGATORS

        return AGGREGATORS[self.name].takes_reference

    @property
    def combined_by(self) -> Combination:
        """How the weighted updates become one."""
        assert self.combination is not None  # resolved when it was read
        return self.combination

    @property
    def stretch_bound(self) -> float:
        """How far a client's A may stand from the anchor's rows."""
        assert self.max_stretch is not None  # likewise
        return self.max_stretch

    def plan(self) -> Plan:
        """The rule after its mixings, all options checked."""
        from aggregators import plan

        return plan(self.name, mixing=self.mixing, **self.options)

    def fitted(self, num_clients: int, f: int) -> Aggregator:
        """This section without the mixings that are not defined on so few replies.

        The rule and f stay: who is absent, or refused for what an honest client may do too, says
        nothing of how many attackers are among the others.
        """
        unfit = self.plan().unfit(num_clients, f)
        if not unfit:
            return self
        kept = [each for k, each in enumerate(self.mixing) if k not in unfit]
        return self.model_copy(update={"mixing": kept})

    def objection(self, clients: Sequence[int], f: int | None = None) -> str | None:
        """Why the rule does not run on the replies of these clients, by number, if so.

        Args:
            clients: Whose replies there are.
            f: How many of them may be Byzantine; None: the section's.
        """
        from aggregators.engine.screening import check_shares

        f = self.f if f is None else f
        plan = self.fitted(len(clients), f).plan()
        try:
            plan.check_clients(len(clients), f)
            check_shares(self.shares(clients), len(clients), plan, f)
        except ValueError as error:
            return str(error)
        return None

    def is_defined(self, clients: Sequence[int], f: int | None = None) -> bool:
        """Whether the rule may run on the replies of these clients."""
        return self.objection(clients, f) is None

    def spare(self, num_clients: int, f: int) -> int:
        """How many of so many replies may be left out with the rule still defined at f."""
        fewest = self.fitted(num_clients, f).plan().min_clients(f, most=num_clients)
        return 0 if fewest is None else num_clients - fewest

    def shares(self, clients: Sequence[int]) -> Tensor | None:
        """The owner's weights of these clients, in their order, if there are any."""
        import torch

        if self.client_weights is None:
            return None
        return torch.tensor([self.client_weights[k] for k in clients], dtype=torch.float64)

    def _check_weights(self, plan: Plan) -> None:
        if self.client_weights is None:
            return
        if not plan.last.rule.takes_shares:
            raise ValueError(f"client_weights: {self.name} does not average its clients one by one")
        if plan.chain:
            raise ValueError("client_weights: a mixed row belongs to several clients; mix nothing")

    def check_weights(self, sample: int) -> None:
        """Refuse client weights with which f of a round's clients could be the majority."""
        if self.client_weights is None or self.name == "mean":
            return
        if (share := self.heaviest_share(sample)) >= 0.5:
            raise ValueError(
                f"aggregator.client_weights: f={self.f} clients can have {share:.0%} of the weight "
                f"in a round of {sample} with up to {self.f} absent, and must stay under half; "
                f"level them, or lower f"
            )

    def heaviest_share(self, sample: int) -> float:
        """The most of the weight that f clients can have in a round with up to f absent.

        In the worst round the heaviest are Byzantine and heavy ones are absent; it has no fewer
        clients than the rule needs.
        """
        present = max(sample - self.f, self.plan().min_clients(self.f) or sample)
        weights = sorted(self.client_weights or [1.0] * sample)
        heaviest, others = weights[len(weights) - self.f :], weights[: present - self.f]
        return sum(heaviest) / (sum(heaviest) + sum(others))

    def _check_geometry(self) -> None:
        """Refuse what has no meaning in the geometry asked for, with the reason."""
        if self.geometry == "factors":
            if self.combined_by != "factors" or self.residual != "drop":
                raise ValueError(
                    "combination exact or dense, and residual, are of geometry: product"
                )
            return
        plan = self.plan()
        rule = plan.last.rule
        if rule.memory == "history":
            raise ValueError(
                f"{rule.name} keeps each client's sum of updates, which has no fixed rank: "
                "it needs geometry: factors"
            )
        if rule.kind == "gram" and self.combined_by == "dense":
            raise ValueError(f"{rule.name} weighs whole clients: dense is for rules on columns")
        if rule.kind == "gram" and self.combined_by == "exact" and self.options.get("noise"):
            raise ValueError(
                "noise on a product has no meaning at rank r: write combination: factors"
            )
        if rule.kind == "columns":
            self._check_columns(rule.name, mixes=bool(plan.chain))
        if self.residual == "carry" and self.combined_by == "factors":
            raise ValueError("residual: carry is of combination: exact and dense")

    def _check_columns(self, name: str, *, mixes: bool) -> None:
        if self.combined_by == "exact":
            raise ValueError(
                f"{name} works on coordinates, not on weights of clients: combination must be "
                "factors (after a mixing) or dense"
            )
        if self.combined_by == "dense" and mixes:
            raise ValueError("combination: dense takes no mixing: leave one of the two out")
        if self.combined_by == "factors" and not mixes:
            raise ValueError(
                f"{name} has no use for products without a mixing: it looks at coordinates alone. "
                "Add mixing: [nnm], or ask for it on BA itself with combination: dense, at the "
                "cost of n d_out d_in for each module"
            )
