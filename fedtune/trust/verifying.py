"""All that can be held against a run's record, in order, by what the verifier has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedtune.recipe import Recipe
from fedtune.records.folder import RunFolder
from fedtune.records.signed_chain import bad_signature, broken_links, read_lines
from fedtune.round.screening.kept_replies import KEPT, KeptReplies
from fedtune.trust.adapter import check_adapter
from fedtune.trust.binding import Bound, check_deployment, check_recipe, read_bound
from fedtune.trust.finding import Finding, noted
from fedtune.trust.left_out import left_out
from fedtune.trust.lines import contradictions
from fedtune.trust.recompute import recompute
from fedtune.trust.tracing import trace


@dataclass(frozen=True)
class Witnesses:
    """What a verifier has beside a run's folder; None: not that.

    Attributes:
        node: A node's folder.
        authority: ``ca.pem`` of the deployment.
        deployment: ``deployment.json``, or the folder that holds it.
        run: How the run's number has to begin.
        replies: Where the kept replies are, if not in the run's folder.
        recompute: Whether to run all rounds again.
    """

    node: Path | None = None
    authority: Path | None = None
    deployment: Path | None = None
    run: str | None = None
    replies: Path | None = None
    recompute: bool = False


def verified(path: Path, witnesses: Witnesses) -> Iterator[Finding]:
    """Everything that is found, what speaks for the record too.

    Raises:
        FileNotFoundError: If there is no run, or the node has no log.
        RecipeError: If the run's recipe, or ``deployment.json``, cannot be read.
    """
    folder, recipe = RunFolder.open(path)
    broken = list(broken_links(folder))
    yield from (Finding(text) for text in broken)
    if broken:
        return
    try:
        bound = read_bound(folder)
    except ValueError as error:
        yield Finding(str(error))
        return
    looked_at = list(_record(folder, recipe, bound, witnesses))
    yield from looked_at
    lines = read_lines(folder)
    if witnesses.node is not None:
        yield from trace(lines, bound, recipe, witnesses.node)
    if witnesses.recompute and any(each.wrong for each in looked_at):
        yield noted("recompute: not done; what is wrong with the record comes before")
    elif witnesses.recompute:
        kept = KeptReplies(witnesses.replies or folder.path / KEPT)
        yield from recompute(folder, recipe, bound, kept)


def _record(
    folder: RunFolder, recipe: Recipe, bound: Bound, witnesses: Witnesses
) -> Iterator[Finding]:
    """The record by itself, and by whoever signed it."""
    lines = read_lines(folder)
    yield noted(f"run: {bound.hash}")
    if witnesses.run is not None and not bound.hash.startswith(witnesses.run):
        yield Finding(f"this is not the run {witnesses.run}")
    yield noted(f"record: {len(lines)} lines, the last {folder.head()}")
    if witnesses.authority is None:
        yield noted("signature: not looked at; it needs --node, or --ca")
    elif problem := bad_signature(folder, witnesses.authority):
        yield Finding(problem)
    else:
        yield noted(f"signature: by the server of {witnesses.authority}")
    yield from check_recipe(folder, recipe, bound)
    if witnesses.deployment is not None:
        yield from check_deployment(bound, witnesses.deployment)
    yield from left_out(lines, bound, recipe)
    yield from contradictions(lines, recipe)
    yield from check_adapter(folder, lines[-1], bound, recipe)
