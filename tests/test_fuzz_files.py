"""Every file that is read, damaged in two hundred ways: refused in one line or read, in bounded memory and time.

Each kind of file is read by a process of its own, which may use 1 GiB beyond what it starts with: what asks for more is
a ``MemoryError`` there, and counts as a failure like any traceback. Mutants are fixed by a seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MUTANTS = 200
SECONDS = 240

KINDS = (
    "run.json", "manifest.json", "checkpoint.json", "state.pt", "failure.json", "episodes.jsonl", "metrics.jsonl",
    "metrics.jsonl.gz", "episodes.parquet", "sweep.json", "node record", "submission.json", "node request",
    "sweep file", "profile", "flat.hdf5", "trajectories.hdf5", "minari.hdf5", "data.npz", "log.mjl", "paths.npz",
    "latents.npz", "tensors.pt", "lock",
)  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4))
def test_mutants_of_every_file_are_refused_or_read(tmp_path: Path, part: int) -> None:
    kinds = KINDS[part::4]
    command = [sys.executable, "-m", "tests.file_fuzz", str(tmp_path), str(MUTANTS), *kinds]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS * 2, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert set(summary) == set(kinds)
    for kind, (refused, read) in summary.items():
        assert refused + read == MUTANTS, kind
        # Who holds a lock is told as well as it can be; all else must be whole.
        assert refused > 0 or kind == "lock", f"{kind}: nothing was ever refused, so nothing was tested"
