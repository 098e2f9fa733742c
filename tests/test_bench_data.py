"""``bench data``: build, describe, verify; and refusal of files that training could not use."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from algorithms.files import load_tensors, save_tensors
from algorithms.stage import StageContext
from bench.data_stage import data_stage_spec
from envs.registry import task_distribution
from envs.trajectories import Trajectories
from tests.conftest import Bench

SMOKE = ("toy-line", "--preset", "smoke", "--out")


def built_file(out: Path) -> Path:
    (path,) = (out / "artefacts").glob("data-*/trajectories.hdf5")
    return path


def test_data_is_built_described_verified_and_reused(tmp_path: Path, bench: Bench) -> None:
    built = bench("data", "build", *SMOKE, tmp_path)
    assert built.code == 0
    assert "episodes: 6" in built.out
    assert "transitions: 120" in built.out
    assert bench("data", "info", *SMOKE, tmp_path).out in built.out
    assert "intact, 6 episodes, 120 transitions" in bench("data", "verify", *SMOKE, tmp_path).out
    run = bench("run", "--algo", "toy", "--env", *SMOKE, tmp_path)
    assert "data: reused data-" in run.out


def test_overrides_choose_other_data(tmp_path: Path, bench: Bench) -> None:
    assert bench("data", "build", *SMOKE, tmp_path, "--data.seed", "1").code == 0
    missing = bench("data", "info", *SMOKE, tmp_path)
    assert missing.code == 2
    assert bench("data", "info", *SMOKE, tmp_path, "data.seed=1").code == 0


def test_a_damaged_file_is_refused(tmp_path: Path, bench: Bench) -> None:
    bench("data", "build", *SMOKE, tmp_path)
    path = built_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-50])
    refused = bench("data", "verify", *SMOKE, tmp_path)
    assert refused.code == 2
    assert f"{path} is damaged" in refused.err


def make_file(path: Path, observations: np.ndarray, action_dim: int = 1, episode_length: int = 20) -> Path:
    ends = np.arange(episode_length, len(observations) + 1, episode_length)
    actions = np.zeros((len(observations), action_dim), np.float32)
    Trajectories(observations.astype(np.float32), actions, ends).save_hdf5(path)
    return path


GOOD = np.zeros((40, 3))
NAN = np.where(np.arange(120).reshape(40, 3) == 50, np.nan, 0.0)


def test_a_file_of_ones_own_is_checked(tmp_path: Path, bench: Bench) -> None:
    path = make_file(tmp_path / "own.hdf5", GOOD)
    outcome = bench("data", "verify", "toy-line", "--file", path, "--min-length", "11")
    assert outcome.code == 0
    assert "fits toy-line, 2 episodes, 40 transitions" in outcome.out


@pytest.mark.parametrize(
    ("observations", "action_dim", "episode_length", "message"),
    [
        (NAN, 1, 20, "row 16 holds NaN"),
        (np.zeros((40, 4)), 1, 20, r"expected (transitions, 3)"),
        (GOOD, 2, 20, r"expected (transitions, 1)"),
        (GOOD, 1, 10, "at least one needs 11 or more"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_reason(
    tmp_path: Path, bench: Bench, observations: np.ndarray, action_dim: int, episode_length: int, message: str
) -> None:
    path = make_file(tmp_path / "own.hdf5", observations, action_dim, episode_length)
    refused = bench("data", "verify", "toy-line", "--file", path, "--min-length", "11")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert str(path) in refused.err
    assert message in refused.err


def test_files_that_are_no_data_are_refused(tmp_path: Path, bench: Bench) -> None:
    truncated = make_file(tmp_path / "truncated.hdf5", GOOD)
    truncated.write_bytes(truncated.read_bytes()[:200])
    text = tmp_path / "text.hdf5"
    text.write_text("hello")
    empty = tmp_path / "empty.hdf5"
    with h5py.File(empty, "w"):
        pass
    for path in (truncated, text, empty, tmp_path / "missing.hdf5"):
        refused = bench("data", "verify", "toy-line", "--file", path)
        assert refused.code == 2
        assert refused.err.count("\n") == 1
        assert str(path) in refused.err


def test_the_places_of_episodes_survive_a_checkpoint(tmp_path: Path) -> None:
    """A data stage that is interrupted between chunks writes what one in one go writes, scenes and all."""
    world = task_distribution("image-maze")
    context = StageContext(task_distribution=world, target_tasks=(), seed=0, inputs={})
    spec = data_stage_spec(world)
    config = spec.config_class(num_trajectories=4, chunk_trajectories=2)
    stages = [spec.factory(config, context) for _ in range(2)]
    stages[0].advance()
    save_tensors(tmp_path / "state.pt", stages[0].state_dict())
    stages[1].load_state_dict(load_tensors(tmp_path / "state.pt"))
    for stage in stages:
        stage.advance()
        assert stage.finished
    checksums = [stage.write_artefact(tmp_path)["checksum"] for stage in stages]
    assert checksums[0] == checksums[1]
    scenes = Trajectories.load_hdf5(tmp_path / "trajectories.hdf5").scenes
    assert scenes is not None and scenes.shape == (4, 22, 22)
