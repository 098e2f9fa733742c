"""What tests of the kitchen share: published goals, recorded human episodes, ``FrankaKitchen-v1`` made to run."""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import ModuleType, SimpleNamespace

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.core import Task

GOALS: dict[str, dict[int, float]] = {
    "bottom burner": {11: -0.88, 12: -0.01},
    "top burner": {15: -0.92, 16: -0.01},
    "light switch": {17: -0.69, 18: -0.05},
    "slide cabinet": {19: 0.37},
    "hinge cabinet": {20: 0.0, 21: 1.45},
    "microwave": {22: -0.75},
    "kettle": {23: -0.23, 24: 0.75, 25: 1.62, 26: 0.99, 27: 0.0, 28: 0.0, 29: -0.06},
}
"""subtask -> {joint of the 30: value}, typed from the table of Relay Policy Learning and D4RL."""

HUMAN_ORDER = ("microwave", "kettle", "light switch", "slide cabinet")
"""What each recorded human episode does, in this order."""


def sequence(*subtasks: str) -> Task:
    return Task(" > ".join(subtasks), {"subtasks": list(subtasks)})


def positions_with(*subtasks: str) -> NDArray[np.float64]:
    """Joint positions (30,) that are far from every goal but those of ``subtasks``, which are met exactly."""
    positions = np.full(30, 5.0)
    for subtask in subtasks:
        positions[list(GOALS[subtask])] = list(GOALS[subtask].values())
    return positions


@dataclass(frozen=True)
class HumanEpisodes:
    """19 recorded episodes (E), one lane each; actions are zero after an episode's end."""

    positions: list[NDArray[np.float64]]
    """Joint positions of each episode (T, 30)."""
    velocities: list[NDArray[np.float64]]
    """Joint velocities of each episode (T, 29)."""
    actions: NDArray[np.float32]
    """(T, E, 9)"""
    lengths: NDArray[np.int64]
    """env_steps (E,)"""


@cache
def human_episodes() -> HumanEpisodes:
    path = resources.files("envs.kitchen").joinpath("data/human_complete.npz")
    with path.open("rb") as file, np.load(file) as stored:
        observations, flat_actions, ends = stored["observations"], stored["actions"], stored["episode_ends"]
    lengths = np.diff(ends, prepend=0)
    actions = np.zeros((lengths.max(), len(ends), 9), np.float32)
    for episode, part in enumerate(np.split(flat_actions, ends[:-1])):
        actions[: len(part), episode] = part
    # robot positions 9, robot velocities 9, object positions 21, object velocities 20
    robot, robot_velocity, objects, object_velocity = np.split(observations.astype(float), [9, 18, 39], axis=1)
    return HumanEpisodes(
        positions=np.split(np.hstack([robot, objects]), ends[:-1]),
        velocities=np.split(np.hstack([robot_velocity, object_velocity]), ends[:-1]),
        actions=actions,
        lengths=lengths,
    )


def import_reference() -> ModuleType:
    """``gymnasium_robotics.envs.franka_kitchen.kitchen_env``, without the notice it prints when first imported."""
    with contextlib.redirect_stderr(io.StringIO()):
        return importlib.import_module("gymnasium_robotics.envs.franka_kitchen.kitchen_env")


def patch_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``FrankaKitchen-v1`` run on this MuJoCo.

    gymnasium-robotics 1.4.2 asks ``model.jnt_type[i] == mjtJoint.mjJNT_HINGE``: a numpy integer against an enum, which
    is never equal from MuJoCo 3.12 on, so that its assertion on the joint's type fails. Here its joint types are the
    plain integers behind the enum.
    """
    import_reference()
    from gymnasium_robotics.utils import mujoco_utils

    joint_types = {name: int(value.value) for name, value in mujoco.mjtJoint.__members__.items()}
    names = SimpleNamespace(mj_name2id=mujoco.mj_name2id, mjtObj=mujoco.mjtObj, mjtJoint=SimpleNamespace(**joint_types))
    monkeypatch.setattr(mujoco_utils, "mujoco", names)
