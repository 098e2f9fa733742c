"""The arm's controller: poses reached, weight carried, limits kept, and its Jacobian against MuJoCo's own."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs.kitchen.arm import ARM_JOINTS, TOOL_OFFSET, ArmBatch, Command, about, rotation_matrix, rotation_vector
from envs.kitchen.motions import orientation
from envs.kitchen.physics import INITIAL_POSITIONS, KitchenBatch

LANE = np.array([0])
INSIDE = INITIAL_POSITIONS.copy()
INSIDE[1] = -1.6
"""The start with its second joint, which begins beyond its own limit, brought inside."""


def placed(positions: NDArray[np.float64] = INITIAL_POSITIONS) -> tuple[KitchenBatch, ArmBatch]:
    physics = KitchenBatch(1)
    arm = ArmBatch(physics)
    physics.reset(positions)
    return physics, arm


def carry_out(physics: KitchenBatch, arm: ArmBatch, command: Command, env_steps: int) -> NDArray[np.float64]:
    """Follow one command on lane 0; the actions (T, 9) that were applied."""
    applied = []
    for _ in range(env_steps):
        actions = arm.actions(LANE, [command])
        applied.append(actions[0])
        physics.step(np.clip(actions, -1.0, 1.0), physics.positions[LANE, :9], LANE)
    return np.array(applied)


def test_rotations_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for vector in rng.normal(size=(20, 3)):
        vector *= min(1.0, 3.0 / np.linalg.norm(vector))
        np.testing.assert_allclose(rotation_matrix(vector), Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)
        np.testing.assert_allclose(rotation_vector(rotation_matrix(vector)), vector, atol=1e-9)
    np.testing.assert_allclose(rotation_vector(np.eye(3)), 0.0)
    np.testing.assert_allclose(about([0, 0, 1], np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_orientations_turn_as_documented() -> None:
    approach_axis = 2
    np.testing.assert_allclose(orientation()[:, approach_axis], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(orientation()[:, 1], [1, 0, 0], atol=1e-12)  # the fingers open along +X
    assert orientation(yaw=0.3)[0, approach_axis] < 0  # to the left
    assert orientation(pitch=0.3)[2, approach_axis] < 0  # nose down
    assert orientation(roll=0.3)[0, 0] > 0  # the top leans to +X, as a knob is turned


def test_the_arm_holds_its_weight() -> None:
    physics, arm = placed()
    before = arm.tool(0)[0].copy()
    carry_out(physics, arm, Command(0.04, joints=INITIAL_POSITIONS[:ARM_JOINTS].copy()), 13)
    held = np.linalg.norm(arm.tool(0)[0] - before)
    physics, arm = placed()
    for _ in range(13):
        physics.step(np.zeros((1, 9)), physics.positions[LANE, :9], LANE)
    sunk = np.linalg.norm(arm.tool(0)[0] - before)
    assert held < 0.01
    assert sunk > 0.05  # what feed-forward prevents: 8 cm in 13 env_steps without it


@pytest.mark.parametrize("offset", [(0.10, 0.10, 0.05), (-0.08, 0.05, 0.10), (0.0, 0.12, -0.08)])
def test_a_pose_is_reached(offset: tuple[float, float, float]) -> None:
    physics, arm = placed()
    target, rotation = arm.tool(0)[0] + offset, orientation(yaw=0.1)
    actions = carry_out(physics, arm, Command(0.02, target, rotation), 40)
    point, axes = arm.tool(0)
    assert np.linalg.norm(point - target) < 0.01
    assert np.linalg.norm(rotation_vector(rotation @ axes.T)) < 0.15
    assert np.abs(physics.positions[0, 7:9] - 0.02).max() < 0.004
    assert np.abs(actions[:, :ARM_JOINTS]).max() <= 1.0 + 1e-9


def test_a_step_is_scaled_as_a_whole() -> None:
    """Far targets ask for more than an action of 1: all joints shrink alike, so the direction is kept."""
    _, arm = placed(INSIDE)
    point, rotation = arm.tool(0)
    upwards = np.array([0.0, 0.0, 1.0])
    near = arm.actions(LANE, [Command(0.04, point + 0.002 * upwards, rotation)])[0, :ARM_JOINTS]
    far = arm.actions(LANE, [Command(0.04, point + 0.2 * upwards, rotation)])[0, :ARM_JOINTS]
    still = arm.actions(LANE, [Command(0.04, point, rotation)])[0, :ARM_JOINTS]
    holding = arm.actions(LANE, [Command(0.04, joints=INSIDE[:ARM_JOINTS])])[0, :ARM_JOINTS]
    assert np.abs(far).max() == pytest.approx(1.0)
    wanted = (still - holding) + 100.0 * (near - still)  # linear in the distance, 100 times as far
    scaled = far - holding
    assert np.linalg.norm(scaled) < np.linalg.norm(wanted)
    assert wanted @ scaled / np.linalg.norm(wanted) / np.linalg.norm(scaled) == pytest.approx(1.0, abs=1e-9)


def test_joints_stay_within_their_limits() -> None:
    physics, arm = placed()
    carry_out(physics, arm, Command(0.04, np.array([2.0, 2.0, 3.0]), orientation()), 60)
    low, high = physics.model.jnt_range[:ARM_JOINTS].T
    assert (physics.positions[0, :ARM_JOINTS] > low).all()
    assert (physics.positions[0, :ARM_JOINTS] < high).all()


def test_the_joint_step_is_the_damped_least_squares_solution() -> None:
    """Against MuJoCo's Jacobian and the formula written out with dense matrices."""
    physics, arm = placed(INSIDE)
    model, data = physics.model, mujoco.MjData(physics.model)
    data.qpos[:] = INSIDE
    mujoco.mj_forward(model, data)
    site = model.site("end_effector").id
    axes = data.site_xmat[site].reshape(3, 3)
    point = data.site_xpos[site] + TOOL_OFFSET * axes[:, 2]
    translation, turning = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    mujoco.mj_jac(model, data, translation, turning, point, model.site_bodyid[site])
    jacobian = np.vstack([translation, 0.25 * turning])[:, :ARM_JOINTS]
    offset, turn = np.array([0.004, -0.002, 0.003]), np.array([0.01, 0.02, -0.01])
    error = np.concatenate([0.9 * offset, 0.25 * 0.7 * turn])
    inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 0.03**2 * np.eye(6))
    rest = 0.08 * (INITIAL_POSITIONS[:ARM_JOINTS] - INSIDE[:ARM_JOINTS])
    step = inverse @ error + rest - inverse @ jacobian @ rest
    stiffness = np.array([870.0] * 4 + [120.0] * 3)
    gains = np.array([2.0] * 4 + [1.6] * 3)
    expected = (gains * step + data.qfrc_bias[:ARM_JOINTS] / stiffness) / 0.16
    assert np.abs(expected).max() < 1.0  # so that nothing is scaled
    wanted = Command(0.04, point + offset, rotation_matrix(turn) @ axes)
    np.testing.assert_allclose(arm.actions(LANE, [wanted])[0, :ARM_JOINTS], expected, atol=1e-9)
