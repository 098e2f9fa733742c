"""All algorithms on all task distributions, on one scale: 0 is the skill prior alone, 1 the highest score."""

from __future__ import annotations

from dataclasses import dataclass

from bench.reporting.figures.drawing import file_name
from bench.reporting.model import Column, Made, ReportInputs, ReportTable, Value
from bench.reporting.palette import in_order
from bench.statistics.across import Scale, scale_of
from bench.statistics.aggregates import aggregate
from bench.statistics.analysis import studies
from bench.statistics.intervals import Estimate
from bench.statistics.scores import window_scores


@dataclass(frozen=True)
class Worlds:
    """Scores of one preset: of each algorithm on each task distribution, in the window that decides there."""

    preset: str
    envs: tuple[str, ...]
    windows: tuple[str, ...]
    scales: tuple[Scale, ...]
    labels: tuple[str, ...]
    scores: dict[tuple[str, str], Estimate]
    """Normalised, by label and task distribution."""


def worlds_of(inputs: ReportInputs) -> list[Worlds]:
    """One for each preset."""
    found = []
    for preset in sorted({group.preset for group in inputs.groups}):
        envs, windows, scales = [], [], []
        scores: dict[tuple[str, str], Estimate] = {}
        for study in studies([group for group in inputs.groups if group.preset == preset]):
            records = [run.record for run in inputs.runs if (run.env, run.preset) == (study.env, preset)]
            scale = scale_of(records, study.groups[0].score_range)
            if scale is None or not study.windows:
                continue
            envs.append(study.env)
            windows.append(f"{study.windows[-1][0]}-{study.windows[-1][1]}")
            scales.append(scale)
            for group in study.groups:
                matrix = window_scores(group, *study.windows[-1])
                if matrix.n_tasks:
                    scores[group.label, study.env] = scale.of_estimate(aggregate(matrix)["mean"])
        labels = in_order([label for label, _ in scores])
        if envs:
            found.append(Worlds(preset, tuple(envs), tuple(windows), tuple(scales), tuple(labels), scores))
    return found


def across_tables(inputs: ReportInputs) -> Made[ReportTable]:
    """A table for each preset with two task distributions or more."""
    tables = [_table(worlds) for worlds in worlds_of(inputs) if len(worlds.envs) > 1]
    missing = () if tables else ("scores across task distributions: needs runs on two of known score range",)
    return Made(tuple(tables), missing)


def _table(worlds: Worlds) -> ReportTable:
    rows: list[tuple[Value, ...]] = []
    for label in worlds.labels:
        own = [worlds.scores.get((label, env)) for env in worlds.envs]
        known = [estimate.point for estimate in own if estimate is not None]
        cells: list[Value] = [None if estimate is None else estimate.point for estimate in own]
        rows.append((label, *cells, sum(known) / len(known), len(known)))
    zeros = "; ".join(
        f"{env} {scale.zero:.2f} ({f'of {scale.artefacts} skill models' if scale.artefacts else 'the lowest score'}), "
        f"episodes {window}"
        for env, scale, window in zip(worlds.envs, worlds.scales, worlds.windows, strict=True)
    )
    caption = (
        "Mean scores on one scale: 0 is what the skill prior alone earns, 1 the highest possible. The mean gives each "
        "task distribution that the algorithm was run on the same weight: compare means of equal numbers of them only. "
        f"0 is {zeros}."
    )
    columns = (
        Column("algorithm"), *(Column(env, decimals=2) for env in worlds.envs), Column("mean", decimals=2),
        Column("of", decimals=0),
    )  # fmt: skip
    title = f"Across task distributions, preset {worlds.preset}"
    return ReportTable(file_name("across", worlds.preset), title, caption, columns, tuple(rows))
