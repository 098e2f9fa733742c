"""``bench data``: build, describe and verify the offline data of a task distribution."""

from __future__ import annotations

from pathlib import Path

from bench.config import Override
from bench.data_stage import COVERAGE_FILE, TRAJECTORIES_FILE, trajectory_metrics
from bench.errors import StorageError, UserError
from bench.lookup import find_task_distribution
from bench.plan import PlannedStage, plan_data
from bench.progress import duration_text, make_reporter
from bench.run import ARTEFACTS_FOLDER, RunOptions, prepare_torch
from bench.runner import StageRunner
from bench.signals import stop_on_signals
from bench.store import ArtefactStore
from envs.core import TaskDistribution
from envs.trajectories import Trajectories, TrajectoryError


def build_data(name: str, preset: str, overrides: tuple[Override, ...], options: RunOptions) -> None:
    """Build the offline data that a run on ``name`` with ``preset`` would use, or reuse it, and describe it."""
    planned, distribution = plan_data(name, preset, overrides)
    machine = prepare_torch(options)
    store = ArtefactStore(options.out / ARTEFACTS_FOLDER)
    with stop_on_signals() as stop, make_reporter() as reporter:
        StageRunner(store, machine, reporter, stop, options.checkpoint_seconds).run(planned, distribution, ())
    _print_info(store, planned)


def print_data_info(name: str, preset: str, overrides: tuple[Override, ...], out: Path) -> None:
    """Describe the built data. Raises ``UserError`` when it is not built."""
    planned, _ = plan_data(name, preset, overrides)
    _print_info(_built_store(planned, name, preset, out), planned)


def verify_data(name: str, preset: str, overrides: tuple[Override, ...], out: Path, min_length: int) -> None:
    """Recompute all checksums of the built data and check its contents. Raises ``StorageError`` on any damage."""
    planned, distribution = plan_data(name, preset, overrides)
    store = _built_store(planned, name, preset, out)
    manifest = store.verify(planned.artefact_name)
    path = store.folder(planned.artefact_name) / TRAJECTORIES_FILE
    trajectories = _checked_trajectories(distribution, path, min_length)
    if trajectories.checksum() != manifest["metrics"]["checksum"]:
        raise StorageError(f"{path}: the checksum of its contents is not the one in the manifest")
    print(f"{path}: intact, {_counts(trajectories)}")


def verify_file(name: str, path: Path, min_length: int) -> None:
    """Check that ``path`` (D4RL's flat HDF5) can serve as offline data of ``name``. Raises ``StorageError``."""
    trajectories = _checked_trajectories(find_task_distribution(name), path, min_length)
    print(f"{path}: fits {name}, {_counts(trajectories)}, checksum {trajectories.checksum()}")


def _checked_trajectories(distribution: TaskDistribution, path: Path, min_length: int) -> Trajectories:
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


def _built_store(planned: PlannedStage, name: str, preset: str, out: Path) -> ArtefactStore:
    store = ArtefactStore(out / ARTEFACTS_FOLDER)
    if not store.is_finished(planned.artefact_name):
        raise UserError(
            f"{store.folder(planned.artefact_name)} does not exist: "
            f"bench data build {name} --preset {preset} --out {out} makes it"
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
