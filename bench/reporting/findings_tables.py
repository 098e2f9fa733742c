"""Standings and comparisons as tables of a report."""

from __future__ import annotations

import re

from bench.reporting.findings import PERCENT, Findings
from bench.reporting.model import Column, ReportTable, Value
from bench.statistics.analysis import DECLARATION
from bench.statistics.coverage import DIFFERENCE, SEEDS, stated_coverage
from bench.statistics.intervals import Estimate


def standings_table(found: Findings) -> ReportTable | None:
    """Who stands where; None where nobody completed the window."""
    if not found.standings:
        return None
    rows = [
        (
            s.label, *_cells(s.mean), *_cells(s.iqm), *_cells(s.area), s.to_threshold, s.seeds,
            ", ".join(s.better_than), ", ".join(s.not_told_from), ", ".join(s.worse_than),
        )
        for s in found.standings
    ]  # fmt: skip
    return ReportTable(
        f"standings-{_stem(found)}", f"Standings on {found.env}, {found.preset}, episodes {found.window_name}",
        f"Mean and interquartile mean of the scores on {found.tasks} target {'task' if found.tasks == 1 else 'tasks'} "
        f"with their {PERCENT} % intervals over runs; area: mean score of episodes 0-{found.area_episodes}, while "
        "learning; halfway: episodes until the mean of ten is halfway up the score range. Better, worse: by the "
        f"declared analysis; {found.family} comparison{'' if found.family == 1 else 's'} "
        f"{'is' if found.family == 1 else 'are'} tested, one family.",
        (
            Column("algorithm"), *_interval_columns("mean"), *_interval_columns("IQM"), *_interval_columns("area"),
            Column("halfway"), Column("seeds", decimals=0), Column("better than"), Column("not told from"),
            Column("worse than"),
        ),
        tuple(rows),
    )  # fmt: skip


def _cells(estimate: Estimate | None) -> tuple[Value, Value, Value]:
    return (None, None, None) if estimate is None else (estimate.point, estimate.low, estimate.high)


def comparisons_table(found: Findings) -> ReportTable | None:
    """Every comparison; None where there is one algorithm only."""
    if not found.comparisons:
        return None
    rows = [
        (
            c.window, c.label_a, c.label_b, c.mean_a, c.mean_b, *_cells(c.mean_difference),
            *_cells(c.iqm_difference), *_cells(c.improvement), c.p_value, c.p_holm, c.decision,
            c.pair_correlation, "seed" if c.paired else "", c.seeds_a, c.seeds_b, c.tasks,
        )
        for c in found.comparisons
    ]  # fmt: skip
    family = (
        "Fewer than three seeds of any two: nothing is tested."
        if not found.family
        else f"{found.family} comparison{' is' if found.family == 1 else 's are'} tested, one family."
    )
    return ReportTable(
        f"comparisons-{_stem(found)}", f"Comparisons on {found.env}, {found.preset}",
        f"Every pair of algorithms; differences are A - B with {PERCENT} % intervals. P(A > B): the chance that a run "
        f"of A scores above one of B on the same task. {DECLARATION} {family} p alone: before the correction.",
        (
            Column("episodes"), Column("A"), Column("B"), Column("score A", decimals=3), Column("score B", decimals=3),
            *_interval_columns("A - B"), *_interval_columns("IQM A - B"), *_interval_columns("P(A > B)"),
            Column("p alone", decimals=5), Column("p", decimals=5), Column("A is"),
            Column("correlation of pairs", decimals=2), Column("paired by"), Column("seeds A", decimals=0),
            Column("seeds B", decimals=0), Column("tasks", decimals=0),
        ),
        tuple(rows),
    )  # fmt: skip


def coverage_figures() -> ReportTable:
    """How often intervals hold the truth, by number of seeds: simulated."""
    rows = [
        (seeds, *(100 * end for name in ("mean", "iqm", DIFFERENCE) for end in stated_coverage(seeds, name)))
        for seeds in SEEDS
    ]
    columns = [Column(f"{name}, {end}", "%", 0) for name in ("mean", "IQM", "difference") for end in ("low", "high")]
    return ReportTable(
        "coverage", "How often a 95 % interval holds the truth",
        "Simulated, ten tasks, with correlations of the scores of a run and of paired runs of 0, 0.3 and 0.8: the "
        "lowest and the highest coverage. 1 less the coverage of the difference of two equal algorithms is how often "
        "one is called better wrongly.",
        (Column("seeds", decimals=0), *columns), tuple(rows),
    )  # fmt: skip


def _interval_columns(label: str) -> tuple[Column, Column, Column]:
    return Column(label, decimals=2), Column(f"{label}, low", decimals=2), Column(f"{label}, high", decimals=2)


def _stem(found: Findings) -> str:
    """Part of a file's name: lower-case letters, digits and ``-``."""
    return re.sub(r"[^a-z0-9]+", "-", f"{found.env}-{found.preset}".lower()).strip("-")
