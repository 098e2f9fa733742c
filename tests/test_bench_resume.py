"""Every registered algorithm, killed at any moment, ends bit for bit where an undisturbed run ends.

That an interruption changes nothing is tested in ``test_algorithms_contract.py``.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, Bench
from tests.contract_helpers import ALGORITHMS, assert_same_artefacts, cheapest_world, first_targets, found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_twenty_random_kills_change_nothing(algo: str, tmp_path: Path, bench: Bench) -> None:
    env = cheapest_world(found(algo))
    tasks = ",".join(map(str, first_targets(env)))
    command = f"run --algo {algo} --env {env} --preset smoke --tasks {tasks} --checkpoint-seconds 0.2".split()
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
