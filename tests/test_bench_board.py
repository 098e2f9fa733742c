"""The board: a run and a sweep looked at while they go and afterwards, and the TensorBoard files made of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.board import RunBoard, SweepBoard, find_board, sparkline
from bench.rows import read_log
from bench.stage_logs import LogTail, StageLogs
from bench.store import ArtefactStore
from tests.conftest import ROOT, Bench
from tests.sweep_helpers import row, start_sweep, sweep_file, toy_environment

pytestmark = pytest.mark.usefixtures("denormals")
SHIPPED = ROOT / "results" / "runs" / "simpl-maze-quick-s0"


def text_of(board: RunBoard | SweepBoard) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        for part in board.look().parts:
            console.print(part)
    return captured.get()


def toy(bench: Bench, out: Path, *more: str) -> None:
    assert bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--out", out, *more).code == 0


def test_a_sparkline_goes_from_low_to_high() -> None:
    assert sparkline([0, 0.5, 1], 0, 1, 10) == "▁▅█"
    assert sparkline(list(range(100)), 0, 99, 4) == "▂▄▅▇"
    assert sparkline([1, float("nan"), 7, -7], 0, 1, 10) == "█ █▁"
    assert sparkline([3, 3], 3, 3, 10) == "▁▁"
    assert sparkline([], 0, 1, 10) == ""


def test_a_finished_run_has_stages_scores_and_metrics(tmp_path: Path, bench: Bench) -> None:
    toy(bench, tmp_path)
    shown = bench("board", "toy-toy-line-smoke-s0", "--out", tmp_path)
    assert shown.code == 0
    assert "toy-toy-line-smoke-s0: done" in shown.out
    lines = shown.out.splitlines()
    assert [line.split("│")[2].strip() for line in lines if line.startswith(("│ data", "│ fit", "│ adapt"))] == [
        "done"
    ] * 3
    (curve,) = [line for line in lines if line.startswith("│ toy-toy-line-smoke-s0")]
    _run, episodes, latest, course = (cell.strip() for cell in curve.strip("│").split("│"))
    rows = read_rows(tmp_path)
    assert episodes == "25"
    assert latest == f"{rows[-10:].mean():.2f}"
    assert len(course) == 25
    assert bench("board", "--out", tmp_path).out == shown.out  # the newest


def read_rows(out: Path) -> np.ndarray:
    """Mean return by episode of the only run below ``out``."""
    (path,) = out.glob("toy-*/episodes.parquet")
    table = pd.read_parquet(path)
    return np.asarray(table[table["phase"] != ""].groupby("episode")["return"].mean())


@pytest.fixture
def slow_run(tmp_path: Path, start_bench: Callable[..., subprocess.Popen[str]]) -> Iterator[subprocess.Popen[str]]:
    """A run whose last stage takes its time."""
    process = start_bench(
        "run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--out", tmp_path,
        "--adapt.pause_seconds", "0.12", "--checkpoint-seconds", "0.3",
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def test_a_run_under_way_is_seen_to_move(tmp_path: Path, slow_run: subprocess.Popen[str]) -> None:
    wait_for(lambda: list(tmp_path.glob("artefacts/adapt-*.partial/checkpoint.json")))
    board = find_board(None, tmp_path)
    assert isinstance(board, RunBoard)
    first = board.look()
    text = text_of(board)
    assert first.is_moving
    assert f"running (pid {slow_run.pid} on {os.uname().nodename})" in text
    (adapt,) = [line for line in text.splitlines() if line.startswith("│ adapt")]
    assert " running " in adapt and " of 25 episodes" in adapt and " per second" in adapt

    def episodes() -> int:
        _, logs = list(board.logs())[-1]
        return len(logs.read()[0])

    seen = episodes()
    wait_for(lambda: episodes() > seen)
    slow_run.send_signal(signal.SIGTERM)
    slow_run.communicate()
    assert not board.look().is_moving
    assert "interrupted" in text_of(board)


def test_the_board_of_a_run_under_way_ends_with_it(tmp_path: Path, slow_run: subprocess.Popen[str]) -> None:
    """As one follows it, with the files that come of it: they hold every episode when it ends."""
    wait_for(lambda: list(tmp_path.glob("toy-*/run.json")))
    command = [sys.executable, "tests/toy.py", "board", "--out", tmp_path, "--tensorboard", tmp_path / "events"]
    shown = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert slow_run.wait(timeout=10) == 0
    assert ": done" in shown.stdout
    points = scalars(next((tmp_path / "events").iterdir()))
    assert [value for _, value in points["target/return"]] == pytest.approx(read_rows(tmp_path))


def test_a_failed_run_says_why(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "now").touch()
    monkeypatch.setenv("TOY_FAIL_WHEN_EXISTS", str(tmp_path / "now"))
    bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--out", tmp_path)
    shown = bench("board", "--out", tmp_path)
    assert "toy-toy-line-smoke-s0: failed" in shown.out
    assert "ArithmeticError: the toy was told to fail" in shown.out


def test_a_sweep_shows_its_stages_and_the_scores_so_far(tmp_path: Path, bench: Bench) -> None:
    environment = toy_environment(tmp_path / "plugin")
    out = tmp_path / "runs"
    start_sweep(sweep_file(tmp_path, row(seeds=(0, 1))), out, environment).communicate(timeout=60)
    shown = bench("board", "toys-smoke", "--out", out)
    assert shown.code == 0
    assert "toys-smoke: Toys; 7 done" in shown.out
    scores = shown.out[shown.out.index("Score on the target tasks") :]
    assert all(f"│ toy-toy-line-smoke-s{seed} │ 25 " in scores for seed in (0, 1))
    assert isinstance(find_board("toys-smoke", out), SweepBoard)
    files = bench("board", "toys-smoke", "--out", out, "--tensorboard", tmp_path / "events")
    assert files.code == 0
    assert sorted(path.name for path in (tmp_path / "events").iterdir()) == [f"toy-toy-line-smoke-s{s}" for s in (0, 1)]


def test_what_there_is_not_is_refused_with_the_nearest_name(tmp_path: Path, bench: Bench) -> None:
    assert bench("board", "--out", tmp_path).err == f"bench: no run and no sweep in {tmp_path}\n"
    toy(bench, tmp_path)
    outcome = bench("board", "toy-toy-line-smoke-s1", "--out", tmp_path)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "did you mean 'toy-toy-line-smoke-s0'?" in outcome.err


def test_a_shipped_run_is_shown_from_its_own_folder(bench: Bench) -> None:
    shown = bench("board", SHIPPED)
    assert f"{SHIPPED.name}: done" in shown.out
    assert "Metrics of adapt" in shown.out and "critic_loss" in shown.out


def test_a_log_is_read_as_it_grows_and_anew_when_it_was_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = LogTail(path)
    assert tail.read() == []
    with path.open("w") as file:
        file.write('{"a": 1}\n{"a": 2}\n{"a"')
    assert [record["a"] for record in tail.read()] == [1, 2]
    with path.open("a") as file:
        file.write(": 3}\n")
    assert [record["a"] for record in tail.read()] == [1, 2, 3]
    path.write_text('{"a": 1}\n')
    assert [record["a"] for record in tail.read()] == [1]
    path.write_text('{"a": 10, "b": "long enough"}\n{"a": 11}\n')  # cut back, and past the old place again
    tail.read()
    assert [record["a"] for record in tail.read()] == [10, 11]


def test_logs_under_way_are_those_of_the_harness(tmp_path: Path, bench: Bench) -> None:
    toy(bench, tmp_path)
    partial = tmp_path / "artefacts" / "adapt-0.partial"
    partial.mkdir()
    lines = [{"phase": "adapt", "task": 0, "episode": e, "env_steps": 10, "return": 0.5, "success": False, "length": 10,
              "seconds": 1.0, "status": "ok"} for e in range(3)]  # fmt: skip
    (partial / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, metrics = StageLogs(ArtefactStore(tmp_path / "artefacts"), tmp_path / "run", "adapt", "adapt-0").read()
    assert rows.equals(read_log(partial)) and not metrics


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads there: tag -> (x, value)."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_files_hold_the_scores_and_the_metrics(tmp_path: Path, bench: Bench) -> None:
    pytest.importorskip("tensorboard")
    toy(bench, tmp_path / "runs")
    assert bench("board", "--out", tmp_path / "runs", "--tensorboard", tmp_path / "events").code == 0
    found = scalars(tmp_path / "events" / "toy-toy-line-smoke-s0")
    assert [x for x, _ in found["target/return"]] == list(range(25))
    assert [value for _, value in found["target/return"]] == pytest.approx(read_rows(tmp_path / "runs"))
    (log,) = (tmp_path / "runs" / "artefacts").glob("fit-*/metrics.jsonl")
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert [value for _, value in found["fit/loss"]] == pytest.approx(losses)
    again = bench("board", "--out", tmp_path / "runs", "--tensorboard", tmp_path / "events")
    assert again.code == 2 and "the folder is not empty; choose another" in again.err


def test_without_tensorboard_there_is_one_line(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(bench, tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    outcome = bench("board", "--out", tmp_path, "--tensorboard", tmp_path / "events")
    assert outcome.code == 2
    assert outcome.err == (
        "bench: --tensorboard needs the package tensorboard: pip install 'simpl-bench[tensorboard]'\n"
    )


def test_looking_on_needs_no_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "bench", "board", str(SHIPPED)]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert " torch\n" not in outcome.stderr
