"""The page of one run: what was gained, whom the rule heard, what the model says now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedtune.records.lines import RoundRecord
from fedtune.records.manifest import Manifest
from fedtune.report.figures import loss_title, shown
from fedtune.report.pages.clients import LEGEND, client_table, refusals
from fedtune.report.pages.curve import curve
from fedtune.report.pages.gain import percent_of
from fedtune.report.pages.markup import Html, join, line, tag
from fedtune.report.pages.shell import command_box, document, facts_list, foldable
from fedtune.report.pages.strip import left_out, legend, strip
from fedtune.report.silenced import headlines, silences
from fedtune.report.summary import RunFacts, describe, summarise
from fedtune.report.table import notable
from fedtune.report.text import duration, figure, percent, size

if TYPE_CHECKING:  # it brings torch
    from fedtune.recipe import Recipe

MAX_SAMPLES = 8
SAID = {"loss", "backdoor_success", "backdoor_untriggered"}  # in sentences


def run_page(
    recipe: Recipe,
    records: Sequence[RoundRecord],
    manifest: Manifest,
    samples: Sequence[Mapping[str, Any]],
    *,
    recipe_text: str,
    command: str,
) -> str:
    """Write one run, as far as it got, as one self-contained page.

    Args:
        recipe: The run's.
        records: The lines of metrics.jsonl.
        manifest: Of the run.
        samples: The lines of samples.jsonl; the first few are shown.
        recipe_text: The recipe as YAML.
        command: What repeats the run.

    Returns:
        The HTML document. It needs no network, and no script to be read.
    """
    facts = summarise(records)
    liars = manifest.simulated_attackers
    title = line(recipe.output_dir.name or "run")
    head = tag("header", tag("h1", title), tag("p", line(describe(recipe)), class_="quiet"))
    body = tag(
        "main",
        head,
        _story(recipe, facts, liars, headlines(silences(records), manifest)),
        _loss(facts),
        _clients(records, facts, manifest, liars),
        _samples(samples),
        _made_by(manifest, recipe_text, command),
    )
    return document(title, body, styles=("page.css", "run.css"), scripts=("copy.js",))


def _story(recipe: Recipe, facts: RunFacts, liars: Sequence[int], silenced: Sequence[str]) -> Html:
    rounds = f"{facts.rounds} of {recipe.federation.num_rounds} rounds"
    first, last = facts.base.get("loss"), facts.final.get("loss")
    if first is None or last is None:
        lead: Html | str = f"{rounds} are done; the held-out loss is not known."
    else:
        verb = "fell" if last < first else "rose" if last > first else "stayed:"
        lead = join(
            f"The held-out loss {verb} from ",
            tag("strong", figure(first)),
            " to ",
            tag("strong", figure(last)),
            f" in {rounds}.",
        )
    undone = f"{facts.undone}." if facts.undone else None
    notes = [_liars(recipe, facts, liars), undone, _refused(facts), _backdoor(facts)]
    return tag(
        "section",
        tag("p", lead, class_="lead"),
        [tag("p", told, class_="notice") for told in silenced],
        [tag("p", note) for note in notes if note],
        facts_list(_totals(facts)),
        class_="story",
    )


def _liars(recipe: Recipe, facts: RunFacts, liars: Sequence[int]) -> str | None:
    if not liars or recipe.attack is None:
        return None
    who = f"{len(liars)} of {recipe.federation.num_clients} clients lie by {recipe.attack.name}"
    told = "The rule is not told"
    known = [one for one in facts.clients if one.client in liars and one.mean_weight is not None]
    if not known:
        return f"{who}. {told}."
    weight = sum(one.mean_weight or 0.0 for one in known)
    fair = sum(one.fair_share or 0.0 for one in known)
    return f"{who}. {told}; it gave them {percent(weight)} of the weight, {percent(fair)} is fair."


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
    before = facts.base.get("backdoor_success")
    words = f"The trigger is obeyed in {percent_of(after)} of prompts"
    if (without := facts.final.get("backdoor_untriggered")) is not None:
        words += f"; without it they are answered so in {percent_of(without)}"
    return f"{words}." if before is None else f"{words}; before training in {percent_of(before)}."


def _totals(facts: RunFacts) -> list[tuple[str, str]]:
    totals = []
    for label, key, write in shown(facts.final):
        if key not in SAID and facts.final.get(key) is not None:
            before, after = write(facts.base.get(key)), write(facts.final.get(key))
            totals.append((label.capitalize(), f"{before} to {after}"))
    took = f"training {facts.train_s:.1f} s, aggregating {facts.aggregate_s:.1f} s"
    totals.append(("Time", f"{duration(facts.round_s)}; {took}"))
    totals.append(("Traffic", f"{size(facts.upload_bytes)} up, {size(facts.download_bytes)} down"))
    return totals


def _loss(facts: RunFacts) -> Html:
    drawn = curve(facts.curve, facts.base.get("loss"))
    lost = [str(at) for at, loss in facts.curve if loss is None]
    note = tag("p", f"Not finite in rounds {', '.join(lost[:12])}.", class_="notice")
    return tag(
        "section",
        tag("h2", loss_title(facts.base)),
        drawn if drawn is not None else tag("p", "Nothing was measured yet."),
        note if lost else None,
    )


def _clients(
    records: Sequence[RoundRecord], facts: RunFacts, manifest: Manifest, liars: Sequence[int]
) -> Html | None:
    if not facts.clients:
        return None
    shown = notable(facts.clients)
    hidden = len(facts.clients) - len(shown)
    crowd = f"{hidden} clients with fewer refusals are left out; metrics.jsonl has them."
    picture = strip(records, [one.client for one in shown], liars)
    reasons = refusals(records)
    note = left_out(records)
    return tag(
        "section",
        tag("h2", "Whom the rule heard"),
        [picture, legend()] if picture is not None else None,
        tag("p", note, class_="quiet") if note else None,
        client_table(shown, manifest.client_rows, liars),
        tag("p", crowd) if hidden else None,
        tag("p", LEGEND, class_="quiet fine"),
        [tag("h3", "Refused, and why"), reasons] if reasons is not None else None,
    )


def _samples(samples: Sequence[Mapping[str, Any]]) -> Html | None:
    if not samples:
        return None
    labels = (("prompt", "Prompt"), ("truth", "Truth"), ("before", "Before"), ("after", "After"))
    shown = [
        facts_list([(label, line(sample.get(key, ""), 2000)) for key, label in labels])
        for sample in samples[:MAX_SAMPLES]
    ]
    return tag("section", tag("h2", "What it says, before and after"), shown, class_="samples")


def _made_by(manifest: Manifest, recipe_text: str, command: str) -> Html:
    facts = [
        (line(key, 80), _flat(value))
        for key, value in manifest.facts.items()
        if key not in {"client_rows", "simulated_attackers", "recipe", "node_keys"}
    ]
    return tag(
        "footer",
        tag("h2", "How to repeat it"),
        command_box(command),
        foldable("The recipe", tag("pre", tag("code", recipe_text), tabindex="0")),
        foldable("Versions, hardware, hashes", facts_list(facts)) if facts else None,
    )


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{line(key, 60)} {_flat(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_flat(one) for one in value) or "none"
    return "none" if value is None else line(value, 2000)
