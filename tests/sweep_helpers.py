"""Sweeps of the toy: a plug-in that makes it known to other processes, and sweep files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.node_records import NodeRecord, read_record, sweep_folder
from tests.conftest import ROOT

_ENTRY_POINTS = """
[simpl_bench.algorithms]
toy = tests.toy:ALGORITHM
{more}
[simpl_bench.task_distributions]
toy-line = tests.toy:make_toy_line
"""


def toy_environment(folder: Path, more: str = "") -> dict[str, str]:
    """Environment variables with which any Python process knows the toy, as it would know an installed plug-in.

    ``more``: another algorithm, ``name = module:ATTRIBUTE``.
    """
    info = folder / "toy_plugin-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 0\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS.format(more=more))
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


def row(algorithms: Sequence[str] = ("toy",), seeds: Sequence[int] = (0,), **overrides: Any) -> str:
    """A row of a sweep file; ``fit__updates=3`` is the override ``fit.updates``."""
    values = ", ".join(f'"{name.replace("__", ".")}" = {json.dumps(value)}' for name, value in overrides.items())
    return (
        f"[[presets.smoke]]\nalgorithms = {json.dumps(list(algorithms))}\nenvs = ['toy-line']\n"
        f"seeds = {json.dumps(list(seeds))}\noverrides = {{ {values} }}\n"
    )


def sweep_file(folder: Path, *rows: str, name: str = "toys") -> Path:
    """A sweep file of these rows."""
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\ntitle = "Toys"\n' + "\n".join(rows))
    return path


def start_sweep(file: Path, out: Path, environment: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    """``bench sweep`` of a file at smoke, as a process of its own."""
    return start("sweep", file, "--preset", "smoke", "--out", out, *arguments, environment=environment)


def start(*arguments: object, environment: dict[str, str]) -> subprocess.Popen[str]:
    """``bench`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip


def records(out: Path, sweep: str = "toys-smoke") -> dict[str, NodeRecord]:
    """All exit records of a sweep, by node."""
    folder = sweep_folder(out, sweep)
    found = {path.stem: read_record(folder, path.stem) for path in (folder / "nodes").glob("*.json")}
    return {name: record for name, record in found.items() if record is not None}


def assert_same_results(first: Path, second: Path) -> None:
    """Two results folders hold the same runs with the same rows, and the same toy weights bit for bit."""
    runs = sorted(path.parent.name for path in first.glob("*/episodes.parquet"))
    assert runs == sorted(path.parent.name for path in second.glob("*/episodes.parquet"))
    assert runs
    for run in runs:
        tables = [pd.read_parquet(out / run / "episodes.parquet").drop(columns="seconds") for out in (first, second)]
        pd.testing.assert_frame_equal(*tables)
    weights = sorted(path.relative_to(first) for path in (first / "artefacts").glob("fit-*/weights.npy"))
    assert weights
    for path in weights:
        np.testing.assert_array_equal(np.load(first / path), np.load(second / path))
