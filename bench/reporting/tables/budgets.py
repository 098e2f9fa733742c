"""What each algorithm was given: experience, updates, time, aids; from the rows and the configurations of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from bench.reporting.figures.drawing import file_name
from bench.reporting.model import Column, LoadedRun, Made, ReportInputs, ReportTable, Value
from bench.reporting.palette import in_order
from bench.reporting.tables.cost import core_hours, env_steps
from bench.reporting.tables.hyperparameters import run_fields
from bench.results import run_changes

AIDS: Mapping[str, Any] = {
    "n_step": 1, "rewarded_fraction": 0.0, "clip_targets": False, "zero_initial_values": False,
    "standardise_states": False, "replay_exploration": False,
}  # fmt: skip
"""Fields that help a learner whatever the algorithm, by their last name, and the value at which they are off."""
_UPDATES, _BATCH = "updates", ("batch_size", "transitions_per_task")
_UPDATES_PER_EPISODE = "updates_per_episode"
_COLUMNS = (
    Column("algorithm"), Column("offline env_steps", decimals=0), Column("meta-training env_steps", decimals=0),
    Column("meta-training episodes", decimals=0), Column("meta-training updates x batch"),
    Column("env_steps per target task", decimals=0), Column("updates per target episode x batch"),
    Column("CPU, all stages", "min", 0), Column("aids"), Column("values"),
)  # fmt: skip


def budget_tables(inputs: ReportInputs) -> Made[ReportTable]:
    """A table per task distribution and preset."""
    tables = []
    for env, preset in sorted({(group.env, group.preset) for group in inputs.groups}):
        same = {group.label: group for group in inputs.groups if (group.env, group.preset) == (env, preset)}
        rows = [budget_row(label, inputs.runs_of(same[label])) for label in in_order(list(same))]
        caption = (
            "Means over the runs. Offline env_steps: transitions of the offline data that it reads. Meta-training: all "
            "stages between the data and the target tasks that act in the world. Updates are gradient steps, of "
            "batches of so many transitions (of each task where it says so). CPU: wall time times threads; a stage "
            "that several algorithms share counts in each. Aids: fields that help whatever the algorithm, where they "
            "are on. Values: the preset, and what was changed in it; presets are chosen on validation tasks, never on "
            "target tasks."
        )
        title = f"Budgets on {env}, preset {preset}"
        tables.append(ReportTable(file_name("budgets", env, preset), title, caption, _COLUMNS, tuple(rows)))
    return Made(tuple(tables))


def budget_row(label: str, runs: Sequence[LoadedRun]) -> tuple[Value, ...]:
    """One algorithm's."""
    run = runs[0]
    names = [str(stage["name"]) for stage in run.record.get("stages", ())]
    last, between = names[-1:], [name for name in names[:-1] if _episodes(run, [name])]
    fields = run_fields(run)
    hours = [spent for one in runs if (spent := core_hours(one, names)) is not None]
    target = _mean([None if (steps := env_steps(one, last)) is None else steps / _tasks(one, last) for one in runs])
    return (
        label, _transitions(run), _mean([env_steps(one, between) for one in runs]) if between else 0,
        _mean([_episodes(one, between) for one in runs]) if between else 0, _updates_text(run, between, fields), target,
        _per_episode_text(last, fields), 60 * fmean(hours) if hours else None, aids_text(fields),
        " ".join([f"preset {run.preset}", *run_changes(run.record)]),
    )  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _of_stages(run: LoadedRun, stages: Sequence[str]) -> Any:
    return run.rows[run.rows["stage"].isin(stages)] if "stage" in run.rows else run.rows.head(0)


def _episodes(run: LoadedRun, stages: Sequence[str]) -> int:
    return len(_of_stages(run, stages))


def _tasks(run: LoadedRun, stages: Sequence[str]) -> int:
    return max(1, int(_of_stages(run, stages)["task"].nunique()))


def _metrics(run: LoadedRun, stage: str) -> Mapping[str, Any]:
    for own in run.record.get("stages", ()):
        if own["name"] == stage:
            return (own.get("manifest") or {}).get("metrics") or {}
    return {}


def _transitions(run: LoadedRun) -> int | None:
    found = [_metrics(run, str(stage["name"])).get("transitions") for stage in run.record.get("stages", ())]
    known = [int(number) for number in found if number is not None]
    return sum(known) if known else 0


def _batch_text(stage: str, fields: Mapping[str, Any]) -> str:
    for name in _BATCH:
        value = fields.get(f"{stage}.{name}")
        if value is not None:
            return f" x {value}{' per task' if name != _BATCH[0] else ''}"
    return ""


def _updates_text(run: LoadedRun, stages: Sequence[str], fields: Mapping[str, Any]) -> str:
    parts = []
    for stage in stages:
        updates = _metrics(run, stage).get(_UPDATES)
        per_episode = fields.get(f"{stage}.{_UPDATES_PER_EPISODE}")
        if updates is None and per_episode is not None:
            updates = int(per_episode) * _episodes(run, [stage])
        if updates is not None:
            parts.append(f"{int(updates):,}{_batch_text(stage, fields)}")
    return " + ".join(parts)


def _per_episode_text(stages: Sequence[str], fields: Mapping[str, Any]) -> str:
    parts = [
        f"{fields[f'{stage}.{_UPDATES_PER_EPISODE}']}{_batch_text(stage, fields)}"
        for stage in stages
        if f"{stage}.{_UPDATES_PER_EPISODE}" in fields
    ]
    return " + ".join(parts)


def aids_text(fields: Mapping[str, Any]) -> str:
    """``n_step 10, clip_targets``: each aid that is on in some stage, with its values where they are numbers."""
    found = []
    for aid, off in AIDS.items():
        values = [value for name, value in fields.items() if name.split(".")[-1] == aid and value != off]
        if values:
            numbers = "" if isinstance(off, bool) else " " + " and ".join(dict.fromkeys(f"{v:g}" for v in values))
            found.append(f"{aid}{numbers}")
    return ", ".join(found) or "none"
