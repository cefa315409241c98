"""Which of TRL's keys a node takes from a recipe over a network, and why it takes no others.

`check` holds a recipe for a network against the same list. Each key of the four configs stands in
`ALLOWED` or in `REFUSED`, and no key in both: a test reads the fields of the versions installed. A
key belongs to `ALLOWED` if no value in its range opens a path, imports a name, starts a process,
reaches another machine, outlives the run, or takes memory that the owner's limits do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedtune.node.ranges import (
    Range,
    count,
    either,
    flag,
    mapping,
    none_or,
    number,
    one_of,
    several,
    text,
)

_ROWS = count(1, 2**16)
_TOKENS = count(1, 2**20)
_BETA = number(0, 1000)
_RECOMPUTED = none_or(mapping({"use_reentrant": flag()}))
_SCHEDULE = none_or(
    mapping(
        {
            **dict.fromkeys(("num_cycles", "power", "lr_end", "min_lr"), number(0, 1000)),
            **dict.fromkeys(("min_lr_rate", "warmup_lr_rate", "min_lr_ratio"), number(0, 1)),
            **dict.fromkeys(("num_decay_steps", "num_stable_steps"), count(0, 10**9)),
            "timescale": count(1, 10**9),
            **dict.fromkeys(("warmup_type", "decay_type"), one_of("linear", "cosine", "1-sqrt")),
        }
    )
)

EVERY: Mapping[str, Range] = {
    "per_device_train_batch_size": _ROWS,
    "gradient_accumulation_steps": _ROWS,
    "learning_rate": number(0, 10),
    "lr_scheduler_type": one_of(
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant",
        "constant_with_warmup", "inverse_sqrt", "cosine_with_min_lr",
        "cosine_warmup_with_min_lr", "warmup_stable_decay",
    ),
    "lr_scheduler_kwargs": _SCHEDULE,
    "warmup_steps": number(0, 10**9),
    "optim": one_of(
        "adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop",
        "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit",
    ),
    "weight_decay": number(0, 100),
    "adam_beta1": number(0, 1),
    "adam_beta2": number(0, 1),
    "adam_epsilon": number(0, 1),
    "max_grad_norm": number(0, 10**6),
    "gradient_checkpointing": none_or(flag()),
    "activation_checkpointing": none_or(flag()),
    "gradient_checkpointing_kwargs": _RECOMPUTED,
    "activation_checkpointing_kwargs": _RECOMPUTED,
    "neftune_noise_alpha": none_or(number(0, 1000)),
    "torch_empty_cache_steps": none_or(count(1, 10**6)),
    "pad_to_multiple_of": none_or(either(count(1, 64), one_of("auto"))),
}  # fmt: skip

_OFFLOADS = {"activation_offloading": flag()}
_ROUTES = {"router_aux_loss_coef": none_or(number(0, 100))}
_MOST = none_or(_TOKENS)
_SFT = {
    "max_length": _MOST,
    "truncation_mode": one_of("keep_start", "keep_end"),
    "eos_token": none_or(text(64)),
    "pad_token": none_or(text(64)),
    "label_smoothing_factor": number(0, 1),
    "completion_only_loss": none_or(flag()),
    "assistant_only_loss": flag(),
    "padding_free": flag(),
    "packing": flag(),
    "packing_strategy": one_of("bfd"),
    "loss_type": one_of("nll", "dft"),
}
_REWARD = {
    "max_length": _MOST,
    "eos_token": none_or(text(64)),
    "pad_token": none_or(text(64)),
    "disable_dropout": flag(),
    "center_rewards_coefficient": none_or(number(0, 1000)),
}
_DPO_LOSS = one_of(
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
_DPO = {
    "max_length": _MOST,
    "truncation_mode": one_of("keep_start", "keep_end"),
    "pad_token": none_or(text(64)),
    "disable_dropout": flag(),
    "padding_free": flag(),
    "beta": _BETA,
    "loss_type": either(_DPO_LOSS, several(_DPO_LOSS, 16)),
    "loss_weights": none_or(several(number(-1000, 1000), 16)),
    "ld_alpha": none_or(number(0, 1)),
    "f_divergence_type": one_of("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    "f_alpha_divergence_coef": number(-1000, 1000),
    "label_smoothing": number(0, 1),
    "use_weighting": flag(),
    "discopop_tau": number(0, 1000),
}
_GRPO = {
    "max_completion_length": _TOKENS,
    "num_generations": count(2, 1024),
    "generation_batch_size": none_or(_ROWS),
    "steps_per_generation": none_or(_ROWS),
    "num_iterations": count(1, 1024),
    "disable_dropout": flag(),
    "temperature": number(0.001, 1000),
    "top_p": number(0.001, 1),
    "top_k": none_or(count(0, 10**6)),
    "min_p": none_or(number(0, 1)),
    "repetition_penalty": number(0.001, 1000),
    "chat_template_kwargs": none_or(
        mapping(dict.fromkeys(("enable_thinking", "thinking"), flag()))
    ),
    "beta": _BETA,
    "importance_sampling_level": one_of("token", "sequence"),
    "multi_objective_aggregation": one_of("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": either(flag(), one_of("group", "batch", "none")),
    "loss_type": one_of(
        "grpo", "bnpo", "dr_grpo", "dapo", "cispo", "luspo", "sapo", "vespo",
    ),
    "mask_truncated_completions": flag(),
    "use_bias_correction_kl": flag(),
    "use_adaptive_entropy": flag(),
    "top_entropy_quantile": number(0, 1),
    **dict.fromkeys(("delta", "epsilon_high", "off_policy_mask_threshold"),
                    none_or(number(0, 1000))),
    **dict.fromkeys(
        ("epsilon", "sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos",
         "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg", "entropy_coef",
         "entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
        number(0, 1000),
    ),
}  # fmt: skip

ALLOWED: Mapping[str, Mapping[str, Range]] = {
    "sft": {**EVERY, **_OFFLOADS, **_ROUTES, **_SFT},
    "reward": {**EVERY, **_OFFLOADS, **_REWARD},
    "dpo": {**EVERY, **_OFFLOADS, **_ROUTES, **_DPO},
    "grpo": {**EVERY, **_ROUTES, **_GRPO},
}

_REASONS: Mapping[str, tuple[str, ...]] = {
    "fedtune sets it": (
        "output_dir", "max_steps", "num_train_epochs", "seed", "data_seed", "use_cpu", "bf16",
        "fp16", "train_sampling_strategy", "shuffle_dataset", "disable_tqdm", "dataset_kwargs",
        "dataset_text_field", "eval_packing", "reward_weights",
        "precompute_ref_log_probs", "precompute_ref_batch_size", "sync_ref_model",
        "ref_model_mixup_alpha", "ref_model_sync_steps", "remove_unused_columns", "label_names",
        "length_column_name", "auto_find_batch_size", "ignore_data_skip", "do_train", "do_eval",
        "do_predict", "max_tool_calling_iterations", "restore_callback_states_from_checkpoint",
        "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
        "prediction_loss_only", "include_for_metrics", "batch_eval_metrics",
        "include_num_input_tokens_seen", "average_tokens_across_devices", "bf16_full_eval",
        "fp16_full_eval", "use_cache", "per_device_eval_batch_size", "num_generations_eval",
        "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_do_concat_batches",
        "eval_use_gather_object", "eval_accumulation_steps",
    ),
    "it opens a path, imports a name, or runs code": (
        "accelerator_config", "parallelism_config", "chat_template_path", "model_init_kwargs",
        "trust_remote_code", "resume_from_checkpoint", "deepspeed", "fsdp", "fsdp_config",
        "optim_args", "liger_kernel_config", "generation_kwargs", "cache_implementation",
        "transformers_continuous_batching_config", "use_transformers_continuous_batching",
        "use_transformers_paged", "ds3_gather_for_generation", "save_strategy", "save_steps",
        "save_only_model", "save_total_limit", "save_on_each_node", "enable_jit_checkpoint",
        "torch_compile", "torch_compile_backend", "torch_compile_mode",
    ),
    "it reaches another machine": (
        "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy",
        "hub_always_push", "hub_revision", "report_to", "run_name", "project",
        "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
        "log_completions_hub_repo", "use_vllm", "vllm_mode", "vllm_model_impl",
        "vllm_enable_sleep_mode", "vllm_structured_outputs_regex", "vllm_server_base_url",
        "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port",
        "vllm_gpu_memory_utilization", "vllm_max_model_length", "vllm_tensor_parallel_size",
        "vllm_importance_sampling_correction", "vllm_importance_sampling_mode",
        "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min",
        "vllm_importance_sampling_cap", "local_rank", "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend",
        "ddp_timeout",
    ),
    "it starts processes": (
        "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
        "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order",
        "dataloader_drop_last", "dataset_num_proc",
    ),
    "it outlives the run, or changes what this node logs": (
        "tf32", "full_determinism", "use_liger_kernel", "cast_lm_head_to_fp32", "log_level",
        "log_level_replica", "log_on_each_node", "logging_strategy", "logging_steps",
        "logging_first_step", "logging_nan_inf_filter", "log_completions", "log_multimodal",
        "num_completions_to_print", "log_unique_prompts", "debug", "skip_memory_metrics",
    ),
    "it is a pattern, which can take for ever to match": ("optim_target_modules",),
}  # fmt: skip

REFUSED: Mapping[str, str] = {key: why for why, keys in _REASONS.items() for key in keys}
_OF_OTHERS = "it is no key of this task"


def train_refusals(task: str, train: Mapping[str, object]) -> Iterator[str]:
    """What of the keys inside ``train:`` no node takes from a recipe, a line each.

    Args:
        task: The recipe's.
        train: Key and value, as JSON has them. Neither is trusted; no value is quoted.
    """
    allowed = ALLOWED[task]
    for key, value in train.items():
        if key not in allowed:
            yield f"train.{key[:60]}: over a network, refused: {REFUSED.get(key, _OF_OTHERS)}"
        elif not allowed[key].holds(value):
            yield f"train.{key}: over a network, needs {allowed[key].needs}"
