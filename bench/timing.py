"""How long work takes: medians of wall time, the fastest repetition, CPU time, and how busy the machine was.

Wall time is what a user waits for; on a machine that does other work too, CPU time and the fastest repetition are the
steadier figures. The first repetition only warms up.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BLOCK_SECONDS = 0.05
"""Work that is shorter is repeated until so much time has passed, and timed as a block."""
MIN_BLOCKS = 3


@dataclass(frozen=True)
class Timing:
    """Of one repetition: medians, and the fastest, which other work on the machine slowed least."""

    wall_seconds: float
    fastest_seconds: float
    """Wall time too."""
    cpu_seconds: float
    """Of this process, all of its threads."""
    load: float
    """Processes that wanted to run, over the last minute, this one included."""

    def rate(self, count: int, unit: str) -> str:
        """``count`` per second, with the CPU time of each."""
        cpu = f"{1e3 * self.cpu_seconds / count:.4g} ms of CPU time each"
        fastest = f"fastest {count / self.fastest_seconds:,.0f}"
        return f"{count / self.wall_seconds:,.0f} {unit}/s ({fastest}; {cpu}; load {self.load:.1f})"

    def duration(self) -> str:
        cpu = f"{self.cpu_seconds:.3g} s of CPU time"
        return f"{self.wall_seconds:.3g} s (fastest {self.fastest_seconds:.3g} s; {cpu}; load {self.load:.1f})"


def time_of(work: Callable[[], object], repetitions: int) -> Timing:
    """Time ``work``, after one run that only warms up."""
    blocks = [_block(work, 1) for _ in range(repetitions + 1)]
    return _timing(blocks[1:])


def time_side_by_side(
    works: Sequence[Callable[[], object]], seconds: float, wait: Callable[[], object] = lambda: None
) -> list[Timing]:
    """Time several pieces of work in turn, so that what else the machine does slows all of them alike.

    Each is timed for ``seconds``, and at least ``MIN_BLOCKS`` times. ``wait`` returns once a device has done all that
    was asked of it; it is called before a clock is read.
    """

    def settled(work: Callable[[], object]) -> Callable[[], object]:
        return lambda: (work(), wait())

    calls: list[int] = []
    blocks: list[list[tuple[float, float]]] = []
    for work in works:
        work()  # loads, allocates, compiles
        first = _block(settled(work), 1)
        calls.append(max(1, math.ceil(BLOCK_SECONDS / max(first[0], 1e-9))))
        blocks.append([first] if calls[-1] == 1 else [])
    spent = sum(wall for of_work in blocks for wall, _ in of_work)
    while min(map(len, blocks)) < MIN_BLOCKS or spent < seconds * len(works):
        for index, work in enumerate(works):
            blocks[index].append(_block(settled(work), calls[index]))
            spent += blocks[index][-1][0] * calls[index]
    return [_timing(of_work) for of_work in blocks]


def _block(work: Callable[[], object], calls: int) -> tuple[float, float]:
    """(wall, CPU) seconds of one of ``calls`` calls."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        work()
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def _timing(blocks: Sequence[tuple[float, float]]) -> Timing:
    walls, cpus = zip(*blocks, strict=True)
    return Timing(statistics.median(walls), min(walls), statistics.median(cpus), os.getloadavg()[0])
