"""What a reader of a bench's numbers has to know."""

from __future__ import annotations

from fedtune.attack_bench.gains import SMALL
from fedtune.attack_bench.schema import FLOORS, Bench


def notes(bench: Bench) -> list[str]:
    """A line each."""
    told = [
        "the server of a run that stopped could not go on: it counts as 0 in the worst case; a run "
        "that diverged has a loss that is no finite number, or could not go on from a model worse "
        "than its base: it counts as worse than any; a "
        "retained gain is the mean of the seeds that are done",
        "least: the least retained gain over all rounds of all seeds, each against the oracle of "
        f"the same round and seed; rounds in which the oracle has made less than {SMALL:.0%} of "
        "its own gain at the end are left out",
        "in the worst case a backdoor counts by the lesser of retained gain and 1 - (success with "
        "the trigger - success without it); attacks on the protocol count by retained gain alone",
    ]
    if bench.level == "training":
        told.append(
            "worst honest client: the least share of its oracle's gain, on the client's own "
            "held-out rows, over all honest clients, attacks and seeds; clients whose oracle gains "
            f"less than {SMALL:.0%} of the median client's have no share, and are left out"
        )
    told += [*_of_vectors(bench), *_of_the_floor(bench), *_of_the_choice(bench)]
    return told


def _of_vectors(bench: Bench) -> list[str]:
    if bench.level != "vectors":
        return []
    drawn = bench.rounds is not None and bench.rounds.drawn is not None
    return [
        f"honest updates are {'drawn' if drawn else 'recorded'}, and each round begins where "
        "theirs did: the outer optimizer is no part of this level",
        "loss is the squared error of a round's step against the oracle's, in what the model "
        "feels, over the square of the oracle's step: 1 for no step, 0 for the oracle's",
    ]


def _of_the_floor(bench: Bench) -> list[str]:
    if not bench.floors:
        return []
    rates = ", ".join(f"{rate:.0%}" for rate in FLOORS.values())
    return [
        "the floor of a backdoor: the attackers run the recipe's own trainer on rows poisoned at "
        f"{rates}, and send the result unchanged to the plain mean of all; of each seed the worst "
        "rate counts. No rule can tell such a client from one whose data are so"
    ]


def _of_the_choice(bench: Bench) -> list[str]:
    if bench.chosen_on is None:
        return []
    chosen, shown = (", ".join(map(str, each)) for each in (bench.chosen_on.seeds, bench.seeds))
    return [f"the defences were chosen on seeds {chosen}, and are reported on seeds {shown}"]
