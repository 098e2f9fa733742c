"""Goals of the kitchen's subtasks against their published values, the completion threshold, and parsing of tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envs.kitchen.subtasks import SUBTASKS, completed, goal_distances, parse_subtasks, subtasks_of
from tests.kitchen_helpers import GOALS, import_reference, positions_with


def test_goals_are_the_published_ones() -> None:
    assert {subtask.name: dict(zip(subtask.joints, subtask.goal, strict=True)) for subtask in SUBTASKS} == GOALS


def test_goals_are_those_of_gymnasium_robotics() -> None:
    reference = import_reference()
    assert {subtask.name: list(subtask.joints) for subtask in SUBTASKS} == {
        name: indices.tolist() for name, indices in reference.OBS_ELEMENT_INDICES.items()
    }
    assert {subtask.name: list(subtask.goal) for subtask in SUBTASKS} == {
        name: goal.tolist() for name, goal in reference.OBS_ELEMENT_GOALS.items()
    }


@pytest.mark.parametrize("name", GOALS)
def test_a_subtask_is_done_within_0_3_of_its_goal(name: str) -> None:
    """Off the goal by d / sqrt(n) in each of its n joints is a Euclidean distance of d."""
    joints = list(GOALS[name])
    column = [subtask.name for subtask in SUBTASKS].index(name)
    distances = np.array([0.0, 0.3 - 1e-9, 0.3 + 1e-9, 1.0])
    positions = np.tile(positions_with(name), (len(distances), 1))
    positions[:, joints] += distances[:, None] / np.sqrt(len(joints)) * np.resize([1, -1], len(joints))
    np.testing.assert_allclose(goal_distances(positions)[:, column], distances, rtol=0, atol=1e-12)
    done = completed(positions)
    assert done[:, column].tolist() == [True, True, False, False]
    assert not np.delete(done, column, axis=1).any(), "an element is judged by its own joints alone"


def test_a_distance_of_exactly_0_3_is_not_enough() -> None:
    """As in ``FrankaKitchen-v1``. The hinge cabinet's left door has goal 0: its distance is the number 0.3 itself."""
    positions = positions_with("hinge cabinet")[None]
    positions[0, 20] = 0.3
    column = [subtask.name for subtask in SUBTASKS].index("hinge cabinet")
    assert not completed(positions)[0, column]
    positions[0, 20] = np.nextafter(0.3, 0.0)
    assert completed(positions)[0, column]


def test_tasks_keep_their_order() -> None:
    order = parse_subtasks(["kettle", "top burner", "microwave"])
    assert [SUBTASKS[index].name for index in order] == ["kettle", "top burner", "microwave"]
    assert subtasks_of({"subtasks": ("kettle", "top burner", "microwave")}) == order
    assert sorted(parse_subtasks(list(GOALS))) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["microwave", "ketle"], "unknown subtask 'ketle': did you mean 'kettle'"),
        (["botom burner"], "did you mean 'bottom burner'"),
        (["Slide Cabinet"], "did you mean 'slide cabinet'"),
        (["xyz"], "unknown subtask 'xyz': valid: bottom burner, top burner, light switch"),
        ([3], "unknown subtask 3"),
        (["kettle", "microwave", "kettle"], "'kettle' is repeated in kettle, microwave, kettle"),
        ([], "expected a list"),
        ("kettle", "expected a list"),
        (None, "expected a list"),
        (7, "expected a list"),
    ],
)
def test_bad_tasks_are_refused(names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_subtasks(names)
    with pytest.raises(ValueError, match=message):
        subtasks_of({"subtasks": names})


def test_a_spec_without_subtasks_is_refused() -> None:
    with pytest.raises(ValueError, match="a kitchen task needs"):
        subtasks_of({"goal": [1, 2]})
