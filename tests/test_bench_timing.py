"""Timing: what is counted, the median of what, and that pieces of work take turns."""

from __future__ import annotations

import time

from bench.timing import MIN_BLOCKS, Timing, time_of, time_side_by_side


def test_the_warm_up_is_not_timed() -> None:
    pauses = iter([0.4, 0.02, 0.05, 0.02])
    timing = time_of(lambda: time.sleep(next(pauses)), repetitions=3)
    assert 0.02 <= timing.fastest_seconds <= timing.wall_seconds < 0.4
    assert timing.cpu_seconds < timing.wall_seconds
    assert timing.rate(10, "things").startswith(f"{10 / timing.wall_seconds:,.0f} things/s (fastest ")


def test_work_takes_turns_and_each_gets_its_own_time() -> None:
    order: list[str] = []

    def work(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    slow, fast = time_side_by_side([lambda: work("a", 0.12), lambda: work("b", 0.06)], seconds=0)
    assert order == ["a", "a", "b", "b", *["a", "b"] * (MIN_BLOCKS - 1)], "the second of each is its first block"
    assert 0.12 <= slow.fastest_seconds <= slow.wall_seconds
    assert 0.06 <= fast.fastest_seconds <= fast.wall_seconds
    assert slow.wall_seconds > fast.wall_seconds


def test_short_work_is_timed_in_blocks_for_as_long_as_asked() -> None:
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.001)

    started = time.perf_counter()
    (timing,) = time_side_by_side([work], seconds=0.4)
    assert time.perf_counter() - started >= 0.4
    assert 0.001 <= timing.wall_seconds < 0.1
    assert calls > 3 * MIN_BLOCKS


def test_a_device_is_waited_for_within_the_time() -> None:
    """Without the wait the work would seem to take no time."""
    (timing,) = time_side_by_side([lambda: None], seconds=0, wait=lambda: time.sleep(0.06))
    assert timing.wall_seconds >= 0.06


def test_a_rate_names_its_parts() -> None:
    timing = Timing(wall_seconds=0.5, fastest_seconds=0.25, cpu_seconds=0.1, load=1.5)
    assert timing.rate(100, "updates") == "200 updates/s (fastest 400; 1 ms of CPU time each; load 1.5)"
    assert timing.duration() == "0.5 s (fastest 0.25 s; 0.1 s of CPU time; load 1.5)"
