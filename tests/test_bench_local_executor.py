"""Sweeps on this machine, with real processes: shared stages once, failures contained, nothing lost when killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.config import Override
from bench.estimates import StageTimes
from bench.local_executor import default_parallel
from bench.plan import RunRequest, plan_run
from bench.run import RunOptions
from bench.statistics.episodes import load_episodes
from bench.worker_pool import visible_gpus, worker_environment
from tests.conftest import Bench
from tests.sweep_helpers import assert_same_results, records, row, start, start_sweep, sweep_file, toy_environment
from tests.toy import FAIL_WHEN_EXISTS

SLOW = {"fit__updates": 40, "fit__pause_seconds": 0.05}
"""A stage of two seconds."""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return toy_environment(tmp_path / "plugin")


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for(found: Callable[[], object], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def plain_runs(bench: Bench, out: Path, seeds: tuple[int, ...], *fields: str) -> None:
    for seed in seeds:
        run = ("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--seed", seed)
        assert bench(*run, *fields, "--out", out).code == 0


def slow_checkpoint(out: Path) -> list[Path]:
    return list(out.glob("artefacts/fit-*.partial/checkpoint.json"))


def test_shared_stages_are_computed_once_and_results_are_those_of_plain_runs(
    tmp_path: Path, environment: dict[str, str], bench: Bench
) -> None:
    out = tmp_path / "sweep"
    file = sweep_file(tmp_path, row(("toy", "gone"), seeds=(0, 1)), row(seeds=(0, 1), adapt__episodes=26))
    code, said, err = finish(start_sweep(file, out, environment, "--max-parallel", 2))
    assert (code, err) == (0, "")
    assert "left out: algorithm 'gone' is not registered (2 runs)\n" in said
    assert "toys-smoke: 4 runs of 12 stages, merged to 7: 7 to run, 0 exist; 4 reports to write\n" in said
    assert said.endswith("toys-smoke: 11 of 11 done\n")
    kinds = Counter(name.partition("-")[0] for name in records(out))
    assert kinds == {"data": 1, "fit": 2, "adapt": 4, "report": 4}
    assert {record.attempts for record in records(out).values()} == {1}
    assert len({record.pid for record in records(out).values()}) == 2
    for fields in ((), ("--adapt.episodes", "26")):
        plain_runs(bench, tmp_path / "plain", (0, 1), *fields)
    assert_same_results(tmp_path / "plain", out)
    again = bench("sweep", file, "--preset", "smoke", "--out", out)
    assert again.code == 0
    assert "0 to run, 7 exist; 0 reports to write\nnothing is missing" in again.out


def test_a_failure_takes_its_dependants_with_it_and_nothing_else(
    tmp_path: Path, environment: dict[str, str], bench: Bench
) -> None:
    out, told = tmp_path / "sweep", tmp_path / "fail"
    told.write_text("7")
    file = sweep_file(tmp_path, row(fit__updates=7), row(seeds=(0, 1)))
    code, said, err = finish(start_sweep(file, out, environment | {FAIL_WHEN_EXISTS: str(told)}, "--max-parallel", 1))
    assert code == 1
    assert re.search(r"failed: fit-\w+: ArithmeticError: the toy was told to fail\n", said)
    assert err == (
        "bench: 1 of 10 failed and 2 that need them were not run; "
        f"bench status toys-smoke --out {out} --failed shows why, bench retry toys-smoke --out {out} tries again\n"
    )
    assert Counter(record.status for record in records(out).values()) == {"done": 7, "failed": 1}
    shown = bench("status", "toys-smoke", "--out", out, "--json")
    states = Counter(json.loads(shown.out)["counts"])
    assert states == {"done": 7, "failed": 1, "blocked": 2}
    (left,) = (excluded for excluded in load_episodes([out]).excluded)
    assert left.run.startswith(str(out / "toy-toy-line-smoke-s0-"))
    assert left.reason == "failed: ArithmeticError: the toy was told to fail"
    told.unlink()
    code, said, err = finish(start("retry", "toys-smoke", "--out", out, environment=environment))
    assert (code, err) == (0, "")
    assert load_episodes([out]).excluded == ()
    assert said.endswith("toys-smoke: 3 of 3 done\n")


def test_a_killed_worker_is_replaced_and_its_stage_goes_on_to_the_same_end(
    tmp_path: Path, environment: dict[str, str], bench: Bench
) -> None:
    out = tmp_path / "sweep"
    file = sweep_file(tmp_path, row(**SLOW))
    process = start_sweep(file, out, environment, "--max-parallel", 1, "--checkpoint-seconds", 0)
    wait_for(lambda: slow_checkpoint(out))
    (fit,) = (record for name, record in records(out).items() if name.startswith("fit-"))
    os.kill(fit.pid, signal.SIGKILL)
    code, said, err = finish(process)
    assert (code, err) == (0, "")
    assert f"killed: {fit.node}" in said and "its worker got SIGKILL; trying once more" in said
    (fit,) = (record for name, record in records(out).items() if name.startswith("fit-"))
    assert fit.attempts == 2
    plain_runs(bench, tmp_path / "plain", (0,), "--fit.updates", "40", "--fit.pause_seconds", "0.05")
    assert_same_results(tmp_path / "plain", out)


def test_a_stage_that_always_kills_its_worker_fails_alone(tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "sweep"
    file = sweep_file(tmp_path, row(**SLOW), row())
    process = start_sweep(file, out, environment, "--max-parallel", 1, "--checkpoint-seconds", 0)
    killed: set[int] = set()
    while process.poll() is None and len(killed) < 2:
        for path in slow_checkpoint(out):
            node = path.parent.name.removesuffix(".partial")
            record = records(out)[node]
            if record.status == "running" and record.pid not in killed and len(killed) < 2:
                os.kill(record.pid, signal.SIGKILL)
                killed.add(record.pid)
        time.sleep(0.05)
    code, said, _ = finish(process)
    assert code == 1
    assert "its worker was killed twice, the last time by SIGKILL (out of memory?)" in said
    # data; fit, adapt and report of the other run
    assert Counter(record.status for record in records(out).values()) == {"done": 4, "failed": 1}
    (left,) = load_episodes([out]).excluded
    assert left.reason == "failed: its worker was killed twice, the last time by SIGKILL (out of memory?)"


def test_a_killed_executor_leaves_no_worker_and_the_same_command_goes_on(
    tmp_path: Path, environment: dict[str, str], bench: Bench
) -> None:
    out = tmp_path / "sweep"
    file = sweep_file(tmp_path, row(**SLOW))
    arguments = ("--max-parallel", 1, "--checkpoint-seconds", 0)
    process = start_sweep(file, out, environment, *arguments)
    wait_for(lambda: slow_checkpoint(out))
    process.send_signal(signal.SIGKILL)
    finish(process)
    # Its worker hears that nobody is there any more, saves the stage and ends.
    wait_for(lambda: any(record.status == "interrupted" for record in records(out).values()))
    (fit,) = (record for record in records(out).values() if record.status == "interrupted")
    assert re.search(r"saved at \d+ of 40 updates", fit.error)
    assert json.loads(bench("status", "toys-smoke", "--out", out, "--json").out)["counts"] == {
        "done": 1, "pending": 2, "interrupted": 1,
    }  # fmt: skip
    code, said, err = finish(start_sweep(file, out, environment, *arguments))
    assert (code, err) == (0, "")
    assert "1 exist" in said
    plain_runs(bench, tmp_path / "plain", (0,), "--fit.updates", "40", "--fit.pause_seconds", "0.05")
    assert_same_results(tmp_path / "plain", out)


def test_cancel_from_another_shell_saves_and_retry_goes_on(
    tmp_path: Path, environment: dict[str, str], bench: Bench
) -> None:
    out = tmp_path / "sweep"
    process = start_sweep(sweep_file(tmp_path, row(**SLOW)), out, environment, "--max-parallel", 1)
    wait_for(lambda: any(name.startswith("fit-") for name in records(out)))
    assert bench("cancel", "toys-smoke", "--out", out).out == f"asked pid {process.pid} to save and stop\n"
    code, said, err = finish(process)
    assert code == 128 + signal.SIGTERM
    assert re.search(r"saved: fit-\w+ at \d+ of 40 updates", said)
    assert f"everything is saved: bench retry toys-smoke --out {out} goes on" in err
    assert bench("cancel", "toys-smoke", "--out", out).out == "nothing is running\n"
    code, said, err = finish(start("retry", "toys-smoke", "--out", out, environment=environment))
    assert (code, err) == (0, "")
    log = (out / "sweeps" / "toys-smoke" / "logs" / "worker-0.log").read_text()
    assert re.search(r"fit: resumed at \d+ of 40 updates", log)


def test_ctrl_c_twice_does_not_wait(tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "sweep"
    file = sweep_file(tmp_path, row(fit__pause_seconds=100.0))
    process = start_sweep(file, out, environment, "--max-parallel", 1)
    wait_for(lambda: any(name.startswith("fit-") for name in records(out)))
    (fit,) = (record for record in records(out).values() if record.status == "running")
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, said, err = finish(process)
    assert code == 130
    assert "stopping: waiting until the stages under way are saved" in said
    assert err == "bench: stopped at once; running again goes on from the last checkpoint\n"
    wait_for(lambda: not Path(f"/proc/{fit.pid}").exists(), seconds=10)


def test_a_worker_that_cannot_start_says_why(tmp_path: Path, environment: dict[str, str], bench: Bench) -> None:
    """Here: a plug-in that this process knows and its workers cannot import."""
    out = tmp_path / "sweep"
    broken = Path(environment["PYTHONPATH"].partition(os.pathsep)[0]) / "sitecustomize.py"
    broken.write_text("import os, sys\nif '--serve' in sys.orig_argv: sys.stderr.write('no luck\\n'); os._exit(7)\n")
    code, said, _ = finish(start_sweep(sweep_file(tmp_path, row()), out, environment))
    assert code == 1
    assert re.search(r"failed: data-\w+: its worker ended with exit code 7: no luck \(log: .*worker-0.log\)", said)
    assert [record.status for record in records(out).values()] == ["failed"]


def test_bad_input_is_one_line(tmp_path: Path, bench: Bench) -> None:
    file = sweep_file(tmp_path, row())
    for arguments, message in (
        (("figur4",), "unknown sweep (neither shipped nor a file) 'figur4': did you mean 'figure4'?"),
        ((file, "--preset", "smok"), "unknown preset of the sweep toys 'smok': did you mean 'smoke'?"),
        ((file, "--preset", "smoke", "--only", "nope"), "--only nope: no run of toys-smoke is called so; one is toy-"),
        ((sweep_file(tmp_path, row(("gone",)), name="g"), "--preset", "smoke"), "nothing of the sweep g-smoke can be"),
        ((), "bench sweep needs a NAME or FILE"),
    ):
        outcome = bench("sweep", *arguments, "--out", tmp_path / "runs")
        assert outcome.code == 2
        assert message in outcome.err
        assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_counts_and_estimates_and_leaves_nothing(tmp_path: Path, bench: Bench) -> None:
    out = tmp_path / "runs"
    file = sweep_file(tmp_path, row(seeds=(0, 1)), row(seeds=(0, 1), adapt__episodes=26))
    dry = bench("sweep", file, "--preset", "smoke", "--dry-run", "--out", out)
    assert dry.code == 0
    assert not out.exists()
    assert "4 runs of 12 stages, merged to 7: 7 to run, 0 exist; 4 reports to write\n" in dry.out
    assert "level 1: fit array of 2\nlevel 2: adapt array of 4\nlevel 3: report array of 4\n" in dry.out
    assert "without 1 data, 2 fit, 4 adapt: nothing like them was measured yet\n" in dry.out
    plain_runs(bench, out, (0,))
    dry = bench("sweep", file, "--preset", "smoke", "--dry-run", "--out", out)
    assert "merged to 7: 4 to run, 3 exist; 3 reports to write\n" in dry.out
    assert "nothing like them" not in dry.out


def test_estimates_are_measured_times_scaled_by_target_tasks(tmp_path: Path, bench: Bench) -> None:
    run = ("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--out", tmp_path)
    assert bench(*run, "--adapt.pause_seconds", "0.004").code == 0
    manifest = next(tmp_path.glob("artefacts/adapt-*/manifest.json"))
    seconds = json.loads(manifest.read_text())["seconds"]
    assert seconds > 0.1
    pause = (Override("adapt.pause_seconds", "0.004"),)
    times = StageTimes.collect(tmp_path, shipped=tmp_path / "nowhere")
    for tasks, factor in (((0, 1, 2), 1.0), ((1,), 1 / 3)):
        plan = plan_run(RunRequest("toy", "toy-line", "smoke", 5, tasks, pause))
        estimate = times.estimate(plan, plan.stages[-1])
        assert estimate is not None
        assert estimate.seconds == pytest.approx(seconds * factor)
        assert not estimate.on_gpu
    other = plan_run(RunRequest("toy", "toy-line", "quick"))
    assert times.estimate(other, other.stages[-1]) is None


def test_threads_gpu_and_code_of_a_worker() -> None:
    environment = worker_environment(3, "1")
    assert (environment["OMP_NUM_THREADS"], environment["CUDA_VISIBLE_DEVICES"]) == ("3", "1")
    assert Path(environment["PYTHONPATH"].split(os.pathsep)[0], "bench", "worker_pool.py").exists()
    assert worker_environment(1, None).get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-ab"}) == ("2", "GPU-ab")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == ()


def test_by_default_processes_share_the_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert default_parallel(RunOptions(tmp_path, device="cpu", threads=3)) == 2
    assert default_parallel(RunOptions(tmp_path, device="cpu", threads=16)) == 1
    assert default_parallel(RunOptions(tmp_path, device="auto")) == 2
