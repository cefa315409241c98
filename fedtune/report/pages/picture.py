"""One picture of a run, ``curves.svg``: its held-out loss, and each client's weight by round."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from markupsafe import Markup

from fedtune.records.lines import RoundRecord
from fedtune.report.figures import curve_title
from fedtune.report.pages.chart import loss_chart
from fedtune.report.pages.render import fill, line, read
from fedtune.report.pages.strip import LEGEND, weight_strip
from fedtune.report.summary import summarise
from fedtune.report.table import notable

WIDTH, ABOVE, BELOW = 960, 72, 62  # beside the chart and the strip
CHART_HEIGHT = 230


def draw_run(
    records: Sequence[RoundRecord], *, attackers: Collection[int] = (), title: str = ""
) -> str:
    """Draw a run as one SVG file that needs nothing beside it.

    Args:
        records: The lines of metrics.jsonl.
        attackers: Simulated ones, which are marked; the rule is not told.
        title: Written above, in one line.
    """
    facts = summarise(records)
    strip = weight_strip(records, [one.client for one in notable(facts.clients)], attackers)
    height = ABOVE + max(CHART_HEIGHT, strip.height if strip else 0) + BELOW
    drawn = fill(
        "picture.svg.jinja",
        width=WIDTH,
        height=height,
        title=line(title, 96),
        style=Markup(read("chart.css")),
        loss_title=curve_title(facts.leads),
        chart=loss_chart(facts.curve, facts.base.get(facts.leads), of=facts.leads),
        strip=strip,
        legend=LEGEND,
    )
    return f"{drawn}\n"
