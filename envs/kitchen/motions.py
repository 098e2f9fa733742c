"""What the demonstrator's scripts are made of: straight segments, and drives that follow an object's own joint.

A script is a generator: it yields ``Command``s, one per env_step, and sees its kitchen through ``Lane`` after each.
World frame: the robot faces +Y, +X is right, +Z up; metres and radians. A gripper orientation is (pitch, yaw, roll):
yaw > 0 turns to -X, pitch > 0 points down. Uniform noise: ``n(k)`` is +-k * 0.01 m on each axis, ``r(k)`` +-k * 0.08
rad. Axis: X world axis (3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from envs.kitchen.arm import ARM_JOINTS, ArmBatch, Command, Matrix, Vector, about, rotation_matrix, rotation_vector
from envs.kitchen.physics import ENV_STEP_SECONDS, INITIAL_POSITIONS, KitchenBatch

Script = Iterator[Command]

OPEN, CLOSED = 0.04, 0.0
POSITION_NOISE = 0.01
"""Half-width of the noise n(1) on waypoints (m)."""
ROTATION_NOISE = 0.08
"""Half-width of the noise r(1) on orientations (rad)."""
GRASP_NOISE_SCALE = 0.4
"""Action noise while an object is driven with closed fingers, relative to elsewhere."""
SPEED_RANGE = (0.8, 1.15)
TURN_SPEED = 1.6
"""Gripper rotation in segments (rad/s)."""

X_AXIS, Y_AXIS, Z_AXIS = np.eye(3)
_GRIPPER = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
"""Gripper axes at (0, 0, 0): fingers open along +X, approach along +Y."""

# Joint positions, sites and hinges of the model, by the names used in the scripts.
JOINT = {"bottom burner": 11, "top burner": 15, "light switch": 17, "slide cabinet": 19, "hinge cabinet": 21}
JOINT |= {"microwave": 22}
SITE = {"bottom burner": "knob2_site", "top burner": "knob4_site", "light switch": "light_site"}
SITE |= {"slide cabinet": "slide_site", "hinge cabinet": "hinge_site2", "microwave": "microhandle_site"}
SITE |= {"kettle": "kettle_site"}
KETTLE_HEIGHT = 25
"""Index of the kettle's z among the joint positions."""


def orientation(pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> Matrix:
    """Gripper axes as columns (3, 3)."""
    turned: Matrix = about(Z_AXIS, yaw) @ about(X_AXIS, -pitch) @ about(Y_AXIS, roll) @ _GRIPPER
    return turned


def xyz(x: float, y: float, z: float) -> Vector:
    """A vector in the world (X,)."""
    return np.array([x, y, z])


def approach(yaw: float) -> Vector:
    """Horizontal direction in which a gripper of this yaw points, (X,)."""
    return np.array([-np.sin(yaw), np.cos(yaw), 0.0])


@dataclass
class Lane:
    """One kitchen of a batch as a script sees it: object joints, sites, gripper; and its source of noise."""

    index: int
    physics: KitchenBatch
    arm: ArmBatch
    site_ids: dict[str, int]
    rng: np.random.Generator
    env_steps: int = 0
    tool: Vector = field(default_factory=lambda: np.zeros(3))
    rotation: Matrix = field(default_factory=lambda: np.eye(3))

    def look(self) -> None:
        """Read the gripper's pose."""
        self.tool, self.rotation = self.arm.tool(self.index)

    def joint(self, name: str) -> float:
        """Joint value of a subtask's element (rad or m)."""
        return float(self.physics.positions[self.index, JOINT[name]])

    def site(self, name: str) -> Vector:
        """World position of the place where a subtask's element is taken, (X,)."""
        position: Vector = self.arm.sites(self.index)[self.site_ids[SITE[name]]].copy()
        return position

    def turned_site(self, name: str, angle: float) -> Vector:
        """Where ``site(name)`` would be if its hinge stood at ``angle``, (X,)."""
        anchor, axis = self.arm.hinge(self.index, JOINT[name])
        moved: Vector = anchor + about(axis, angle - self.joint(name)) @ (self.site(name) - anchor)
        return moved

    @property
    def kettle_height(self) -> float:
        return float(self.physics.positions[self.index, KETTLE_HEIGHT])

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def n(self, scale: float) -> Vector:
        """Position noise (X,)."""
        return self.rng.uniform(-scale * POSITION_NOISE, scale * POSITION_NOISE, 3)

    def r(self, scale: float) -> float:
        """Rotation noise."""
        return self.uniform(-scale * ROTATION_NOISE, scale * ROTATION_NOISE)


def segment(
    lane: Lane,
    target: Vector,
    rotation: Matrix,
    fingers: float,
    speed: float,
    *,
    tolerance: float = 0.02,
    turn_tolerance: float = 0.25,
    lead: float = 0.08,
    max_env_steps: int = 40,
    stop: Callable[[], bool] = lambda: False,
) -> Script:
    """Move in a straight line to ``target`` (X,), turning to ``rotation``; ``speed`` in m/s before noise.

    A point runs ahead along the line, at most ``lead`` before the gripper. Ends at the target, on ``stop``, when the
    gripper is stuck, or after ``max_env_steps``.
    """
    speed *= lane.uniform(*SPEED_RANGE)
    start, start_rotation = lane.tool, lane.rotation
    turn = rotation_vector(rotation @ start_rotation.T)
    seconds = max(float(np.linalg.norm(target - start)) / speed, float(np.linalg.norm(turn)) / TURN_SPEED, 1e-6)
    done, trail = 0.0, [lane.tool]
    for env_step in range(max_env_steps):
        ahead = min(1.0, done + ENV_STEP_SECONDS / seconds)
        point = start + ahead * (target - start)
        distance = float(np.linalg.norm(point - lane.tool))
        if distance > lead:
            point = lane.tool + (point - lane.tool) * (lead / distance)
        else:
            done = ahead
        yield Command(fingers, point, rotation_matrix(done * turn) @ start_rotation)
        trail.append(lane.tool)
        arrived = np.linalg.norm(lane.tool - target) < tolerance
        facing = np.linalg.norm(rotation_vector(rotation @ lane.rotation.T)) < turn_tolerance
        stuck = env_step > 5 and np.linalg.norm(trail[-1] - trail[-4]) < 0.005
        if stop() or (done >= 1.0 and arrived and facing) or stuck:
            return


def drive(
    lane: Lane,
    pose: Callable[[], tuple[Vector, Matrix]],
    fingers: float,
    stop: Callable[[], bool],
    *,
    lead: float = 0.08,
    turn_speed: float = TURN_SPEED,
    max_env_steps: int = 40,
) -> Script:
    """Follow ``pose()``, recomputed at each env_step from the object's state, until ``stop()``."""
    for _ in range(max_env_steps):
        target, rotation = pose()
        offset = target - lane.tool
        point = lane.tool + offset * min(1.0, lead / max(float(np.linalg.norm(offset)), 1e-9))
        turn = rotation_vector(rotation @ lane.rotation.T)
        turn *= min(1.0, turn_speed * ENV_STEP_SECONDS / max(float(np.linalg.norm(turn)), 1e-9))
        yield Command(fingers, point, rotation_matrix(turn) @ lane.rotation, noise_scale=GRASP_NOISE_SCALE)
        if stop():
            return


def hold(lane: Lane, position: Vector, rotation: Matrix, fingers: float, env_steps: int) -> Script:
    """Stay where the gripper should be, while the fingers move."""
    for _ in range(env_steps):
        yield Command(fingers, position, rotation)


def retreat(lane: Lane, offset: Vector, fingers: float) -> Script:
    """Leave in a straight line, keeping the orientation."""
    return segment(lane, lane.tool + offset, lane.rotation, fingers, 1.1, tolerance=0.03)


def transit(lane: Lane, first_point: Vector) -> Script:
    """Back to about the initial arm pose where the next element is far: on a straight line the arm would fold."""
    if np.linalg.norm(lane.tool - first_point) <= 0.40 or lane.env_steps <= 5:
        return
    wanted = INITIAL_POSITIONS[:ARM_JOINTS] + lane.rng.uniform(-0.08, 0.08, ARM_JOINTS)
    for _ in range(35):
        yield Command(OPEN, joints=wanted)
        if np.abs(wanted - lane.physics.positions[lane.index, :ARM_JOINTS]).max() < 0.45:
            return
