"""The registry of task distributions, and contracts over everything that is in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from envs import registry
from envs.maze.planner import path_length_map
from envs.maze.tasks import TASK_DISTRIBUTION_NAMES, draw_task_distributions, goals_of
from envs.registry import (
    UnknownTaskDistributionError,
    register_task_distribution,
    task_distribution,
    task_distribution_names,
    task_distribution_summary,
)

COUNTS = {
    "maze": (40, 10),
    "maze-20": (20, 10),
    "maze-10": (10, 10),
    "maze-top-top": (10, 10),
    "maze-top-bottom": (10, 10),
    "maze-easy": (20, 10),
    "maze-medium": (20, 10),
    "maze-hard": (40, 10),
}


# The tests of the harness register toys that have no world.
WITH_WORLD = [name for name in task_distribution_names() if not name.startswith("toy")]


@pytest.mark.parametrize("name", WITH_WORLD)
def test_every_distribution_starts_all_of_its_tasks(name: str) -> None:
    distribution = task_distribution(name)
    assert distribution.name == name
    tasks = distribution.train_tasks + distribution.target_tasks
    assert len({task.name for task in distribution.train_tasks}) == len(distribution.train_tasks)
    world = distribution.make_world(num_lanes=len(tasks), threads=1)
    observations = world.start(tasks, [(0, name, index) for index in range(len(tasks))])
    assert observations.shape == (len(tasks), distribution.observation_dim)
    assert world.single_action_space.shape == (distribution.action_dim,)
    assert distribution.world_fingerprint
    for preset in distribution.data_presets.values():
        assert distribution.data_source is not None
        assert distribution.data_source.num_chunks(distribution.data_source.config_class(**preset)) >= 1


@pytest.mark.parametrize("name", TASK_DISTRIBUTION_NAMES)
def test_maze_goals(name: str) -> None:
    distribution = task_distribution(name)
    assert (len(distribution.train_tasks), len(distribution.target_tasks)) == COUNTS[name]
    assert distribution.family == "maze"
    assert distribution.summary == task_distribution_summary(name)
    assert "mujoco" in distribution.world_fingerprint
    assert set(distribution.data_presets) == {"smoke", "quick", "paper", "released"}
    layout = distribution.data_source.layout
    lengths = path_length_map(layout, (10, 10))
    train_goals, target_goals = goals_of(name)
    for goal in train_goals + target_goals:
        assert np.isfinite(lengths[goal])
        assert np.hypot(goal[0] - 10, goal[1] - 10) > 1.2, "solved at the start"


def test_short_range_distributions_differ_in_variance_not_in_range() -> None:
    (easy_train, easy_target), (medium_train, medium_target) = goals_of("maze-easy"), goals_of("maze-medium")
    layout = task_distribution("maze").data_source.layout
    lengths = path_length_map(layout, (10, 10))
    for train, target in ((easy_train, easy_target), (medium_train, medium_target)):
        assert not set(train) & set(target)
        assert all(4.0 <= lengths[goal] <= 9.0 for goal in train + target)
    assert np.var(easy_train, axis=0).sum() < 0.4 * np.var(medium_train, axis=0).sum()


def test_same_world_same_fingerprint() -> None:
    assert task_distribution("maze").world_fingerprint == task_distribution("maze-easy").world_fingerprint


def test_unknown_name_tells_the_nearest() -> None:
    with pytest.raises(
        UnknownTaskDistributionError, match="unknown task distribution 'maze-esy'; nearest: 'maze-easy'"
    ):
        task_distribution("maze-esy")
    with pytest.raises(UnknownTaskDistributionError, match="valid: maze, "):
        task_distribution_summary("")
    with pytest.raises(ValueError, match="no maze task distribution 'x'"):
        goals_of("x")


def test_registering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    maze = task_distribution("maze")
    register_task_distribution("mine", lambda name: maze, "my own")
    assert "mine" in task_distribution_names()
    assert task_distribution("mine") is maze
    with pytest.raises(ValueError, match="already registered"):
        register_task_distribution("maze", lambda name: maze, "")
    with pytest.raises(ValueError, match="expected 'module:attribute'"):
        register_task_distribution("other", "no colon", "")


def test_listing_names_imports_no_simulator() -> None:
    code = (
        "import sys, envs.registry as r; r.task_distribution_names(); r.task_distribution_summary('maze');"
        "print([m for m in ('mujoco', 'matplotlib', 'torch', 'h5py') if m in sys.modules])"
    )
    root = Path(__file__).parent.parent
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_envs_never_imports_torch() -> None:
    code = "import sys, envs.registry as r; r.task_distribution('maze'); print('torch' in sys.modules)"
    root = Path(__file__).parent.parent
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"


def test_pictures(tmp_path: Path) -> None:
    draw_task_distributions(tmp_path / "goals.png")
    maze = task_distribution("maze")
    paths = [np.random.default_rng(i).normal(10, 2, size=(50, 4)) for i in range(12)]
    tasks = [maze.target_tasks[i % 3] for i in range(12)]
    maze.draw_paths(paths, tasks, tmp_path / "paths.png", "twelve episodes")
    maze.draw_paths(paths, [], tmp_path / "alike.png", "without tasks")
    for picture in ("goals.png", "paths.png", "alike.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="12 episodes but 2 tasks"):
        maze.draw_paths(paths, tasks[:2], tmp_path / "paths.png", "")
