"""What a person sees while a sweep runs: lines, and a live table on a terminal."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from bench.graph import merge_plans
from bench.plan import RunRequest, plan_run
from bench.sweep_view import LiveSweepView, SweepView


def act(view: SweepView, out: Path) -> list[str]:
    """A short play: one node is done, one is killed and then fails, one is saved."""
    nodes = list(merge_plans([plan_run(RunRequest("toy", "toy-line", "smoke"))], out).nodes.values())[:3]
    names = [node.name for node in nodes]
    with view:
        for node in nodes:
            view.started(node)
        view.progress(names[0], 3, 10, "updates")
        view.refresh()
        view.ended(names[0], "done")
        view.ended(names[1], "killed", "its worker got SIGKILL")
        view.started(nodes[1])
        view.ended(names[1], "failed", "no [good]")
        view.progress(names[2], 4, 25, "episodes")
        view.ended(names[2], "saved")
    assert view.summary == "1 of 5 done, 1 failed"
    return names


def expected(names: list[str]) -> str:
    return (
        f"done: {names[0]}, 0s (1 of 5)\nkilled: {names[1]}, 0s: its worker got SIGKILL\n"
        f"failed: {names[1]}, 0s: no [good]\nsaved: {names[2]} at 4 of 25 episodes, 0s\n"
    )


def test_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = act(SweepView(5), tmp_path)
    assert capsys.readouterr().out == expected(names)


def test_a_line_from_time_to_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    view = SweepView(5)
    view.running["fit-1"] = (0.0, "3 of 10 updates")
    view.refresh()
    assert capsys.readouterr().out == ""
    later = time.monotonic() + 31
    monkeypatch.setattr(time, "monotonic", lambda: later)
    view.refresh()
    view.refresh()
    assert capsys.readouterr().out == "running: fit-1 3 of 10 updates; 0 of 5 done\n"


def test_a_live_table_below_the_same_lines(tmp_path: Path) -> None:
    terminal = io.StringIO()
    names = act(LiveSweepView(5, Console(file=terminal, force_terminal=True, width=100)), tmp_path)
    shown = terminal.getvalue()
    for line in expected(names).splitlines():
        assert line in shown
    assert "0 of 5 done" in shown
    assert "3 of 10 updates" in shown
    assert "\x1b[?25h" in shown  # the cursor is back
