"""The shipped tokenizer: texts come back unchanged, chats render, completions stay apart."""

import pytest

from fedtune.nano import model_folder
from fedtune.nano.tokenizer import BOS, EOS, PAD, train_tokenizer

USER = {"role": "user", "content": "What is a list?"}
ASSISTANT = {"role": "assistant", "content": "A sequence."}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder())


@pytest.mark.parametrize(
    "text",
    [
        "Return the sum.",
        "  two spaces, a tab\t, a line\n\n  and a trailing space ",
        "naïve Größe, 日本語, עברית, 🤗 and e\u0301",
        "\x00\x7f\ufffd",
        "a , b . c ! don't",  # a tokenizer that cleans up would eat the spaces
        "",
    ],
)
def test_text_comes_back_unchanged(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_special_tokens_are_three_and_distinct(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (BOS, EOS, PAD)
    ids = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(ids) == 3
    assert len(tokenizer) == 2048


def test_the_chat_template_renders_every_role(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        f"{BOS}# system\nBe brief.\n# user\nWhat is a list?\n# assistant\nA sequence.{EOS}"
    )


def test_a_generation_prompt_is_a_prefix_of_prompt_and_answer(tokenizer):
    prompt = tokenizer.apply_chat_template([USER], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template([USER, ASSISTANT])["input_ids"]
    assert whole[: len(prompt)] == prompt


def test_the_chat_template_marks_what_the_assistant_says(tokenizer):
    chat = tokenizer.apply_chat_template(
        [USER, ASSISTANT], return_dict=True, return_assistant_tokens_mask=True
    )
    said = [i for i, mask in zip(chat["input_ids"], chat["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(said) == f"A sequence.{EOS}"


def test_the_tokens_of_a_prompt_are_a_prefix_of_prompt_and_completion(tokenizer, rows):
    """TRL masks the loss by the length of the prompt alone."""
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    wholes = tokenizer([row["prompt"] + row["completion"] for row in rows])["input_ids"]
    for prompt, whole in zip(prompts, wholes, strict=True):
        assert whole[: len(prompt)] == prompt


def test_python_docs_rows_are_short(tokenizer, rows):
    texts = [row["prompt"] + row["completion"] for row in rows]
    lengths = sorted(len(ids) + 1 for ids in tokenizer(texts)["input_ids"])  # + 1: EOS
    assert lengths[int(0.95 * len(lengths))] <= 110
    assert lengths[-1] <= 256


def test_training_twice_gives_the_same_tokenizer():
    texts = ["Return the sum of the items.", "Return the mean of the items, or None."] * 3
    first, second = (train_tokenizer(texts, vocabulary=300) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    assert first("Return the mean")["input_ids"] == second("Return the mean")["input_ids"]
