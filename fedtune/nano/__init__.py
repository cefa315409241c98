"""The embedded default: a base model of a million parameters, and a data set read from Python.

``nano`` is a causal language model in this folder, ``python_docs`` reads the standard library of
the Python that runs it. Together they let every recipe run with no network and no download.
"""

from pathlib import Path

__all__ = ["model_folder"]


def model_folder() -> Path:
    """The folder of nano's weights, tokenizer and model card.

    Returns:
        A folder that ``AutoModelForCausalLM.from_pretrained`` and
        ``AutoTokenizer.from_pretrained`` load.
    """
    return Path(__file__).parent / "model"
