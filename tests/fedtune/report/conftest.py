"""A small run that a person can follow by hand: four clients, client 3 lies."""

import pytest

EVIL = "[bold]trust[/bold] me \x1b[2J\x1b]0;owned\x07 it is \u202eenif"


@pytest.fixture
def evil():
    return EVIL


def client(weight, train_loss=4.0):
    return {"train_loss": train_loss, "weight": weight, "norm": 1.0, "distance": 0.5}


@pytest.fixture
def records():
    base = {"loss": 6.0, "perplexity": 403.4, "token_accuracy": 0.05, "num_tokens": 100}
    final = {"loss": 5.0, "perplexity": 148.4, "token_accuracy": 0.15, "num_tokens": 100}
    everyone = [0, 1, 2, 3]
    costs = {"upload_bytes": 3000, "download_bytes": 4000, "train_s": 2.0, "aggregate_s": 0.5}
    return [
        {"round": 0, "eval": base, "revision": "a"},
        {
            "round": 1,
            "attempt": 0,
            "sampled": everyone,
            "refused": {"3": EVIL},
            "clients": {"0": client(0.5), "1": client(0.4), "2": client(0.1)},
            "eval": {**base, "loss": 5.5},
            "round_s": 4.0,
            "revision": "b",
            **costs,
        },
        {
            "round": 2,
            "attempt": 1,
            "sampled": everyone,
            "refused": {"2": "it sent no reply"},
            "clients": {"0": client(0.5), "1": client(0.5), "3": client(0.0)},
            "round_s": 3.0,
            "revision": "c",
            **costs,
        },
        {
            "round": 3,
            "attempt": 0,
            "sampled": everyone,
            "refused": {"3": EVIL},
            "clients": {"0": client(0.2), "1": client(0.2), "2": client(0.6)},
            "eval": final,
            "client_eval": {"0": {"loss": 5.1}, "1": {"loss": 1e308}, "3": {"perplexity": 1.0}},
            "round_s": 5.0,
            "revision": "d",
            **costs,
        },
    ]
