"""The lora section: PEFT's LoraConfig, under its own names, and whether its keys go together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedtune.recipe.section import Section

Rank = Annotated[int, Field(ge=1, le=1024)]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]
Alpha = Annotated[float, Field(gt=0, le=65536)]

_OF_DATA = "depends on data, and each client would start from another adapter"
_OF_BASE = "changes the base model, which no one does here: the adapter would fit no other copy"
_REFUSED = {
    "eva": _OF_DATA,
    "corda": _OF_DATA,
    "lora_ga": _OF_DATA,
    "pissa": _OF_BASE,
    "olora": _OF_BASE,
    "loftq": _OF_BASE,
    "mica": "trains A alone, from zero: write train, which says what a round trains, instead",
    "false": "draws A and B, so that the fresh adapter is not the base that round 0 measures",
}
_IN_FLOAT32 = "write model.dtype: float32 without load_in_4bit, or leave the key out"


class Lora(Section):
    """PEFT's LoraConfig, under its own names."""

    r: Rank = Field(8, description="rank of the factors A and B")
    lora_alpha: Alpha = Field(16, description="the product BA counts alpha / r times")
    lora_dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="share of a module's inputs that a step leaves out"
    )
    target_modules: str | list[str] = Field(
        "all-linear", description="names of modules, a regular expression, or all-linear"
    )
    exclude_modules: str | list[str] | None = Field(
        None, description="names of modules, or a regular expression, that get no adapter"
    )
    target_parameters: list[str] = Field(
        default_factory=list,
        max_length=256,
        description="names of parameters that are in no linear layer, such as fused experts'",
    )
    layers_to_transform: list[Annotated[int, Field(ge=0, lt=10_000)]] | None = Field(
        None, max_length=1024, description="numbers of the layers that get an adapter, from 0"
    )
    layers_pattern: str | list[str] | None = Field(
        None, description="name of the list of layers, where layers_to_transform does not find it"
    )
    modules_to_save: list[str] = Field(
        default_factory=list, description="modules trained whole, which travel with the adapter"
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        "none",
        description="biases of the base that are trained and travel: none, all, or those "
        "of adapted modules",
    )
    use_rslora: bool = Field(False, description="BA counts alpha / sqrt(r) times")
    use_dora: bool = Field(False, description="train each output's length beside its direction")
    init_lora_weights: Literal["default", "gaussian", "orthogonal"] = Field(
        "default", description="how a fresh adapter is drawn; its product is 0 in all of them"
    )
    rank_pattern: dict[Pattern, Rank] = Field(
        default_factory=dict, max_length=256, description="another r by name of module, or pattern"
    )
    alpha_pattern: dict[Pattern, Alpha] = Field(
        default_factory=dict, max_length=256, description="another lora_alpha, likewise"
    )
    train: Literal["both", "b_only", "alternate"] = Field(
        "both",
        description="which factors; b_only: A stays as drawn; alternate: B, then A, a round each",
    )
    client_ranks: list[Rank] | None = Field(
        None, description="a rank per client, each at most r; needs aggregator.geometry: product"
    )

    @field_validator("init_lora_weights", mode="before")
    @classmethod
    def _init_is_no_ones_data(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        word = str(value).lower()
        for name, reason in _REFUSED.items():
            if word == name or word.startswith(f"{name}_niter"):
                raise ValueError(f"{value} {reason}; write default, gaussian or orthogonal")
        return "default" if word == "true" else value

    @field_validator("layers_to_transform", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:  # noqa: ANN401  likewise
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("rank_pattern", "alpha_pattern", "exclude_modules")
    @classmethod
    def _patterns_compile(cls, value: Any) -> Any:  # noqa: ANN401  mappings, or one pattern
        patterns = [value] if isinstance(value, str) else value
        for key in patterns if isinstance(patterns, Mapping | list) else ():
            try:
                re.compile(key)
            except re.error as error:
                raise ValueError(f"{key!r} is no regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _ranks_fit(self) -> Lora:
        if self.client_ranks and max(self.client_ranks) > self.r:
            raise ValueError(
                f"client_ranks must be at most r: got {max(self.client_ranks)} over r={self.r}"
            )
        if self.client_ranks and self.train != "both":
            raise ValueError("client_ranks needs train: both: a frozen factor has one rank")
        if self.client_ranks and self.rank_pattern:
            raise ValueError("client_ranks is one rank of all modules: leave out rank_pattern")
        if self.client_ranks and self.use_dora:
            raise ValueError("client_ranks is not proven beside use_dora: leave one out")
        return self

    @model_validator(mode="after")
    def _peft_takes_them(self) -> Lora:
        """Say what PEFT does not do, or passes over in silence."""
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise ValueError(
                "layers_to_transform needs target_modules as a list of names, such as "
                "[q_proj, v_proj]: PEFT takes no pattern beside it"
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern says nothing without layers_to_transform: write both")
        ranks = {self.r, *self.rank_pattern.values()}
        if self.init_lora_weights == "orthogonal" and (odd := [k for k in ranks if k % 2]):
            raise ValueError(f"init_lora_weights: orthogonal needs an even rank: got {odd[0]}")
        if self.target_parameters:
            for key, on in (("use_dora", self.use_dora), ("lora_dropout", self.lora_dropout)):
                if on:
                    raise ValueError(f"{key}: PEFT has none on target_parameters; leave one out")
            if self.rank_pattern or self.alpha_pattern:
                raise ValueError(
                    "target_parameters: a tensor's name does not say which of a module's "
                    "parameters it is of, nor so its scale; leave out rank_pattern, alpha_pattern"
                )
        return self

    @property
    def needs_float32(self) -> str | None:
        """Why the base has to be in float32, with what to write; None where it may be any."""
        if self.bias != "none":
            return (
                f"lora.bias: {self.bias} trains the base's own biases where they are, and a step "
                f"below 1/256 of one is lost in bfloat16; {_IN_FLOAT32}"
            )
        if self.init_lora_weights == "orthogonal":
            return (
                f"lora.init_lora_weights: orthogonal draws A and B in the base's own format, and "
                f"their product is 0 in float32 alone; {_IN_FLOAT32}"
            )
        return None

    @property
    def scale(self) -> float:
        """What BA is multiplied by, PEFT's alpha / r; the same for clients of a lower rank."""
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)

    def scale_of(self, module: str) -> float:
        """The same for one module, by its name in the model: as PEFT looks up its patterns."""
        name = module.removeprefix("base_model.model.")
        rank = _looked_up(self.rank_pattern, name, self.r)
        alpha = _looked_up(self.alpha_pattern, name, self.lora_alpha)
        return alpha / (rank**0.5 if self.use_rslora else rank)

    @property
    def highest_rank(self) -> int:
        """Of all modules."""
        return max(self.r, *self.rank_pattern.values()) if self.rank_pattern else self.r

    def rank_of(self, client: int) -> int:
        """The rank of a client's own adapter."""
        return self.client_ranks[client] if self.client_ranks else self.r


def matches(pattern: str, module: str) -> bool:
    """Whether a key of rank_pattern or alpha_pattern is of a module: PEFT's own rule."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _looked_up(patterns: Mapping[str, float], module: str, otherwise: float) -> float:
    return next((patterns[key] for key in patterns if matches(key, module)), otherwise)
