"""Ordinary places unlike ours: no locks, closed terminals, gone readers, links to nowhere, names that clash."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import envs.gl
from bench.locks import LockHeldError, lock_file, lock_holder, lock_process
from bench.process import available_cpus
from bench.run import RunOptions
from bench.worker import NodeRequest
from bench.worker_pool import Worker, visible_gpus, worker_environment
from tests.conftest import ROOT, Bench
from tests.toy import FAIL_WHEN_EXISTS

RUN = ("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke")


# -- locks --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that answers every ``flock`` with this error."""

    def flock(file: object, operation: int) -> None:
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr("bench.files._SAID", set())
    monkeypatch.setattr(fcntl, "flock", flock)


def test_without_locks_a_file_stands_in_for_them(
    no_locks: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.lock"
    with lock_file(path, wait=False):
        held = json.loads((tmp_path / "a.lock.held").read_text())
        assert held["pid"] == os.getpid()
        assert lock_process(path) == (os.getpid(), os.uname().nodename)
        with pytest.raises(LockHeldError, match=r"pid \d+ on .*delete .*a\.lock\.held"), lock_file(path, wait=False):
            pass
    assert lock_holder(path) is None and not (tmp_path / "a.lock.held").exists()
    assert capsys.readouterr().err.count("has no locks") == 1


def test_what_a_killed_process_left_is_taken_over_on_its_machine_alone(no_locks: None, tmp_path: Path) -> None:
    path, held = tmp_path / "a.lock", tmp_path / "a.lock.held"
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    held.write_text(json.dumps({"pid": child.pid, "host": os.uname().nodename, "started": "1"}))
    with lock_file(path, wait=False):
        pass
    # A process of that number that began at another time is another process.
    held.write_text(json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "started": "1"}))
    with lock_file(path, wait=False):
        pass
    held.write_text(json.dumps({"pid": child.pid, "host": "elsewhere", "started": "1"}))
    with pytest.raises(LockHeldError, match=f"pid {child.pid} on elsewhere"), lock_file(path, wait=False):
        pass


def test_a_run_where_there_are_no_locks(no_locks: None, tmp_path: Path, bench: Bench) -> None:
    assert bench(*RUN, "--out", tmp_path).code == 0
    assert not list(tmp_path.rglob("*.held"))


def test_a_lock_that_may_not_be_read_is_no_traceback(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(*RUN, "--out", tmp_path).code == 0
    real = Path.open

    def refuse(path: Path, *arguments: object, **options: object) -> object:
        if path.name == ".lock":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)  # type: ignore[arg-type, call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    for command in (("show", "toy-toy-line-smoke-s0"), ("board", "toy-toy-line-smoke-s0", "--once"), ("status",)):
        assert bench(*command, "--out", tmp_path).code == 0, command
    refused = bench(*RUN, "--out", tmp_path)
    assert refused.code == 2 and refused.err.count("\n") == 1 and "Permission denied" in refused.err


# -- terminals and pipes --------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_fails_no_stage(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "toy.py"), *RUN, "--fit.pause_seconds", "0.02", "--out", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    with process, process.stderr:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, "")
    (record,) = tmp_path.glob("toy-*/run.json")
    assert json.loads(record.read_text())["status"] == "done"
    assert not list((tmp_path / "artefacts").glob("*.partial"))


def heed_hangups() -> None:
    """Whoever runs these tests may have been told to ignore them (nohup), and processes inherit that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_closed_terminal_saves_and_nohup_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "toy.py"), *RUN, "--fit.pause_seconds", "0.1", "--out"]
    for ignored, code in ((False, 128 + signal.SIGHUP), (True, 0)):
        out = tmp_path / str(ignored)
        shell = ["sh", "-c", 'trap "" HUP; exec "$0" "$@"'] if ignored else []
        process = subprocess.Popen(
            [*shell, *command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heed_hangups
        )
        while not list((out / "artefacts").glob("fit-*.partial/metrics.jsonl")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        assert (b"is saved at" in err) is not ignored


# -- names ----------------------------------------------------------------------------------------------------------


def test_a_worker_never_imports_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a folder with an ``envs`` and a ``bench.py`` of one's own."""
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("raise RuntimeError('my own envs package')\n")
    (tmp_path / "bench.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    worker = Worker(RunOptions(tmp_path / "out", device="cpu"), tmp_path / "log", gpu="0")
    assert worker.close() == 0, (tmp_path / "log").read_text()


def test_a_message_is_one_line_of_a_length_that_can_be_read(bench: Bench, tmp_path: Path) -> None:
    for command in (
        ("run", "--algo", "x" * 5000, "--env", "maze"),
        ("run", "--algo", "toy", "--env", "toy-line", "--data", "x" * 300),
        ("run", "--algo", "toy", "--env", "toy-line", "--fit.updates", "9" * 5000),
        ("show", "x" * 5000),
        ("show", "\x1b[31mred\x1b[0m\nblue"),
        ("data", "verify", "maze", "--file", "x" * 300),
        ("run", "--algo", "toy", "--env", "toy-line", "--out", "y" * 300),
    ):
        refused = bench(*command, *(() if "--out" in command or command[0] == "data" else ("--out", tmp_path)))
        assert refused.code == 2, command
        assert refused.err.count("\n") == 1 and len(refused.err) <= 1020 and refused.err[:-1].isprintable()


def test_an_out_that_is_a_link_to_a_purged_folder_is_named(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "scratch" / "purged")
    for command in (RUN, ("status",), ("show", "a"), ("board",), ("data", "info", "maze")):
        refused = bench(*command, "--out", tmp_path / "runs")
        assert refused.code == 2 and f"is a link to {tmp_path}/scratch/purged, which is gone" in refused.err
    (tmp_path / "file").touch()
    assert "is not a folder" in bench(*RUN, "--out", tmp_path / "file").err


def test_a_failed_stage_says_what_tries_again(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fail").touch()
    monkeypatch.setenv(FAIL_WHEN_EXISTS, str(tmp_path / "fail"))
    failed = bench(*RUN, "--out", tmp_path)
    assert failed.code == 1
    assert "its traceback is in" in failed.err and "the same command tries again" in failed.err


def test_no_user_name_and_no_home(tmp_path: Path) -> None:
    """As in containers whose user is a number: everything up to the picture of a run."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pwd\ndef unknown(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\npwd.getpwuid = unknown\n"
    )
    assert pwd.getpwuid(os.getuid())
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    environment["PYTHONPATH"] = str(tmp_path)
    command = [sys.executable, str(ROOT / "tests" / "toy.py"), *RUN, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "toy-toy-line-smoke-s0" / "curve.png").exists()


# -- machines ---------------------------------------------------------------------------------------------------------


def test_a_system_that_does_not_tell_the_cpus_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cpus() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cpus() == os.cpu_count()


@pytest.mark.parametrize(
    ("value", "gpus"),
    [("NoDevFiles", ()), ("none", ()), ("0,-1,1", ("0",)), ("MIG-0f/1", ("MIG-0f/1",)), ("0,NoDevFiles", ("0",))],
)
def test_names_that_are_no_gpu(value: str, gpus: tuple[str, ...]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": value}) == gpus


def test_a_driver_that_hangs_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 100\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("bench.worker_pool._NVIDIA_SECONDS", 0.5)
    (tmp_path / "s.toml").write_text(
        'name = "s"\n[[presets.smoke]]\nalgorithms = ["toy"]\nenvs = ["toy-line"]\nseeds = [0]\n'
    )
    refused = bench("sweep", tmp_path / "s.toml", "--preset", "smoke", "--out", tmp_path / "out")
    assert refused.code == 2 and "the driver hangs; use --device cpu" in refused.err


@pytest.mark.skipif(sys.platform != "linux", reason="what draws elsewhere does not read these variables")
def test_an_opengl_platform_that_does_not_go_with_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYOPENGL_PLATFORM", "glx")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert envs.gl.why_no_gl() == "PYOPENGL_PLATFORM=glx does not go with drawing by egl: unset it"


def test_the_environment_of_a_worker_names_this_code() -> None:
    assert worker_environment(1, None)["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    with pytest.raises(Exception, match="expected the name of a file or folder"):
        NodeRequest.from_json({"sweep": "../x", "node": "a", "hash": "b", "request": {"algo": "a", "env": "e"}})
