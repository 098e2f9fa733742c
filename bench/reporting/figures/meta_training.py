"""Scores on the training tasks while a policy is meta-trained: the paper's Figure 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.errors import UserError
from bench.lookup import find_task_distribution
from bench.reporting.figures.drawing import (
    INTERVAL,
    counted,
    new_panels,
    notes_text,
    runs_text,
    score_noun,
    seeds_warning,
    set_score_axis,
    shared_legend,
    tidy,
)
from bench.reporting.figures.learning import bin_width, panel_title
from bench.reporting.model import LoadedRun, ReportFigure, ReportInputs
from bench.reporting.palette import in_order, looks
from bench.statistics.aggregates import mean
from bench.statistics.curves import EfficiencyCurve
from bench.statistics.episodes import EpisodeReturns, FloatArray, score_range_of
from bench.statistics.intervals import MIN_RUNS, estimate_over_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRIOR, POSTERIOR = "meta_train_prior", "meta_train_posterior"
"""Phases of episode rows (``algorithms.stage.EpisodeRow``)."""
_MARKS = 12
_FAR_LONGER = 2.0
"""An algorithm with more than this many times the episodes of all others is drawn as the level that it ends at."""


@dataclass(frozen=True)
class MetaPanel:
    """Meta-training on one task distribution at one preset."""

    env: str
    preset: str
    groups: tuple[EpisodeReturns, ...]
    """For names, seeds, training tasks and the score range; without returns."""
    curves: Mapping[tuple[str, str], EfficiencyCurve]
    """By label and phase."""

    def length(self, label: str) -> int:
        """Episodes of a training task that its curve covers."""
        return max(int(c.starts[-1]) + c.bin_episodes for (own, _), c in self.curves.items() if own == label)

    def final_level(self, label: str) -> float:
        """Of its last bin with episodes of every task, after inference: tasks drawn seldom end in earlier bins."""
        curve = self.curves[label, POSTERIOR]
        return float(curve.point[np.flatnonzero(curve.tasks == curve.tasks.max())[-1]])

    @property
    def outlasting(self) -> str | None:
        """The algorithm that goes on for far longer than all others (in the paper BC+MAML, on policy)."""
        *others, longest = sorted((group.label for group in self.groups), key=self.length)
        return longest if others and self.length(longest) > _FAR_LONGER * self.length(others[-1]) else None


def meta_panel(inputs: ReportInputs, env: str, preset: str, labels: Sequence[str] | None = None) -> MetaPanel | None:
    """None where none of these runs has an episode of meta-training."""
    chosen = [
        run for run in inputs.runs if (run.env, run.preset) == (env, preset) and (labels is None or run.label in labels)
    ]
    curves: dict[tuple[str, str], EfficiencyCurve] = {}
    groups = []
    for label, runs in _by_artefact(chosen):
        own = {(label, phase): curve for phase in (POSTERIOR, PRIOR) if (curve := meta_curve(runs, phase)) is not None}
        if own:
            curves |= own
            groups.append(_group(label, runs))
    return MetaPanel(env, preset, tuple(groups), curves) if groups else None


def _by_artefact(chosen: Sequence[LoadedRun]) -> list[tuple[str, list[LoadedRun]]]:
    """Labels and their runs, each seed once; algorithms that share their meta-training are one, by all their names."""
    found: dict[frozenset[str], tuple[list[str], list[LoadedRun]]] = {}
    for label in in_order([run.label for run in chosen]):
        # A run that ends with meta-training and one that goes on share the stage where their seed is the same.
        runs = list({run.seed: run for run in chosen if run.label == label}.values())
        stages = {stage for run in runs for stage in _meta_stages(run)}
        found.setdefault(frozenset(stages) or frozenset([label]), ([], runs))[0].append(label)
    return [(" = ".join(labels), runs) for labels, runs in found.values()]


def _meta_stages(run: LoadedRun) -> list[str]:
    """Artefacts of the run's stages that have episodes of meta-training."""
    if "stage" not in run.rows:
        return []
    names = set(run.rows.loc[run.rows["phase"].isin([PRIOR, POSTERIOR]), "stage"].unique())
    stages = run.record.get("stages", ())
    return [str(stage["artefact"]) for stage in stages if stage["name"] in names and stage.get("artefact")]


def _group(label: str, runs: Sequence[LoadedRun]) -> EpisodeReturns:
    """Seeds of these runs, with their training tasks; without any returns."""
    first = runs[0]
    seen = [_phase_rows(run, phase)["task"] for run in runs for phase in (PRIOR, POSTERIOR)]
    tasks = tuple(map(int, np.unique(np.concatenate(seen))))
    return EpisodeReturns(
        label, first.env, first.preset, tuple(run.seed for run in runs), tasks, tuple(map(str, tasks)),
        np.empty((len(runs), len(tasks), 0)), score_range_of(first.env), tuple(str(run.folder) for run in runs),
    )  # fmt: skip


def meta_curve(runs: Sequence[LoadedRun], phase: str) -> EfficiencyCurve | None:
    """Mean over training tasks of the mean return of this phase's episodes in each bin; None where it has none.

    Bins are of a task's episode numbers, which count the episodes of both phases.
    """
    table = pd.concat([_phase_rows(run, phase) for run in runs], ignore_index=True)
    if table.empty:
        return None
    longest = int(table["episode"].max()) + 1
    width = min(bin_width(longest), longest)
    cube = _bin_means(table, width)[:, :, : longest // width]  # (S, N, P)
    points, counts = [], []
    for place, scores in enumerate(np.moveaxis(cube, 2, 0)):
        scores = scores[~np.isnan(scores).all(axis=1)][:, ~np.isnan(scores).all(axis=0)]
        if not scores.size:
            continue
        estimate = estimate_over_runs(scores, mean, score_range_of(runs[0].env) or (None, None))
        low, high = (float("nan") if end is None else end for end in (estimate.low, estimate.high))
        points.append((place * width, estimate.point, low, high))
        counts.append(scores.shape)
    starts, point, lows, highs = np.array(points, dtype=float).reshape(-1, 4).T
    seeds, tasks = np.array(counts, dtype=np.int64).reshape(-1, 2).T
    uneven = tasks.min() < tasks.max()
    notes = (f"bins have {tasks.min()} to {tasks.max()} tasks",) if uneven else ()
    return EfficiencyCurve(starts.astype(np.int64), width, point, lows, highs, seeds, tasks, notes)


def _phase_rows(run: LoadedRun, phase: str) -> pd.DataFrame:
    rows = run.rows
    part = rows.loc[(rows["phase"] == phase) & (rows["status"] == "ok"), ["task", "episode", "return"]]
    return part.assign(seed=run.seed)


def _bin_means(table: pd.DataFrame, width: int) -> FloatArray:
    """Mean return of each seed and task in each bin (S, N, P); NaN where there is no episode."""
    seeds, seed = np.unique(table["seed"].to_numpy(), return_inverse=True)
    tasks, task = np.unique(table["task"].to_numpy(), return_inverse=True)
    place = table["episode"].to_numpy() // width
    shape = (len(seeds), len(tasks), int(place.max()) + 1)
    flat = np.ravel_multi_index((seed, task, place), shape)
    size = int(np.prod(shape))
    counts = np.bincount(flat, minlength=size)
    sums = np.bincount(flat, weights=table["return"].to_numpy(dtype=float), minlength=size)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).reshape(shape)


def meta_figure(name: str, title: str, panels: Sequence[MetaPanel]) -> ReportFigure:
    """Panels side by side."""
    groups = [group for panel in panels for group in panel.groups]
    notes = [
        f"{panel.env}, {label}: {n}" for panel in panels for (label, _), c in panel.curves.items() for n in c.notes
    ]
    single = all(len(group.seeds) == 1 for group in groups)
    band = "one seed: no interval" if single else f"band: {INTERVAL} interval over seeds, of each bin"
    widths = sorted({curve.bin_episodes for panel in panels for curve in panel.curves.values()})
    caption = (
        f"Mean return ({' and '.join(dict.fromkeys(score_noun(panel.env) for panel in panels))}) on the training tasks "
        f"during meta-training, by a task's episode number, in bins of {' or '.join(map(str, widths))}. Solid: "
        f"episodes after the task was inferred or adapted to (posterior), {band}, thin where seeds are few; "
        "dotted: episodes before (prior). "
        f"{' '.join(f'{panel.env}, {panel.preset}: {_trained_text(panel)}.' for panel in panels)}"
        f"{notes_text(notes)}{seeds_warning(groups)}"
    )
    levels = [
        f"{label} on {panel.env} goes on for {panel.length(label)} episodes: the level of its last bin with all tasks"
        for panel in panels
        if (label := panel.outlasting) is not None
    ]
    caption += "".join(f" Dash-dotted: {level}." for level in levels)
    alt = "Line plot, x: episode of a training task, y: " + "; ".join(
        f"{score_noun(panel.env)} on {panel.env}: "
        + ", ".join(
            f"{label} from {curve.point[0]:.2f} to {panel.final_level(label):.2f}"
            for (label, phase), curve in panel.curves.items()
            if phase == POSTERIOR
        )
        for panel in panels
    )
    return ReportFigure(name, title, caption, alt, partial(draw_meta_training, tuple(panels)))


def _trained_text(panel: MetaPanel) -> str:
    """Runs, with the number of training tasks instead of target tasks."""
    try:
        tasks = counted(len(find_task_distribution(panel.env).train_tasks), "training task")
    except UserError:
        return runs_text(panel.groups)
    seeds = "; ".join(f"{group.label}: {counted(len(group.seeds), 'seed')}" for group in panel.groups)
    return f"{tasks}; {seeds}"


def draw_meta_training(panels: Sequence[MetaPanel]) -> Figure:
    """All panels, with one legend."""
    figure, all_axes = new_panels(len(panels), width=5.6 if len(panels) == 1 else 4.6, height=3.9)
    look = looks([group.label for panel in panels for group in panel.groups])
    for axes, panel in zip(all_axes, panels, strict=True):
        seeds = {group.label: len(group.seeds) for group in panel.groups}
        for (label, phase), curve in panel.curves.items():
            own = look[label]
            if label == panel.outlasting:
                if phase == POSTERIOR:
                    text = f"{label}, in the end"
                    axes.axhline(panel.final_level(label), color=own.colour, linestyle="-.", linewidth=1.4, label=text)
                continue
            episodes = curve.starts + (curve.bin_episodes - 1) / 2
            if phase == POSTERIOR:
                axes.plot(
                    episodes, curve.point, color=own.colour, marker=own.marker, linestyle=own.line_style,
                    linewidth=1.6 if seeds[label] >= MIN_RUNS else 1.0, markersize=4 if seeds[label] >= MIN_RUNS else 3,
                    markevery=max(1, len(episodes) // _MARKS), label=label,
                )  # fmt: skip
                axes.fill_between(episodes, curve.low, curve.high, color=own.colour, alpha=0.18, linewidth=0)
            else:
                axes.plot(episodes, curve.point, ":", color=own.colour, linewidth=1.1, label="_prior")
        axes.plot([], [], ":", color="0.35", linewidth=1.1, label="before inference (prior)")
        set_score_axis(axes, panel.groups[0])
        axes.set(xlabel="meta-training episode of a task")
        shown = [panel.length(group.label) for group in panel.groups if group.label != panel.outlasting]
        axes.set_xlim(0, max(shown))
        axes.set_title(panel_title(panel.env, panel.preset), fontsize="medium")
        tidy(axes)
    shared_legend(figure, all_axes)
    return figure
