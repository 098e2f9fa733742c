"""Models of offline data, judged before any reward is seen: skill models and cloned policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.reporting.figures.drawing import file_name
from bench.reporting.model import Column, Made, ReportInputs, ReportTable, Value

_HELD_OUT = "held_out_"
"""What a stage measured on trajectories that it did not learn from: it has learned a model of offline data."""


def offline_model_tables(inputs: ReportInputs) -> Made[ReportTable]:
    """A table per task distribution and preset: one row for each learned model, whatever the runs that stand on it."""
    tables, missing = [], []
    for env, preset in sorted({(group.env, group.preset) for group in inputs.groups}):
        models: dict[str, tuple[str, int, Mapping[str, Any]]] = {}
        for group in inputs.groups:
            if (group.env, group.preset) == (env, preset):
                for run in inputs.runs_of(group):
                    for name, artefact, metrics in _models(run.record):
                        models[artefact] = (name, int(run.record["seed"]), metrics)
        if not models:
            missing.append(f"models of offline data on {env}, {preset}: no run learned one and says how good it is")
            continue
        tables.append(_table(env, preset, models))
    return Made(tuple(tables), tuple(missing))


def _models(record: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(stage, artefact, metrics) of the stages of a run that learned such a model."""
    found = []
    for stage in record.get("stages", ()):
        metrics = (stage.get("manifest") or {}).get("metrics") or {}
        if any(name.startswith(_HELD_OUT) for name in metrics):
            found.append((str(stage["name"]), str(stage["artefact"]), metrics))
    return found


def _table(env: str, preset: str, models: Mapping[str, tuple[str, int, Mapping[str, Any]]]) -> ReportTable:
    names = list(dict.fromkeys(name for _, _, metrics in models.values() for name in metrics))
    decimals = {name: 0 if name == "updates" else 3 for name in names}
    columns = (Column("stage"), Column("seed", decimals=0), *(Column(name, decimals=decimals[name]) for name in names))
    rows: list[tuple[Value, ...]] = [
        (stage, seed, *(metrics.get(name) for name in names))
        for stage, seed, metrics in sorted(models.values(), key=lambda model: (model[0], model[1]))
    ]
    caption = (
        "Before any reward: how well a model of the offline data does on trajectories that it did not learn from "
        "(held_out), how far its latents are from N(0, I) (encoder_kl), what roll-outs of its prior do in the world "
        "without a task (rollout), and reach: the share of places, drawn from the world and not from tasks, that the "
        "best of so many skills of the prior reaches, by the true way there. One row for each model; runs share them."
    )
    title = f"Models of offline data on {env}, preset {preset}"
    return ReportTable(file_name("offline-models", env, preset), title, caption, columns, tuple(rows))
