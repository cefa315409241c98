"""The page of one run: what was gained, how much each client counted, what the model says now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedtune.records.lines import RoundRecord
from fedtune.records.manifest import Manifest
from fedtune.report.figures import curve_title, shown
from fedtune.report.lost_rows import lost_rows, unmeasured
from fedtune.report.names import label_of, name_of
from fedtune.report.pages.chart import loss_chart
from fedtune.report.pages.gain import percent_of
from fedtune.report.pages.render import line, page
from fedtune.report.pages.strip import LEGEND, weight_strip
from fedtune.report.silenced import headlines, silences
from fedtune.report.summary import (
    ClientFacts,
    RunFacts,
    best_in_words,
    describe,
    summarise,
    trained,
)
from fedtune.report.table import notable
from fedtune.report.text import duration, figure, percent, size

if TYPE_CHECKING:  # it brings torch
    from fedtune.recipe import Recipe

MAX_SAMPLES, MAX_REASONS, MAX_LOST = 8, 40, 12
SAID = {"loss", "reward", "backdoor_success", "backdoor_untriggered"}  # in sentences
STYLES = ("page.css", "chart.css", "run.css")
HEADS = ("client", "rows", "weight", "of fair", "low", "dropped", "far", "refused")
KEY = (
    "weight: mean share over the rounds it was asked in; of fair: the same over 1 / clients asked; "
    "low: rounds below half of that; dropped: rounds at next to no weight, refused or silent; far: "
    "distance of its update to the aggregate over the median client's; own {leads}: held out, as "
    "the client reports it."
)


def run_page(
    recipe: Recipe,
    records: Sequence[RoundRecord],
    manifest: Manifest,
    samples: Sequence[Mapping[str, Any]],
    *,
    rows: Mapping[int, int] | None = None,
    recipe_text: str,
    command: str,
) -> str:
    """Write one run, as far as it got, as one self-contained page.

    Args:
        recipe: The run's.
        records: The lines of metrics.jsonl.
        manifest: Of the run.
        samples: The lines of samples.jsonl; the first few are shown.
        rows: Training rows of the clients of whom they are known; None: as the manifest has them.
        recipe_text: The recipe as YAML.
        command: What repeats the run.

    Returns:
        The HTML document. It needs no network, and no script to be read.
    """
    facts, attackers = summarise(records), manifest.simulated_attackers
    rows = dict(enumerate(manifest.client_rows)) if rows is None else rows
    name, clients = line(recipe.output_dir.name or "run"), notable(facts.clients)
    return page(
        "run.html.jinja",
        name,
        styles=STYLES,
        scripts=("copy.js", "wide.js"),
        name=name,
        described=line(f"{trained(recipe)} | {describe(recipe)}"),
        rounds=f"{facts.rounds} of {recipe.federation.num_rounds} rounds",
        leads=facts.leads,
        first=facts.base.get(facts.leads),
        last=facts.final.get(facts.leads),
        silenced=headlines(silences(records), manifest),
        notes=[
            *_notes(recipe, facts, attackers),
            *(f"{told}." for told in (*lost_rows(manifest), *unmeasured(records, manifest))),
        ],
        totals=_totals(facts),
        loss_title=curve_title(facts.leads),
        chart=loss_chart(facts.curve, facts.base.get(facts.leads), of=facts.leads),
        lost=", ".join([str(at) for at, loss in facts.curve if loss is None][:MAX_LOST]),
        strip=weight_strip(records, [one.client for one in clients], attackers),
        legend=LEGEND,
        heads=(*HEADS, f"own {facts.leads}"),
        key=KEY.format(leads=facts.leads),
        clients=[
            (
                label_of(one.client, manifest),
                name_of(one.client, manifest),
                one.client in attackers,
                _cells(one, rows),
            )
            for one in clients
        ],
        hidden=len(facts.clients) - len(clients),
        refusals=_refusals(records, manifest),
        samples=[_sample(sample) for sample in samples[:MAX_SAMPLES]],
        manifest=_made_by(manifest),
        recipe_text=recipe_text,
        command=command,
    )


def _notes(recipe: Recipe, facts: RunFacts, attackers: Collection[int]) -> list[str]:
    undone = f"{facts.undone}." if facts.undone else None
    best = best_in_words(facts)
    notes = [
        _attack(recipe, facts, attackers), undone, best and f"{best}.", _refused(facts),
        _backdoor(facts),
    ]  # fmt: skip
    return [note for note in notes if note]


def _attack(recipe: Recipe, facts: RunFacts, attackers: Collection[int]) -> str | None:
    if not attackers or recipe.attack is None:
        return None
    clients = recipe.federation.num_clients
    told = f"{len(attackers)} of {clients} clients attack by {recipe.attack.name}"
    known = [one for one in facts.clients if one.client in attackers]
    weights = [one.mean_weight for one in known if one.mean_weight is not None]
    if not weights:
        return f"{told}. The rule is not told."
    fair = sum(one.fair_share or 0.0 for one in known)
    return (
        f"{told}. The rule is not told; it gave them {percent(sum(weights))} of the weight, "
        f"{percent(fair)} is fair."
    )


def _refused(facts: RunFacts) -> str | None:
    times = sum(one.times_refused for one in facts.clients)
    clients = sum(one.times_refused > 0 for one in facts.clients)
    if not times:
        return None
    replies = "reply was" if times == 1 else "replies were"
    return f"{times} {replies} refused, of {clients} client{'s' * (clients != 1)}."


def _backdoor(facts: RunFacts) -> str | None:
    after = facts.final.get("backdoor_success")
    if after is None:
        return None
    words = f"Backdoor success rate: {percent_of(after)} of prompts with the trigger"
    if (without := facts.final.get("backdoor_untriggered")) is not None:
        words += f"; {percent_of(without)} without it"
    before = facts.base.get("backdoor_success")
    return f"{words}." if before is None else f"{words}; before training {percent_of(before)}."


def _totals(facts: RunFacts) -> list[tuple[str, str]]:
    figures = [
        (label.capitalize(), f"{write(facts.base.get(key))} to {write(facts.final.get(key))}")
        for label, key, write in shown(facts.final)
        if key not in SAID and facts.final.get(key) is not None
    ]
    took = f"training {facts.train_s:.1f} s, aggregating {facts.aggregate_s:.1f} s"
    traffic = f"{size(facts.upload_bytes)} up, {size(facts.download_bytes)} down"
    return [*figures, ("Time", f"{duration(facts.round_s)}; {took}"), ("Traffic", traffic)]


def _cells(one: ClientFacts, rows: Mapping[int, int]) -> list[str]:
    """A client's row under `HEADS` and its own figure, without its number."""
    ratio = None
    if one.mean_weight is not None and one.fair_share:
        ratio = one.mean_weight / one.fair_share
    dropped = one.times_dropped
    return [
        str(rows.get(one.client, "–")),
        percent(one.mean_weight, none="–"),
        "–" if ratio is None else f"{ratio:.2f}×",
        str(one.times_low or "–"),
        "–" if dropped is None else f"{dropped} of {one.rounds_asked}",
        "–" if one.far is None else f"{one.far:.3g}",
        str(one.times_refused or "–"),
        figure(one.own_figure, none="–"),
    ]


def _refusals(records: Sequence[RoundRecord], manifest: Manifest) -> list[tuple[str, str]]:
    """Each refused client's reasons once, with the rounds."""
    found: dict[tuple[int, str], list[int]] = {}
    for record in records:
        for client, reason in sorted(record.refused.items()):
            found.setdefault((client, line(reason, 400)), []).append(record.round)
    told = [
        (f"{name_of(client, manifest)}, {_rounds(rounds)}: ", reason)
        for (client, reason), rounds in list(found.items())[:MAX_REASONS]
    ]
    left = len(found) - MAX_REASONS
    return [*told, ("", f"{left} more are in metrics.jsonl")] if left > 0 else told


def _rounds(rounds: Sequence[int]) -> str:
    if len(rounds) > 6:
        return f"{len(rounds)} rounds from {rounds[0]} to {rounds[-1]}"
    word = "round" if len(rounds) == 1 else "rounds"
    return f"{word} {', '.join(map(str, rounds))}"


def _sample(sample: Mapping[str, Any]) -> list[tuple[str, str]]:
    keys = ("prompt", "truth", "before", "after")
    told = [(key.capitalize(), line(sample.get(key, ""), 2000)) for key in keys]
    return [(label, text) for label, text in told if text or label != "Truth"]


def _made_by(manifest: Manifest) -> list[tuple[str, str]]:
    shown_elsewhere = {"client_rows", "client_names", "simulated_attackers", "recipe", "node_keys"}
    facts = manifest.facts.items()
    return [(line(key, 80), _flat(value)) for key, value in facts if key not in shown_elsewhere]


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{line(key, 60)} {_flat(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_flat(one) for one in value) or "none"
    return "none" if value is None else line(value, 2000)
