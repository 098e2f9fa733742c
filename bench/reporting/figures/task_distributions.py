"""Task distributions: their tasks (the paper's figures 7, 12, 13), and what the number of training tasks does (6 a)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.lookup import find_task_distribution
from bench.reporting.figures.drawing import (
    INTERVAL,
    counted,
    file_name,
    new_panels,
    notes_text,
    runs_text,
    score_noun,
    seeds_warning,
    set_score_axis,
    shared_legend,
    tidy,
)
from bench.reporting.model import Made, ReportFigure, ReportInputs
from bench.reporting.palette import in_order, looks
from bench.results import WINDOWS
from bench.statistics.aggregates import aggregate
from bench.statistics.episodes import EpisodeReturns
from bench.statistics.intervals import Estimate
from bench.statistics.scores import window_scores
from envs.core import TaskDistribution
from envs.registry import task_distribution_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4


def task_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """A figure per family of the runs' task distributions, a panel for each distribution of the family."""
    families: list[str] = []
    missing = []
    for env in sorted({run.env for run in inputs.runs}):
        try:
            family = find_task_distribution(env).family
        except UserError:
            missing.append(f"tasks of {env}: it is not installed here")
            continue
        if family not in families:
            families.append(family)
    figures = []
    for family in families:
        drawable = [tasks for tasks in _family(family) if tasks.draw_tasks is not None]
        if drawable:
            figures.append(_figure(family, drawable))
        else:
            missing.append(f"tasks of the family {family}: its task distributions have no way to draw them")
    return Made(tuple(figures), tuple(missing))


def _family(family: str) -> list[TaskDistribution]:
    found = []
    for name in task_distribution_names():
        try:
            tasks = find_task_distribution(name)
        except UserError:
            continue  # Needs a package that is not installed: bench list says so.
        if tasks.family == family:
            found.append(tasks)
    return found


def _figure(family: str, distributions: Sequence[TaskDistribution]) -> ReportFigure:
    panels: dict[tuple[str, ...], list[TaskDistribution]] = {}
    for tasks in distributions:  # those with the same tasks share a panel
        parts = (tasks.train_tasks, tasks.target_tasks, tasks.validation_tasks)
        key = tuple(name for part in parts for name in (*(task.name for task in part), ""))
        panels.setdefault(key, []).append(tasks)
    groups = list(panels.values())
    sizes = "; ".join(
        f"{' = '.join(tasks.name for tasks in group)}: {counted(len(group[0].train_tasks), 'training task')}, "
        f"{counted(len(group[0].target_tasks), 'target task')}, "
        f"{counted(len(group[0].validation_tasks), 'validation task')}"
        for group in groups
    )
    caption = f"Training, target and validation tasks of every task distribution of the family {family}. {sizes}."
    return ReportFigure(
        file_name("tasks", family), f"Task distributions of {family}", caption,
        f"Pictures of training, target and validation tasks. {sizes}.", partial(_draw, groups),
    )  # fmt: skip


def _draw(groups: Sequence[Sequence[TaskDistribution]]) -> Figure:
    lonely = len(groups) == 1
    figure, panels = new_panels(len(groups), _COLUMNS, width=6.6 if lonely else 2.9, height=4.8 if lonely else 3.3)
    for axes, group in zip(panels, groups, strict=True):
        tasks = group[0]
        assert tasks.draw_tasks is not None
        tasks.draw_tasks(axes)
        sizes = f"{len(tasks.train_tasks)} training, {len(tasks.target_tasks)} target"
        axes.set_title(f"{' = '.join(one.name for one in group)}\n{sizes}", fontsize=9)
    shared_legend(figure, panels)
    return figure


@dataclass(frozen=True)
class SplitScores:
    """Scores of one algorithm on task distributions that differ in their training tasks alone."""

    label: str
    estimates: tuple[tuple[int, str, Estimate], ...]
    """(number of training tasks, task distribution, mean score), by that number."""


def training_task_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """How the score depends on the number of training tasks, where the target tasks are the same (Figure 6 a)."""
    sets: dict[tuple[str, str, tuple[str, ...]], dict[str, TaskDistribution]] = {}
    for env, preset in sorted({(group.env, group.preset) for group in inputs.groups}):
        try:
            tasks = find_task_distribution(env)
        except UserError:
            continue  # task_figures says so
        key = (tasks.family, preset, tuple(task.name for task in tasks.target_tasks))
        sets.setdefault(key, {})[env] = tasks
    figures = []
    for (family, preset, _), distributions in sets.items():
        sizes = {env: len(tasks.train_tasks) for env, tasks in distributions.items()}
        groups = [group for group in inputs.groups if group.env in sizes and group.preset == preset]
        if len(set(sizes.values())) > 1:
            figures.append(_training_task_figure(family, preset, sizes, groups))
    missing = () if figures else (
        "scores by the number of training tasks: needs runs on task distributions that differ in it alone",
    )  # fmt: skip
    return Made(tuple(figures), missing)


def _training_task_figure(
    family: str, preset: str, sizes: Mapping[str, int], groups: Sequence[EpisodeReturns]
) -> ReportFigure:
    shortest = min(group.returns.shape[2] for group in groups)
    start, stop = next((window for window in reversed(WINDOWS) if window[1] <= shortest), (0, shortest))
    found, notes = [], []
    for label in in_order([group.label for group in groups]):
        estimates = []
        for group in groups:
            matrix = window_scores(group, start, stop)
            if group.label == label and matrix.values.size:
                notes += [f"{group.env}, {label}: {gap}" for gap in matrix.gaps()]
                estimates.append((sizes[group.env], group.env, aggregate(matrix)["mean"]))
        found.append(SplitScores(label, tuple(sorted(estimates, key=lambda item: item[:2]))))
    noun = score_noun(groups[0].env)
    runs = "; ".join(f"{group.env}, {runs_text([group])}" for group in groups)
    caption = (
        f"Mean {noun} in episodes {start}-{stop} of the same target tasks, by the number of training tasks; bars: "
        f"{INTERVAL} interval over seeds. {runs}.{notes_text(notes)}{seeds_warning(groups)}"
    )
    alt = f"Points with bars, x: number of training tasks, y: {noun}. " + "; ".join(
        f"{one.label}: " + ", ".join(f"{e.point:.2f} with {count} ({env})" for count, env, e in one.estimates)
        for one in found
    )
    title = f"Scores by the number of training tasks, {family}, preset {preset}"
    name = file_name("training-tasks", family, preset, *sorted(sizes)[:1])
    return ReportFigure(name, title, caption, alt, partial(_draw_by_size, found, groups[0]))


def _draw_by_size(found: Sequence[SplitScores], example: EpisodeReturns) -> Figure:
    figure, (axes,) = new_panels(1, width=5.2, height=3.7)
    look = looks([one.label for one in found])
    for place, one in enumerate(found):
        own = look[one.label]
        # Side by side, so that bars do not hide one another.
        counts = [count + 0.4 * (place - (len(found) - 1) / 2) for count, _, _ in one.estimates]
        values = [estimate.point for _, _, estimate in one.estimates]
        axes.plot(
            counts,
            values,
            color=own.colour,
            linestyle=own.line_style,
            marker=own.marker,
            linewidth=1.4,
            label=one.label,
        )
        for count, (_, _, estimate) in zip(counts, one.estimates, strict=True):
            if estimate.low is not None and estimate.high is not None:
                axes.vlines(count, estimate.low, estimate.high, color=own.colour, linewidth=2.2, alpha=0.6)
    axes.set_xticks(sorted({count for one in found for count, _, _ in one.estimates}))
    axes.set(xlabel="number of training tasks")
    set_score_axis(axes, example)
    tidy(axes)
    shared_legend(figure, [axes])
    return figure
