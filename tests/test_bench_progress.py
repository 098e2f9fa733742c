"""What a person sees: durations, plain lines, the live bar."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from algorithms.stage import Progress
from bench import progress as module
from bench.progress import PlainReporter, RichReporter, duration_text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (60, "1m 00s"), (3599, "59m 59s"), (7800, "2h 10m")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_plain_lines_say_how_far_how_well_and_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with PlainReporter() as reporter:
        reporter.start_stage("adapt", Progress(10, 50, "episodes"))
        now[0] += 29
        reporter.update(Progress(15, 50, "episodes", 0.1))
        now[0] += 1
        reporter.update(Progress(20, 50, "episodes", 0.25))
        reporter.end_stage()
    # 10 episodes in 30 s since the start at 10: 30 more take 90 s.
    assert capsys.readouterr().out.splitlines() == [
        "adapt: 10 of 50 episodes",
        "adapt: 20 of 50 episodes, success 0.25, 1m 30s left",
    ]


def test_the_live_bar_shows_the_same_and_disappears() -> None:
    file = io.StringIO()
    with RichReporter(Console(file=file, force_terminal=True, width=120)) as reporter:
        reporter.start_stage("adapt", Progress(0, 50, "episodes"))
        reporter.update(Progress(20, 50, "episodes", 0.25))
        time.sleep(0.3)  # The bar is drawn ten times a second.
        reporter.line("a line with [brackets]")
        reporter.end_stage()
    text = file.getvalue()
    assert "20/50 episodes" in text
    assert "success 0.25" in text
    assert "a line with [brackets]" in text
