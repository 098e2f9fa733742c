"""The benchmarks can be imported, and a method is timed in its place."""

from __future__ import annotations

import time

from tests.benchmarks import image_maze, kitchen, maze, reporting, sweep


def test_benchmarks_are_there() -> None:
    assert callable(maze.stepping) and callable(maze.data)
    assert callable(image_maze.views) and callable(image_maze.data)
    assert callable(sweep.sweep) and len(sweep.ALGORITHM.stages) == 200
    assert callable(reporting.whole) and callable(reporting.parts)
    assert callable(kitchen.stepping) and callable(kitchen.shares)


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
