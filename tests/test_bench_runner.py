"""Stages under fire: kills, signals, failures, full disks, two processes; results must not depend on any of it."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import Bench
from tests.toy import FAIL_WHEN_EXISTS

Start = Callable[..., "subprocess.Popen[str]"]
RUN = ("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--checkpoint-seconds", "0")
RUN_FOLDER = "toy-toy-line-smoke-s0"


def rows(folder: Path) -> pd.DataFrame:
    """Rows of a run without the wall times, which differ from run to run."""
    return pd.read_parquet(folder / "episodes.parquet").drop(columns=["seconds", "run"])


def weights(out: Path) -> bytes:
    (path,) = (out / "artefacts").glob("fit-*/weights.npy")
    return path.read_bytes()


def metrics(out: Path) -> list[float]:
    (path,) = (out / "artefacts").glob("fit-*/metrics.jsonl")
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()]


def run_folder(out: Path) -> Path:
    (path,) = out.glob("toy-*")
    return path


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until ``condition`` holds."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)


def checkpoint_exists(out: Path, stage: str) -> Callable[[], bool]:
    return lambda: bool(list((out / "artefacts").glob(f"{stage}-*.partial/checkpoint.json")))


def test_killed_at_random_moments_it_ends_as_if_undisturbed(tmp_path: Path, bench: Bench, start_bench: Start) -> None:
    slow = (*RUN, "--fit.pause_seconds", "0.05", "--adapt.pause_seconds", "0.02", "--fit.updates", "20")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert bench(*slow, "--out", undisturbed).code == 0
    rng, kills = random.Random(0), 0
    for stage in ("data", "fit", "adapt"):
        process = start_bench(*slow, "--out", killed)
        wait_for(lambda: process.poll() is not None or bool(list((killed / "artefacts").glob(f"{stage}-*"))))  # noqa: B023
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 2
    finish = bench(*slow, "--out", killed)
    assert finish.code == 0, finish.err
    assert weights(killed) == weights(undisturbed)
    assert metrics(killed) == metrics(undisturbed)
    pd.testing.assert_frame_equal(rows(run_folder(killed)), rows(run_folder(undisturbed)))
    assert not list((killed / "artefacts").glob("*.partial"))


@pytest.fixture
def half_done(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The partial folder of a fit stage that stopped at 5 of 10 updates, its checkpoint there."""
    marker, out = tmp_path / "fail", tmp_path / "out"
    marker.touch()
    monkeypatch.setenv(FAIL_WHEN_EXISTS, str(marker))
    assert bench(*RUN, "--out", out).code == 1
    marker.unlink()
    (partial,) = (out / "artefacts").glob("fit-*.partial")
    return partial


def test_rows_after_the_last_checkpoint_are_cut_on_resume(half_done: Path, tmp_path: Path, bench: Bench) -> None:
    with (half_done / "metrics.jsonl").open("ab") as file:
        file.write(b'{"seconds": 1.0, "loss": 99.0}\n{"seconds": 1.1, "lo')
    assert bench(*RUN, "--out", tmp_path / "out").code == 0
    assert bench(*RUN, "--out", tmp_path / "undisturbed").code == 0
    assert metrics(tmp_path / "out") == metrics(tmp_path / "undisturbed")
    assert weights(tmp_path / "out") == weights(tmp_path / "undisturbed")


def test_a_signal_saves_and_says_how_to_resume(tmp_path: Path, bench: Bench, start_bench: Start) -> None:
    command = (*RUN[:-1], "1000", "--fit.pause_seconds", "0.1", "--out", tmp_path)
    process = start_bench(*command)
    wait_for(lambda: bool(list((tmp_path / "artefacts").glob("fit-*.partial/metrics.jsonl"))))
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert err.count("\n") == 1
    assert "saved at" in err
    assert "run the same command again to resume" in err
    assert checkpoint_exists(tmp_path, "fit")()
    shown = json.loads(bench("show", run_folder(tmp_path), "--json").out)
    assert shown["status"] == "interrupted"
    assert [stage["state"] for stage in shown["stages"]] == ["done", "started", "waiting"]
    resumed = bench(*command)
    assert resumed.code == 0
    assert "fit: resumed at" in resumed.out


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, start_bench: Start) -> None:
    process = start_bench(*RUN, "--fit.pause_seconds", "20", "--out", tmp_path)
    wait_for(lambda: bool(list((tmp_path / "artefacts").glob("fit-*.partial/metrics.jsonl"))))
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "stopped at once" in err


def test_a_failure_is_a_row_and_running_again_retries(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, out = tmp_path / "fail", tmp_path / "out"
    marker.touch()
    monkeypatch.setenv(FAIL_WHEN_EXISTS, str(marker))
    failed = bench(*RUN, "--out", out)
    assert failed.code == 1
    assert failed.err.count("\n") == 1
    assert "stage fit failed: ArithmeticError: the toy was told to fail" in failed.err
    (failure,) = (out / "artefacts").glob("fit-*.partial/failure.json")
    assert str(failure) in failed.err
    assert 'raise ArithmeticError("the toy was told to fail")' in json.loads(failure.read_text())["traceback"]
    (row,) = rows(run_folder(out)).to_dict("records")
    assert (row["stage"], row["status"]) == ("fit", "failed")
    assert row["error"] == "ArithmeticError: the toy was told to fail"
    shown = bench("show", run_folder(out))
    assert "failed: ArithmeticError: the toy was told to fail" in shown.out
    marker.unlink()
    retried = bench(*RUN, "--out", out)
    assert retried.code == 0
    assert "fit: resumed at 5 of 10 updates" in retried.out
    assert set(rows(run_folder(out))["status"]) == {"ok"}


def test_seconds_accumulate_over_interruptions(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, out = tmp_path / "fail", tmp_path / "out"
    marker.touch()
    monkeypatch.setenv(FAIL_WHEN_EXISTS, str(marker))
    command = (*RUN, "--fit.pause_seconds", "0.1", "--out", out)
    bench(*command)
    marker.unlink()
    bench(*command)
    (manifest,) = (out / "artefacts").glob("fit-*/manifest.json")
    assert json.loads(manifest.read_text())["seconds"] >= 1.0


def test_finished_stages_are_reused_and_say_so(tmp_path: Path, bench: Bench) -> None:
    bench(*RUN, "--out", tmp_path)
    again = bench(*RUN, "--adapt.episodes", "5", "--out", tmp_path)
    assert "data: reused data-" in again.out
    assert "fit: reused fit-" in again.out
    assert "adapt: done" in again.out
    assert len(list((tmp_path / "artefacts").glob("fit-*"))) == 1


def test_a_tampered_artefact_is_refused_not_rebuilt(tmp_path: Path, bench: Bench) -> None:
    bench(*RUN, "--out", tmp_path)
    (path,) = (tmp_path / "artefacts").glob("fit-*/weights.npy")
    np.save(path, np.load(path) + 1)
    refused = bench(*RUN, "--out", tmp_path)
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert f"{path} is damaged" in refused.err
    assert f"delete the folder {path.parent}" in refused.err


def test_a_truncated_checkpoint_or_log_is_refused(half_done: Path, tmp_path: Path, bench: Bench) -> None:
    command = (*RUN, "--out", tmp_path / "out")
    (state,) = half_done.glob("state-*.pt")
    for path, message in ((state, "is truncated or was altered"), (half_done / "metrics.jsonl", "is damaged")):
        intact = path.read_bytes()
        path.write_bytes(intact[:-10])
        refused = bench(*command)
        assert refused.code == 2
        assert refused.err.count("\n") == 1
        assert f"{path} {message}" in refused.err
        assert f"delete the folder {half_done}" in refused.err
        path.write_bytes(intact)
    assert bench(*command).code == 0


def test_two_processes_at_once(tmp_path: Path, bench: Bench, start_bench: Start) -> None:
    command = (*RUN, "--fit.pause_seconds", "0.3", "--out", tmp_path)
    process = start_bench(*command)
    wait_for(lambda: bool(list((tmp_path / "artefacts").glob("fit-*.partial"))))
    same_run = bench(*command)
    assert same_run.code == 2
    assert f"is already running in pid {process.pid} on" in same_run.err
    other_run = bench(*command, "--adapt.episodes", "5")
    assert other_run.code == 0
    assert f"fit: waiting for pid {process.pid} on" in other_run.out
    assert "fit: reused fit-" in other_run.out
    process.communicate()
    assert process.returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.5 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path, bench: Bench, tmp_path: Path) -> None:
    # The state (1 MB) fits once, not twice: the second checkpoint fails and the first must survive.
    command = (*RUN, "--fit.ballast", "250000")
    full = bench(*command, "--out", small_disk)
    assert full.code == 2
    assert full.err.count("\n") == 1
    assert "No space left on device" in full.err
    assert "the one before it is intact" in full.err
    assert subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=False).returncode == 0
    resumed = bench(*command, "--out", small_disk)
    assert resumed.code == 0, resumed.err
    assert "fit: resumed at" in resumed.out
    assert bench(*command, "--out", tmp_path / "roomy").code == 0
    assert weights(small_disk) == weights(tmp_path / "roomy")


def test_a_disk_that_fills_up_while_the_artefact_is_written(small_disk: Path, bench: Bench) -> None:
    # The state is saved once, at the end of more than a second; the artefact holds as much again and does not fit.
    command = [*RUN, "--fit.ballast", "250000", "--fit.pause_seconds", "0.11"]
    command[command.index("--checkpoint-seconds") + 1] = "1000"
    full = bench(*command, "--out", small_disk)
    assert full.code == 2
    assert full.err.count("\n") == 1
    assert "last checkpoint is intact" in full.err
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    resumed = bench(*command, "--out", small_disk)
    assert resumed.code == 0, resumed.err
    assert "fit: resumed at 10 of 10 updates" in resumed.out


def test_a_folder_that_cannot_be_written(tmp_path: Path, bench: Bench) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    refused = bench(*RUN, "--out", blocked / "runs")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "cannot make the run folder" in refused.err
