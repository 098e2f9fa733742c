"""The training and target tasks of the task distributions themselves: the paper's figures 7, 12 and 13."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.lookup import find_task_distribution
from bench.reporting.figures.drawing import counted, file_name, new_panels, shared_legend
from bench.reporting.model import Made, ReportFigure, ReportInputs
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
        key = tuple(task.name for part in (tasks.train_tasks, tasks.target_tasks) for task in (*part, part[0]))
        panels.setdefault(key, []).append(tasks)
    groups = list(panels.values())
    sizes = "; ".join(
        f"{' = '.join(tasks.name for tasks in group)}: {counted(len(group[0].train_tasks), 'training task')}, "
        f"{counted(len(group[0].target_tasks), 'target task')}"
        for group in groups
    )
    caption = f"Training and target tasks of every task distribution of the family {family}. {sizes}."
    return ReportFigure(
        file_name("tasks", family), f"Task distributions of {family}", caption,
        f"Pictures of training and target tasks. {sizes}.", partial(_draw, groups),
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
