"""How far our aggregates and intervals lie from those of rliable, on these very data."""

from __future__ import annotations

from bench.reporting.figures.aggregates import window_sets
from bench.reporting.model import Column, Made, ReportInputs, ReportTable, Value
from bench.statistics.with_rliable import agreement, why_unavailable

_REPLICATES = 300
"""Enough for the width of an interval; rliable takes a second for a thousand."""


def rliable_tables(inputs: ReportInputs) -> Made[ReportTable]:
    """One table, a line per task distribution and preset."""
    reason = why_unavailable()
    if reason is not None:
        return Made((), (f"comparison with rliable: {reason}",))
    rows: list[tuple[Value, ...]] = []
    for windows in window_sets(inputs):
        found = agreement(windows.scores, _REPLICATES)
        if found is not None:
            window = f"{windows.start}-{windows.stop}"
            rows.append((windows.env, windows.preset, window, found.algorithms, found.point, found.widths))
    if not rows:
        return Made((), ("comparison with rliable: it takes complete scores of two runs or more",))
    caption = (
        "The library rliable, run on the same scores (from 0 to 1 by the score range): the largest difference of an "
        f"aggregate (IQM, median, mean, optimality gap), and the median ratio of our intervals' widths to those of its "
        f"stratified bootstrap ({_REPLICATES} replicates). Ours are wider where few runs are the unit: rliable's take "
        "the tasks of a run for independent samples."
    )
    columns = (
        Column("task distribution"), Column("preset"), Column("episodes"), Column("algorithms", decimals=0),
        Column("points apart by", decimals=6), Column("width, ours by theirs", decimals=1),
    )  # fmt: skip
    return Made((ReportTable("rliable", "Ours and rliable's", caption, columns, tuple(rows)),))
