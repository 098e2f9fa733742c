"""What each stage cost: env_steps and core-hours."""

from __future__ import annotations

from collections.abc import Sequence

from bench.reporting.figures.drawing import file_name
from bench.reporting.model import Column, LoadedRun, Made, ReportInputs, ReportTable, Value
from bench.reporting.palette import in_order

_COLUMNS = (
    Column("algorithm"), Column("stage"), Column("runs", decimals=0), Column("env_steps", decimals=0),
    Column("core-hours", decimals=3), Column("lowest", "core-hours", 3), Column("highest", "core-hours", 3),
    Column("device"),
)  # fmt: skip
TOTAL = "all stages"


def cost_tables(inputs: ReportInputs) -> Made[ReportTable]:
    """A table per task distribution and preset."""
    tables, missing = [], []
    for env, preset in sorted({(group.env, group.preset) for group in inputs.groups}):
        same = {group.label: group for group in inputs.groups if (group.env, group.preset) == (env, preset)}
        rows = [row for label in in_order(list(same)) for row in _rows(label, inputs.runs_of(same[label]))]
        if not rows:
            missing.append(f"cost on {env}, {preset}: the runs do not say what their stages took")
            continue
        caption = (
            "Mean over runs. env_steps: steps of the simulator in the episodes of the stage, over all of its tasks; "
            "those that made the offline data are not counted. core-hours: wall time times the CPU threads of the run, "
            "lowest and highest run beside it; a stage that several runs share counts in each of them. Wall time "
            "depends on the machine and what else ran on it."
        )
        title = f"Cost on {env}, preset {preset}"
        tables.append(ReportTable(file_name("cost", env, preset), title, caption, _COLUMNS, tuple(rows)))
    return Made(tuple(tables), tuple(missing))


def _rows(label: str, runs: Sequence[LoadedRun]) -> list[tuple[Value, ...]]:
    stages = [str(stage["name"]) for stage in runs[0].record.get("stages", ())] if runs else []
    rows: list[tuple[Value, ...]] = []
    for stage in stages:
        hours = [core_hours(run, [stage]) for run in runs]
        if None in hours:
            continue
        rows.append(_row(label, stage, runs, [stage], [hour for hour in hours if hour is not None]))
    totals = [core_hours(run, stages) for run in runs]
    if rows and None not in totals:
        rows.append(_row(label, TOTAL, runs, stages, [hour for hour in totals if hour is not None]))
    return rows


def _row(
    label: str, name: str, runs: Sequence[LoadedRun], stages: Sequence[str], hours: Sequence[float]
) -> tuple[Value, ...]:
    steps = [taken for run in runs if (taken := env_steps(run, stages)) is not None]
    devices = sorted({str(run.record.get("device", "")) for run in runs})
    return (
        label, name, len(runs), sum(steps) / len(steps) if steps else None,
        sum(hours) / len(hours), min(hours), max(hours), ", ".join(devices),
    )  # fmt: skip


def core_hours(run: LoadedRun, stages: Sequence[str]) -> float | None:
    """Wall time of these stages times the run's threads; None where a stage has no time."""
    seconds = [stage.get("seconds") for stage in run.record.get("stages", ()) if stage["name"] in stages]
    if not seconds or None in seconds:
        return None
    return float(sum(seconds)) * int(run.record.get("threads", 1)) / 3600


def env_steps(run: LoadedRun, stages: Sequence[str]) -> int | None:
    """Steps of the simulator in the episode rows of these stages, over all tasks; None where they have no rows."""
    rows = run.rows
    if not {"stage", "env_steps"} <= set(rows.columns):
        return None
    part = rows[rows["stage"].isin(stages) & (rows["status"] == "ok")]
    return None if part.empty else int(part.groupby(["stage", "task"])["env_steps"].max().sum())
