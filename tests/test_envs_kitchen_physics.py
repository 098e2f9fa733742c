"""The kitchen's physics against ``FrankaKitchen-v1`` of gymnasium-robotics, numbers worked out by hand, and itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.kitchen.physics import INITIAL_POSITIONS, KitchenBatch, load_model, robot_limits
from envs.kitchen.subtasks import SUBTASK_NAMES, completed
from tests.kitchen_helpers import HUMAN_ORDER, human_episodes, import_reference, patch_reference

CONTACT_ROW = 40
"""Row of the recorded episodes 0, 1 and 2 at which the hand opens the microwave; 40 rows on it lifts the kettle."""


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``FrankaKitchen-v1`` without noise, at the start of an episode; any subtask counts, in any order."""
    patch_reference(monkeypatch)
    env = import_reference().KitchenEnv(robot_noise_ratio=0.0, object_noise_ratio=0.0)
    env.reset(seed=0)
    yield env
    env.close()


def true_joints(batch: KitchenBatch, lanes: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """The nine robot joints without noise, as a copy."""
    return batch.positions[slice(None) if lanes is None else lanes, :9].copy()


def random_actions() -> NDArray[np.float64]:
    """Actions held for some env_steps and beyond the bounds, so that joints meet their limits."""
    return np.repeat(np.random.default_rng(0).uniform(-1.5, 1.5, (4, 9)), 10, axis=0)


@pytest.mark.parametrize(
    "actions", [random_actions(), human_episodes().actions[: human_episodes().lengths[0], 0]], ids=["random", "human"]
)
def test_trajectory_is_that_of_the_reference(reference: Any, actions: NDArray[Any]) -> None:
    batch = KitchenBatch(1)
    batch.reset(INITIAL_POSITIONS)
    np.testing.assert_array_equal(batch.positions[0], reference.data.qpos)
    for env_step, action in enumerate(actions):
        reference.step(action)
        batch.step(np.clip(action, -1, 1)[None], true_joints(batch))
        np.testing.assert_allclose(batch.positions[0], reference.data.qpos, rtol=0, atol=1e-6, err_msg=str(env_step))
        # Seen: no difference at all. Any would grow in contact until completions differ.
        np.testing.assert_array_equal(batch.velocities[0], reference.data.qvel, err_msg=str(env_step))


def replayed_actions(episode: int) -> NDArray[np.floating[Any]]:
    """Actions of one human episode; episode 19 is the first with noise on its actions."""
    human = human_episodes()
    if episode < len(human.lengths):
        return human.actions[: human.lengths[episode], episode]
    actions = human.actions[: human.lengths[0], 0]
    return np.clip(actions + np.random.default_rng(1).normal(0.0, 0.5, actions.shape), -1, 1)


@pytest.mark.parametrize("episodes", [[0, 6, 14], pytest.param(range(20), marks=pytest.mark.slow)], ids=["some", "all"])
def test_replays_complete_the_same_subtasks_at_the_same_env_step(reference: Any, episodes: Sequence[int]) -> None:
    """From the usual start the actions meet slightly other states than recorded, so that some episodes fail."""
    actions = [replayed_actions(episode) for episode in episodes]
    batch = KitchenBatch(len(actions), threads=2)
    batch.reset(INITIAL_POSITIONS)
    ours: list[dict[str, int]] = [{} for _ in actions]
    for env_step in range(max(map(len, actions))):
        lanes = np.flatnonzero([env_step < len(part) for part in actions])
        batch.step(np.stack([actions[lane][env_step] for lane in lanes]), true_joints(batch, lanes), lanes)
        for lane, done in zip(lanes, completed(batch.positions[lanes]), strict=True):
            for subtask in np.flatnonzero(done):
                ours[lane].setdefault(SUBTASK_NAMES[subtask], env_step)
    theirs: list[dict[str, int]] = []
    for part in actions:
        reference.reset(seed=0)
        steps = {}
        for env_step, action in enumerate(part):
            info = reference.step(action)[4]
            steps.update(dict.fromkeys(info["step_task_completions"], env_step))
        theirs.append(steps)
    assert ours == theirs
    complete = sum(tuple(sorted(steps, key=steps.__getitem__)) == HUMAN_ORDER for steps in theirs)
    assert 0 < complete < len(actions), "both outcomes must occur for the comparison to mean anything"


def test_dropping_what_is_only_seen_changes_nothing() -> None:
    full, lean = load_model(visual=True), load_model()
    assert (full.ngeom, lean.ngeom) == (240, 124)
    human, data, batch = human_episodes(), mujoco.MjData(full), KitchenBatch(1)
    positions, velocities = human.positions[0][CONTACT_ROW], human.velocities[0][CONTACT_ROW]
    batch.reset(positions, velocities)
    data.qpos[:], data.qvel[:] = positions, velocities
    mujoco.mj_forward(full, data)
    low, high = np.array(
        [(-2.9, 2.9), (-1.8, 1.8), (-2.9, 2.9), (-3.1, 0), (-2.9, 2.9), (0, 3.8), (-2.9, 2.9), (0, 0.04), (0, 0.04)]
    ).T
    contacts = 0
    for action in human.actions[CONTACT_ROW : CONTACT_ROW + 15, 0]:
        data.ctrl[:] = np.clip(data.qpos[:9] + 2.0 * action.astype(float) * 0.08, low, high)
        batch.step(action[None], true_joints(batch))
        mujoco.mj_step(full, data, nstep=40)
        contacts += touches_of_the_robot(full, data)
        np.testing.assert_array_equal(batch.positions[0], data.qpos)
        np.testing.assert_array_equal(batch.velocities[0], data.qvel)
    assert contacts > 15, "the hand must touch objects for the comparison to mean anything"


def touches_of_the_robot(model: mujoco.MjModel, data: mujoco.MjData) -> int:
    """Contacts of the robot with the kitchen."""
    links = [index for index in range(model.nbody) if model.body(index).name.startswith("panda0")]
    of_robot = np.isin(model.geom_bodyid[data.contact.geom], links).reshape(-1, 2)
    return int((of_robot.sum(axis=1) == 1).sum())


TARGETS: dict[str, tuple[list[float], float, list[float]]] = {
    "inside the bounds": (
        [0.1, -0.2, 0.3, -2.0, 0.5, 1.0, -0.7, 0.01, 0.02],
        0.05,  # 2 x 0.05 x 0.08 s = 0.008
        [0.108, -0.192, 0.308, -1.992, 0.508, 1.008, -0.692, 0.018, 0.028],
    ),
    "clipped above": (
        [2.8, 1.75, 2.85, -0.1, 2.9, 3.7, 2.89, 0.0, 0.039],
        1.0,
        [2.9, 1.8, 2.9, 0, 2.9, 3.8, 2.9, 0.04, 0.04],
    ),
    "clipped below": (
        [-2.8, -1.75, -2.85, -3.0, -2.9, 0.1, -2.89, 0.03, 0.16],
        -1.0,
        [-2.9, -1.8, -2.9, -3.1, -2.9, 0, -2.9, 0, 0],
    ),
    "full speed": ([0, 0, 0, -1, 0, 1, 0, 0, 0], 1.0, [0.16, 0.16, 0.16, -0.84, 0.16, 1.16, 0.16, 0.04, 0.04]),
    "speed clipped to 10": ([0, 0, 0, -2, 0, 1, 0, 0, 0], 7.0, [0.8, 0.8, 0.8, -1.2, 0.8, 1.8, 0.8, 0.04, 0.04]),
}
"""(observed joints, action of every joint, position targets of the servos)"""


@pytest.mark.parametrize("case", TARGETS)
def test_actions_become_position_targets(case: str) -> None:
    observed, action, targets = TARGETS[case]
    batch = KitchenBatch(2)
    batch.reset(INITIAL_POSITIONS)
    batch.step(np.full((1, 9), action), np.array([observed]), np.array([1]))
    controls = batch.batch.bind("ctrl")
    np.testing.assert_allclose(controls[1], targets, rtol=0, atol=1e-12)
    assert (controls[0] == 0.0).all(), "the other lane is left alone"


def test_an_env_step_is_80_ms() -> None:
    batch = KitchenBatch(1)
    batch.reset(INITIAL_POSITIONS)
    for _ in range(3):
        batch.step(np.zeros((1, 9)), true_joints(batch))
    assert batch.batch.bind("time")[0] == pytest.approx(0.24, abs=1e-12)


def test_noise_amplitudes_are_those_of_the_robots_configuration() -> None:
    """By hand from ``franka_config.xml``: amplitude x 0.01 for the robot, x 0.0005 and one entry early for objects."""
    objects = [0.1, *[0.005] * 2, *[0.0005] * 6, *[0.005] * 3, *[0.1] * 3, *[0.005] * 3, *[0.1] * 3]
    expected = [1e-3] * 9 + [0.0005 * amplitude for amplitude in objects]
    np.testing.assert_allclose(robot_limits().noise_amplitudes, expected, rtol=1e-12)


# -- lanes ------------------------------------------------------------------------------------


def place(batch: KitchenBatch, lane_of_episode: dict[int, int], row: int = CONTACT_ROW) -> None:
    """Put the recorded states of human episodes into lanes; the others start as usual."""
    human = human_episodes()
    batch.reset(INITIAL_POSITIONS)
    for episode, lane in lane_of_episode.items():
        batch.reset(human.positions[episode][row], human.velocities[episode][row], np.array([lane]))


def act(
    batch: KitchenBatch,
    lane_of_episode: dict[int, int],
    others: Callable[[int], Sequence[int]] = lambda env_step: [],
    env_steps: int = 8,
) -> NDArray[np.float64]:
    """States (T, E, 59) of the episodes while they go on as recorded; ``others`` act at random in some env_steps."""
    human, rng = human_episodes(), np.random.default_rng(0)
    own = np.array(list(lane_of_episode.values()))
    states = []
    for env_step in range(env_steps):
        lanes = np.array(sorted({*own.tolist(), *others(env_step)}))
        actions = rng.uniform(-1, 1, (batch.num_lanes, 9))
        actions[own] = human.actions[CONTACT_ROW + env_step, list(lane_of_episode)]
        everyone = len(lanes) == batch.num_lanes
        batch.step(actions[lanes], true_joints(batch, lanes), None if everyone else lanes)
        states.append(np.hstack([batch.positions[own], batch.velocities[own]]))
    return np.array(states)


@pytest.fixture(scope="module")
def alone() -> NDArray[np.float64]:
    """States (T, 3, 59) of three episodes, each in a batch of its own."""
    states = []
    for episode in range(3):
        batch = KitchenBatch(1)
        place(batch, {episode: 0})
        states.append(act(batch, {episode: 0})[:, 0])
    together = np.stack(states, axis=1)
    assert np.ptp(together[:, :, :9], axis=0).max() > 0.1, "the arms must move for comparisons to mean anything"
    return together


@pytest.mark.parametrize("threads", [1, 2])
def test_a_lane_does_not_depend_on_lanes_threads_or_who_is_active(alone: NDArray[np.float64], threads: int) -> None:
    for num_lanes, lanes, others in (
        (3, {0: 0, 1: 1, 2: 2}, lambda env_step: []),
        (7, {0: 5, 1: 0, 2: 3}, lambda env_step: range(7)),
        (6, {0: 1, 1: 4, 2: 2}, lambda env_step: [0, 5] if env_step % 3 else [3]),
    ):
        batch = KitchenBatch(num_lanes, threads)
        place(batch, lanes)
        np.testing.assert_array_equal(act(batch, lanes, others), alone)


def test_lanes_that_are_not_stepped_stay_as_they_are() -> None:
    batch = KitchenBatch(4)
    place(batch, {0: 1, 1: 3})
    before = batch.batch.state.copy()
    act(batch, {0: 1, 1: 3}, env_steps=1)
    np.testing.assert_array_equal(batch.batch.state[[0, 2]], before[[0, 2]])
    assert (batch.batch.state[[1, 3]] != before[[1, 3]]).any(axis=1).all()


def test_resetting_some_lanes_leaves_the_others_alone(alone: NDArray[np.float64]) -> None:
    batch, lanes = KitchenBatch(5), {0: 4, 1: 1, 2: 2}
    place(batch, lanes)
    first = act(batch, lanes, lambda env_step: range(5), env_steps=4)
    np.testing.assert_array_equal(first, alone[:4])
    before = batch.batch.state.copy()
    batch.reset(INITIAL_POSITIONS, lanes=np.array([0, 3]))
    np.testing.assert_array_equal(batch.batch.state[[1, 2, 4]], before[[1, 2, 4]])
    np.testing.assert_array_equal(batch.positions[[0, 3]], np.tile(INITIAL_POSITIONS, (2, 1)))
    assert (batch.velocities[[0, 3]] == 0.0).all()


def test_derived_fields_are_those_of_the_state_after_a_reset() -> None:
    """Sites are known before the first env_step, and those of lanes that are not reset stay."""
    human, batch = human_episodes(), KitchenBatch(3)
    sites = batch.batch.bind("site_xpos")
    place(batch, {0: 0, 1: 1, 2: 2})
    act(batch, {0: 0, 1: 1, 2: 2}, env_steps=1)
    before = sites.copy()
    batch.reset(human.positions[5][60], human.velocities[5][60], np.array([1]))
    model = load_model()
    data = mujoco.MjData(model)
    data.qpos[:] = human.positions[5][60]
    mujoco.mj_forward(model, data)
    np.testing.assert_array_equal(sites[1], data.site_xpos)
    np.testing.assert_array_equal(sites[[0, 2]], before[[0, 2]])


def test_nothing_is_left_of_an_earlier_episode(alone: NDArray[np.float64]) -> None:
    batch, lanes = KitchenBatch(3), {0: 2, 1: 0, 2: 1}
    place(batch, {0: 0, 1: 1, 2: 2}, row=CONTACT_ROW + 40)
    act(batch, {0: 0, 1: 1, 2: 2})
    warm_start = batch.batch.bind("qacc_warmstart")
    left = warm_start.copy()
    place(batch, lanes)
    assert (np.abs(warm_start - left).max(axis=1) > 1e-3).all(), "otherwise the solver would start the same anyway"
    np.testing.assert_array_equal(act(batch, lanes), alone)


def test_bad_sizes_are_refused() -> None:
    for lanes, threads in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            KitchenBatch(lanes, threads)


def test_tacit_the_model_is_the_one_expected() -> None:
    model = load_model()
    assert (model.nq, model.nv, model.nu) == (30, 29, 9)
    assert model.opt.timestep == 0.002
    assert model.jnt_qposadr[model.actuator_trnid[:, 0]].tolist() == list(range(9)), "actuators are the robot's joints"
