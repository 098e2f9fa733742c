"""Scores after 20, 50, 100, 200 and 500 episodes, beside those of the paper."""

from __future__ import annotations

import pandas as pd

from bench.reporting.figures.drawing import INTERVAL, file_name, notes_text, score_noun, seeds_warning
from bench.reporting.model import Column, Made, ReportInputs, ReportTable, Value
from bench.reporting.palette import algorithm_of, in_order
from bench.statistics.aggregates import aggregate
from bench.statistics.episodes import EpisodeReturns
from bench.statistics.intervals import Estimate
from bench.statistics.scores import window_scores

EPISODES = (20, 50, 100, 200, 500)
WINDOW_EPISODES = 10
"""A score after E episodes is the mean return of the last ten: no window reaches across the end of exploration, 20."""
_COLUMNS = (
    Column("algorithm"), Column("episodes"), Column("mean", decimals=2), Column("mean, low", decimals=2),
    Column("mean, high", decimals=2), Column("IQM", decimals=2), Column("IQM, low", decimals=2),
    Column("IQM, high", decimals=2), Column("seeds", decimals=0), Column("tasks", decimals=0),
    Column("paper", decimals=2), Column("mean - paper", decimals=2),
)  # fmt: skip


def score_tables(inputs: ReportInputs) -> Made[ReportTable]:
    """A table per task distribution and preset."""
    tables, missing = [], []
    for env, preset in sorted({(group.env, group.preset) for group in inputs.groups}):
        same = {group.label: group for group in inputs.groups if (group.env, group.preset) == (env, preset)}
        groups = [same[label] for label in in_order(list(same))]
        rows, notes = _rows(groups, inputs.published)
        if not rows:
            missing.append(f"scores on {env}, {preset}: no run completed {EPISODES[0]} episodes of a target task")
            continue
        noun = score_noun(env)
        published = any(row[-1] is not None for row in rows)
        caption = (
            f"Mean and IQM over tasks and seeds of the {noun} in the {WINDOW_EPISODES} training episodes up to the "
            f"episode named, with {INTERVAL} intervals over runs (low, high)."
            f"{' Paper: mean of the points of its curve in the same episodes.' if published else ''}"
            f"{notes_text(notes)}{seeds_warning(groups)}"
        )
        title = f"Scores on {env}, preset {preset}"
        tables.append(ReportTable(file_name("scores", env, preset), title, caption, _COLUMNS, tuple(rows)))
    return Made(tuple(tables), tuple(missing))


def _rows(groups: list[EpisodeReturns], published: pd.DataFrame) -> tuple[list[tuple[Value, ...]], list[str]]:
    rows: list[tuple[Value, ...]] = []
    notes = []
    for group in groups:
        for stop in EPISODES:
            start = stop - WINDOW_EPISODES
            matrix = window_scores(group, start, stop)
            if not matrix.values.size:
                continue
            notes += [f"{group.label}, {start}-{stop}: {gap}" for gap in matrix.gaps()]
            estimates = aggregate(matrix)
            mean = estimates["mean"]
            notes += [f"{group.label}, {start}-{stop}: {mean.note}"] if mean.note else []
            paper = paper_score(published, group, start, stop)
            rows.append(
                (
                    group.label, f"{start}-{stop}", *_cells(mean), *_cells(estimates["iqm"]), matrix.n_seeds,
                    matrix.n_tasks, paper, None if paper is None else mean.point - paper,
                )
            )  # fmt: skip
    return rows, notes


def _cells(estimate: Estimate) -> tuple[Value, Value, Value]:
    return estimate.point, estimate.low, estimate.high


def paper_score(published: pd.DataFrame, group: EpisodeReturns, start: int, stop: int) -> float | None:
    """Mean of the published points from episode ``start`` to before ``stop``; None where there is none."""
    points = published[
        (published["domain"] == group.env)
        & (published["algorithm"].str.lower() == algorithm_of(group.label))
        & published["episode"].between(start, stop, inclusive="left")
    ]
    return None if points.empty else float(points["mean"].mean())
