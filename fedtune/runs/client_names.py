"""What the clients of a run are called beside their numbers: for people, never for a rule."""

from __future__ import annotations

from collections import Counter

from fedtune.deployment.folder import DeploymentFolder
from fedtune.plain import plain
from fedtune.recipe import Recipe
from fedtune.training.worker import Worker

MAX_NAME = 80


def name_clients(recipe: Recipe, worker: Worker) -> list[str]:
    """Names by client number; empty where there are none.

    On a network the nodes' names. Else, where whole ids are dealt (``partition.by: natural_id``),
    the id that most of a client's rows have, with its column: "module json", or "module json and 3
    more".

    Args:
        recipe: The run's.
        worker: Holds the rows and how they are dealt.
    """
    if recipe.federation.deployment is not None:
        return DeploymentFolder.open(recipe.federation.deployment).names
    partition = recipe.data.partition
    if partition.by != "natural_id" or partition.column is None:
        return []
    values = worker.data.rows[partition.column]
    names = []
    for client in range(recipe.federation.num_clients):
        split = worker.data.parts[client]
        ids = Counter(str(values[row]) for row in (*split.train, *split.test))
        (first, _), *others = sorted(ids.items(), key=lambda item: (-item[1], item[0]))
        more = f" and {len(others)} more" if others else ""
        names.append(plain(f"{partition.column} {first}", " ")[:MAX_NAME] + more)
    return names
