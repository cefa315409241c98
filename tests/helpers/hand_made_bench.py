"""A bench of three defences and three attacks whose losses are made up, and its summary."""

from fedtune.attack_bench.cells import lay_out
from fedtune.attack_bench.schema import Bench
from fedtune.attack_bench.summary import summarise
from fedtune.records.bench_result import Line

BENCH = Bench.model_validate(
    {
        "title": "By hand",
        "fractions": [0.2],
        "seeds": [0, 1],
        "defences": {
            "a": {"aggregator": {"name": "mean"}},
            "b": {"aggregator": {"name": "krum"}},
            "c": {"aggregator": {"name": "bulyan"}},
        },
        "attacks": {
            "alie": {"name": "alie", "z": 1.5},
            "nan": {"name": "nan"},
            "noise": {"name": "label_noise"},
        },
    }
)
# Losses by (attack, defence), for seeds 0 and 1. Base 5 and 6; oracle 3 and 4: a gain of 2 each.
BASE = (5.0, 6.0)
LOSSES = {
    ("oracle", "mean of all"): (3.0, 4.0),
    ("none", "mean of all"): (2.5, 3.5),  # a gain of 2.5
    ("none", "a"): (2.5, 3.5),
    ("none", "b"): (2.75, 3.75),
    ("alie", "a"): (7.0, 6.0),
    ("alie", "b"): (3.5, 4.1),
    ("nan", "a"): (3.0, 4.0),
    ("nan", "b"): (3.2, 4.4),
    ("noise", "b"): (3.0, 4.2),
}


def client(attacker, *, asked=4, dropped=0, refused=0, weight=1.0):
    return {
        "attacker": attacker, "asked": asked, "dropped": dropped, "refused": refused, "reason": "",
        "weight": weight,
    }  # fmt: skip


def line(cell, **facts):
    seed = cell.seed
    losses = LOSSES.get((cell.attack, cell.defence))
    if losses is None and cell.state == "open":
        return None
    told = {
        "attack": cell.attack, "defence": cell.defence, "fraction": cell.fraction, "seed": seed,
        "status": "done" if losses else cell.state, "message": cell.message,
        "base": BASE[seed], "loss": losses and losses[seed], "curve": [[0, BASE[seed]]],
        "worst_client": {"client": 7, "loss": 5.5 + seed}, "backdoor": None,
        "clients": {"0": client(attacker=False), "1": client(attacker=True)},
        "command": f"run {seed}", "code": "c0de", "machine": "this one",
        "seconds": 1.0,
    }  # fmt: skip
    return told | facts


def summary_of(change=lambda told: told, **keys):
    bench = BENCH.model_copy(update=keys)
    cells = lay_out(bench)
    lines = [change(told) for cell in cells if (told := line(cell))]
    known = [Line.model_validate(each) for each in lines if each]
    told = summarise(bench, cells, known, command="fedtune bench x").model_dump(mode="json")
    return told, told["tables"][0]


def cell_of(table, attack, defence):
    cells = [c for c in table["cells"] if (c["attack"], c["defence"]) == (attack, defence)]
    assert len(cells) == 1
    return cells[0]


def ending(status, *where):
    """A change of lines: those of these (attack, defence, seed) end so, without a loss."""

    def change(told):
        if (told["attack"], told["defence"], told["seed"]) in where:
            return told | {"status": status, "message": f"it {status}", "loss": None}
        return told

    return change
