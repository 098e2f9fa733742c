"""Every registered algorithm, killed or interrupted at any moment, ends bit for bit where an undisturbed run ends."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from algorithms.registry import algorithm_names
from bench.errors import InterruptedRunError
from bench.lookup import find_algorithm
from bench.plan import RunRequest, plan_run
from bench.progress import PlainReporter
from bench.runner import StageRunner
from bench.signals import StopRequest
from bench.store import ArtefactStore, Machine
from tests.conftest import ROOT, Bench

ENV = "maze-10"
ALGORITHMS = [name for name in algorithm_names() if name != "toy"]


def assert_same(first: Any, second: Any, where: str) -> None:
    """Compare what ``torch.load`` gives, tensors bit for bit."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, Mapping):
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert first == second, where


def without_seconds(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)
    return table.drop(columns=["seconds"])


def assert_same_artefacts(first: Path, second: Path) -> None:
    """All artefacts in two stores agree in every file, up to wall times and the pictures made from the same numbers."""
    names = sorted(path.name for path in first.iterdir() if path.name != ".locks")
    assert names == sorted(path.name for path in second.iterdir() if path.name != ".locks")
    for name in names:
        files = sorted(path.name for path in (first / name).iterdir())
        assert files == sorted(path.name for path in (second / name).iterdir())
        manifests = [json.loads((store / name / "manifest.json").read_text()) for store in (first, second)]
        assert manifests[0]["key"] == manifests[1]["key"]
        assert manifests[0]["metrics"] == manifests[1]["metrics"], name
        for file in files:
            one, other = first / name / file, second / name / file
            if one.suffix == ".pt":
                loaded = [torch.load(path, map_location="cpu", weights_only=True) for path in (one, other)]
                assert_same(*loaded, f"{name}/{file}")
            elif one.suffix in (".parquet", ".jsonl"):
                pd.testing.assert_frame_equal(without_seconds(one), without_seconds(other))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_interrupted_after_every_piece_of_work_it_ends_the_same(algo: str, tmp_path: Path) -> None:
    if not find_algorithm(algo).presets.get(("maze", "smoke")):
        pytest.skip(f"{algo} has no smoke preset for the maze")
    plan = plan_run(RunRequest(algo, ENV, "smoke", 0, (0, 3)))
    undisturbed, interrupted = ArtefactStore(tmp_path / "undisturbed"), ArtefactStore(tmp_path / "interrupted")
    keep_going, stop_at_once = StopRequest(), StopRequest()
    stop_at_once.signal_number = signal.SIGTERM
    machine = Machine("cpu", 1)
    resumes = 0
    for planned in plan.stages:
        for store, stop in ((undisturbed, keep_going), (interrupted, stop_at_once)):
            runner = StageRunner(store, machine, PlainReporter(), stop, checkpoint_seconds=1000.0)
            while not store.is_finished(planned.artefact_name):
                torch.manual_seed(random.randrange(10**6))  # What other code left there must not matter.
                try:
                    runner.run(planned, plan.task_distribution, plan.target_tasks)
                except InterruptedRunError:
                    resumes += 1
    assert resumes >= len(plan.stages)
    assert_same_artefacts(undisturbed.root, interrupted.root)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_twenty_random_kills_change_nothing(algo: str, tmp_path: Path, bench: Bench) -> None:
    command = [
        "run",
        "--algo",
        algo,
        "--env",
        ENV,
        "--preset",
        "smoke",
        "--tasks",
        "0,3",
        "--checkpoint-seconds",
        "0.2",
    ]
    assert bench(*command, "--out", tmp_path / "undisturbed").code == 0
    artefacts = tmp_path / "killed" / "artefacts"
    rng, kills = random.Random(0), 0
    while kills < 20:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench", *command, "--out", str(tmp_path / "killed")],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        seconds_at_work = rng.uniform(0.5, 4.0)
        while process.poll() is None and not list(artefacts.glob("*.partial")):
            time.sleep(0.01)
        try:
            _, err = process.communicate(timeout=seconds_at_work)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, err
        # It came to its end between two kills: throw one of its stages away and go on killing.
        rng.choice(sorted(artefacts.glob("*-*"))).rename(tmp_path / f"thrown-away-{time.monotonic_ns()}")
    finish = bench(*command, "--out", tmp_path / "killed")
    assert finish.code == 0, finish.err
    assert_same_artefacts(tmp_path / "undisturbed" / "artefacts", tmp_path / "killed" / "artefacts")
