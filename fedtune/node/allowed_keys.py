"""Each key of a recipe that a server can send to a node, and what the node does with it.

A test walks the schema: a key that stands nowhere here fails it. At run time such a key is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedtune.node.allowed_train import train_refusals
from fedtune.node.ranges import Range, names, none_or, text

SERVERS = "the server's alone: it is replaced before it is read"
OWNERS = "the owner's own stands in its place"
JUDGED = "judged against node.yaml"
BOUNDED = "the schema bounds it; it names no path, code, process, address or pattern"
UNREAD = "no part of a node reads it; the schema bounds it"
Judgement = str | Range

# What stands on a node in the place of the sections that the server alone reads.
PLAIN: Mapping[str, object] = {
    "aggregator": {"name": "mean", "geometry": "product"},  # goes with every lora section
    "defence": {},
    "outer": {},
    "report_to": [],
}

# Of a model's whole blocks a copy, a gradient and two moments would be held, and sent, whatever
# rank the owner allows. These are heads, embeddings and norms.
_SAVED = (
    "lm_head", "embed_out", "score", "classifier", "embed_tokens", "embed_in", "wte", "wpe", "norm",
    "ln_f", "ln_1", "ln_2", "input_layernorm", "post_attention_layernorm", "final_layer_norm",
)  # fmt: skip

_MODEL: dict[str, Judgement] = {
    "name_or_path": JUDGED,
    "revision": JUDGED,
    "device": OWNERS,
    **dict.fromkeys(
        (
            "dtype", "load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant",
            "attn_implementation",  # where its package is missing, none is fetched
        ),
        BOUNDED,
    ),
}  # fmt: skip
_LORA: dict[str, Judgement] = {
    **dict.fromkeys(  # names, or patterns
        (
            "target_modules", "exclude_modules", "target_parameters", "layers_pattern",
            "rank_pattern", "alpha_pattern",
        ),
        JUDGED,
    ),
    "modules_to_save": names(16, *_SAVED),
    **dict.fromkeys(
        (
            "r", "lora_alpha", "lora_dropout", "use_rslora", "train", "client_ranks", "bias",
            "use_dora", "init_lora_weights", "layers_to_transform",
        ),
        BOUNDED,
    ),
}  # fmt: skip
_DATA: dict[str, Judgement] = {
    "source": JUDGED,
    "eval_source": OWNERS,  # there is none on a node
    "columns": OWNERS,  # which of the owner's columns are read is no server's to say
    "partition.column": none_or(text(200)),
    **dict.fromkeys(
        (
            "partition.by", "partition.alpha", "partition.shards_per_client", "partition.sizes",
            "partition.min_rows", "system", "test_fraction", "max_rows", "server_rows",
        ),
        BOUNDED,
    ),
}  # fmt: skip
_FEDERATION: dict[str, Judgement] = {
    "deployment": OWNERS,
    "threads_per_client": OWNERS,
    "num_rounds": JUDGED,
    "local_steps": JUDGED,
    "local_epochs": JUDGED,
    **dict.fromkeys(
        ("num_clients", "inner_optimizer", "seed", "commit_then_reveal"),
        BOUNDED,
    ),
    **dict.fromkeys(
        (
            "engine",
            "clients_per_round",
            "round_timeout_s",
            "max_retries",
            "client_gpus",
            "keep_replies",
        ),
        UNREAD,
    ),
}
_EVALUATION: dict[str, Judgement] = {
    **dict.fromkeys(("max_rows", "batch_size", "max_new_tokens", "score_rows"), BOUNDED),
    **dict.fromkeys(
        ("every", "per_client", "samples", "backdoor_rows", "watch", "stop_after"), UNREAD
    ),
    **dict.fromkeys(
        (
            "scores.exact_match.name",
            "scores.rouge.name",
            "scores.rouge.kind",
            "scores.entry_point.name",
        ),
        BOUNDED,
    ),
    "scores.entry_point.entry": JUDGED,
}
_REWARDS: dict[str, Judgement] = {
    **dict.fromkeys(
        ("length.words", "format.begins", "format.ends", "contains.text", "exact_answer.column"),
        BOUNDED,
    ),
    "reward_model.adapter": JUDGED,
    "entry_point.entry": JUDGED,
    **{
        f"{name}.{key}": BOUNDED
        for name in (
            "length", "format", "contains", "exact_answer", "python_docs", "reward_model",
            "entry_point",
        )
        for key in ("name", "weight")
    },
}  # fmt: skip

KEYS: Mapping[str, Judgement] = {
    "task": BOUNDED,
    "initial_adapter": JUDGED,
    "reference": JUDGED,
    "train": JUDGED,
    "attack": JUDGED,
    "checkpoint.keep": JUDGED,
    "output_dir": OWNERS,
    **dict.fromkeys(PLAIN, SERVERS),
    **{f"model.{key}": said for key, said in _MODEL.items()},
    **{f"lora.{key}": said for key, said in _LORA.items()},
    **{f"data.{key}": said for key, said in _DATA.items()},
    **{f"federation.{key}": said for key, said in _FEDERATION.items()},
    **{f"evaluation.{key}": said for key, said in _EVALUATION.items()},
    **{f"rewards.{key}": said for key, said in _REWARDS.items()},
}


def key_refusals(task: str, raw: Mapping[str, object]) -> Iterator[str]:
    """What of a recipe no node takes over a network, whatever its owner allows; a line each.

    Args:
        task: The recipe's.
        raw: A recipe that is valid, as JSON has it.
    """
    train = raw.get("train")
    yield from train_refusals(task, train if isinstance(train, Mapping) else {})
    yield from _walk(raw, "")


def _walk(section: Mapping[str, object], before: str) -> Iterator[str]:
    for name, value in section.items():
        key = f"{before}{name}"
        judgement = KEYS.get(key)
        if isinstance(judgement, Range):
            if not judgement.holds(value):
                yield f"{key}: over a network, needs {judgement.needs}"
        elif judgement is not None:
            continue
        elif isinstance(value, Mapping):
            yield from _walk(value, f"{key}.")
        elif isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
            for each in value:
                yield from _walk(each, f"{key}.{each.get('name')}.")
        else:
            yield f"{key[:80]}: over a network, refused: no list of this node has it"
