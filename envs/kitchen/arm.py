"""Resolved-rate control of the Franka arm, for a batch of lanes: from a wanted gripper pose to the kitchen's actions.

The kitchen's action asks a servo for an offset from the *observed* joint position, so an arm left alone sinks under
its weight and follows about half of what is asked. Hence the gravity feed-forward and the gains below; their values
are those of a recipe that was measured to work (see ``demonstrator.py``).

    e  = (0.9 (p* - p), w 0.7 rotvec(R* R^T))        J = (J_p, w J_r) at the tool centre point, w = 0.25
    dq = J# e + (I - J# J) 0.08 (q_rest - q)         J# = J^T (J J^T + 0.03^2 I)^-1
    a  = (s K dq + b) / 0.16                         b = bias force / servo stiffness, s <= 1 keeps every |a| <= 1

A joint that would leave its limits is put at the limit and the others are solved again. One common factor s scales
all joints: clipping each on its own would bend the path.

Axes: A lane under control, J arm joint (7), X world axis (3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.kitchen.physics import ACTION_SCALE, ENV_STEP_SECONDS, INITIAL_POSITIONS, KitchenBatch, robot_limits

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

ARM_JOINTS = 7
TOOL_OFFSET = 0.043
"""Centre of the finger tips, along the approach axis of the site ``end_effector`` (m)."""
_LARGEST_OFFSET = ACTION_SCALE * ENV_STEP_SECONDS
"""Servo offset (rad or m) that an action of 1 asks for."""
_POSITION_GAIN = 0.9
_ROTATION_GAIN = 0.7
_ROTATION_WEIGHT = 0.25
_DAMPING = 0.03
_REST_GAIN = 0.08
_FOLLOW_GAINS = np.array([2.0, 2.0, 2.0, 2.0, 1.6, 1.6, 1.6])
_LIMIT_MARGIN = 0.02
_LIMIT_PASSES = 4


@dataclass
class Command:
    """What one lane wants of its arm in one env_step: a gripper pose, or arm joints."""

    fingers: float
    """Opening of each finger (m), 0 to 0.04."""
    position: Vector | None = None
    """Tool centre point (X,) (m)."""
    rotation: Matrix | None = None
    """Gripper axes as columns (3, 3)."""
    joints: Vector | None = None
    """Arm joints (J,) instead of a pose."""
    noise_scale: float = 1.0
    """Multiplies the noise on the arm's actions."""


class ArmBatch:
    """Kinematics and control of the arms of a ``KitchenBatch``, as of its last physics step."""

    def __init__(self, physics: KitchenBatch) -> None:
        self._physics, model = physics, physics.model
        bind = physics.batch.bind
        self._site = model.site("end_effector").id
        self._site_positions, self._site_axes = bind("site_xpos"), bind("site_xmat")
        self._anchors, self._axes, self._bias = bind("xanchor"), bind("xaxis"), bind("qfrc_bias")
        self._stiffness = model.actuator_gainprm[:ARM_JOINTS, 0].copy()
        low, high = robot_limits().position_bounds[:ARM_JOINTS].T
        self._low = np.maximum(low, model.jnt_range[:ARM_JOINTS, 0]) + _LIMIT_MARGIN
        self._high = np.minimum(high, model.jnt_range[:ARM_JOINTS, 1]) - _LIMIT_MARGIN

    def tool(self, lane: int) -> tuple[Vector, Matrix]:
        """Tool centre point (X,) and gripper axes (3, 3) of one lane."""
        rotation = self._site_axes[lane, self._site].reshape(3, 3).copy()
        point: Vector = self._site_positions[lane, self._site] + TOOL_OFFSET * rotation[:, 2]
        return point, rotation

    def sites(self, lane: int) -> NDArray[np.float64]:
        """World positions of all sites of one lane (sites, X)."""
        positions: NDArray[np.float64] = self._site_positions[lane]
        return positions

    def hinge(self, lane: int, joint: int) -> tuple[Vector, Vector]:
        """A point on a joint's axis, and the axis, in the world: (X,), (X,)."""
        return self._anchors[lane, joint], self._axes[lane, joint]

    def actions(self, lanes: NDArray[np.int64], commands: list[Command]) -> NDArray[np.float64]:
        """Actions (A, 9) that carry out ``commands``, one per lane; not yet clipped to [-1, 1]."""
        joints = self._physics.positions[lanes, :ARM_JOINTS]
        steps = self._pose_steps(lanes, commands, joints)
        for row, command in enumerate(commands):
            if command.joints is not None:
                steps[row] = command.joints - joints[row]
        actions = np.empty((len(lanes), ARM_JOINTS + 2))
        actions[:, :ARM_JOINTS] = self._servo(steps, self._bias[lanes, :ARM_JOINTS] / self._stiffness)
        wanted = np.array([command.fingers for command in commands])[:, None]
        fingers = self._physics.positions[lanes, ARM_JOINTS : ARM_JOINTS + 2]
        actions[:, ARM_JOINTS:] = (wanted - fingers) / _LARGEST_OFFSET
        return actions

    def _servo(self, steps: NDArray[np.float64], holding: NDArray[np.float64]) -> NDArray[np.float64]:
        """Arm actions (A, J) for joint steps (A, J), given the offsets that hold the arm up (A, J)."""
        wanted = _FOLLOW_GAINS * steps
        room = np.where(wanted >= 0, _LARGEST_OFFSET - holding, _LARGEST_OFFSET + holding)
        factors = np.maximum(room, 0.0) / np.maximum(np.abs(wanted), 1e-12)
        scale = np.minimum(factors.min(axis=1), 1.0)[:, None]
        actions: NDArray[np.float64] = (scale * wanted + holding) / _LARGEST_OFFSET
        return actions

    def _pose_steps(
        self, lanes: NDArray[np.int64], commands: list[Command], joints: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Joint steps (A, J) towards the wanted poses; rows of lanes that command joints mean nothing."""
        rotations = self._site_axes[lanes, self._site].reshape(-1, 3, 3)
        points = self._site_positions[lanes, self._site] + TOOL_OFFSET * rotations[:, :, 2]
        errors = np.zeros((len(lanes), 6))
        for row, command in enumerate(commands):
            if command.position is not None and command.rotation is not None:
                errors[row, :3] = _POSITION_GAIN * (command.position - points[row])
                turn = rotation_vector(command.rotation @ rotations[row].T)
                errors[row, 3:] = _ROTATION_WEIGHT * _ROTATION_GAIN * turn
        axes = self._axes[lanes, :ARM_JOINTS]
        levers = points[:, None] - self._anchors[lanes, :ARM_JOINTS]
        jacobians = np.concatenate([np.cross(axes, levers), _ROTATION_WEIGHT * axes], axis=2).transpose(0, 2, 1)
        rest = _REST_GAIN * (INITIAL_POSITIONS[:ARM_JOINTS] - joints)
        return _solve_within_limits(jacobians, errors, rest, self._low - joints, self._high - joints)


def _solve_within_limits(
    jacobians: NDArray[np.float64],
    errors: NDArray[np.float64],
    rest: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Joint steps (A, J) from Jacobians (A, 6, J) and errors (A, 6), each step within ``low`` and ``high`` (A, J)."""
    frozen = np.zeros(rest.shape, dtype=bool)
    steps = np.zeros_like(rest)
    for _ in range(_LIMIT_PASSES):
        free = np.where(frozen[:, None, :], 0.0, jacobians)
        left = errors - np.einsum("aij,aj->ai", jacobians, np.where(frozen, steps, 0.0))
        gram = np.einsum("aij,akj->aik", free, free) + _DAMPING**2 * np.eye(6)
        toward_rest = np.where(frozen, 0.0, rest)
        residual = left - np.einsum("aij,aj->ai", free, toward_rest)
        solved = np.linalg.solve(gram, residual[..., None])[..., 0]
        # The docstring's formula with its J# taken out: the rest step r, corrected by what it leaves of e.
        free_steps = toward_rest + np.einsum("aij,ai->aj", free, solved)
        steps = np.where(frozen, steps, free_steps)
        leaving = ~frozen & ((steps < low) | (steps > high))
        if not leaving.any():
            break
        steps = np.where(leaving, np.clip(steps, low, high), steps)
        frozen |= leaving
    return steps


def rotation_vector(rotation: Matrix) -> Vector:
    """The axis times the angle (rad) of a rotation matrix; (X,)."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def rotation_matrix(vector: Vector) -> Matrix:
    """The rotation by |vector| (rad) about ``vector``; (3, 3)."""
    angle = float(np.linalg.norm(vector))
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, vector / max(angle, 1e-12), angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def about(axis: Any, angle: float) -> Matrix:
    """The rotation by ``angle`` (rad) about a unit axis (X,)."""
    return rotation_matrix(angle * np.asarray(axis, dtype=np.float64))
