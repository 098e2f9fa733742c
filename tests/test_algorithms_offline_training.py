"""What stages on offline data share: held-out trajectories, and roll-outs without a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from algorithms.offline_training import ROLLOUTS, draw_rollouts, split_off_held_out
from algorithms.rollout import PrimitiveActions
from envs.core import Task
from tests.algorithm_helpers import ACTION_DIM, FAR_GOAL, START_GOAL, short_maze


@pytest.mark.parametrize(
    ("count", "fraction", "training"), [(20, 0.2, 16), (3, 0.001, 2), (10, 0.34, 7), (2, 0.9, None), (1, 0.5, None)]
)
def test_the_last_trajectories_are_held_out_and_one_at_least(count: int, fraction: float, training: int | None) -> None:
    if training is None:
        with pytest.raises(ValueError, match=f"{count} trajectories; need 2 or more to hold one out"):
            split_off_held_out(count, fraction, "trajectories")
        return
    trained, held_out = split_off_held_out(count, fraction, "trajectories")
    assert trained.tolist() == list(range(training))
    assert held_out.tolist() == list(range(training, count))


def test_rollouts_know_no_task_and_are_fixed_by_their_key(tmp_path: Path) -> None:
    """The only goal holds the start: an episode with that task would end with its first env_step."""
    drawn: list[tuple[list[int], list[str], str]] = []

    def draw(paths: Sequence[NDArray[Any]], tasks: Sequence[Task], path: Path, title: str) -> None:
        drawn.append(([len(each) for each in paths], [task.name for task in tasks], title))

    def describe(paths: Sequence[NDArray[Any]]) -> Mapping[str, float]:
        return {"last_x": float(sum(path[-1, 0] for path in paths))}

    distribution = dataclasses.replace(short_maze(8, [START_GOAL]), draw_paths=draw, describe_episodes=describe)

    def roll_out(seed: int) -> dict[str, float]:
        return draw_rollouts(
            lambda states, noise: noise,
            PrimitiveActions(ACTION_DIM),
            ACTION_DIM,
            distribution,
            (seed, "test"),
            tmp_path / "picture.png",
            "a title",
        )

    first, again, other = roll_out(0), roll_out(0), roll_out(1)
    assert first == again != other
    assert list(first) == ["last_x"]
    assert drawn[0] == ([9] * ROLLOUTS, [], "a title")


def test_what_acts_is_given_states_and_keyed_noise(tmp_path: Path) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def choose(states: Tensor, noise: Tensor) -> Tensor:
        seen.append((states.clone(), noise.clone()))
        return noise

    distribution = short_maze(3, [FAR_GOAL])
    draw_rollouts(choose, PrimitiveActions(ACTION_DIM), ACTION_DIM, distribution, (0, "test"), tmp_path / "p.png", "")
    assert len(seen) == 3
    assert all(states.shape == (ROLLOUTS, 4) and noise.shape == (ROLLOUTS, ACTION_DIM) for states, noise in seen)
    noise = torch.stack([noise for _, noise in seen])
    assert float(noise.std()) == pytest.approx(1.0, abs=0.2)
    assert len(noise.unique()) == noise.numel()
