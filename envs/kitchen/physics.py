"""The Franka kitchen stepped as a batch of L lanes: MuJoCo physics without tasks, rewards or episodes.

The model is the one that gymnasium-robotics ships for ``FrankaKitchen-v1`` (after Relay Policy Learning, Gupta et al.
2019; D4RL's in turn), read from the installed package. Visual-only geoms are dropped: the trajectory is identical
(tested) and a step is about 10 % cheaper. An action becomes position targets of the servos exactly as there:

    target = clip(observed joints + clip(2 a, velocity bound) * 0.08 s, position bound)        40 steps of 2 ms

where the observed joints carry the observation's noise. Axes: L lane, Q joint position (30), J robot joint (9).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

PHYSICS_STEPS = 40
"""Physics steps of 2 ms per env_step: 12.5 Hz."""
ENV_STEP_SECONDS = 0.08
POSITION_DIM = 30
ROBOT_JOINTS = 9
ACTION_DIM = ROBOT_JOINTS
ACTION_SCALE = 2.0
"""Joint velocity (rad/s, m/s) that an action of 1 asks for (``FrankaKitchen-v1``: act_rng)."""
ROBOT_NOISE_RATIO = 0.01
OBJECT_NOISE_RATIO = 0.0005
"""Observation noise = ratio x amplitude of the joint x U(-1, 1): the defaults of ``FrankaKitchen-v1``; D4RL's 0.1 for
both is another benchmark's."""

INITIAL_POSITIONS: NDArray[np.float64] = np.array(
    [
        1.48388023e-01, -1.76848573e00, 1.84390296e00, -2.47685760e00, 2.60252026e-01, 7.12533105e-01, 1.59515394e00,
        4.79267505e-02, 3.71350919e-02, -2.66279850e-04, -5.18043486e-05, 3.12877220e-05, -4.51199853e-05,
        -3.90842156e-06, -4.22629655e-05, 6.28065475e-05, 4.04984708e-05, 4.62730939e-04, -2.26906415e-04,
        -4.65501369e-04, -6.44129196e-03, -1.77048263e-03, 1.08009684e-03, -2.69397440e-01, 3.50383255e-01,
        1.61944683e00, 1.00618764e00, 4.06395120e-03, -6.62095997e-03, -2.68278933e-04,
    ]
)  # fmt: skip
"""Joint positions at the start of an episode (Q,), at rest (``FrankaKitchen-v1``, D4RL)."""
INITIAL_POSITIONS.setflags(write=False)


@dataclass(frozen=True)
class RobotLimits:
    """What ``franka_config.xml`` says of the robot: bounds of the nine joints, noise amplitudes of all 30."""

    position_bounds: NDArray[np.float64]
    """(J, 2)"""
    velocity_bounds: NDArray[np.float64]
    """(J, 2)"""
    noise_amplitudes: NDArray[np.float64]
    """(Q,), the ratios multiplied in"""


def _assets() -> Path:
    """Folder of the kitchen's files. Raises ``ModuleNotFoundError`` when gymnasium-robotics is not installed."""
    spec = importlib.util.find_spec("gymnasium_robotics")  # found, not imported: importing it prints a notice
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the kitchen's model is shipped by gymnasium-robotics, which is not installed: pip install "
            "'gymnasium-robotics>=1.4.2,<2'",
            name="gymnasium_robotics",
        )
    return Path(spec.origin).parent / "envs" / "assets" / "kitchen_franka"


def load_model(visual: bool = False) -> mujoco.MjModel:
    """The kitchen; with ``visual`` the geoms that are only seen are kept, for rendering."""
    spec = mujoco.MjSpec.from_file(str(_assets() / "kitchen_assets" / "kitchen_env_model.xml"))
    spec.compiler.discardvisual = not visual
    return spec.compile()


@cache
def robot_limits() -> RobotLimits:
    """Read from gymnasium-robotics, once. Its object amplitudes begin one entry early (index 8), as there."""
    root = ElementTree.parse(_assets() / "franka_assets" / "franka_config.xml").getroot()

    def numbers(index: int, attribute: str) -> list[float]:
        node = root.find(f"qpos{index}")
        assert node is not None, f"franka_config.xml has no qpos{index}"
        return [float(part) for part in node.attrib[attribute].split()]

    amplitudes = np.array([numbers(index, "pos_noise_amp")[0] for index in range(POSITION_DIM - 1)])
    return RobotLimits(
        position_bounds=np.array([numbers(index, "pos_bound") for index in range(ROBOT_JOINTS)]),
        velocity_bounds=np.array([numbers(index, "vel_bound") for index in range(ROBOT_JOINTS)]),
        noise_amplitudes=np.concatenate(
            [ROBOT_NOISE_RATIO * amplitudes[:ROBOT_JOINTS], OBJECT_NOISE_RATIO * amplitudes[ROBOT_JOINTS - 1 :]]
        ),
    )


def dynamics_fingerprint() -> str:
    """Text that determines the dynamics: versions of MuJoCo and of the package that ships the model."""
    from importlib.metadata import version

    return (
        f"mujoco {mujoco.__version__}; gymnasium-robotics {version('gymnasium-robotics')} kitchen; "
        f"{PHYSICS_STEPS} physics steps; noise {ROBOT_NOISE_RATIO} {OBJECT_NOISE_RATIO}"
    )


class KitchenBatch:
    """L kitchens. ``positions`` (L, Q) and ``velocities`` (L, 29) are live views of the simulation's state."""

    def __init__(self, num_lanes: int, threads: int = 1) -> None:
        if num_lanes < 1 or threads < 1:
            raise ValueError(f"num_lanes and threads must be at least 1; got {num_lanes} and {threads}")
        self.num_lanes = num_lanes
        self.model = _shared_model()
        self.batch = Batch(self.model, num_lanes, nthread=threads)
        self.positions: NDArray[np.float64] = self.batch.bind("qpos")
        self.velocities: NDArray[np.float64] = self.batch.bind("qvel")
        self._controls: NDArray[np.float64] = self.batch.bind("ctrl")
        self._limits = robot_limits()

    def reset(
        self,
        positions: NDArray[np.float64],
        velocities: NDArray[np.float64] | float = 0.0,
        lanes: NDArray[np.int64] | None = None,
    ) -> None:
        """Forget everything about the given lanes (None: all) and place them; (30,) or (L, 30), (29,) or (L, 29)."""
        rows: Any = slice(None) if lanes is None else lanes
        self.batch.reset(lanes, stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        self.positions[rows] = positions
        self.velocities[rows] = velocities
        self.batch.forward(lanes)  # so that sites and axes, which the arm's control reads, are those of the start

    def step(
        self,
        actions: NDArray[np.floating[Any]],
        observed_joints: NDArray[np.float64],
        lanes: NDArray[np.int64] | None = None,
    ) -> None:
        """One env_step of the given lanes (ascending; None: all).

        ``actions`` (A, J) in [-1, 1] and ``observed_joints`` (A, J) are the rows of these lanes.
        """
        limits = self._limits
        rows: Any = slice(None) if lanes is None else lanes
        low, high = limits.velocity_bounds.T
        targets = observed_joints + np.clip(ACTION_SCALE * actions, low, high) * ENV_STEP_SECONDS
        low, high = limits.position_bounds.T
        self._controls[rows] = np.clip(targets, low, high)
        self.batch.step(lanes, nstep=PHYSICS_STEPS)


@cache
def _shared_model() -> mujoco.MjModel:
    """Compiling takes 0.3 s of reading meshes; batches copy the model."""
    return load_model()
