"""SAC's validation: Pendulum-v1, three seeds of 10,000 env_steps, ours beside tianshou's. Shipped rows, and fresh ones.

Axes: S seed, E episode.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tests.conftest import ROOT, Bench

ALGORITHMS, SEEDS, EPISODES, LAST, SOLVED = ("sac", "sac-tianshou"), (0, 1, 2), 50, 10, -200.0
SHIPPED = ROOT / "results" / "validation"


def returns(runs: Path, algo: str) -> NDArray[np.float64]:
    """(S, E) of the runs in a folder; each has taken exactly 10,000 env_steps."""
    rows = []
    for seed in SEEDS:
        table = pd.read_parquet(runs / f"{algo}-pendulum-quick-s{seed}" / "episodes.parquet").sort_values("episode")
        assert list(table["status"].unique()) == ["ok"]
        assert table["env_steps"].iloc[-1] == 10_000
        rows.append(table["return"].to_numpy())
    curves = np.stack(rows)
    assert curves.shape == (len(SEEDS), EPISODES)
    return curves


def last_mean(curves: NDArray[np.float64]) -> float:
    return float(curves[:, -LAST:].mean())


def windows(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of every ten episodes: (S, 5)."""
    return curves.reshape(len(SEEDS), -1, LAST).mean(-1)


def bands_overlap(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Of each column, whether lowest to highest seed of one meets that of the other."""
    lower, upper = np.maximum(ours.min(0), theirs.min(0)), np.minimum(ours.max(0), theirs.max(0))
    return np.asarray(lower <= upper)


def assert_validated(runs: Path) -> None:
    """The last ten episodes earn -200 or more; over all episodes, and over the last ten, the bands overlap.

    Of the five bands of ten episodes one may lie apart: two times three seeds that are alike in distribution do so in
    one of ten cases, so in two of five windows with probability 0.08.
    """
    curves = {algo: returns(runs, algo) for algo in ALGORITHMS}
    for algo, of_algo in curves.items():
        assert last_mean(of_algo) >= SOLVED, f"{algo}: {last_mean(of_algo):.1f}"
    ours, theirs = (windows(of_algo) for of_algo in curves.values())
    shown = f"{ours.round().tolist()} against {theirs.round().tolist()}"
    assert bands_overlap(ours.mean(1, keepdims=True), theirs.mean(1, keepdims=True)).all(), shown
    overlap = bands_overlap(ours, theirs)
    assert overlap[-1], shown
    assert overlap.sum() >= 4, shown


def test_both_learn_the_pendulum_alike_by_the_shipped_rows() -> None:
    assert_validated(SHIPPED)


def test_the_pages_numbers_are_those_of_the_shipped_rows() -> None:
    page = (SHIPPED / "README.md").read_text()
    for algo in ALGORITHMS:
        curves = returns(SHIPPED, algo)
        last_ten = [float(seed.mean()) for seed in curves[:, -LAST:]] + [last_mean(curves)]
        cells = " | ".join(f"{mean:.1f}" for mean in last_ten)
        assert f"| `{algo}` | {cells} |" in page


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_both_learn_the_pendulum_alike_when_trained_anew(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("tianshou")
    for algo in ALGORITHMS:
        for seed in SEEDS:
            outcome = bench(
                "run", "--algo", algo, "--env", "pendulum", "--preset", "quick", "--seed", seed, "--out", tmp_path
            )
            assert outcome.code == 0, outcome.err
    assert_validated(tmp_path)
