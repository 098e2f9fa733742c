"""Every command of "From laptop to cluster" works, in order, against a real Slurm; the study is the toy's."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, Bench
from tests.slurm_helpers import MiniSlurm

PAGE = ROOT / "slurm" / "README.md"
SWEEP = """
name = "figure4"
title = "toys"
[[presets.smoke]]
algorithms = ["toy"]
envs = ["toy-line"]
seeds = [0, 1]
[[presets.quick]]
algorithms = ["toy"]
envs = ["toy-line"]
seeds = [0, 1]
"""


def blocks() -> list[list[str]]:
    """The commands of each block, without comments."""
    found = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return [[line.partition("  #")[0].strip() for line in block.splitlines()] for block in found]


def test_commands_of_make_are_known_and_there_are_no_others() -> None:
    for command in (command for block in blocks() for command in block):
        assert command.startswith(("bench ", "make ")), command
        if command.startswith("make "):
            subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, check=True)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE.read_text()):
        assert target.startswith("https://") or (PAGE.parent / target).exists(), target


@pytest.mark.slurm
@pytest.mark.parametrize("block", [block for block in blocks() if block[0].startswith("bench ")], ids=lambda b: b[0])
def test_every_command_works(
    block: list[str], slurm: MiniSlurm, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figure4.toml").write_text(SWEEP)
    example = (ROOT / "slurm" / "profiles" / "example.toml").read_text()
    (tmp_path / "my_cluster.toml").write_text(re.sub(r"memory_mb = \d+", "memory_mb = 900", example))
    for command in block:
        arguments = ["figure4.toml" if word == "figure4" else word for word in shlex.split(command)[1:]]
        outcome = bench(*arguments)
        assert outcome.code == 0, f"{command}: {outcome.err}"
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    counts = json.loads(bench("status", sweep.name, "--json").out)["counts"]
    assert counts == {"done": 7}
