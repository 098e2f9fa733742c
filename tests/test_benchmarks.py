"""The benchmarks can be imported, and time what they are given."""

from __future__ import annotations

import time

from tests.benchmarks import kitchen, maze, sweep
from tests.benchmarks.measures import time_of


def test_benchmarks_are_there() -> None:
    assert callable(maze.stepping) and callable(maze.data) and callable(maze.update)
    assert callable(sweep.sweep) and len(sweep.ALGORITHM.stages) == 200
    assert callable(kitchen.stepping) and callable(kitchen.shares) and callable(kitchen.update)


def test_the_warm_up_is_not_timed() -> None:
    pauses = iter([0.4, 0.02, 0.05, 0.02])
    timing = time_of(lambda: time.sleep(next(pauses)), repetitions=3)
    assert 0.02 <= timing.fastest_seconds <= timing.wall_seconds < 0.4
    assert timing.cpu_seconds < timing.wall_seconds
    assert timing.rate(10, "things").startswith(f"{10 / timing.wall_seconds:,.0f} things/s (fastest ")


def test_a_method_is_timed_in_its_place() -> None:
    class Worker:
        def work(self, seconds: float, *, result: int) -> int:
            started = time.thread_time()
            while time.thread_time() - started < seconds:
                pass
            return result

    worker = Worker()
    watch = kitchen.Stopwatch(worker, "work")
    assert worker.work(0.02, result=3) == 3
    assert 0.02 <= watch.seconds < 0.2
