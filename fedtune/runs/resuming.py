"""Whether a run may go on: with this model, and from a checkpoint that its record ends in."""

from __future__ import annotations

import json

from fedtune.adapters.layout import Layout
from fedtune.durable import read_bytes
from fedtune.messages.wire import hash_row
from fedtune.recipe import Recipe
from fedtune.records.checkpoint import Checkpoint
from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.records.growing import MAX_METRICS_BYTES
from fedtune.records.lines import RoundRecord
from fedtune.training.adapted import modules_of, no_product
from fedtune.training.worker import Worker


def refuse_no_product(recipe: Recipe, worker: Worker) -> None:
    """Hold the adapter that was loaded against the recipe's geometry, as check does without it.

    Raises:
        RunStoppedError: If the geometry is one of products, and the adapter has none.
    """
    if (fused := no_product(recipe, modules_of(worker.model))) is not None:
        raise RunStoppedError(fused, resumable=False)


def refuse_another_place(folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Hold where a checkpoint says its round ends in the record against the record.

    What stands behind that place is dropped: that of another run would have good lines dropped. A
    record that is shorter has lost its end, and is mended.

    Raises:
        RunStoppedError: If another round ends there, or none; nothing is dropped then.
    """
    if folder.metrics_bytes() < checkpoint.metrics_bytes:
        return
    kept = read_bytes(folder.metrics, most=MAX_METRICS_BYTES)[: checkpoint.metrics_bytes]
    try:
        ended = json.loads(kept[kept.rfind(b"\n", 0, -1) + 1 :])["round"]
    except (ValueError, LookupError, TypeError):
        ended = None
    if ended != checkpoint.round or not kept.endswith(b"\n"):
        raise RunStoppedError(
            f"{folder.checkpoints}: round {checkpoint.round} does not end in "
            f"{folder.metrics.name} where it says (metrics_bytes): one of the two was changed; "
            f"bring it back, or start a new run",
            resumable=False,
        )


def refuse_another_state(
    folder: RunFolder, checkpoint: Checkpoint, last: RoundRecord, layout: Layout
) -> None:
    """Hold a checkpoint against the last line of the record that it belongs to.

    A checkpoint's own seal has no key: who edits it can seal it anew. The record's line has the
    hash of the anchor and of all that the server remembers, and nodes were shown it.

    Args:
        folder: The run's.
        checkpoint: From which it is to go on.
        last: The record's line of the checkpoint's round; an older one says less.
        layout: Of the adapter.

    Raises:
        RunStoppedError: If they differ.
    """
    here = {
        "next_anchor": hash_row(checkpoint.anchor, layout),
        "revision": checkpoint.revision,
    }
    for name, value in here.items():
        if getattr(last, name) not in (None, value):
            raise RunStoppedError(
                f"{folder.checkpoints}: round {checkpoint.round} is not the state that "
                f"{folder.metrics.name} says that round led to ({name} differs): one of the two "
                f"was changed; bring it back, or start a new run",
                resumable=False,
            )
