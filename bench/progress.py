"""What a person sees while stages run: a live bar on a terminal, a plain line from time to time elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import Self

import rich.progress
from rich.console import Console

from algorithms.stage import Progress
from bench.process import say

_PLAIN_LINE_SECONDS = 30.0


def duration_text(seconds: float) -> str:
    """``42s``, ``3m 05s`` or ``2h 10m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


class Reporter(ABC):
    """Shows stages as they run. Use as a context manager."""

    @abstractmethod
    def line(self, text: str) -> None:
        """Print one line of text that stays."""

    @abstractmethod
    def start_stage(self, name: str, progress: Progress) -> None:
        """A stage begins, or goes on, at ``progress``."""

    @abstractmethod
    def update(self, progress: Progress) -> None:
        """The stage that runs has come to ``progress``."""

    @abstractmethod
    def end_stage(self) -> None:
        """The stage that runs has ended, for whatever reason."""

    @abstractmethod
    def close(self) -> None:
        """Leave the terminal as it was found."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class PlainReporter(Reporter):
    """Lines on standard output: one at the start of a stage, then at most one each 30 s."""

    def __init__(self) -> None:
        self._name = ""
        self._start = Progress(0, 0, "")
        self._started = self._printed = 0.0

    def line(self, text: str) -> None:
        say(text)

    def start_stage(self, name: str, progress: Progress) -> None:
        self._name, self._start = name, progress
        self._started = self._printed = time.monotonic()
        self.line(f"{name}: {progress.done} of {progress.total} {progress.unit}")

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._printed < _PLAIN_LINE_SECONDS:
            return
        self._printed = now
        parts = [f"{self._name}: {progress.done} of {progress.total} {progress.unit}"]
        if progress.success is not None:
            parts.append(f"success {progress.success:.2f}")
        if progress.done > self._start.done:
            per_unit = (now - self._started) / (progress.done - self._start.done)
            parts.append(f"{duration_text(per_unit * (progress.total - progress.done))} left")
        self.line(", ".join(parts))

    def end_stage(self) -> None:
        self._name = ""

    def close(self) -> None:
        self.end_stage()


class RichReporter(Reporter):
    """A live progress bar for the stage that runs, for as long as there is a terminal to draw it on."""

    def __init__(self, console: Console) -> None:
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("[bold]{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            rich.progress.TextColumn("{task.fields[success]}"),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
            console=console,
        )
        self._bar: rich.progress.TaskID | None = None

    def line(self, text: str) -> None:
        with suppress(OSError):
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start_stage(self, name: str, progress: Progress) -> None:
        self._bar = self._progress.add_task(
            name, total=progress.total, completed=progress.done, unit=progress.unit, success=_success_text(progress)
        )

    def update(self, progress: Progress) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._progress.update(
                    self._bar, completed=progress.done, total=progress.total, success=_success_text(progress)
                )

    def end_stage(self) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def close(self) -> None:
        with suppress(OSError):
            self._progress.stop()


def _success_text(progress: Progress) -> str:
    return "" if progress.success is None else f"success {progress.success:.2f}"


def make_reporter() -> Reporter:
    """The live bar when standard output is a terminal, plain lines otherwise."""
    return RichReporter(Console()) if sys.stdout.isatty() else PlainReporter()
