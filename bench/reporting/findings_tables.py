"""Standings and comparisons as tables of a report."""

from __future__ import annotations

import re

from bench.reporting.findings import PERCENT, Findings
from bench.reporting.model import Column, ReportTable
from bench.statistics.comparison import LEVEL
from bench.statistics.coverage import RUN_CORRELATIONS, SEEDS, stated_coverage


def standings_table(found: Findings) -> ReportTable | None:
    """Who stands where; None where nobody completed the window."""
    if not found.standings:
        return None
    rows = [
        (
            s.label, s.mean.point, s.mean.low, s.mean.high, s.iqm.point, s.iqm.low, s.iqm.high, s.seeds,
            ", ".join(s.better_than), ", ".join(s.not_told_from), ", ".join(s.worse_than),
        )
        for s in found.standings
    ]  # fmt: skip
    return ReportTable(
        f"standings-{_stem(found)}", f"Standings on {found.env}, {found.preset}, episodes {found.window_name}",
        f"Mean and interquartile mean of the scores on {found.tasks} target {'task' if found.tasks == 1 else 'tasks'} "
        f"with their {PERCENT} % intervals (stratified bootstrap). Better, worse: p < {LEVEL} after Holm's correction.",
        (
            Column("algorithm"), *_interval_columns("mean"), *_interval_columns("IQM"),
            Column("seeds", decimals=0), Column("better than"), Column("not told from"), Column("worse than"),
        ),
        tuple(rows),
    )  # fmt: skip


def comparisons_table(found: Findings) -> ReportTable | None:
    """Every comparison; None where there is one algorithm only."""
    if not found.comparisons:
        return None
    tested = sum(c.p_holm is not None for c in found.comparisons)
    rows = [
        (
            c.window, c.label_a, c.label_b, c.mean_a, c.mean_b,
            c.mean_difference.point, c.mean_difference.low, c.mean_difference.high,
            c.iqm_difference.point, c.iqm_difference.low, c.iqm_difference.high,
            c.improvement.point, c.improvement.low, c.improvement.high, c.p_holm,
            None if c.by_runs is None else c.by_runs.p_value, c.run_correlation, c.seeds_a, c.seeds_b, c.tasks,
        )
        for c in found.comparisons
    ]  # fmt: skip
    return ReportTable(
        f"comparisons-{_stem(found)}", f"Comparisons on {found.env}, {found.preset}",
        f"Every pair of algorithms; differences are A - B with {PERCENT} % intervals. P(A > B): the chance that a run "
        "of A scores above one of B on the same task. p: permutation of the runs within each task, corrected for "
        f"{tested} comparisons by Holm's method; p runs: whole runs dealt out, not corrected, holds also where the "
        "tasks of a run share their luck. correlation: how much they do, 0 if not at all.",
        (
            Column("episodes"), Column("A"), Column("B"), Column("score A", decimals=3), Column("score B", decimals=3),
            *_interval_columns("A - B"), *_interval_columns("IQM A - B"), *_interval_columns("P(A > B)"),
            Column("p", decimals=5), Column("p runs", decimals=3), Column("correlation", decimals=2),
            Column("seeds A", decimals=0), Column("seeds B", decimals=0), Column("tasks", decimals=0),
        ),
        tuple(rows),
    )  # fmt: skip


def coverage_figures() -> ReportTable:
    """How often intervals hold the truth, by number of seeds: simulated."""
    rows = [(seeds, *(100 * stated_coverage(seeds, "iqm", share) for share in RUN_CORRELATIONS)) for seeds in SEEDS]
    return ReportTable(
        "coverage", "How often a 95 % interval of the IQM holds the truth",
        "Simulated, ten tasks: where the scores of one run on different tasks are independent, as the stratified "
        f"bootstrap assumes, and where they hang together (correlation {RUN_CORRELATIONS[1]:g}).",
        (Column("seeds", decimals=0), Column("independent tasks", "%", 0), Column("correlated tasks", "%", 0)),
        tuple(rows),
    )  # fmt: skip


def _interval_columns(label: str) -> tuple[Column, Column, Column]:
    return Column(label, decimals=3), Column(f"{label}, low", decimals=3), Column(f"{label}, high", decimals=3)


def _stem(found: Findings) -> str:
    """Part of a file's name: lower-case letters, digits and ``-``."""
    return re.sub(r"[^a-z0-9]+", "-", f"{found.env}-{found.preset}".lower()).strip("-")
