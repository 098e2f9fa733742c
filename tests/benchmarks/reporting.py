"""Measured speed of a report of a whole study: 8 algorithms, 2 domains, 10 tasks, 5 seeds, 500 episodes.

    make benchmark          # or: python -m tests.benchmarks.reporting

800,000 rows in 80 run folders: the target tasks' and as many of meta-training. The target, on one core, is a report in
60 s. ``whole`` measures the command; ``parts`` its figures and tables one by one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from bench.reporting.figures import ALL_FIGURES
from bench.reporting.inputs import load_inputs
from bench.reporting.save import save_figure, save_table
from bench.reporting.tables import make_tables
from tests.benchmarks.measures import run_benchmarks
from tests.benchmarks.synthetic_rows import synthetic_rows
from tests.conftest import ROOT

ENVS = ("maze", "kitchen")
"""In place of the made-up domains, whose score ranges are theirs."""


def write_study(folder: Path) -> int:
    """``synthetic_rows`` as run folders, with as many rows of meta-training; returns the number of rows."""
    rows = synthetic_rows().replace({"env": {f"domain-{number}": env for number, env in enumerate(ENVS)}})
    rows["length"] = 100
    rows["env_steps"] = 100 * (rows["episode"] + 1)
    rows["seconds"] = rows["episode"] + 1.0
    rows["error"] = ""
    rows = rows.rename(columns={"label": "algo"})
    trained = rows.assign(stage="meta_train", phase="meta_train_prior")
    trained.loc[trained["episode"] % 2 == 1, "phase"] = "meta_train_posterior"
    for (run, algo, env, seed), part in rows.assign(stage="adapt").groupby(["run", "algo", "env", "seed"], sort=False):
        own = folder / str(run)
        own.mkdir(parents=True)
        both = [trained[trained["run"] == run], part]
        pd.concat(both).to_parquet(own / "episodes.parquet")
        record = {
            "run": run, "algo": algo, "env": env, "preset": "quick", "seed": int(seed), "status": "done",
            "overrides": {}, "device": "cpu", "threads": 1,
            "stages": [
                {"name": name, "seconds": 100.0, "done": True, "reused": False, "artefact": f"{name}-{run}"}
                for name in ("meta_train", "adapt")
            ],
        }  # fmt: skip
        (own / "run.json").write_text(json.dumps(record))
    return 2 * len(rows)


def whole() -> None:
    """``bench report``, from its start to its end."""
    with tempfile.TemporaryDirectory() as temporary:
        study, output = Path(temporary) / "runs", Path(temporary) / "report"
        rows = write_study(study)
        command = [sys.executable, "-m", "bench", "report", study, "-o", output]
        before, start = os.times(), time.perf_counter()
        subprocess.run(list(map(str, command)), cwd=ROOT, check=True)
        wall, after = time.perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        print(f"bench report of {rows:,} rows: {wall:.3g} s ({cpu:.3g} s of CPU time); load {os.getloadavg()[0]:.1f}")


def parts() -> None:
    """Everything but the summary and the page."""
    with tempfile.TemporaryDirectory() as temporary:
        study, output = Path(temporary) / "runs", Path(temporary) / "report"
        print(f"{write_study(study):,} rows in {len(list(study.iterdir()))} runs", flush=True)
        start = _now()
        inputs = load_inputs([study])
        _said("read", start)
        figures = 0
        for family in ALL_FIGURES:
            begun = _now()
            made = family(inputs).items
            computed = time.process_time() - begun[1]
            for figure in made:
                save_figure(figure.draw(), output / figure.name)
            figures += len(made)
            _said(f"{family.__name__}: {len(made)} figures, computing {computed:.3g} s of CPU time", begun)
        begun = _now()
        tables = make_tables(inputs).items
        for table in tables:
            save_table(table, output / table.name)
        _said(f"{len(tables)} tables", begun)
        _said(f"all: {figures} figures in three forms, {len(tables)} tables", start)


def _now() -> tuple[float, float]:
    """Wall time and CPU time of this process, in seconds."""
    return time.perf_counter(), time.process_time()


def _said(what: str, start: tuple[float, float]) -> None:
    wall, cpu = (after - before for after, before in zip(_now(), start, strict=True))
    print(f"{what}: {wall:.3g} s ({cpu:.3g} s of CPU time)", flush=True)


if __name__ == "__main__":
    run_benchmarks({"whole": whole, "parts": parts})
