"""Where a run stands, as JSON for machines: plain numbers, and strangers' words made clean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedtune.records.lines import Figures, RoundRecord
from fedtune.records.manifest import Manifest
from fedtune.report.names import MAX_NAME
from fedtune.report.outline import Outline
from fedtune.report.status import RunStatus
from fedtune.report.status_clients import Standing, by_mark, standings
from fedtune.report.status_stages import StagesStatus
from fedtune.report.status_words import MAX_WHY, View, view_of
from fedtune.report.text import clean
from fedtune.report.undone import undone_so_far

MAX_REFUSALS = 1000


def facts_of(status: RunStatus | StagesStatus) -> dict[str, Any]:
    """Everything that `fedtune status` knows, for `json.dumps` with finite numbers only.

    Of a folder of stages: ``stages``, each with its own facts under ``run``.
    """
    view = view_of(status)
    if isinstance(status, RunStatus):
        return _head(status, view) | _of_run(status)
    stages = [
        {
            "name": clean(each.name),
            "task": clean(each.task),
            "state": each.state,
            "run": None if each.run is None else facts_of(each.run),
        }
        for each in status.stages
    ]
    return _head(status, view) | {"stages": stages}


def _head(status: RunStatus | StagesStatus, view: View) -> dict[str, Any]:
    return {
        "run": clean(status.path, limit=4096),
        "state": status.state,
        "say": view.say,
        "why": view.why,
        "silenced": list(view.silenced),
        "next": list(view.commands),
    }


def _of_run(status: RunStatus) -> dict[str, Any]:
    recorded, progress = status.recorded, status.progress
    clients = standings(status)
    told, rewarded = status.told.stopped, recorded.facts.leads == "reward"
    return {
        "stopped_by": None if told is None else clean(told, limit=MAX_WHY),
        "resumable": status.told.resumable,
        "recipe": _recipe(status.recipe),
        "rounds_done": progress.done,
        "round": {
            "number": progress.round,
            "attempt": progress.attempt,
            "phase": progress.phase if status.state == "running" else None,
            **{mark: by_mark(clients, mark) for mark in ("waiting", "replied", "refused")},
        },
        "eval": {"base": _named(recorded.facts.base), "now": _named(recorded.facts.final)},
        "losses": _curve(recorded.records, "loss"),
        **({"rewards": _curve(recorded.records, "reward")} if rewarded else {}),
        "round_s": recorded.round_s,
        "left_s": status.left_s,
        "elapsed_s": status.elapsed_s,
        "quiet_s": status.quiet_s,
        "upload_bytes": progress.upload_bytes,
        "download_bytes": progress.download_bytes,
        "retried_rounds": recorded.retried_rounds,
        "second_replies": recorded.second_replies,
        "undone_rounds": undone_so_far(recorded.records),
        "clients": [_client(one, status.manifest) for one in clients],
        "refusals": [
            {
                "client": each.client,
                "reason": clean(each.reason, limit=400),
                "times": each.times,
                "last_round": each.last_round,
            }
            for each in status.refusals[:MAX_REFUSALS]
        ],
    }


def _recipe(recipe: Outline) -> dict[str, Any]:
    return {
        "task": clean(recipe.task),
        "model": clean(recipe.model),
        "engine": clean(recipe.engine),
        "rule": clean(recipe.rule),
        "num_clients": recipe.num_clients,
        "num_rounds": recipe.num_rounds,
    }


def _client(one: Standing, manifest: Manifest) -> dict[str, Any]:
    return {
        "client": one.client,
        "name": clean(manifest.name_of(one.client), limit=MAX_NAME) or None,
        "rows": one.rows,
        "asked_rounds": one.asked,
        "dropped_rounds": one.dropped,
        "refused": one.refused,
        "weight": one.weight,
        "train_loss": one.train_loss,
        "mark": one.mark or None,
    }


def _curve(records: Sequence[RoundRecord], key: str) -> list[list[float | None]]:
    """Rounds that were measured, and a figure of each."""
    return [[one.round, one.eval.get(key)] for one in records if one.eval is not None]


def _named(figures: Figures) -> Figures:
    return {clean(key, limit=80): value for key, value in figures.items()}
