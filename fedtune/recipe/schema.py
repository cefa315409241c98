"""The sections of a recipe. Every field is typed and bounded; unknown keys are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from fedtune.recipe.aggregator import Aggregator
from fedtune.recipe.attack import Attack
from fedtune.recipe.beside import Beside, where_read
from fedtune.recipe.data import Data
from fedtune.recipe.defaults import resolve, with_default_defence
from fedtune.recipe.defence import Defence
from fedtune.recipe.evaluation import Evaluation
from fedtune.recipe.lora import Lora
from fedtune.recipe.outer import Outer
from fedtune.recipe.reward import AnyReward, names_of
from fedtune.recipe.section import Section

Attention = Literal[
    "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4"
]


class Model(Section):
    """The base model, which no one changes."""

    name_or_path: str = Field("nano", min_length=1, description="nano, a hub name, or a folder")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="number format of base and adapter; auto: bfloat16 on CUDA, else float32",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="where it computes; auto: the first there is of CUDA, MPS and CPU"
    )
    attn_implementation: Attention | None = Field(
        None,
        description="what computes attention; null: what transformers takes, mostly sdpa",
    )
    load_in_4bit: bool = Field(
        False, description="QLoRA: the base in 4 bits; pip install bitsandbytes"
    )
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field("nf4", description="format of the 4 bits")
    use_bnb_nested_quant: bool = Field(True, description="in 4 bits: quantise the scales too")


class Federation(Section):
    """Who runs, where, and for how long."""

    engine: Literal["local", "ray", "superlink"] = Field(
        "local", description="one process here, several here, or nodes over a network"
    )
    deployment: Path | None = Field(
        None, description="superlink: the folder that fedtune deploy init made"
    )
    num_clients: int = Field(10, ge=1, le=10_000, description="how many hold data")
    clients_per_round: int | None = Field(
        None, ge=1, description="how many are asked in a round; default: all of them"
    )
    num_rounds: int = Field(8, ge=1, le=100_000, description="rounds of the run")
    local_steps: int | None = Field(
        10,
        ge=1,
        le=1_000_000,
        description="optimizer steps of a client in a round; null: local_epochs says how many",
    )
    local_epochs: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="in the place of local_steps: passes of a client over its own rows in a round",
    )
    inner_optimizer: Literal["reset", "keep"] = Field(
        "reset", description="what becomes of a client's optimizer state between its rounds"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="from which every draw of the run follows")
    round_timeout_s: float = Field(
        3600.0,
        gt=0,
        le=86_400 * 7,
        description="ray, superlink: how long the server waits for a reply",
    )
    commit_then_reveal: bool = Field(
        False, description="each client is bound to its reply before any is shown"
    )
    keep_replies: bool = Field(
        False, description="keep each counted reply, for fedtune verify --recompute"
    )
    max_retries: int = Field(
        2, ge=0, le=100, description="further tries of a round with too few replies"
    )
    threads_per_client: int = Field(
        1, ge=1, le=512, description="CPU threads of torch in each client"
    )
    client_gpus: float = Field(0.0, ge=0.0, le=64.0, description="ray: share of a GPU per client")

    @model_validator(mode="before")
    @classmethod
    def _epochs_are_no_steps(cls, raw: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        if not isinstance(raw, Mapping) or raw.get("local_epochs") is None:
            return raw
        if raw.get("local_steps") is not None:
            raise ValueError(
                "needs one of local_steps and local_epochs: got both; write local_steps: null"
            )
        return {**raw, "local_steps": None}

    @model_validator(mode="after")
    def _has_work(self) -> Federation:
        if self.local_steps is None and self.local_epochs is None:
            raise ValueError("needs local_steps or local_epochs; got neither")
        return self

    @model_validator(mode="after")
    def _sample_fits(self) -> Federation:
        if self.clients_per_round is not None and self.clients_per_round > self.num_clients:
            raise ValueError(
                f"clients_per_round must be at most num_clients: got {self.clients_per_round} "
                f"of {self.num_clients}"
            )
        resolve(self, {"clients_per_round": self.num_clients})
        return self

    @property
    def work(self) -> str:
        """What a client does in a round, in words."""
        if self.local_steps is not None:
            return f"{self.local_steps} local step{'s' * (self.local_steps != 1)}"
        return f"{self.local_epochs:g} local epoch{'s' * (self.local_epochs != 1)}"

    @property
    def sample_size(self) -> int:
        """Clients asked in each round."""
        assert self.clients_per_round is not None  # resolved when it was read
        return self.clients_per_round


class Checkpoint(Section):
    """What is kept to resume from."""

    keep: int = Field(2, ge=1, le=1000, description="newest round checkpoints kept")


class Recipe(Section):
    """One run, whole."""

    task: Literal["sft", "reward", "dpo", "grpo"] = Field("sft", description="which TRL trainer")
    model: Model = Model()
    initial_adapter: str | None = Field(
        None, min_length=1, description="start from this PEFT folder, or the one of this run"
    )
    reference: str = Field(
        "base",
        min_length=1,
        description="dpo, grpo: what a policy is held against in every round: base, "
        "initial_adapter, or a PEFT folder",
    )
    rewards: list[AnyReward] = Field(
        default_factory=list, max_length=16, description="of grpo: what a completion is worth"
    )
    lora: Lora = Lora()
    data: Data = Data()
    train: dict[str, Any] = Field(default_factory=dict, description="TRL's own keys, verbatim")
    federation: Federation = Federation()
    aggregator: Aggregator
    defence: Defence = Defence()
    outer: Outer = Outer()
    attack: Attack | None = None
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        default_factory=list, description="trackers that get each round's figures"
    )
    output_dir: Path = Field(Path("runs/run"), description="the run's folder, which it makes")
    _beside: Beside = PrivateAttr(default_factory=where_read)

    @model_validator(mode="before")
    @classmethod
    def _defended(cls, raw: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        return with_default_defence(raw) if isinstance(raw, Mapping) else raw

    @field_validator("report_to", mode="before", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:  # noqa: ANN401  pydantic hands over raw input
        if value in (None, "none"):
            return []
        return [value] if isinstance(value, str) else value

    @property
    def beside(self) -> Beside:
        """Where its file lies."""
        return self._beside

    @model_validator(mode="after")
    def _task_fits(self) -> Recipe:
        if self.task == "grpo" and not self.rewards:
            raise ValueError("rewards: grpo needs one at least; write [{name: python_docs}], say")
        if self.lora.bias != "none" and self.task == "grpo":
            raise ValueError(
                "lora.bias: PEFT trains biases for one adapter alone, and grpo has its reference "
                "as a second one; write none"
            )
        rounds = self.model.load_in_4bit or self.model.dtype in {"bfloat16", "float16"}
        if rounds and (reason := self.lora.needs_float32) is not None:
            raise ValueError(reason)
        if self.task != "grpo" and self.rewards:
            raise ValueError(f"rewards: of grpo alone; task is {self.task}; leave them out")
        if self.task not in {"dpo", "grpo"} and self.reference != "base":
            raise ValueError(f"reference: {self.task} has none; leave it out")
        if self.reference == "initial_adapter" and self.initial_adapter is None:
            raise ValueError("reference: initial_adapter needs the key initial_adapter; name one")
        self.evaluation.check(self.task, names_of(self.rewards))
        return self

    @model_validator(mode="after")
    def _counts_fit(self) -> Recipe:
        sample, f = self.federation.sample_size, self.aggregator.f
        n = self.federation.num_clients
        try:
            self.aggregator.plan().check_clients(sample, f)
        except ValueError as error:
            reason = str(error).replace("wait for", "ask at least")
            raise ValueError(
                f"aggregator.f: f={f} does not fit n={sample} clients a round: {reason}"
            ) from None
        for key, owned in (
            ("aggregator.client_weights", self.aggregator.client_weights),
            ("lora.client_ranks", self.lora.client_ranks),
        ):
            if owned is not None and len(owned) != n:
                raise ValueError(f"{key}: needs one for each of {n} clients; got {len(owned)}")
        self.aggregator.check_weights(sample)
        attackers = self.attack.num_attackers if self.attack else 0
        if attackers > n:
            raise ValueError(f"attack.num_attackers: got {attackers} of {n} clients; lower it")
        rounds = self.attack.rounds if self.attack else "every"
        if isinstance(rounds, list) and rounds[-1] > self.federation.num_rounds:
            raise ValueError(
                f"attack.rounds: got round {rounds[-1]} of {self.federation.num_rounds}; lower it"
            )
        return self

    @model_validator(mode="after")
    def _server_has_rows(self) -> Recipe:
        if self.aggregator.takes_reference and self.data.server_rows == 0:
            raise ValueError(
                f"aggregator.name: {self.aggregator.name} needs data.server_rows: it compares the "
                "clients with an update of the server's own; got 0; write 64, say"
            )
        return self

    @model_validator(mode="after")
    def _defence_fits(self) -> Recipe:
        self.defence.check(self.aggregator, server_rows=self.data.server_rows)
        if (vote := self.defence.vote) is not None:
            clients, sample = self.federation.num_clients, self.federation.sample_size
            vote.check(self.aggregator.f, num_clients=clients, sample_size=sample)
            voters = vote.byzantine_voters(
                self.aggregator.f, num_clients=clients, sample_size=sample
            )
            resolve(vote, {"f": voters})
        return self

    @model_validator(mode="after")
    def _geometry_fits(self) -> Recipe:
        combined_by = self.aggregator.combined_by
        if self.lora.client_ranks and combined_by == "factors":
            raise ValueError(
                "lora.client_ranks: factors of different ranks have no sum: write aggregator."
                "geometry: product with a rule on the Gram matrix, or combination: dense"
            )
        if self.lora.train != "both" and combined_by == "dense":
            raise ValueError("aggregator.combination: dense needs lora.train: both")
        turns = self.aggregator.geometry == "product" and self.lora.train == "both"
        if turns and self.outer.name == "adam":
            raise ValueError(
                "outer: adam steps coordinates, and products have none: write nesterov or fedavg, "
                "or lora.train: b_only"
            )
        if combined_by == "dense" and self.outer.name != "fedavg":
            raise ValueError(
                "outer: combination: dense takes fedavg alone: its aggregate has full rank, and a "
                "momentum of it has none"
            )
        return self
