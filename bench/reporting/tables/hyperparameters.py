"""Every field of every stage: the value that each run was made with, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.errors import UserError
from bench.fields import leaf_types
from bench.lookup import DATA_STAGE, find_algorithm, find_task_distribution
from bench.reporting.figures.drawing import file_name
from bench.reporting.model import Column, LoadedRun, Made, ReportInputs, ReportTable, Value
from bench.reporting.palette import in_order

VARIES = "varies"
Fields = Mapping[str, Any]
"""By dotted name: ``adapt.learning_rate``."""


def hyperparameter_tables(inputs: ReportInputs) -> Made[ReportTable]:
    """A table per algorithm (with its overrides): a column of values for each task distribution and preset."""
    tables, missing = [], []
    for label in in_order([group.label for group in inputs.groups]):
        runs = [run for run in inputs.runs if run.label == label]
        sources, why_missing = field_sources(runs[0].algo, [run.env for run in runs])
        made = _table(label, runs, sources)
        if made is None:
            missing.append(f"hyper-parameters of {label}: neither the runs nor their artefacts say what they were")
            continue
        tables.append(made)
        if why_missing is not None:
            missing.append(f"sources in the hyper-parameters of {label}: {why_missing}")
    return Made(tuple(tables), tuple(missing))


def _table(label: str, runs: Sequence[LoadedRun], sources: Mapping[str, str]) -> ReportTable | None:
    values: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        own = values.setdefault((run.env, run.preset), {})
        for name, value in run_fields(run).items():
            own[name] = value if own.get(name, value) == value else VARIES
    values = {pair: own for pair, own in values.items() if own}
    if not values:
        return None
    names = list(dict.fromkeys(name for own in values.values() for name in own))
    columns = (Column("field"), *(Column(f"{env}, {preset}") for env, preset in values), Column("source"))
    rows: list[tuple[Value, ...]] = [
        (name, *(_text(own.get(name)) for own in values.values()), sources.get(name, "")) for name in names
    ]
    caption = (
        "What the runs were made with, all seeds alike unless it says so. The source is what the field says of itself: "
        "section of the paper, released code, or why it differs."
    )
    title = f"Hyper-parameters of {label}"
    return ReportTable(file_name("hyperparameters", label), title, caption, columns, tuple(rows))


def run_fields(run: LoadedRun) -> dict[str, Any]:
    """Every field of the run's stages, by the manifests of its artefacts; empty where there are none."""
    found: dict[str, Any] = {}
    for stage in run.record.get("stages", ()):
        key = run.stage_key(stage)
        if key is not None:
            _flatten(key["config"], f"{stage['name']}.", found)
    return found


def _flatten(config: Mapping[str, Any], prefix: str, found: dict[str, Any]) -> None:
    for name, value in config.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{name}.", found)
        else:
            found[prefix + name] = value


def field_sources(algo: str, envs: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """The docstring of each field by its dotted name, and why some are missing: what is not installed here."""
    found: dict[str, str] = {}
    try:
        for stage in find_algorithm(algo).stages:
            found |= {f"{stage.name}.{name}": text for name, _, text in leaf_types(stage.config_class)}
        for env in dict.fromkeys(envs):
            source = find_task_distribution(env).data_source
            if source is not None:
                found |= {f"{DATA_STAGE}.{name}": text for name, _, text in leaf_types(source.config_class)}
    except UserError as error:
        return found, str(error)
    return found, None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_text(item)) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
