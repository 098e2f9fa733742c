"""Workers that are copies of this process: streams, exit codes, and what is not taken along."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.forked_process import ForkedProcess, can_fork

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="copies are made on Linux alone")


def echo() -> int:
    """Repeats the lines of standard input, until it ends."""
    for line in sys.stdin:
        print(line.upper(), end="", flush=True)
        print(f"log of {line}", end="", file=sys.stderr)
    return 3


@contextmanager
def copy_of_this(log: Path, work: Callable[[], int] = echo) -> Iterator[ForkedProcess]:
    with log.open("ab") as file:
        child = ForkedProcess(work, file)
    with child.stdout, child.stdin:
        yield child
    child.wait()


def test_it_reads_writes_logs_and_ends_with_its_exit_code(tmp_path: Path) -> None:
    with copy_of_this(tmp_path / "log") as child:
        child.stdin.write(b"one\ntwo\n")
        child.stdin.close()
        assert child.stdout.read() == b"ONE\nTWO\n"
    assert child.poll() == child.returncode == 3
    assert (tmp_path / "log").read_text() == "log of one\nlog of two\n"


def test_an_error_is_logged(tmp_path: Path) -> None:
    with copy_of_this(tmp_path / "log", lambda: 1 // 0) as child:
        assert child.wait() == 1
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()


def test_a_kill_is_seen(tmp_path: Path) -> None:
    with copy_of_this(tmp_path / "log") as child:
        assert child.poll() is None
        child.kill()
        assert child.wait() == -signal.SIGKILL
        child.kill()  # It is gone: nothing happens.


@pytest.mark.timeout(20)
def test_a_later_copy_does_not_keep_an_earlier_ones_input_open(tmp_path: Path) -> None:
    """Otherwise the earlier one would wait for its input to end until the later one has ended."""
    with copy_of_this(tmp_path / "earlier") as earlier, copy_of_this(tmp_path / "later") as later:
        earlier.stdin.close()
        assert earlier.wait() == 3
        assert later.poll() is None


@pytest.mark.timeout(20)
def test_nothing_but_the_three_streams_is_open(tmp_path: Path) -> None:
    secret = (tmp_path / "secret").open("w")

    def listing() -> int:
        for path in Path("/proc/self/fd").iterdir():
            try:
                print(path.name, path.readlink())
            except FileNotFoundError:
                continue  # The listing's own.
        sys.stdout.flush()
        return 0

    with secret, copy_of_this(tmp_path / "log", listing) as child:
        shown = dict(line.split(" ", 1) for line in child.stdout.read().decode().splitlines())
    assert child.returncode == 0
    assert shown.pop("0").startswith("pipe:") and shown.pop("1").startswith("pipe:")
    assert shown.pop("2") == str(tmp_path / "log")
    assert {target for target in shown.values() if not target.startswith("/proc/")} == {"/dev/null"}


def test_a_copy_needs_the_environment_and_no_other_thread() -> None:
    alone = can_fork({})
    assert not can_fork({"A_VARIABLE_THAT_IS_NOT_SET": "1"})
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        assert not can_fork({})
    finally:
        ended.set()
        thread.join()
    assert can_fork({}) == alone
