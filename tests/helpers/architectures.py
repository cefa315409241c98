"""Tiny random models of the architectures that people fine-tune, by transformers' own names."""

import torch

WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
LIKE_LLAMA = {**WIDE, **HEADS, "max_position_embeddings": 256}
LIKE_NEOX = {**WIDE, "num_attention_heads": 4, "max_position_embeddings": 256}
LIKE_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
NO_DROPOUT = dict.fromkeys(
    ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout", "dropout"),
    0.0,
)
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

CONFIGS = {
    "llama": LIKE_LLAMA,
    "mistral": LIKE_LLAMA,
    "qwen2": LIKE_LLAMA,
    "qwen3": {**LIKE_LLAMA, "head_dim": 8},
    "gemma": {**LIKE_LLAMA, "head_dim": 8},
    "gemma2": {**LIKE_LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8},
    "phi": {**LIKE_LLAMA, "num_key_value_heads": 4},
    "phi3": {**LIKE_LLAMA, "original_max_position_embeddings": 256},
    "smollm3": LIKE_LLAMA,
    "olmo": LIKE_LLAMA,
    "olmo2": LIKE_LLAMA,
    "stablelm": LIKE_LLAMA,
    "starcoder2": LIKE_LLAMA,
    "cohere": LIKE_LLAMA,
    "granite": LIKE_LLAMA,
    "gpt_neox": LIKE_NEOX,
    "gptj": {**LIKE_GPT2, "rotary_dim": 4},
    "gpt2": LIKE_GPT2,
    "gpt_bigcode": LIKE_GPT2,
    "opt": {
        "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 256, "word_embed_proj_dim": 32,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "mixtral": {**LIKE_LLAMA, "num_local_experts": 4},
    "qwen2_moe": {**LIKE_LLAMA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "deepseek_v3": {
        **LIKE_LLAMA, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
}  # fmt: skip


def save_tiny(architecture, tokenizer, folder, *, seed=0):
    """Write a folder in the hub's format, with a tokenizer; the weights are drawn."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture,
        vocab_size=264,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **NO_DROPOUT,
        **CONFIGS[architecture],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
