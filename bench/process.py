"""What must be set before torch is loaded: the memory allocator and the number of threads."""

from __future__ import annotations

import os
import sys

OPT_OUT = "SIMPL_BENCH_NO_REEXEC"

_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
"""Keep freed memory: glibc otherwise maps and unmaps each temporary of some megabytes, and the page faults of that
cost up to 1.8x of the time of a training update."""


def wanted_environment(threads: int) -> dict[str, str]:
    """Environment variables that a computing process should be started with."""
    wanted = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return wanted | _ALLOCATOR if _uses_glibc() else wanted


def stop_printing() -> None:
    """From now on what is printed goes nowhere: its reader is gone, and work that goes on must not fail by that."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError):
        pass  # Not a stream of the system's: it has its own way of ending.
    finally:
        os.close(null)


def say(text: str) -> None:
    """Print a line on standard output, if anybody still reads it."""
    try:
        print(text, flush=True)
    except OSError:
        stop_printing()


def available_cpus() -> int:
    """CPUs that this process may use, where the system tells (Linux), else all that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def restart_with_environment(threads: int) -> None:
    """Replace this process by itself with ``wanted_environment``, unless it is in place already.

    glibc and OpenMP read their variables when a process starts, so setting them later has no effect. The process id
    stays the same. ``SIMPL_BENCH_NO_REEXEC=1`` turns this off.
    """
    wanted = wanted_environment(threads)
    if os.environ.get(OPT_OUT) or all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **wanted})


def _uses_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, OSError, ValueError):
        return False  # Not glibc: it does not know the name.
