"""Whether the adapter in a run's folder is the one in which its record ends."""

from __future__ import annotations

from collections.abc import Iterator

from fedtune.adapters.layout import Layout
from fedtune.adapters.tensor_files import read_tensors
from fedtune.messages.wire import hash_row
from fedtune.recipe import Recipe
from fedtune.records.folder import RunFolder
from fedtune.records.signed_chain import Line
from fedtune.round.screening.screen import printable
from fedtune.trust.adapter_config import CONFIG, check_config, other_weights
from fedtune.trust.binding import Bound
from fedtune.trust.finding import Finding, noted

TENSORS = "adapter_model.safetensors"


def check_adapter(folder: RunFolder, last: Line, bound: Bound, recipe: Recipe) -> Iterator[Finding]:
    """Hold ``adapter/`` against the record's last line, and its configuration against the recipe.

    Args:
        folder: The run's; a copy of it without an adapter has nothing to look at.
        last: Of the record.
        bound: What its manifest binds.
        recipe: That of the run.
    """
    path = folder.adapter / TENSORS
    if not folder.adapter.exists():
        yield noted("adapter: not looked at; it is not in the folder")
        return
    yield from other_weights(folder.adapter, TENSORS)
    if not path.is_file():
        yield Finding(f"{path} is no file: the folder holds another adapter, or none")
        return
    if last.next_anchor is None:
        yield noted("adapter: not looked at; this record does not say in which it ends")
        return
    try:
        tensors = read_tensors(path)
    except (ValueError, OSError) as error:
        yield Finding(f"{path} is no adapter: {type(error).__name__}")
        return
    yield from check_config(folder.adapter, tensors, recipe)
    layout = Layout.of(tensors)
    other = layout.hash != bound.facts.layout_hash
    if other or hash_row(layout.flatten(tensors), layout) != last.next_anchor:
        yield Finding(f"{path} is not the adapter in which the record ends")
    else:
        yield noted("adapter: the one in which the record ends")
    if beside := sorted(each.name for each in folder.adapter.glob("*.*") if is_beside(each.name)):
        told = ", ".join(printable(name)[:60] for name in beside[:8])
        yield noted(f"beside the adapter, and in no record: {told}")


def is_beside(name: str) -> bool:
    """Whether a file of the folder is neither weights nor configuration of the adapter."""
    return name not in {TENSORS, CONFIG}
