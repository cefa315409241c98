"""The tokenizer of ``nano``: byte-level BPE, so every text has tokens and comes back unchanged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["BOS", "CHAT_TEMPLATE", "EOS", "MAX_TOKENS", "PAD", "VOCABULARY", "train_tokenizer"]

VOCABULARY = 2048
MAX_TOKENS = 512
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"

# Roles are plain text, not tokens of their own: a new token would have an embedding that
# pre-training never moved and that an adapter on the linear layers cannot move either.
# An answer ends in EOS; a prompt with `add_generation_prompt` is a prefix of prompt and answer;
# the `generation` marks are what TRL's `assistant_only_loss` asks for.
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '# ' + message['role'] + '\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '# assistant\n' -}}{%- endif -%}"
)


def train_tokenizer(
    texts: Iterable[str], *, vocabulary: int = VOCABULARY
) -> PreTrainedTokenizerFast:
    """Learn the merges from texts.

    Args:
        texts: What to learn from; the same texts in the same order give the same tokenizer.
        vocabulary: Entries wanted: 3 special tokens, 256 bytes, and merges. A small corpus
            gives fewer.

    Returns:
        A ``PreTrainedTokenizerFast`` that puts BOS in front of a text, with a chat template.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
