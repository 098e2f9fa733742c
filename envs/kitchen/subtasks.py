"""The seven subtasks of the Franka kitchen and when each is done (Relay Policy Learning; D4RL).

An element is done when its joints are within ``SUCCESS_DISTANCE`` (Euclidean) of their goal values. Axes: L lane,
S subtask (order of ``SUBTASKS``), Q joint position (30: nine of the robot, 21 of objects).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUCCESS_DISTANCE = 0.3


@dataclass(frozen=True)
class Subtask:
    """One element of the kitchen, brought to its goal."""

    name: str
    joints: tuple[int, ...]
    """Indices into the 30 joint positions."""
    goal: tuple[float, ...]
    """Values of these joints (rad or m; the kettle's are a position and a quaternion)."""


SUBTASKS: tuple[Subtask, ...] = (
    Subtask("bottom burner", (11, 12), (-0.88, -0.01)),
    Subtask("top burner", (15, 16), (-0.92, -0.01)),
    Subtask("light switch", (17, 18), (-0.69, -0.05)),
    Subtask("slide cabinet", (19,), (0.37,)),
    Subtask("hinge cabinet", (20, 21), (0.0, 1.45)),
    Subtask("microwave", (22,), (-0.75,)),
    Subtask("kettle", (23, 24, 25, 26, 27, 28, 29), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
)
SUBTASK_NAMES = tuple(subtask.name for subtask in SUBTASKS)


def goal_distances(positions: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Distance of each element to its goal: joint positions (L, Q) -> (L, S)."""
    distances = np.empty((len(positions), len(SUBTASKS)))
    for index, subtask in enumerate(SUBTASKS):
        distances[:, index] = np.linalg.norm(positions[:, subtask.joints] - np.array(subtask.goal), axis=1)
    return distances


def completed(positions: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Which elements are at their goal: joint positions (L, Q) -> (L, S)."""
    done: NDArray[np.bool_] = goal_distances(positions) < SUCCESS_DISTANCE
    return done


def parse_subtasks(names: Sequence[str]) -> tuple[int, ...]:
    """Indices into ``SUBTASKS`` of a task's subtasks, in its order.

    Raises ``ValueError`` for anything but a list or an empty one, an unknown name (with the nearest valid one) or a
    repeated one.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise ValueError(f"subtasks are {names!r}; expected a list of different names of {', '.join(SUBTASK_NAMES)}")
    for name in names:
        if name not in SUBTASK_NAMES:
            near = get_close_matches(str(name), SUBTASK_NAMES, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown subtask {name!r}: {hint}valid: {', '.join(SUBTASK_NAMES)}")
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(f"subtask {repeated[0]!r} is repeated in {', '.join(names)}; each may stand once")
    return tuple(SUBTASK_NAMES.index(name) for name in names)


def subtasks_of(spec: Mapping[str, Any]) -> tuple[int, ...]:
    """``parse_subtasks`` of a task's spec ``{"subtasks": [name, ...]}``; raises ``ValueError`` without that key."""
    if "subtasks" not in spec:
        raise ValueError(f'a kitchen task needs {{"subtasks": [name, ...]}}; got {dict(spec)}')
    return parse_subtasks(spec["subtasks"])
