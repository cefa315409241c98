"""What is printed when a run ends: the gain, the clients, completions, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedtune.records.lines import RoundRecord
from fedtune.records.manifest import Manifest
from fedtune.records.told_rows import rows_by_client
from fedtune.report.figures import shown
from fedtune.report.lost_rows import lost_rows, unmeasured
from fedtune.report.names import label_of, name_of
from fedtune.report.silenced import headlines, silences
from fedtune.report.summary import (
    PAGE,
    PICTURE,
    ClientFacts,
    RunFacts,
    best_in_words,
    describe,
    summarise,
    trained,
)
from fedtune.report.text import (
    as_typed,
    clean,
    duration,
    figure,
    marks_for,
    percent,
    share,
    size,
    sparkline,
    thin,
)

if TYPE_CHECKING:  # both bring torch
    from fedtune.recipe import Recipe
    from fedtune.records.folder import RunFolder

MAX_CLIENTS = 32
MAX_SAMPLES = 3
MAX_POINTS = 9
SAMPLE_LINES = 2


def print_summary(
    console: Console,
    recipe: Recipe,
    records: Sequence[RoundRecord],
    samples: Sequence[Mapping[str, Any]],
    folder: RunFolder,
) -> None:
    """Print the whole story of a run, as far as it got.

    Args:
        console: Where to.
        recipe: The run's.
        records: The lines of metrics.jsonl.
        samples: The lines of samples.jsonl; only the first few are shown.
        folder: Where the manifest, the adapter and the picture are looked for.
    """
    facts = summarise(records)
    manifest = folder.read_manifest()
    console.print()
    told = f"{trained(recipe)} | {describe(recipe)}"
    console.print(Text(clean(told, encoding=console.encoding), style="bold"))
    for told in headlines(silences(records), manifest):
        console.print(Text(clean(told, limit=1000, encoding=console.encoding), style="bold yellow"))
    if facts.curve:
        console.print(_gain(facts))
        console.print(_curve(facts, console))
    else:
        console.print("Nothing was measured yet.")
    console.print(Text(_totals(facts, recipe)))
    if facts.clients:
        rows = rows_by_client(folder.path, manifest)
        console.print(_clients(facts, manifest, rows))
        console.print(Text(_legend(facts), style="dim"))
        if refusals := _refusals(facts, manifest, console):
            console.print(refusals)
    for told in (*lost_rows(manifest), *unmeasured(records, manifest)):
        said = clean(told, limit=1000, encoding=console.encoding)
        console.print(Text(f" {said}", "yellow"))
    for sample in samples[:MAX_SAMPLES]:
        console.print()
        console.print(_sample(sample, console))
    console.print()
    for line in _next_steps(facts, recipe, folder):
        console.print(line, soft_wrap=True)


def _gain(facts: RunFacts) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("held out")
    for heading in ("base", "final", "change"):
        table.add_column(heading, justify="right")
    for name, key, write in shown(facts.final):
        before, after = facts.base.get(key), facts.final.get(key)
        change = None if before is None or after is None else after - before
        sign = "+" if change is not None and change > 0 else ""
        table.add_row(name, write(before), write(after), sign + write(change))
    return table


def _curve(facts: RunFacts, console: Console) -> Table:
    marks = marks_for(console)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    line = sparkline([loss for _, loss in facts.curve], marks=marks)
    points = thin(facts.curve, MAX_POINTS)
    for _ in points:
        grid.add_column(justify="right", no_wrap=True)
    grid.add_row(" round", *(str(round_) for round_, _ in points))
    grid.add_row(f" {facts.leads}", *(figure(loss) for _, loss in points))
    outer = Table.grid()
    outer.add_row(Text(f" {line}", style="cyan"))
    outer.add_row(grid)
    return outer


def _totals(facts: RunFacts, recipe: Recipe) -> str:
    rounds = f"{facts.rounds} of {recipe.federation.num_rounds} rounds"
    traffic = f"{size(facts.upload_bytes)} up, {size(facts.download_bytes)} down"
    work = f"training {facts.train_s:.1f} s, aggregating {facts.aggregate_s:.1f} s"
    told = [line for line in (facts.undone, best_in_words(facts)) if line]
    undone = "".join(f"\n {line}" for line in told)
    text = f"\n {rounds} in {duration(facts.round_s)}: {work}{undone}\n {traffic}"
    if facts.discarded is None:
        return text
    return (
        f"{text}\n rank {recipe.lora.r} could not hold {share(facts.discarded)} of BA's energy a "
        f"round, {share(facts.discarded_of_change)} of what changed"
    )


def _clients(facts: RunFacts, manifest: Manifest, rows: Mapping[int, int]) -> Table:
    attackers = manifest.simulated_attackers
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in (
        "client",
        "rows",
        "weight",
        "of\nfair",
        "low",
        "dropped",
        "far",
        f"own\n{facts.leads}",
    ):
        table.add_column(heading, justify="right", overflow="fold")
    if attackers:
        table.add_column("attacker (rule\nnever told)", overflow="fold")
    for facts_ in notable(facts.clients):
        client = facts_.client
        cells = [
            Text(label_of(client, manifest)),
            Text(str(rows.get(client, "-"))),
            Text(percent(facts_.mean_weight)),
            _of_fair(facts_),
            Text(str(facts_.times_low or "-")),
            _dropped(facts_),
            Text(_times(facts_.far)),
            Text(figure(facts_.own_figure)),
        ]
        if attackers:
            cells.append(Text("attacker" if client in attackers else "", "bold red"))
        table.add_row(*cells)
    return table


def _of_fair(client: ClientFacts) -> Text:
    if client.mean_weight is None or not client.fair_share:
        return Text("-")
    ratio = client.mean_weight / client.fair_share
    return Text(f"{ratio:.2f}x", "yellow" if ratio < 0.5 else "")


def _times(far: float | None) -> str:
    """Five characters at most: a payload is far away by orders of magnitude."""
    if far is None:
        return "-"
    return f"{far:.2f}" if far < 99.995 else f"{far:.0f}" if far < 99_999.5 else f"{far:.0e}"


def _dropped(client: ClientFacts) -> Text:
    if client.times_dropped is None:
        return Text("-")
    words = f"{client.times_dropped} of {client.rounds_asked}"
    return Text(words, "red" if client.times_dropped else "")


def _refusals(facts: RunFacts, manifest: Manifest, console: Console) -> Text:
    """A line for each refused client, with the commonest of its reasons."""
    lines = []
    for client in notable(facts.clients):
        if client.reason is not None:
            reason = clean(client.reason, limit=2 * console.width, encoding=console.encoding)
            who = name_of(client.client, manifest)
            lines.append(f" {who} refused, {client.times_refused} x: {reason}")
    return Text("".join(f"\n{line}" for line in lines), "red")


def notable(clients: Sequence[ClientFacts]) -> list[ClientFacts]:
    """All clients, or of a crowd those most often refused or down-weighted, by number."""
    worst = sorted(clients, key=lambda client: -(client.times_refused + client.times_low))
    return sorted(worst[:MAX_CLIENTS], key=lambda client: client.client)


def _legend(facts: RunFacts) -> str:
    lines = [
        " weight: mean share over the rounds it was asked in; fair: 1 / clients asked;",
        " low: rounds below half of that; dropped: rounds at weight 0, refused or silent;",
        " far: its distance to the aggregate over the median client's, 1 is typical;",
        f" own {facts.leads}: held out, the client's own word",
    ]
    if (left_out := len(facts.clients) - MAX_CLIENTS) > 0:
        lines.append(f" {left_out} clients with fewer refusals are in metrics.jsonl")
    return "\n".join(lines)


def _sample(sample: Mapping[str, Any], console: Console) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    cells = SAMPLE_LINES * max(20, console.width - 12)
    for key, style in (("prompt", "bold"), ("truth", ""), ("before", "yellow"), ("after", "green")):
        if key == "truth" and not sample.get(key):  # a prompt that has no right answer
            continue
        words = clean(sample.get(key, ""), limit=4 * cells, encoding=console.encoding)
        line = Text(words, style)
        line.truncate(cells, overflow="ellipsis" if console.encoding.startswith("utf") else "crop")
        grid.add_row(f" {key}", line)
    return grid


def _next_steps(facts: RunFacts, recipe: Recipe, folder: RunFolder) -> list[Text]:
    where = shlex.quote(as_typed(folder.path))
    lines = []
    whole = facts.rounds >= recipe.federation.num_rounds or facts.stopped_early
    if not whole or not folder.adapter.is_dir():
        lines.append(Text(" adapter   none yet: the run stopped early; its checkpoint is kept"))
        steps = [f"fedtune run --resume {where}"]
    else:
        lines.append(Text(f" adapter   {as_typed(folder.adapter)}"))
        steps = [f"fedtune evaluate {where}", f"fedtune merge {where} merged-model"]
    picture = folder.path / PICTURE
    if picture.is_file():
        lines.append(Text(f" picture   {as_typed(picture)}"))
    page = folder.path / PAGE
    if page.is_file():
        lines.append(Text(f" page      {as_typed(page)}"))
    lines += [
        Text(" next      " if i == 0 else "           ").append(step, "bold")
        for i, step in enumerate(steps)
    ]
    return lines
