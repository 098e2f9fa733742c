"""What single runs show: paths of episodes (the paper's figures 5 and 9) and learned latent spaces.

Drawn from small files that stages leave in their artefacts (``algorithms.stage``), so no weights are needed. Of each
algorithm it is the run with the lowest seed of those that have such files.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from algorithms.stage import LATENTS_FILE, PATHS_FILE
from bench.errors import StorageError, UserError
from bench.lookup import find_task_distribution
from bench.reporting.figures.drawing import file_name, new_panels, shared_legend
from bench.reporting.figures.meta_training import POSTERIOR
from bench.reporting.model import LoadedRun, Made, ReportFigure, ReportInputs
from bench.reporting.palette import in_order
from bench.rows import TARGET_PHASES
from envs.core import Task, TaskDistribution
from envs.data_files import DataFileError, read_npz_arrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPISODES = (0, 20, 100)
"""Columns of the figure of target tasks, as far as runs have such episodes."""
_PATHS_PER_PANEL = 10


@dataclass(frozen=True)
class StagePaths:
    """Paths of some episodes of one stage."""

    label: str
    seed: int
    paths: Mapping[tuple[int, int], NDArray[np.float32]]
    """(T, D) by task and episode."""


def path_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """Of each task distribution and preset: paths on the target tasks, and on the training tasks once meta-trained."""
    figures, missing = [], []
    for env, preset in sorted({(run.env, run.preset) for run in inputs.runs}):
        where = f"{env}, {preset}"
        try:
            tasks = find_task_distribution(env)
        except UserError:
            missing.append(f"paths on {where}: the task distribution is not installed here")
            continue
        if tasks.draw_paths_on is None:
            missing.append(f"paths on {where}: the task distribution has no way to draw them in a panel")
            continue
        damaged: list[str] = []
        found = stage_paths(inputs, env, preset, TARGET_PHASES, damaged)
        trained = stage_paths(inputs, env, preset, (POSTERIOR,), damaged)
        missing += damaged
        if found:
            labels = {run.label for run in inputs.runs if (run.env, run.preset) == (env, preset) and run.has_targets}
            without = in_order(sorted(labels - {own.label for own in found}))
            figures.append(_target_figure(tasks, preset, found, without))
        if trained:
            figures.append(_trained_figure(tasks, preset, trained))
        if not found and not trained and not damaged:
            missing.append(
                f"paths on {where}: no run has kept any ({PATHS_FILE}; runs of before it was kept have none)"
            )
    return Made(tuple(figures), tuple(missing))


def stage_paths(
    inputs: ReportInputs, env: str, preset: str, phases: Sequence[str], damaged: list[str]
) -> list[StagePaths]:
    """Of each algorithm, in the order of legends: paths of the stage with these phases, of its first run with any.

    A file that cannot be read is passed over, and named in ``damaged``.
    """
    runs = [run for run in inputs.runs if (run.env, run.preset) == (env, preset)]
    found: dict[str, StagePaths] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        file = None if run.label in found else _paths_file(run, phases)
        if file is not None:
            try:
                found[run.label] = StagePaths(run.label, run.seed, read_paths(file))
            except StorageError as error:
                damaged.append(f"paths on {env}, {preset}: {error}")
    return [found[label] for label in in_order(list(found))]


def _paths_file(run: LoadedRun, phases: Sequence[str]) -> Path | None:
    files = (
        run.stage_file(stage, PATHS_FILE)
        for stage in run.record.get("stages", ())
        if _has_phase(run, str(stage["name"]), phases)
    )
    return next((file for file in files if file is not None), None)


def _has_phase(run: LoadedRun, stage: str, phases: Sequence[str]) -> bool:
    return bool((run.rows["phase"].isin(phases) & (run.rows["stage"] == stage)).any())


def read_paths(file: Path) -> dict[tuple[int, int], NDArray[np.float32]]:
    """Paths (T, D) by task and episode (``algorithms.stage.PATHS_FILE``). Raises ``StorageError``."""
    content = _read(file, ("task", "episode", "ends", "states"))
    tasks, episodes, ends, states = (content[name] for name in ("task", "episode", "ends", "states"))
    if not (tasks.shape == episodes.shape == ends.shape and tasks.ndim == 1 and states.ndim == 2) or not (
        all(array.dtype.kind in "iu" for array in (tasks, episodes, ends)) and (np.diff(ends) >= 0).all()
    ):
        raise StorageError(f"{file} cannot be read: its arrays do not fit each other")
    paths = np.split(content["states"], content["ends"][:-1])
    keys = zip(content["task"].tolist(), content["episode"].tolist(), strict=True)
    return dict(zip(keys, paths, strict=True))


def _read(file: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        return read_npz_arrays(file, names)
    except DataFileError as error:
        raise StorageError(f"{file} cannot be read: {error}") from error


def _target_figure(
    tasks: TaskDistribution, preset: str, found: Sequence[StagePaths], without: Sequence[str]
) -> ReportFigure:
    episodes = [number for number in EPISODES if any(number == key[1] for own in found for key in own.paths)]
    panels = [
        (f"{own.label}, episode {number}", [(task, path) for (task, at), path in own.paths.items() if at == number])
        for own in found
        for number in episodes
    ]
    seeds = "; ".join(f"{own.label}: seed {own.seed}" for own in found)
    caption = (
        f"Paths of training episodes {', '.join(map(str, episodes))} on target tasks of {tasks.name}, preset {preset}; "
        f"each with its task. One run of each algorithm ({seeds}), up to "
        f"{_PATHS_PER_PANEL} tasks."
        f"{_without_text(without)}"
    )
    title = f"Episodes on the target tasks of {tasks.name}, preset {preset}"
    return ReportFigure(
        file_name("paths", tasks.name, preset), title, caption, f"Episodes drawn, one panel for each of: "
        f"{'; '.join(name for name, _ in panels)}.",
        partial(_draw_paths, tasks, tasks.target_tasks, panels, len(episodes) if len(episodes) > 1 else 3),
    )  # fmt: skip


def _without_text(labels: Sequence[str]) -> str:
    return f" Not shown, for want of paths that were kept: {', '.join(labels)}." if labels else ""


def _trained_figure(tasks: TaskDistribution, preset: str, found: Sequence[StagePaths]) -> ReportFigure:
    panels = [(own.label, [(task, path) for (task, _), path in own.paths.items()]) for own in found]
    seeds = "; ".join(f"{own.label}: seed {own.seed}" for own in found)
    caption = (
        f"Paths of the last meta-training episode on each training task of {tasks.name}, preset {preset}, after "
        f"the task was inferred, each with its task. One run of each algorithm ({seeds})."
    )
    title = f"Meta-trained policies on the training tasks of {tasks.name}, preset {preset}"
    return ReportFigure(
        file_name("trained-paths", tasks.name, preset), title, caption,
        f"Episodes drawn, one panel for each of: {'; '.join(own.label for own in found)}.",
        partial(_draw_paths, tasks, tasks.train_tasks, panels, 3),
    )  # fmt: skip


def _draw_paths(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    panels: Sequence[tuple[str, Sequence[tuple[int, NDArray[np.float32]]]]],
    columns: int,
) -> Figure:
    assert distribution.draw_paths_on is not None
    figure, all_axes = new_panels(len(panels), columns, width=3.2, height=3.4)
    limit = len(tasks) if tasks is distribution.train_tasks else _PATHS_PER_PANEL
    for axes, (title, paths) in zip(all_axes, panels, strict=True):
        shown = sorted(paths, key=lambda item: item[0])[:limit]
        distribution.draw_paths_on([path for _, path in shown], [tasks[task] for task, _ in shown], axes)
        axes.set_title(title, fontsize=9)
    shared_legend(figure, all_axes)
    return figure


def latent_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """A figure for each latent space that a run's stage has learned; stages that runs share once."""
    figures: list[ReportFigure] = []
    missing: list[str] = []
    seen: set[str] = set()
    drawn: set[tuple[str, ...]] = set()
    for run in sorted(inputs.runs, key=lambda run: (run.label, run.env, run.preset, run.seed)):
        for stage in run.record.get("stages", ()):
            file, key = run.stage_file(stage, LATENTS_FILE), (run.label, run.env, run.preset, str(stage["name"]))
            if file is not None and stage["artefact"] not in seen and key not in drawn:
                try:
                    figures.append(_latent_figure(run, str(stage["name"]), file))
                except StorageError as error:  # Another run may have a copy, or a latent space of its own.
                    missing.append(f"latent space of {run.label} on {run.env}, {run.preset}: {error}")
                else:
                    seen.add(stage["artefact"])
                    drawn.add(key)
    if not figures and not missing:
        missing.append(f"latent spaces: no run has kept any ({LATENTS_FILE}; older runs have none)")
    return Made(tuple(figures), tuple(dict.fromkeys(missing)))


def principal_components(vectors: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two directions of largest variance: coordinates (K, 2), and their shares of the variance (2,)."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    centred = np.pad(centred, ((0, 0), (0, max(0, 2 - centred.shape[1]))))  # a space of one dimension is a line
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    total = float((sizes**2).sum())
    shares = sizes[:2] ** 2 / total if total else np.zeros(2)
    return left[:, :2] * sizes[:2], shares


def _latent_figure(run: LoadedRun, stage: str, file: Path) -> ReportFigure:
    content = _read(file, ("latents", "value", "what", "value_name"))
    latents, value = content["latents"], content["value"]
    if not (
        latents.ndim == 2 and value.shape == latents.shape[:1] and min(latents.shape) and latents.dtype.kind == "f"
    ):
        raise StorageError(f"{file} cannot be read: its arrays do not fit each other")
    if not (np.isfinite(latents).all() and value.dtype.kind in "fiub"):
        raise StorageError(f"{file} cannot be drawn: its latent vectors are not all finite")
    what, value_name = str(content["what"]), str(content["value_name"])
    dims = content["latents"].shape[1]
    points, shares = principal_components(content["latents"])
    of = f"the first two principal components of {dims}"
    caption = (
        f"Latent space of the stage {stage} of {run.label} on {run.env}, {run.preset}, seed {run.seed}: {what}. Axes: "
        f"{of} dimensions, {100 * shares.sum():.0f} % of the variance. Colour: {value_name}."
    )
    correlation = max(abs(_correlation(points[:, axis], content["value"])) for axis in range(points.shape[1]))
    alt = (
        f"Scatter plot of {len(points)} latent vectors. Largest correlation of an axis with colour: {correlation:.2f}."
    )
    title = f"Latent space of {run.label}, {stage}, on {run.env}, {run.preset}"
    name = file_name("latents", run.label, stage, run.env, run.preset)
    return ReportFigure(name, title, caption, alt, partial(_draw_latents, points, content["value"], value_name, shares))


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.std(a) and np.std(b) else 0.0


def is_category(value: NDArray[np.float32], name: str) -> bool:
    """Whether numbers are names, such as a task's index: then their order means nothing."""
    return bool("index" in name and np.equal(value, np.floor(value)).all())


def _draw_latents(
    points: NDArray[np.float64], value: NDArray[np.float32], value_name: str, shares: NDArray[np.float64]
) -> Figure:
    figure, (axes,) = new_panels(1, width=5.4, height=4.2)
    kinds = np.unique(value)
    if is_category(value, value_name):
        import seaborn

        colours = np.array(seaborn.husl_palette(len(kinds), s=0.8, l=0.55))
        shuffled = np.random.default_rng(0).permutation(len(kinds))  # neighbours by number are no neighbours by colour
        axes.scatter(
            points[:, 0], points[:, 1], c=colours[shuffled[np.searchsorted(kinds, value)]], s=9, linewidths=0,
            alpha=0.85,
        )  # fmt: skip
        axes.set_title(f"a colour for each: {textwrap.fill(value_name, 50)}", fontsize=8)
    else:
        drawn = axes.scatter(points[:, 0], points[:, 1], c=value, cmap="viridis", s=9, linewidths=0, alpha=0.85)
        figure.colorbar(drawn, ax=axes, label=textwrap.fill(value_name, 40))
    first, second = (f"{name} component ({100 * s:.0f} %)" for name, s in zip(("1st", "2nd"), shares, strict=True))
    axes.set(xlabel=first, ylabel=second, aspect="equal")
    axes.set_adjustable("datalim")
    return figure
