"""A worker as a copy of this process (fork), with the part of ``subprocess.Popen`` that its parent uses.

A new Python spends two seconds on importing torch before it can take a stage; a copy has it already. A copy is only
safe where no other thread could hold a lock at that moment, and good for CPUs alone: CUDA does not survive it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

_THREADS = Path("/proc/self/task")
_OPEN_FILES = Path("/proc/self/fd")
_FORK_SAFE_THREADS = frozenset({"jemalloc_bg_thd"})
"""pyarrow's allocator has one, and puts itself in order around a fork (``pthread_atfork``)."""


def can_fork(wanted: Mapping[str, str]) -> bool:
    """Whether a copy of this process, taken now, is as good as a new one that needs these environment variables.

    They count when a process starts (``process.py``), so this one must have been started with them.
    """
    if not sys.platform.startswith("linux") or not wanted.items() <= os.environ.items():
        return False
    threads = {(task / "comm").read_text().strip() for task in _THREADS.iterdir() if task.name != str(os.getpid())}
    return threads <= _FORK_SAFE_THREADS


class ForkedProcess:
    """A child that runs ``work`` and ends with the exit code it returns. Its standard error is ``log``."""

    def __init__(self, work: Callable[[], int], log: IO[bytes]) -> None:
        input_end, self_input = os.pipe()
        self_output, output_end = os.pipe()
        self.returncode: int | None = None
        """Exit code, minus the number of the signal that killed it, or None while it runs."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # What is buffered would be written by both.
        self.pid = os.fork()
        if self.pid == 0:
            _run_child(work, input_end, output_end, log.fileno())
        os.close(input_end)
        os.close(output_end)
        self.stdin: IO[bytes] = os.fdopen(self_input, "wb")
        self.stdout: IO[bytes] = os.fdopen(self_output, "rb", buffering=0)

    def poll(self) -> int | None:
        """``returncode``, without waiting."""
        return self._look(os.WNOHANG)

    def wait(self) -> int:
        """``returncode``, when it has ended."""
        code = self._look(0)
        assert code is not None
        return code

    def _look(self, flags: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, flags)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens when it has ended: until it is waited for, its number is no one else's."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run_child(work: Callable[[], int], input_end: int, output_end: int, log: int) -> None:
    """Never returns: what the parent has on its stack is the parent's to go on with."""
    code = 1
    try:
        os.setsid()
        _take_streams(input_end, output_end, log)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _take_streams(input_end: int, output_end: int, log: int) -> None:
    """Make these the standard streams, and let go of every other file of the parent.

    The others must be let go: a worker whose pipe a later worker holds open too would not notice that its parent is
    gone. Their numbers stay taken, by the null device: objects of the parent that Python clears away here close them.
    """
    for target, source in enumerate((input_end, output_end, log)):
        os.dup2(source, target)
    null = os.open(os.devnull, os.O_RDWR)
    for number in [int(path.name) for path in _OPEN_FILES.iterdir()]:
        if number > 2 and number != null and _is_open(number):
            os.dup2(null, number, inheritable=False)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False  # The listing's own.
    return True
