"""The same from Python, for notebooks: rows as a table, comparisons, runs, figures.

    load_episodes("results/runs")               every training episode of all runs, one row each
    compare("simpl", "spirl", "results/runs")   the declared analysis, one row per task distribution and window
    run("simpl", "maze-10", preset="smoke")     what bench run does
    figures("results/runs"), draw(...)          what a report holds, as matplotlib figures

Whatever a name stands for on the command line, it stands for here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bench.compare import compare_named
from bench.errors import unknown_name
from bench.loading import load_runs, print_excluded
from bench.results import run_label
from bench.statistics.comparison import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compare", "draw", "figures", "load_episodes", "run"]


def load_episodes(*folders: str | Path) -> pd.DataFrame:
    """The rows of all runs at or below ``folders`` that can be used, with the column ``label``; others are named on
    standard error. Raises ``UserError`` when a folder does not exist or holds no run."""
    loaded = load_runs([Path(folder) for folder in folders])
    print_excluded(loaded.excluded)
    tables = [run.rows.assign(label=run_label(run.record)) for run in loaded.runs]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def compare(
    a: str, b: str, *folders: str | Path, env: str | None = None, windows: Sequence[tuple[int, int]] | None = None
) -> pd.DataFrame:
    """``bench compare A B --results FOLDERS``: a row per task distribution and window, ``decision`` among its columns.

    Raises ``UserError`` as the command does.
    """
    found, excluded = compare_named(a, b, [Path(folder) for folder in folders], env, windows)
    print_excluded(excluded)
    rows = [
        {
            "env": c.env, "preset": c.preset, "episodes": c.window, "A": c.label_a, "B": c.label_b,
            "score A": c.mean_a, "score B": c.mean_b, "difference": c.mean_difference.point,
            "low": c.mean_difference.low, "high": c.mean_difference.high, "p": c.p_holm, "seeds": c.seeds_a,
            "decision": c.decision, "verdict": verdict(c),
        }
        for result in found
        for c in result.shown
    ]  # fmt: skip
    return pd.DataFrame(rows)


def run(
    algo: str, env: str, preset: str = "quick", seed: int = 0, out: str | Path = "runs", **fields: object
) -> Path:  # fmt: skip
    """``bench run``: carry out a run, or what of it is missing, and return its folder.

    A field is named with ``__`` for the dot: ``adapt__episodes=20``. Raises ``UserError`` as the command does.
    """
    from bench.config import Override
    from bench.plan import RunRequest
    from bench.run import RunOptions, execute_run

    overrides = tuple(Override(name.replace("__", "."), str(value)) for name, value in fields.items())
    return execute_run(RunRequest(algo, env, preset, seed, overrides=overrides), RunOptions(Path(out)))


def figures(*folders: str | Path) -> dict[str, str]:
    """Names and titles of the figures that runs allow."""
    from bench.reporting.figures import make_figures
    from bench.reporting.inputs import load_inputs

    made = make_figures(load_inputs([Path(folder) for folder in folders]))
    return {figure.name: figure.title for figure in made.items}


def draw(name: str, *folders: str | Path) -> Figure:
    """One of them, as a matplotlib figure. Raises ``UserError`` for a name that is none of ``figures``."""
    from bench.reporting.figures import make_figures
    from bench.reporting.inputs import load_inputs
    from bench.reporting.save import draw_figure

    made = make_figures(load_inputs([Path(folder) for folder in folders]))
    for figure in made.items:
        if figure.name == name:
            return draw_figure(figure)
    raise unknown_name("figure of these runs", name, [figure.name for figure in made.items])
