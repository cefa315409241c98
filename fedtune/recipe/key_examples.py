"""What the key reference adds to the recipe's schema: units, and examples that need more keys."""

from __future__ import annotations

UNITS = {
    "aggregator.f": "clients",
    "aggregator.max_condition": "ratio of singular values",
    "aggregator.max_stretch": "ratio of lengths",
    "aggregator.client_weights": "relative weights",
    "attack.num_attackers": "clients",
    "attack.rounds": "numbers of rounds",
    "attack.search": "attack={name: searched, num_attackers: 2, search: {}}",
    "attack.search.evaluations": "trials a round",
    "attack.search.restarts": "starts a round",
    "checkpoint.keep": "checkpoints",
    "data.max_rows": "rows",
    "data.partition.min_rows": "rows",
    "data.partition.shards_per_client": "shards",
    "data.server_rows": "rows",
    "data.test_fraction": "share of the rows",
    "defence.momentum": "share of the mean before",
    "defence.server_data.tolerance": "the task's loss (sft: nats a token)",
    "defence.suspicion": "share of the score before",
    "defence.vote.f": "clients",
    "defence.vote.tolerance": "the task's loss (sft: nats a token)",
    "evaluation.backdoor_rows": "rows",
    "evaluation.batch_size": "rows",
    "evaluation.every": "rounds",
    "evaluation.max_new_tokens": "tokens",
    "evaluation.max_rows": "rows",
    "evaluation.samples": "completions",
    "evaluation.score_rows": "rows",
    "evaluation.stop_after": "rounds",
    "federation.client_gpus": "GPUs a client",
    "federation.clients_per_round": "clients",
    "federation.local_steps": "steps a round",
    "federation.max_retries": "tries",
    "federation.num_clients": "clients",
    "federation.num_rounds": "rounds",
    "federation.round_timeout_s": "seconds",
    "federation.threads_per_client": "threads",
    "lora.client_ranks": "ranks",
    "lora.lora_dropout": "share of the inputs",
    "lora.layers_to_transform": "numbers of layers",
    "lora.r": "rank",
    "lora.rank_pattern": "ranks",
    "rewards.length.words": "words",
}
"""By key; a number that stands here in no unit has none, or says it in its description."""

DEFAULTS = {
    "aggregator.name": "capped_spectral",
    "aggregator.f": "3/10 of a round's clients, or as many as the rule withstands; mean: 0",
    "aggregator.geometry": "product where the rule is defined on it; mean and adam: factors",
}
"""By key, where a default depends on more than the key itself."""

_TEN = ", ".join(["4"] * 5 + ["8"] * 5)
_ADAM = "aggregator.geometry=factors"  # adam steps coordinates
_GSM = "path: openai/gsm8k, name: main"
EXAMPLES: dict[str, str | tuple[str, ...]] = {
    "aggregator.client_weights": (
        "aggregator={name: mean, client_weights: [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]}"
    ),
    "aggregator.combination": (
        "aggregator={name: median, geometry: product, combination: dense}",
        "outer={name: fedavg}",
    ),
    "aggregator.f": "aggregator.f=2",
    "aggregator.max_stretch": "aggregator.max_stretch=50",
    "aggregator.mixing": ("aggregator.f=2", "aggregator.mixing=[{name: bucketing, s: 2}]"),
    "aggregator.name": "aggregator={name: geometric_median, f: 3}",
    "attack": "attack={name: sign_flip, num_attackers: 2}",
    "attack.knowledge": "attack={name: alie, num_attackers: 2, knowledge: fellows}",
    "attack.name": "attack={name: alie, num_attackers: 2}",
    "attack.num_attackers": "attack.num_attackers=3",
    "attack.poison": "attack.poison=label_noise",
    "attack.poison.name": "attack.poison.name=label_noise",
    "attack.rounds": "attack.rounds=[1, 3]",
    "attack.search": "attack={name: searched, num_attackers: 2, search: {}}",
    "attack.search.evaluations": (
        "attack={name: searched, num_attackers: 2, search: {evaluations: 50}}"
    ),
    "attack.search.restarts": "attack={name: searched, num_attackers: 2, search: {restarts: 5}}",
    "evaluation.scores": "evaluation.scores=[exact_match]",
    "evaluation.scores.entry_point.entry": "evaluation.scores=[{name: entry_point, entry: mine}]",
    "evaluation.scores.entry_point.name": "evaluation.scores=[{name: entry_point, entry: mine}]",
    "evaluation.scores.exact_match.name": "evaluation.scores=[exact_match]",
    "evaluation.scores.rouge.kind": "evaluation.scores=[{name: rouge, kind: rouge1}]",
    "evaluation.scores.rouge.name": "evaluation.scores=[{name: rouge}]",
    "evaluation.watch": "evaluation.watch=loss",
    "evaluation.stop_after": ("evaluation.watch=loss", "evaluation.stop_after=3"),
    "data.columns": "data.columns={prompt: instruction, completion: output}",
    "data.max_rows": "data.max_rows=2000",
    "data.partition.by": "data.partition={by: iid}",
    "data.partition.column": "data.partition={by: natural_id, column: organisation}",
    "data.server_rows": "data.server_rows=256",
    "data.source": "data.source=data/train.jsonl",
    "data.source.data_files": "data.source={path: json, data_files: data/*.jsonl}",
    "data.source.name": f"data.source={{{_GSM}}}",
    "data.source.path": "data.source={path: json, data_files: data/train.jsonl}",
    "data.source.revision": f"data.source={{{_GSM}, revision: main}}",
    "data.source.split": 'data.source={path: tatsu-lab/alpaca, split: "train[:2000]"}',
    "defence.momentum": ("aggregator={name: caf, f: 3}", "defence.momentum=0.5"),
    "defence.server_data": ("defence.server_data=true", "data.server_rows=256"),
    "defence.server_data.tolerance": (
        "defence.server_data.tolerance=0.01",
        "data.server_rows=256",
    ),
    "defence.suspicion": "defence.suspicion=0.7",
    "defence.vote": "defence.vote=true",
    "defence.vote.f": "defence.vote.f=3",
    "federation.clients_per_round": "federation.clients_per_round=8",
    "federation.deployment": "federation.deployment=fed",
    "initial_adapter": "initial_adapter=runs/first",
    "lora.client_ranks": f"lora.client_ranks=[{_TEN}]",
    "lora.alpha_pattern": "lora.alpha_pattern={q_proj: 32}",
    "lora.exclude_modules": "lora.exclude_modules=[lm_head]",
    "lora.layers_pattern": (
        "lora.layers_pattern=layers",
        "lora.layers_to_transform=[0]",
        "lora.target_modules=[q_proj, v_proj]",
    ),
    "lora.layers_to_transform": (
        "lora.layers_to_transform=[0, 1]",
        "lora.target_modules=[q_proj, v_proj]",
    ),
    "lora.rank_pattern": "lora.rank_pattern={q_proj: 16}",
    "lora.target_parameters": "lora.target_parameters=[mlp.experts.down_proj]",
    "lora.modules_to_save": "lora.modules_to_save=[embed_tokens]",
    "model.name_or_path": "model.name_or_path=Qwen/Qwen3-0.6B",
    "model.revision": "model.revision=main",
    "outer.betas": ("outer={name: adam, betas: [0.9, 0.95]}", _ADAM),
    "outer.eps": ("outer={name: adam, eps: 1e-6}", _ADAM),
    "outer.lr": "outer.lr=0.5",
    "outer.momentum": "outer.momentum=0.9",
    "reference": ("task=dpo", "reference=runs/first"),
    "report_to": "report_to=[tensorboard]",
    "rewards": ("task=grpo", "rewards=[{name: python_docs}, {name: length, weight: 0.5}]"),
    "rewards.format.begins": ("task=grpo", "rewards=[{name: format, begins: The}]"),
    "stages": "stages=[{name: sft}, {name: dpo, task: dpo}]",
    "stages.from": "stages=[{name: a}, {name: b}, {name: c, from: a}]",
    "stages.name": "stages=[{name: sft}, {name: dpo, task: dpo}]",
    "stages.start": "stages=[{name: sft}, {name: dpo, task: dpo, start: merge}]",
    "train": "train.learning_rate=1e-4",
}
"""By key: overrides of `quickstart`; of all others another word, or the default, serves."""

REWARDS = {
    "contains": "text: because",
    "entry_point": "entry: mine",
    "reward_model": "adapter: runs/scorer",
}
"""What a reward cannot be named without."""
