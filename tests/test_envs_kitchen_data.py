"""Scripted demonstrations do what their order says, whatever the chunks, lanes and threads; and the data source."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from envs.kitchen.data import KITCHEN_DATA_PRESETS, KitchenDataConfig, KitchenDataSource, demonstrations, human_orders
from envs.kitchen.physics import INITIAL_POSITIONS, KitchenBatch
from envs.kitchen.subtasks import SUBTASK_NAMES
from envs.kitchen.tasks import tasks_of
from envs.trajectories import Trajectories

# Written out anew: indices and goals of the elements, so that the completion test under test is not its own judge.
GOALS = {
    "bottom burner": ([11, 12], [-0.88, -0.01]),
    "top burner": ([15, 16], [-0.92, -0.01]),
    "light switch": ([17, 18], [-0.69, -0.05]),
    "slide cabinet": ([19], [0.37]),
    "hinge cabinet": ([20, 21], [0.0, 1.45]),
    "microwave": ([22], [-0.75]),
    "kettle": ([23, 24, 25, 26, 27, 28, 29], [-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06]),
}
SEQUENCES = range(18)


@pytest.fixture(scope="module")
def recorded() -> Trajectories:
    """One demonstration of each order."""
    return demonstrations(KitchenDataConfig(), SEQUENCES, threads=2)[0]


def first_done(observations: np.ndarray, name: str) -> int:
    joints, goal = GOALS[name]
    done = np.linalg.norm(observations[:, joints] - goal, axis=1) < 0.3
    return int(done.argmax()) if done.any() else -1


def test_every_demonstration_completes_its_subtasks_in_order(recorded: Trajectories) -> None:
    recorded.validate(30, 9, min_length=11)
    assert len(recorded.episode_ends) == len(SEQUENCES)
    assert recorded.lengths.max() <= 280
    for order, (observations, _) in zip(human_orders(), recorded.split(), strict=True):
        steps = [first_done(observations, name) for name in order]
        assert -1 not in steps, order
        assert steps == sorted(steps) and len(set(steps)) == 4, order
        for name in set(GOALS) - set(order):
            assert first_done(observations, name) == -1, f"{name} was not asked for in {order}"


def test_actions_are_noisy_and_within_bounds(recorded: Trajectories) -> None:
    assert np.abs(recorded.actions).max() <= 1.0
    steps = np.abs(np.diff(recorded.actions[:, :7], axis=0)).mean()
    assert steps > 0.03  # the deviation of the smallest noise is 0.05


def test_the_same_order_is_never_done_twice_alike() -> None:
    once, _ = demonstrations(KitchenDataConfig(), range(0, 1))
    again, _ = demonstrations(KitchenDataConfig(), range(18, 19))  # the same order, another sequence
    length = min(len(once.actions), len(again.actions))
    assert np.abs(once.observations[:length, :7] - again.observations[:length, :7]).mean() > 0.01


def test_data_depend_on_the_seed_alone(recorded: Trajectories) -> None:
    alone, _ = demonstrations(KitchenDataConfig(), range(4, 5), threads=1)
    start, end = recorded.episode_ends[3], recorded.episode_ends[4]
    np.testing.assert_array_equal(alone.observations, recorded.observations[start:end])
    np.testing.assert_array_equal(alone.actions, recorded.actions[start:end])
    other, _ = demonstrations(KitchenDataConfig(seed=1), range(4, 5))
    assert not np.array_equal(other.actions[:20], alone.actions[:20])


def test_each_action_was_applied_in_the_observation_of_its_row(recorded: Trajectories) -> None:
    """Stepping the physics with the recorded rows gives the next observation, within its noise and float32."""
    observations, actions = recorded.split()[0]
    physics = KitchenBatch(1)
    physics.reset(INITIAL_POSITIONS)
    for env_step in range(60):
        np.testing.assert_allclose(physics.positions[0], observations[env_step], atol=2e-3)
        physics.step(actions[env_step][None], observations[env_step, :9].astype(np.float64)[None])
    assert np.abs(physics.positions[0, :7] - INITIAL_POSITIONS[:7]).max() > 0.2  # it did go somewhere


@pytest.mark.slow
def test_most_generated_sequences_are_kept() -> None:
    sequences = range(108)
    trajectories, generated = demonstrations(KitchenDataConfig(seed=3), sequences, threads=2)
    assert len(trajectories.episode_ends) == len(sequences)
    assert len(sequences) / generated >= 0.9


def test_orders_are_the_human_ones() -> None:
    orders = human_orders()
    assert len(orders) == len(set(orders)) == 18
    assert {name for order in orders for name in order} == set(SUBTASK_NAMES)
    for name in SUBTASK_NAMES:
        assert sum(name in order for order in orders) / 18 >= 0.15
    # What the documentation says of target tasks that occur among them.
    targets = [tuple(task.spec["subtasks"]) for task in tasks_of("target")]
    assert [target for target in targets if target in orders] == [
        ("kettle", "bottom burner", "light switch", "slide cabinet"),
        ("microwave", "kettle", "top burner", "hinge cabinet"),
        ("microwave", "kettle", "bottom burner", "hinge cabinet"),
    ]


def test_chunks_of_each_source() -> None:
    source = KitchenDataSource()
    assert source.num_chunks(KitchenDataConfig()) == 17
    assert source.num_chunks(KitchenDataConfig(source="human")) == 1
    assert source.num_chunks(KitchenDataConfig(source="both", num_trajectories=36)) == 2
    human = source.build_chunk(KitchenDataConfig(source="both", num_trajectories=36), 1)
    assert len(human.episode_ends) == 19
    human.validate(30, 9, min_length=208)
    with pytest.raises(ValueError, match="chunk 17 does not exist; valid: 0 to 16"):
        source.build_chunk(KitchenDataConfig(), 17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_trajectories": 0}, "num_trajectories is 0; valid is 1 to 10,000,000"),
        ({"chunk_trajectories": 0}, "chunk_trajectories is 0; valid is 1 to 100,000"),
        ({"action_noise": ()}, "action_noise must be"),
        ({"action_noise": (0.1, 0.5)}, "from 0 to 0.3; got"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KitchenDataConfig(**changes).validate()  # type: ignore[arg-type]


def test_presets_are_valid() -> None:
    assert set(KITCHEN_DATA_PRESETS) == {"smoke", "quick", "paper", "released"}
    for values in KITCHEN_DATA_PRESETS.values():
        KitchenDataConfig(**values).validate()


def test_train_and_target_tasks_are_the_papers() -> None:
    train, target = tasks_of("train"), tasks_of("target")
    assert (len(train), len(target)) == (23, 10)
    assert train[0].spec["subtasks"] == ["microwave", "kettle", "bottom burner", "slide cabinet"]
    assert target[-1].spec["subtasks"] == ["microwave", "kettle", "bottom burner", "hinge cabinet"]
    names = [task.name for task in itertools.chain(train, target)]
    assert len(set(names)) == 33  # no target task is a training task
