"""The shipped model: its size, that its card tells the truth, and that there is room to learn.

Not proven here: the held-out figure of the card, whose corpus depends on what is installed.
"""

import json
import math
import subprocess
import sys

import pytest
import torch

from fedtune.nano import model_folder
from fedtune.nano.evaluate import Fit, completion_fit, text_fit

# Written for this test, so that no training run can have seen it.
OURS = [
    '# garden.beds\ndef water(bed, litres=2):\n"""Return the bed after it was given water."""',
    '# garden.beds\nclass Bed(Ground):\n"""A bed of plants, with its length and its width."""',
    '# post.office\ndef weigh(parcel):\n"""Return the weight of the parcel in grams.\n\n'
    'Raises a ValueError if the parcel is empty."""',
    '# post.office\ndef send(letter, *, by=None):\n"""Send a letter to the given address.\n\n'
    'If `by` is None, the fastest way is used."""',
    '# kitchen.stove\nasync def boil(water, timeout=None):\n"""Wait until the water boils."""',
    '# kitchen.menu\ndef dishes(self, season):\n"""Get the list of dishes for a season."""',
]


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folder())


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder())


@pytest.fixture(scope="module")
def figures():
    return json.loads((model_folder() / "figures.json").read_text())


def test_about_a_million_parameters_and_small_on_disk(model, tokenizer, figures):
    assert 0.9e6 <= model.num_parameters() <= 1.2e6
    assert model.num_parameters() == figures["parameters"]
    assert model.config.vocab_size == len(tokenizer) == 2048
    assert sum(path.stat().st_size for path in model_folder().iterdir()) < 2.6e6


def test_loaded_without_a_dtype_it_is_float32(model):
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_card_states_the_figures(figures):
    card = (model_folder() / "README.md").read_text()
    for part in ("held_out", "python_docs"):
        assert f"{figures[part]['bits_per_byte']:.3f} bits per byte" in card
    for package, documents in figures["corpus"]["packages"].items():
        assert f"{package} {documents:,}" in card


def test_python_docs_fit_as_the_card_says(model, tokenizer, rows, figures):
    """Other Python versions have slightly other rows: hence the tolerance."""
    fit = completion_fit(model, tokenizer, rows[::8])
    assert fit.bits_per_byte == pytest.approx(figures["python_docs"]["bits_per_byte"], abs=0.1)
    assert fit.nats_per_token < 0.7 * math.log(2048)  # far below a uniform guess, 7.62


def test_texts_of_ours_fit(model, tokenizer):
    # 2.27 when it was trained. Harder than the card's held-out documents: short texts about
    # gardens and parcels, with no near-copy in the corpus. Untrained: 4.6.
    assert text_fit(model, tokenizer, OURS).bits_per_byte < 2.4


def test_padding_does_not_change_a_fit(model, tokenizer, rows):
    together = completion_fit(model, tokenizer, rows[:6], batch_size=6)
    alone = completion_fit(model, tokenizer, rows[:6], batch_size=1)
    assert together.nats == pytest.approx(alone.nats, rel=1e-5)
    assert (together.tokens, together.utf8_bytes) == (alone.tokens, alone.utf8_bytes)


def test_bits_per_byte_by_hand():
    # 4 tokens at ln(2048) nats = 11 bits each: 44 bits over 22 bytes.
    fit = Fit(nats=4 * math.log(2048), tokens=4, utf8_bytes=22)
    assert fit.bits_per_byte == pytest.approx(2.0)
    assert fit.nats_per_token == pytest.approx(math.log(2048))


def test_completions_are_finite_and_readable(model, tokenizer, rows):
    prompt = tokenizer(rows[0]["prompt"], return_tensors="pt")
    out = model.generate(
        **prompt, max_new_tokens=20, do_sample=False, return_dict_in_generate=True,
        output_logits=True,
    )  # fmt: skip
    assert all(torch.isfinite(logits).all() for logits in out.logits)
    answer = tokenizer.decode(out.sequences[0, prompt["input_ids"].shape[1] :])
    assert answer.strip()


def test_a_fit_over_nothing_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="at least one"):
        completion_fit(model, tokenizer, [])
    with pytest.raises(ValueError, match="at least one"):
        text_fit(model, tokenizer, [])


def test_importing_the_package_imports_no_torch():
    code = "import sys, fedtune.nano; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
