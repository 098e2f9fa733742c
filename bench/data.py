"""``bench data``: build, describe, verify and import the offline data of a task distribution."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from bench.config import Override
from bench.data_stage import COVERAGE_FILE, TRAJECTORIES_FILE, read_data, trajectory_metrics
from bench.errors import StorageError, UserError
from bench.files import storage_errors
from bench.lookup import find_task_distribution
from bench.plan import PlannedStage, plan_data
from bench.play import check_ending, write_episodes
from bench.progress import duration_text, make_reporter
from bench.run import RunOptions, prepare_torch
from bench.runner import StageRunner
from bench.signals import stop_on_signals
from bench.store import ARTEFACTS_FOLDER, ArtefactStore
from envs.core import TaskDistribution
from envs.trajectories import Trajectories, TrajectoryError


def build_data(
    name: str, preset: str, overrides: tuple[Override, ...], options: RunOptions, data: str | None = None
) -> None:
    """Build the offline data that a run on ``name`` with ``preset`` and ``--data`` would use, or reuse; describe it."""
    planned, distribution = plan_data(name, preset, overrides, data)
    machine = prepare_torch(options)
    store = ArtefactStore(options.out / ARTEFACTS_FOLDER)
    with stop_on_signals() as stop, make_reporter() as reporter:
        StageRunner(store, machine, reporter, stop, options.checkpoint_seconds).run(planned, distribution, ())
    _print_info(store, planned)


def print_data_info(
    name: str, preset: str, overrides: tuple[Override, ...], out: Path, data: str | None = None
) -> None:
    """Describe the built data. Raises ``UserError`` when it is not built."""
    planned, _ = plan_data(name, preset, overrides, data)
    _print_info(_built_store(planned, name, preset, data, out), planned)


def show_data_episode(
    name: str,
    preset: str,
    overrides: tuple[Override, ...],
    out: Path,
    data: str | None,
    episode: int,
    output: Path,
) -> None:
    """Write a picture or a video of one episode of the built data. Raises ``UserError``."""
    planned, distribution = plan_data(name, preset, overrides, data)
    check_ending(distribution, output)
    folder = _built_store(planned, name, preset, data, out).folder(planned.artefact_name)
    trajectories = _built_trajectories(distribution, folder / TRAJECTORIES_FILE, 1)
    episodes = trajectories.split()
    if episode >= len(episodes):
        raise UserError(f"--episode: there is no episode {episode} in {folder}; valid: 0 to {len(episodes) - 1}")
    title = f"Episode {episode} of the offline data of {name} ({preset})"
    scene = None if trajectories.scenes is None else trajectories.scenes[episode]
    write_episodes(distribution, [episodes[episode][0]], [], output, title, scene)


def verify_data(
    name: str, preset: str, overrides: tuple[Override, ...], out: Path, min_length: int, data: str | None = None
) -> None:
    """Recompute all checksums of the built data and check its contents. Raises ``StorageError`` on any damage."""
    planned, distribution = plan_data(name, preset, overrides, data)
    store = _built_store(planned, name, preset, data, out)
    manifest = store.verify(planned.artefact_name)
    path = store.folder(planned.artefact_name) / TRAJECTORIES_FILE
    trajectories = _built_trajectories(distribution, path, min_length)
    if trajectories.checksum() != manifest["metrics"]["checksum"]:
        raise StorageError(f"{path}: the checksum of its contents is not the one in the manifest")
    print(f"{path}: intact, {_counts(trajectories)}")


def verify_file(name: str, path: Path, min_length: int) -> None:
    """Check that ``path`` can serve as offline data of ``name`` (``--data``). Raises ``StorageError``."""
    trajectories = read_data(find_task_distribution(name), str(path), min_length).trajectories
    print(f"{path}: fits {name}, {_counts(trajectories)}, checksum {trajectories.checksum()}")


def import_data(name: str, origin: str, output: Path | None, skip_damaged: bool = False) -> None:
    """Write what the reader of ``name`` makes of ``origin`` as flat HDF5, and say what it found and what comes next.

    ``output`` defaults to ``<name>-<origin's name>.hdf5`` in the current folder; ``skip_damaged`` leaves out damaged
    files of a folder. Raises ``StorageError`` for anything that cannot be read or does not fit, ``UserError`` rather
    than overwrite other contents.
    """
    recorded = read_data(find_task_distribution(name), origin, skip_damaged=skip_damaged)
    trajectories = recorded.trajectories
    path = output or Path(f"{name}-{re.sub(r'[^A-Za-z0-9_-]+', '-', Path(origin).stem).strip('-')}.hdf5")
    if path.exists():
        _refuse_other_contents(path, trajectories)
    else:
        with storage_errors(f"write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            trajectories.save_hdf5(path)
    for remark in recorded.remarks:
        print(remark)
    for key, value in trajectory_metrics(trajectories).items():
        print(f"{key.replace('_', ' ')}: {value}")
    print(f"file: {path}")
    print(f"next: bench run --algo ALGO --env {name} --data {shlex.quote(str(path))}")


def _refuse_other_contents(path: Path, trajectories: Trajectories) -> None:
    try:
        same = Trajectories.load_hdf5(path).checksum() == trajectories.checksum()
    except TrajectoryError:
        same = False
    if not same:
        raise UserError(f"{path} exists with other contents; remove it, or choose another file with -o FILE")


def _built_trajectories(distribution: TaskDistribution, path: Path, min_length: int) -> Trajectories:
    try:
        trajectories = Trajectories.load_hdf5(path)
        trajectories.validate(distribution.observation_dim, distribution.action_dim, min_length)
    except TrajectoryError as error:
        message = str(error)
        raise StorageError(message if str(path) in message else f"{path}: {message}") from error
    return trajectories


def _counts(trajectories: Trajectories) -> str:
    numbers = trajectory_metrics(trajectories)
    return f"{numbers['episodes']} episodes, {numbers['transitions']} transitions"


def _built_store(planned: PlannedStage, name: str, preset: str, data: str | None, out: Path) -> ArtefactStore:
    store = ArtefactStore(out / ARTEFACTS_FOLDER)
    chosen = "" if data is None else f" --data {shlex.quote(data)}"
    if not store.is_finished(planned.artefact_name):
        raise UserError(
            f"{store.folder(planned.artefact_name)} does not exist: "
            f"bench data build {name} --preset {preset}{chosen} --out {out} makes it"
        )
    return store


def _print_info(store: ArtefactStore, planned: PlannedStage) -> None:
    folder, manifest = store.folder(planned.artefact_name), store.manifest(planned.artefact_name)
    for key, value in manifest["metrics"].items():
        print(f"{key.replace('_', ' ')}: {value}")
    for key, value in manifest["key"]["config"].items():
        print(f"data.{key}: {value}")
    print(
        f"built {manifest['created']} in {duration_text(manifest['seconds'])}, mujoco {manifest['versions']['mujoco']}"
    )
    print(f"file: {folder / TRAJECTORIES_FILE}  (picture: {folder / COVERAGE_FILE})")
