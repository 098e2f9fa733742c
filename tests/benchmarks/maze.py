"""Measured speed of the maze: closed-loop stepping, offline data. Not a test.

    make benchmark          # or: python -m tests.benchmarks.maze [stepping|data ...]

Run it on a quiet machine. Figures are medians; the first repetition only warms up.
"""

from __future__ import annotations

from algorithms.skill_model import SkillConfig
from envs.core import Task
from envs.registry import task_distribution
from tests.benchmarks.measures import ClosedLoop, print_stepping, run_benchmarks, time_offline_data

LANES = (40, 256)
UNREACHABLE = Task("far", {"goal": [1, 1]})
"""So that episodes run to the time limit: an untrained policy does not get there."""


def stepping() -> None:
    """env_steps/s in closed loop."""
    for lanes in LANES:
        print_stepping(ClosedLoop(task_distribution("maze"), UNREACHABLE, lanes, 1, SkillConfig()), 1, repetitions=5)


def data() -> None:
    """Seconds to build and write the offline data of preset ``paper``."""
    time_offline_data(task_distribution("maze"))


if __name__ == "__main__":
    run_benchmarks({"stepping": stepping, "data": data})
