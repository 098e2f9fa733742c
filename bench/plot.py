"""Learning curves of several runs in one picture: seeds as a band, the paper's curves dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.curve import SMOOTHING_EPISODES, mark_exploration
from bench.errors import UserError, unknown_name
from bench.files import storage_errors
from bench.results import exploration_episodes, find_runs, read_run, smoothed_curve

PAPER_COLUMNS = ("domain", "algorithm", "episode", "mean")


def draw_comparison(
    sources: Sequence[Path], output: Path, paper: Path | None = None, env: str | None = None
) -> list[str]:
    """Draw all runs below ``sources`` into a PNG, one panel per task distribution; return the runs' names.

    With ``env``, only the runs on that task distribution.

    Each algorithm's line is the mean over seeds of the mean return over target tasks, smoothed over
    ``SMOOTHING_EPISODES`` episodes, its band the lowest to highest seed. ``paper`` is a CSV of published curves
    (columns ``domain, algorithm, episode, mean``), drawn dashed where domain and algorithm match.

    Raises ``UserError`` when there is no finished run, a folder is missing, or the CSV lacks a column.
    """
    runs = [(record, table) for record, table in map(read_run, find_runs(sources)) if record["status"] == "done"]
    if not runs:
        raise UserError(f"no finished run in {', '.join(map(str, sources))}")
    if env is not None:
        found = sorted({str(record["env"]) for record, _ in runs})
        if env not in found:
            raise unknown_name(f"task distribution of runs in {', '.join(map(str, sources))}", env, found)
        runs = [(record, table) for record, table in runs if record["env"] == env]
    curves = pd.concat([_curve(record, table) for record, table in runs], ignore_index=True)
    published = _published(paper) if paper is not None else pd.DataFrame(columns=PAPER_COLUMNS)
    environments = sorted(curves["env"].unique())
    algorithms = sorted(curves["algo"].unique())
    colours = dict(zip(algorithms, seaborn.color_palette("colorblind", len(algorithms)), strict=True))
    figure = Figure(figsize=(7.2 * len(environments), 4.4), layout="constrained")
    for axes, environment in zip(figure.subplots(1, len(environments), squeeze=False)[0], environments, strict=True):
        _draw_panel(axes, curves[curves["env"] == environment], published, environment, colours)
    with storage_errors(f"write {output}"):
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=130)
    return [str(record["run"]) for record, _ in runs]


def _curve(record: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    smoothed = smoothed_curve(table, SMOOTHING_EPISODES)
    return pd.DataFrame(
        {
            "env": record["env"],
            "algo": record["algo"],
            "preset": record["preset"],
            "seed": record["seed"],
            "episode": smoothed.index,
            "score": smoothed.to_numpy(),
            "exploration_episodes": exploration_episodes(table),
        }
    )


def _published(path: Path) -> pd.DataFrame:
    with storage_errors(f"read {path}"):
        table = pd.read_csv(path)
    missing = [name for name in PAPER_COLUMNS if name not in table.columns]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]!r}; it needs {', '.join(PAPER_COLUMNS)}")
    return table


def _draw_panel(
    axes: Axes, curves: pd.DataFrame, published: pd.DataFrame, environment: str, colours: Mapping[str, Any]
) -> None:
    for (algorithm, preset), group in curves.groupby(["algo", "preset"]):
        by_episode = group.groupby("episode")["score"]
        seeds = group["seed"].nunique()
        label = f"{algorithm} {preset} ({seeds} seed{'s' if seeds > 1 else ''})"
        mean = by_episode.mean()
        axes.plot(mean.index, mean.to_numpy(), color=colours[algorithm], label=label)
        axes.fill_between(
            mean.index, by_episode.min().to_numpy(), by_episode.max().to_numpy(),
            color=colours[algorithm], alpha=0.2, linewidth=0,
        )  # fmt: skip
        paper = published[
            (published["domain"] == environment)
            & (published["algorithm"].str.lower() == algorithm)
            & (published["episode"] <= mean.index.max())
        ]
        if len(paper):
            axes.plot(
                paper["episode"], paper["mean"], linestyle="--", linewidth=1.2, color=colours[algorithm],
                label=f"{algorithm} in the paper",
            )  # fmt: skip
    for episodes in sorted(curves["exploration_episodes"].unique()):
        mark_exploration(axes, int(episodes))
    axes.set(xlabel="target-task episode", ylabel="return, mean over target tasks", title=environment)
    if curves["score"].min() >= 0:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
