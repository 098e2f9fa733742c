"""Budgets, scores on one scale, rliable beside ours: from runs made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rliable import metrics

from bench.reporting.inputs import load_inputs
from bench.reporting.model import Column, ReportTable
from bench.reporting.tables.across import across_tables
from bench.reporting.tables.budgets import aids_text, budget_tables
from bench.reporting.tables.rliable import rliable_tables
from bench.statistics import with_rliable
from bench.statistics.across import scale_of
from bench.statistics.with_rliable import agreement, rliable_aggregates, rliable_improvement
from tests.conftest import Bench
from tests.statistics_helpers import matrix, write_run


def stage(name: str, seconds: float, config: dict[str, Any], **metrics_of: Any) -> dict[str, Any]:
    return {
        "name": name, "artefact": f"{name}-1", "seconds": seconds, "done": True,
        "manifest": {"key": {"config": config}, "metrics": metrics_of},
    }  # fmt: skip


def write_budget(folder: Path) -> None:
    """Two target tasks of 30 episodes of 5 env_steps; two training tasks of 10 episodes of 7 before."""
    stages = [
        stage("data", 60.0, {}, transitions=5000),
        stage("meta_train", 120.0, {"batch_size": 32, "n_step": 10, "clip_targets": True}, updates=400),
        stage("adapt", 180.0, {"updates_per_episode": 4, "batch_size": 64, "n_step": 5, "rewarded_fraction": 0.0}),
    ]
    write_run(
        folder, [0.5, 0.25], 30, env="toy-line", stages=stages, threads=2, device="cpu", overrides={"adapt.x": "1"}
    )
    rows = pd.read_parquet(folder / "episodes.parquet").assign(stage="adapt")
    rows["env_steps"] = 5 * (rows["episode"] + 1)
    trained = rows[rows["episode"] < 10].assign(stage="meta_train", phase="meta_train_prior")
    trained["env_steps"] = 7 * (trained["episode"] + 1)
    pd.concat([trained, rows]).to_parquet(folder / "episodes.parquet")


def test_a_budget_is_counted_from_rows_and_configurations(tmp_path: Path) -> None:
    write_budget(tmp_path / "run")
    (table,) = budget_tables(load_inputs([tmp_path])).items
    assert table.name == "budgets-toy-line-quick"
    assert table.rows == (
        (
            "a --adapt.x 1", 5000, 140.0, 20.0, "400 x 32", 150.0, "4 x 64", 12.0,
            "n_step 10 and 5, clip_targets", "preset quick --adapt.x 1",
        ),
    )  # fmt: skip


def test_aids_are_those_that_are_on() -> None:
    assert aids_text({"adapt.n_step": 1, "adapt.clip_targets": False}) == "none"
    fields = {"adapt.actor_critic.zero_initial_values": True, "adapt.rewarded_fraction": 0.0625}
    assert aids_text(fields) == "rewarded_fraction 0.0625, zero_initial_values"


def test_scores_are_put_on_one_scale_by_what_the_prior_alone_earns(tmp_path: Path) -> None:
    for seed, prior in enumerate((0.1, 0.3)):
        skills = {**stage("skills", 1.0, {}, prior_rollout_mean_return=prior), "artefact": f"skills-{seed}"}
        write_run(tmp_path / f"s{seed}", [0.6, 0.6], 20, env="toy-line", seed=seed, stages=[skills])
        write_run(tmp_path / f"m{seed}", [0.5], 20, env="maze", seed=seed)
    (table,) = across_tables(load_inputs([tmp_path])).items
    # The mean of 0.1 and 0.3 is 0: 0.6 is half of the way to 1. The maze has no prior here: 0 is its lowest score.
    (row,) = table.rows
    assert row == ("a", pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.5), 2)
    assert "toy-line 0.20 (of 2 skill models)" in table.caption and "maze 0.00 (the lowest score)" in table.caption


def test_a_scale_counts_each_skill_model_once() -> None:
    shared = {"stages": [{**stage("skills", 1.0, {}, prior_rollout_mean_return=0.5), "artefact": "one"}]}
    scale = scale_of([shared, shared], (0.0, 4.0))
    assert scale is not None and (scale.zero, scale.one, scale.artefacts) == (0.5, 4.0, 1)
    assert scale.of(4.0) == 1.0 and scale.of(0.5) == 0.0
    assert scale_of([shared], None) is None


# -- rliable ----------------------------------------------------------------------------------------------------------


def test_rliables_points_are_ours_and_its_generator_is_put_back() -> None:
    scores = np.random.default_rng(0).random((4, 3))
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    found = rliable_aggregates({"a": matrix(4 * scores, (0.0, 4.0))}, 50)["a"]
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    assert found["iqm"].point == pytest.approx(metrics.aggregate_iqm(scores))
    assert found["optimality_gap"].point == pytest.approx(metrics.aggregate_optimality_gap(scores))
    assert found["mean"].low is not None and found["mean"].low < found["mean"].point
    both = agreement({"a": matrix(4 * scores, (0.0, 4.0))}, 200)
    assert both is not None and both.point < 1e-9 and both.widths is not None and both.widths > 1
    pair = rliable_improvement({"a": matrix(scores), "b": matrix(scores + 1)}, 20)["a", "b"]
    assert (pair.point, pair.low, pair.high) == (0.0, 0.0, 0.0)


def two_algorithms(folder: Path) -> None:
    for seed in range(3):
        for algo, level in (("a", 0.8), ("b", 0.4)):
            scores = [level + 0.05 * seed, level]
            write_run(folder / f"{algo}{seed}", scores, 40, algo=algo, env="toy-line", seed=seed)


def test_compare_and_report_by_rliable(tmp_path: Path, bench: Bench) -> None:
    two_algorithms(tmp_path / "runs")
    plain = bench("compare", "a", "b", "--results", tmp_path / "runs")
    outcome = bench("compare", "a", "b", "--results", tmp_path / "runs", "--method", "rliable")
    assert outcome.code == 0 and "By rliable, episodes 20-40" in outcome.out and "P(a > b): 1.00" in outcome.out
    assert next(line for line in plain.out.splitlines() if ": a is" in line) in outcome.out  # the same verdict
    assert bench("report", tmp_path / "runs", "-o", tmp_path / "report", "--method", "rliable").code == 0
    names = {path.stem for path in (tmp_path / "report" / "figures").iterdir()}
    expected = {f"rliable-{what}-toy-line-quick" for what in ("intervals", "profiles", "improvement", "efficiency")}
    assert expected <= names and "profiles-toy-line-quick" not in names


def test_without_rliable_all_else_works_and_says_so_in_a_line(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rliable.library", None)  # its import fails
    with_rliable.why_unavailable.cache_clear()
    try:
        two_algorithms(tmp_path / "runs")
        assert bench("compare", "a", "b", "--results", tmp_path / "runs").code == 0
        refused = bench("compare", "a", "b", "--results", tmp_path / "runs", "--method", "rliable")
        assert refused.code == 2 and refused.err.startswith("bench: --method rliable: rliable cannot be imported")
        made = rliable_tables(load_inputs([tmp_path / "runs"]))
        assert made.items == () and made.missing[0].startswith("comparison with rliable: rliable cannot be imported")
    finally:
        with_rliable.why_unavailable.cache_clear()


def test_a_page_shows_a_number_and_its_interval_in_one_column() -> None:
    columns = (Column("x"), *(Column(name, decimals=1) for name in ("m", "m, low", "m, high", "n")))
    table = ReportTable("t", "T", "", columns, (("a", 1.0, 0.5, 1.5, 3), ("b", 2.0, None, None, 1)))
    compact = table.compact()
    assert [column.heading for column in compact.columns] == ["x", "m", "n"]
    assert compact.texts() == [["a", "1.0 [0.5, 1.5]", "3.0"], ["b", "2.0", "1.0"]]
