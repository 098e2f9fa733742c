"""Measured speed of the kitchen: closed-loop stepping, and where its time goes. Not a test.

    make benchmark          # or: python -m tests.benchmarks.kitchen [stepping|shares ...]

Run it on a quiet machine. Figures are medians; the first repetition only warms up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from algorithms.rollout import LowLevelPolicy
from algorithms.skill_model import SkillConfig
from envs.kitchen.world import KitchenWorld
from envs.registry import task_distribution
from tests.benchmarks.measures import ClosedLoop, print_stepping, run_benchmarks

LANES = 23
"""One per training task."""
SKILLS = SkillConfig(decoder_layers=5)
"""As in every preset of the kitchen."""


def loop(threads: int) -> ClosedLoop:
    """Untrained skills do not complete a task of four, so episodes run to the time limit."""
    distribution = task_distribution("kitchen")
    return ClosedLoop(distribution, distribution.train_tasks[0], LANES, threads, SKILLS)


def stepping() -> None:
    """env_steps/s in closed loop, on one thread and on two."""
    for threads in (1, 2):
        print_stepping(loop(threads), threads, repetitions=3)


class Stopwatch:
    """Seconds spent in a method of an object, while this is in its place."""

    def __init__(self, owner: Any, name: str) -> None:
        self.seconds = 0.0
        self._method: Callable[..., Any] = getattr(owner, name)
        setattr(owner, name, self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        started = time.thread_time()
        result = self._method(*arguments, **options)
        self.seconds += time.thread_time() - started
        return result


def shares() -> None:
    """Shares of the CPU time of one thread: physics, the rest of the world, the policies, the rest."""
    measured = loop(1)
    measured.collect()
    world, policy = measured.world, measured.low_level_policy
    assert isinstance(world, KitchenWorld) and isinstance(policy, LowLevelPolicy)
    mujoco, physics = Stopwatch(world.physics.batch, "step"), Stopwatch(world.physics, "step")
    step, start, act = Stopwatch(world, "step"), Stopwatch(world, "start"), Stopwatch(policy, "act")
    prior = Stopwatch(measured.model, "skill_prior")
    started = time.thread_time()
    measured.collect()
    total = time.thread_time() - started
    world_steps = measured.env_steps / LANES
    for name, seconds in (
        ("MuJoCo", mujoco.seconds),
        ("position targets", physics.seconds - mujoco.seconds),
        ("observation, reward, flags", step.seconds - physics.seconds),
        ("start of the episodes", start.seconds),
        ("low-level policy", act.seconds),
        ("skill prior", prior.seconds),
        ("record and the rest", total - step.seconds - start.seconds - act.seconds - prior.seconds),
    ):
        print(f"{name:>28}: {seconds / total:6.2%}, {1e6 * seconds / world_steps:8.1f} us per step of {LANES} lanes")


if __name__ == "__main__":
    run_benchmarks({"stepping": stepping, "shares": shares})
