"""The golden recipes: short runs that between them go through every part of a round."""

from __future__ import annotations

from dataclasses import dataclass

SHORT = (
    "federation.num_rounds=2",
    "federation.local_steps=2",
    "evaluation.max_rows=32",
    "train.per_device_train_batch_size=4",
)
FACTORS = "aggregator={name: trimmed_mean, mixing: [nnm], f: 3, geometry: factors}"


@dataclass(frozen=True)
class Golden:
    """One run.

    Attributes:
        name: Of its folder.
        recipe: A shipped one.
        overrides: Laid over it, after `SHORT`.
        killed: Whether it is killed once a round is saved, and resumed.
    """

    name: str
    recipe: str = "quickstart"
    overrides: tuple[str, ...] = ()
    killed: bool = False

    @property
    def settings(self) -> tuple[str, ...]:
        """All that is laid over the recipe."""
        return (*SHORT, *self.overrides)


GOLDEN = (
    Golden("quickstart"),
    Golden("factors", overrides=(FACTORS,)),
    Golden("column_rule_on_products", overrides=(
        "aggregator={name: median, f: 3, geometry: product, combination: dense}",
        "outer={name: fedavg}",
    )),
    Golden("b_only", overrides=("lora.train=b_only",)),
    Golden("alternate", overrides=("lora.train=alternate",)),
    Golden("mixed_ranks", overrides=("lora.client_ranks=[8, 8, 4, 4, 2, 2, 8, 8, 4, 2]",)),
    Golden("adam", overrides=(FACTORS, "outer={name: adam, lr: 0.01}")),
    Golden("memory", overrides=(
        "aggregator={name: centered_clipping, geometry: factors}",
    )),
    Golden("momentum", overrides=(
        "aggregator={name: capped_spectral, f: 3, geometry: product, combination: factors}",
        "defence.momentum=0.5",
    )),
    Golden("suspicion", overrides=("defence.suspicion=0.7",)),
    Golden("server_data", overrides=("data.server_rows=64", "defence.server_data=true")),
    Golden("vote", overrides=("defence.vote=true",)),
    Golden("commit_then_reveal", overrides=("federation.commit_then_reveal=true",)),
    Golden("searched", overrides=(
        "attack={name: searched, num_attackers: 3, towards: against, "
        "search: {evaluations: 50, restarts: 1}}",
    )),
    Golden("refused", overrides=("attack={name: nan, num_attackers: 2}",)),
    Golden("resumed", overrides=("federation.num_rounds=3",), killed=True),
    Golden("reward", "reward_nano"),
    Golden("dpo", "dpo_nano"),
    Golden("grpo", "grpo_nano", ("train.per_device_train_batch_size=8",)),
)  # fmt: skip
