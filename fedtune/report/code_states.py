"""Whether the numbers of a bench stem from one state of the code, and from the present one."""

from __future__ import annotations

from fedtune.records.bench_summary import Summary


def code_states(summary: Summary) -> str | None:
    """One sentence where the results were not all made by the code that wrote the summary."""
    codes, now = summary.code, summary.code_now
    told = ", ".join(codes)
    written = "" if now is None else f"; this summary was written by {now}"
    if len(codes) > 1:
        return f"Cells stem from {len(codes)} states of the code: {told}{written}."
    if codes and now is not None and codes != [now]:
        return f"All cells stem from one state of the code, {told}{written}."
    return None
