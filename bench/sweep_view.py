"""What a person sees while a sweep runs on this machine: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bench.graph import StageNode
from bench.process import say
from bench.progress import duration_text

_LINE_SECONDS = 30.0


class SweepView:
    """Plain lines on standard output: one for each node that ends, and from time to time how far the others are."""

    def __init__(self, total: int) -> None:
        """``total``: how many nodes there are to run."""
        self.total = total
        self.ended_well = self.failures = 0
        self.running: dict[str, tuple[float, str]] = {}
        """Node -> when it started (monotonic seconds), and its progress."""
        self._said = time.monotonic()

    def line(self, text: str) -> None:
        """Print one line that stays."""
        say(text)

    def started(self, node: StageNode) -> None:
        """A worker begins with a node."""
        self.running[node.name] = (time.monotonic(), "")

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """A node has come this far."""
        self.running[name] = (self.running[name][0], f"{done} of {total} {unit}")

    def ended(self, name: str, how: str, reason: str = "") -> None:
        """A node is ``done``, ``failed``, ``saved``, ``stopped`` or ``killed``."""
        started, progress = self.running.pop(name)
        self.ended_well += how == "done"
        self.failures += how == "failed"
        count = f" ({self.ended_well} of {self.total})" if how == "done" else ""
        at = f" at {progress}" if how == "saved" and progress else ""
        reason = f": {reason}" if reason else ""
        self.line(f"{how}: {name}{at}, {duration_text(time.monotonic() - started)}{count}{reason}")

    def refresh(self) -> None:
        """Show where things stand, if it is time to."""
        if time.monotonic() - self._said >= _LINE_SECONDS:
            self._said = time.monotonic()
            parts = [f"{name} {progress}".strip() for name, (_, progress) in self.running.items()]
            self.line(f"running: {'; '.join(parts)}; {self.summary}")

    @property
    def summary(self) -> str:
        """``12 of 40 done, 1 failed``."""
        return f"{self.ended_well} of {self.total} done" + (f", {self.failures} failed" if self.failures else "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was found."""


class LiveSweepView(SweepView):
    """A live table of the nodes under way, below the lines of those that have ended."""

    def __init__(self, total: int, console: Console) -> None:
        super().__init__(total)
        self._live = Live(self._table(), console=console, auto_refresh=False, transient=True)

    def line(self, text: str) -> None:
        with suppress(OSError):  # The terminal may have gone: the sweep goes on, or is about to stop.
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        with suppress(OSError):
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        table = Table(title=self.summary, title_justify="left")
        for column in ("running", "progress", "time"):
            table.add_column(column)
        for name, (started, progress) in self.running.items():
            table.add_row(name, progress, duration_text(time.monotonic() - started))
        return table

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._live.stop()


def make_view(total: int) -> SweepView:
    """The live table when standard output is a terminal, plain lines otherwise."""
    return LiveSweepView(total, Console()) if sys.stdout.isatty() else SweepView(total)
