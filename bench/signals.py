"""SIGINT, SIGTERM and SIGHUP ask a run to stop at the next safe moment; a second SIGINT stops it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether a signal asked to stop, and which."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @property
    def requested(self) -> bool:
        """True once SIGINT, SIGTERM or SIGHUP has arrived."""
        return self.signal_number is not None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collect SIGINT, SIGTERM and SIGHUP (the terminal was closed) inside the block instead of dying from them.

    SIGHUP that is ignored stays ignored: that is what ``nohup`` does. The second SIGINT raises ``KeyboardInterrupt``:
    whoever presses Ctrl-C twice does not want to wait.
    """
    stop = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal_number = number

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
