"""``bench play``: episodes of what a run has learned, shown as its task distribution shows episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms.stage import PlayedEpisode, PlayRequest, StageContext, StageSpec
from bench.config import check_preset_names, resolve_config
from bench.errors import UserError
from bench.files import canonical_json, storage_errors
from bench.lookup import find_algorithm, find_task_distribution
from bench.plan import tasks_key
from bench.results import task_set_of
from bench.run import RunOptions, prepare_torch
from bench.run_record import read_run_record
from bench.show import find_run
from bench.store import ARTEFACTS_FOLDER, ArtefactStore
from envs.core import EpisodeRenderer, PictureError, Task, TaskDistribution


@dataclass(frozen=True)
class Learned:
    """A finished stage that can be asked to act, as a run left it."""

    run: dict[str, Any]
    """``run.json``"""
    folder: Path
    """Of the run."""
    distribution: TaskDistribution
    """Its target tasks are those that the run adapted to."""
    spec: StageSpec
    config: Any
    artefact: Path
    inputs: dict[str, Path]
    target_tasks: tuple[int, ...]

    def play(self, task: int, episodes: int, seed: int) -> list[PlayedEpisode]:
        """Episodes of task ``task``, fixed by ``seed``, on one CPU thread."""
        prepare_torch(RunOptions(self.folder.parent, device="cpu"))
        context = StageContext(self.distribution, self.target_tasks, self.run["seed"], self.inputs)
        assert self.spec.play is not None
        return self.spec.play(self.config, context, PlayRequest(self.artefact, task, episodes, seed))


def play_run(run: str, out: Path, task: int | None, episodes: int, seed: int, output: Path | None) -> None:
    """Play, print what came of it, and write a picture or a video.

    ``run`` is the run's folder or its name below ``out``; ``task`` None is the first that it adapted to; ``output``
    None is ``play-task<task>`` in the run's folder. Raises ``UserError`` for anything that cannot be played or shown.
    """
    learned = find_learned(find_run(run, out))
    distribution, valid, kind = learned.distribution, learned.target_tasks, task_set_of(learned.run)
    task = valid[0] if task is None else task
    if task not in valid:
        raise UserError(f"--task: {run} has not learned {kind} task {task}; valid: {', '.join(map(str, valid))}")
    path = output or learned.folder / f"play-task{task}{usable_ending(distribution)}"
    check_ending(distribution, path)
    played = learned.play(task, episodes, seed)
    best = distribution.score_range[1]
    for index, episode in enumerate(played):
        success = "success" if episode.episode_return >= best else "no success"
        print(f"episode {index}: return {episode.episode_return:g} of {best:g}, {success}, {episode.length} env_steps")
    named = distribution.target_tasks[task]
    mean_return = sum(episode.episode_return for episode in played) / episodes
    title = f"{learned.run['algo']} on {distribution.name}, {kind} task {task}: return {mean_return:.3g} of {best:g}"
    write_episodes(distribution, [episode.observations for episode in played], [named] * episodes, path, title)


def find_learned(folder: Path) -> Learned:
    """What the run in ``folder`` has learned, its files verified.

    Everything comes from ``run.json`` and the artefacts, so that a run can be played whatever data it learned from.
    Raises ``UserError`` when nothing there can be played, ``StorageError`` when a file is damaged.
    """
    run = read_run_record(folder)
    algorithm, distribution = find_algorithm(run["algo"]), find_task_distribution(run["env"])
    task_set = task_set_of(run)
    spec = next((stage for stage in reversed(algorithm.stages) if stage.play is not None), None)
    if spec is None:
        raise UserError(f"{algorithm.name} has no stage that can be played")
    record = next(stage for stage in run["stages"] if stage["name"] == spec.name)
    store = ArtefactStore(folder.parent / ARTEFACTS_FOLDER)
    name = record["artefact"]
    if not record["done"]:
        raise UserError(f"{folder} has not finished its stage {spec.name} ({run['status']}): bench run resumes it")
    if not store.is_finished(name):
        raise UserError(f"{folder} has no weights to play: {store.folder(name)} is missing (exported runs have none)")
    manifest = store.verify(name)
    store.check_origin(manifest)
    key = manifest["key"]
    if key["implementation"] != spec.implementation:
        raise UserError(f"{name} was made by {key['implementation']}, this version has {spec.implementation}")
    target_tasks = tuple(run["target_tasks"])
    if canonical_json(tasks_key(spec, distribution, target_tasks, task_set)) != canonical_json(key["tasks"]):
        print(
            "note: the tasks or their dynamics (versions of the simulator among them) are not those that were learned"
        )
    values = {f"{spec.name}.{field}": value for field, value in key["config"].items()}
    check_preset_names(values, {spec.name: spec.config_class}, name)
    artefacts = {stage["name"]: stage["artefact"] for stage in run["stages"]}
    for stage in spec.inputs:
        store.verify_input(artefacts[stage])
    return Learned(
        run=run,
        folder=folder,
        distribution=distribution.aimed_at(task_set),
        spec=spec,
        config=resolve_config(spec.config_class, spec.name, values, (), name),
        artefact=store.folder(name),
        inputs={stage: store.folder(artefacts[stage]) for stage in spec.inputs},
        target_tasks=target_tasks,
    )


def usable_ending(distribution: TaskDistribution) -> str:
    """The first ending that can be written here; says why when it is not the usual one. Raises ``UserError``."""
    renderer = _renderer(distribution)
    reasons: list[str] = []
    for ending in renderer.endings:
        reason = renderer.why_not(ending)
        if reason is None:
            if reasons:
                print(f"note: {reasons[0]}; writing a {ending} file instead")
            return ending
        reasons.append(reason)
    raise UserError(reasons[0])


def check_ending(distribution: TaskDistribution, path: Path) -> None:
    """Raise ``UserError`` when no file with this ending shows episodes of ``distribution``, or none can be written."""
    renderer = _renderer(distribution)
    if path.suffix not in renderer.endings:
        valid = ", ".join(renderer.endings)
        raise UserError(f"{path}: episodes of {distribution.name} cannot be shown as {path.suffix!r}; valid: {valid}")
    reason = renderer.why_not(path.suffix)
    if reason is not None:
        raise UserError(f"{path}: {reason}")


def write_episodes(
    distribution: TaskDistribution,
    observations: Sequence[NDArray[np.float32]],
    tasks: Sequence[Task],
    path: Path,
    title: str,
    scene: NDArray[np.uint8] | None = None,
) -> None:
    """Show episodes, each (T, D), in ``path`` and say so; ``tasks`` may be none. Raises ``UserError``.

    ``scene`` is the place of an episode that was recorded elsewhere than in the world.
    """
    renderer = _renderer(distribution)
    try:
        with storage_errors(f"write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if scene is None:
                renderer.render(observations, tasks, path, title)
            elif renderer.render_in_scene is None:
                raise UserError(f"{distribution.name} has no way to show an episode in a place of its own")
            else:
                renderer.render_in_scene(observations[0], scene, path, title)
    except PictureError as error:
        raise UserError(f"{path}: {error}") from error
    print(f"file: {path}")


def _renderer(distribution: TaskDistribution) -> EpisodeRenderer:
    if distribution.episode_renderer is None:
        raise UserError(f"{distribution.name} has no way to show episodes")
    return distribution.episode_renderer
