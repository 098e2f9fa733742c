"""SIGKILL at random moments of every algorithm's stages, a hundred in all: rows and weights as if undisturbed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from bench.store import ARTEFACTS_FOLDER
from tests.conftest import ROOT
from tests.contract_helpers import ALGORITHMS, assert_same_artefacts, cheapest_world, first_targets, found

KILLS_IN_ALL = 100
KILLS = -(-KILLS_IN_ALL // len(ALGORITHMS))
MOST_STARTS = 6 * KILLS


def start(name: str, out: Path) -> subprocess.Popen[bytes]:
    env = cheapest_world(found(name))
    return subprocess.Popen(
        [
            sys.executable, "-m", "bench", "run", "--algo", name, "--env", env, "--preset", "smoke", "--tasks",
            ",".join(map(str, first_targets(env))), "--out", str(out), "--checkpoint-seconds", "0.2", "--device", "cpu",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err.decode()


def rows_of(out: Path) -> pd.DataFrame:
    (path,) = out.glob("*/episodes.parquet")
    return pd.read_parquet(path).drop(columns="seconds")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_killed_at_random_moments(name: str, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    began = time.monotonic()
    finish(start(name, undisturbed))
    seconds = time.monotonic() - began
    rng, kills, starts = random.Random(name), 0, 0
    while kills < KILLS and starts < MOST_STARTS:
        process = start(name, killed / str(starts // 3))  # Anew from time to time, so that no stage is left out.
        starts += 1
        # Most of the first seconds go into imports: moments are drawn from all of the run, the end included.
        deadline = time.monotonic() + rng.uniform(0.1, 1.05) * seconds
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
    assert kills == KILLS
    for out in sorted(killed.iterdir()):
        finish(start(name, out))
        assert_same_artefacts(undisturbed / ARTEFACTS_FOLDER, out / ARTEFACTS_FOLDER)
        pd.testing.assert_frame_equal(rows_of(out), rows_of(undisturbed))
        assert not list((out / ARTEFACTS_FOLDER).glob("*.partial"))
