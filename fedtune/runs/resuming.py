"""Whether a run may go on from a checkpoint: whether that is the state its record ends in."""

from __future__ import annotations

from collections.abc import Mapping

from fedtune.adapters.layout import Layout
from fedtune.messages.wire import hash_row
from fedtune.records.checkpoint import Checkpoint
from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder


def refuse_another_state(
    folder: RunFolder, checkpoint: Checkpoint, last: Mapping[str, object], layout: Layout
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
        if last.get(name, value) != value:
            raise RunStoppedError(
                f"{folder.checkpoints}: round {checkpoint.round} is not the state that "
                f"{folder.metrics.name} says that round led to ({name} differs): one of the two "
                f"was changed; bring it back, or start a new run",
                resumable=False,
            )
