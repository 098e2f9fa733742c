"""PEARL on its own toy: shipped runs show what they must, the page states their numbers, and training shows it again.

Rakelly et al. 2019, section 6.3: a point robot, goals on a half circle, two exploration episodes by posterior sampling.
What adaptation is worth is told as the part of the way from the first episode's return to the best possible one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.results import learning_curve, read_run
from bench.statistics.episodes import run_label
from envs.registry import task_distribution
from envs.validation.point_robot import PROBLEMS
from envs.validation.point_world import best_returns, goals_of
from tests.conftest import ROOT, Bench

SHIPPED = ROOT / "results" / "validation"
ATTENTION = ("--meta_train.encoder", "set_transformer")
EXPLORATION = 2


@dataclass(frozen=True)
class Shown:
    """Of one run, means over the 20 target goals."""

    label: str
    env: str
    seed: int
    epochs: int
    """Of meta-training."""
    best: float
    """Going straight to the goal."""
    first: float
    """The first episode, with e ~ p(e)."""
    second: float
    """The second, with e ~ q(e given the first)."""
    adapted: float
    """All later ones, with e* given both."""

    @property
    def way(self) -> float:
        """How much of the way from the first return to the best one: 0 to 1."""
        return (self.adapted - self.first) / (self.best - self.first)


def shown_by(run: Path) -> Shown:
    record, table = read_run(run)
    curve = learning_curve(table).to_numpy()
    (epochs,) = re.findall(r"^  epochs: (\d+)$", (run / "config.yaml").read_text(), flags=re.MULTILINE)
    goals = goals_of(task_distribution(record["env"]).target_tasks)
    best = float(best_returns(PROBLEMS[record["env"]], goals).mean())
    first, second, adapted = float(curve[0]), float(curve[1]), float(curve[EXPLORATION:].mean())
    return Shown(run_label(record), record["env"], record["seed"], int(epochs), best, first, second, adapted)


def encoder_of(shown: Shown) -> str:
    return "Set Transformer" if ATTENTION[1] in shown.label else "product of Gaussians"


def assert_adapts(shown: Shown) -> None:
    """What the runs must show: dense, most of the way; sparse, more with each exploration episode."""
    assert shown.first < shown.adapted <= shown.best
    if shown.env == "point-robot":
        assert shown.way >= 0.65, shown
    else:
        assert shown.first < shown.second < shown.adapted, shown


def table_row(shown: Shown) -> str:
    """As the page has it."""
    numbers = [f"{value:.2f}" for value in (shown.best, shown.first, shown.second, shown.adapted)]
    cells = [f"`{shown.env}`", encoder_of(shown), str(shown.epochs), str(shown.seed), *numbers]
    return f"| {' | '.join([*cells, f'{100 * shown.way:.0f} %'])} |"


def shipped_runs() -> list[Path]:
    return sorted(path.parent for path in SHIPPED.rglob("pearl-*/run.json"))


@pytest.mark.parametrize("run", shipped_runs(), ids=lambda run: run.name)
def test_a_shipped_run_adapts(run: Path) -> None:
    assert_adapts(shown_by(run))


def test_both_encoders_and_both_rewards_are_shipped() -> None:
    found = {(shown.env, encoder_of(shown)) for shown in map(shown_by, shipped_runs())}
    assert {env for env, _ in found} == set(PROBLEMS)
    assert {encoder for env, encoder in found if env == "point-robot"} == {"product of Gaussians", "Set Transformer"}


def test_the_page_states_what_the_rows_say() -> None:
    page = (SHIPPED / "README.md").read_text()
    shown = sorted(map(shown_by, shipped_runs()), key=lambda s: (s.env, s.label, s.seed))
    lines = re.findall(r"^\| `point-robot.*\|$", page, flags=re.MULTILINE)
    assert lines == [table_row(one) for one in shown]


def test_shipped_runs_are_of_the_presets_as_they_are() -> None:
    """Nothing is overridden but the encoder, and with it the number of epochs; every run is finished."""
    for run in shipped_runs():
        record = json.loads((run / "run.json").read_text())
        assert record["status"] == "done"
        assert record["preset"] == "quick"
        changed = record["overrides"]
        assert not changed or set(changed) <= {"meta_train.encoder", "meta_train.epochs"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("env", "arguments"),
    [("point-robot", ()), ("point-robot", ATTENTION), ("point-robot-sparse", ())],
    ids=["dense, product of Gaussians", "dense, Set Transformer", "sparse, product of Gaussians"],
)
def test_trained_anew_it_adapts(env: str, arguments: tuple[str, ...], bench: Bench, tmp_path: Path) -> None:
    outcome = bench("run", "--algo", "pearl", "--env", env, "--preset", "quick", *arguments, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    (run,) = (path for path in tmp_path.glob("pearl-*") if path.is_dir())
    assert_adapts(shown_by(run))
    table = pd.read_parquet(run / "episodes.parquet")
    lengths = table.loc[table["phase"].isin(("explore", "adapt")), "length"]
    assert np.unique(lengths).tolist() == [20]
