"""Episode rows -> returns -> scores: grouping, exclusions, gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.errors import UserError
from bench.loading import Excluded
from bench.results import run_label
from bench.statistics.episodes import load_episodes
from bench.statistics.scores import window_scores
from tests.conftest import ROOT
from tests.statistics_helpers import NAN, group_episodes, matrix, returns, run_rows, write_run


def test_rows_become_returns_by_seed_task_and_episode() -> None:
    rows = pd.concat([run_rows([0.25, 1.0], 2, run="r1", seed=1), run_rows([0.0, 0.5], 3, run="r0")])
    (group,) = group_episodes(rows.sort_values("episode", kind="stable")).groups
    assert (group.seeds, group.tasks, group.task_names) == ((0, 1), (0, 1), ("task-0", "task-1"))
    np.testing.assert_array_equal(group.returns, [[[0, 0, 0], [0.5] * 3], [[0.25, 0.25, NAN], [1, 1, NAN]]])
    assert group.runs == ("r0", "r1")


def test_algorithms_environments_and_presets_are_kept_apart() -> None:
    rows = [
        run_rows([0.5], run=f"{env}-{label}-{preset}", env=env, label=label, preset=preset)
        for env in ("e", "f") for label in ("a", "b") for preset in ("quick", "paper")
    ]  # fmt: skip
    groups = group_episodes(pd.concat(rows)).groups
    assert [(group.env, group.label, group.preset) for group in groups] == [
        (env, label, preset) for env in ("e", "f") for label in ("a", "b") for preset in ("paper", "quick")
    ]


def test_other_phases_are_not_scores() -> None:
    rows = pd.concat(
        [run_rows([0.5]), run_rows([0.0], phase="meta_train_prior"), run_rows([1.0], phase="explore", seed=1, run="s")]
    )
    loaded = group_episodes(rows)
    assert loaded.excluded == ()
    assert loaded.groups[0].returns[:, 0, 0].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_run_with_a_return_that_is_no_number_is_excluded_whole_and_named(value: float) -> None:
    bad = run_rows([0.5, 0.5], run="bad", seed=1)
    bad.loc[25:27, "return"] = value
    loaded = group_episodes(pd.concat([run_rows([0.5, 0.5], run="good"), bad], ignore_index=True))
    assert loaded.groups[0].seeds == (0,)
    reason = "3 returns are not finite, the first in task task-1, episode 5"
    assert loaded.excluded == (Excluded("bad", reason),)


def test_a_run_with_a_failed_stage_is_excluded_whole() -> None:
    failure = run_rows([NAN], 1, run="bad", seed=1, phase="", status="failed")
    loaded = group_episodes(pd.concat([run_rows([0.5]), run_rows([0.5], run="bad", seed=1), failure]))
    assert loaded.groups[0].seeds == (0,)
    assert loaded.excluded == (Excluded("bad", "a stage failed"),)


def test_a_run_without_target_task_episodes_is_named(tmp_path: Path) -> None:
    loaded = group_episodes(pd.concat([run_rows([0.5]), run_rows([0.5], run="idle", phase="meta_train_prior")]))
    assert loaded.excluded == (Excluded("idle", "no episode of a target task"),)
    write_run(tmp_path / "empty", [0.5])
    pd.read_parquet(tmp_path / "empty" / "episodes.parquet").head(0).to_parquet(tmp_path / "empty" / "episodes.parquet")
    assert load_episodes([tmp_path]).excluded == (Excluded(str(tmp_path / "empty"), "no episode of a target task"),)


def test_two_copies_of_a_run_count_once() -> None:
    loaded = group_episodes(pd.concat([run_rows([0.5], run="runs/x"), run_rows([0.5], run="results/x")]))
    assert loaded.groups[0].returns.shape == (1, 1, 20)
    assert loaded.excluded == (Excluded("runs/x", "repeats seed 0 of results/x"),)


def test_runs_of_one_seed_on_different_tasks_are_one_seed() -> None:
    other = run_rows([0.5, 0.75], run="s").query("task == 1")
    (group,) = group_episodes(pd.concat([run_rows([0.25], run="r"), other])).groups
    np.testing.assert_array_equal(group.returns[:, :, 0], [[0.25, 0.75]])


def test_overrides_and_data_set_a_run_apart() -> None:
    record = {"algo": "a", "overrides": {"x.n": "2", "adapt.m": "1"}, "data": "human"}
    assert run_label(record) == "a --adapt.m 1 --x.n 2 --data human"
    assert run_label({"algo": "a"}) == "a"


def test_runs_that_did_not_end_well_are_named_with_their_reason(tmp_path: Path) -> None:
    write_run(tmp_path / "good", [0.5])
    write_run(tmp_path / "failed", [0.5], seed=1, status="failed", error="ArithmeticError: told to\nTraceback")
    write_run(tmp_path / "going", [0.5], seed=2, status="running")
    (tmp_path / "going" / "episodes.parquet").unlink()
    write_run(tmp_path / "broken", [0.5], seed=3)
    (tmp_path / "broken" / "episodes.parquet").write_bytes(b"PAR1 not really")
    loaded = load_episodes([tmp_path])
    assert [group.seeds for group in loaded.groups] == [(0,)]
    reasons = {Path(run.run).name: run.reason for run in loaded.excluded}
    assert reasons["failed"] == "failed: ArithmeticError: told to"
    assert reasons["going"] == "running"
    assert "cannot be read" in reasons["broken"]
    assert len(reasons) == 3


def test_folders_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        load_episodes([tmp_path / "none"])
    with pytest.raises(UserError, match=r"no run \(a folder with run.json\)"):
        load_episodes([tmp_path])


def test_the_shipped_runs_give_the_shipped_summary() -> None:
    loaded = load_episodes([ROOT / "results" / "runs"])
    assert loaded.excluded == ()
    summary = pd.read_csv(ROOT / "results" / "summary.csv", keep_default_na=False)
    summary["label"] = (summary["algo"] + " " + summary["changes"]).str.rstrip()
    for group in loaded.groups:
        own = summary.query("env == @group.env and label == @group.label and preset == @group.preset")
        assert len(own)
        for window, part in own.groupby("window"):
            start, stop = map(int, str(window).split("-"))
            scores = window_scores(group, start, stop)
            assert scores.seeds == tuple(part["seed"])
            np.testing.assert_allclose(scores.values.mean(axis=1), part["mean_score"], atol=5e-5)


def test_the_score_range_is_the_task_distributions() -> None:
    (group,) = group_episodes(run_rows([0.5], env="toy-line")).groups
    assert group.score_range == (0.0, 1.0)
    (unknown,) = group_episodes(run_rows([0.5], env="from-elsewhere")).groups
    assert unknown.score_range is None
    with pytest.raises(ValueError, match="score range"):
        window_scores(unknown, 0, 20).normalised()


# -- scores -----------------------------------------------------------------------------------------------------------


def test_a_window_is_half_open() -> None:
    values = np.arange(6.0).reshape(1, 1, 6)
    assert window_scores(returns(values), 1, 3).values.tolist() == [[1.5]]


def test_a_task_that_has_not_completed_the_window_has_no_score_and_is_shown() -> None:
    values = np.ones((2, 3, 6))
    values[1, 2, 5] = NAN
    scores = window_scores(returns(values), 0, 6)
    np.testing.assert_array_equal(scores.values, [[1, 1, 1], [1, 1, NAN]])
    assert scores.gaps() == ("seed 1 has no score on task 2",)
    assert (scores.complete, scores.n_seeds, scores.n_tasks) == (False, 2, 3)


def test_runs_and_tasks_without_any_score_are_dropped() -> None:
    values = np.ones((3, 2, 6))
    values[1, :, 3:] = NAN
    values[:, 0, 4:] = NAN
    scores = window_scores(returns(values), 2, 6)
    assert (scores.seeds, scores.tasks, scores.values.tolist()) == ((0, 2), (1,), [[1.0], [1.0]])


def test_a_window_beyond_the_last_episode_has_no_scores() -> None:
    scores = window_scores(returns(np.ones((2, 2, 6))), 4, 8)
    assert scores.values.shape == (0, 0)
    with pytest.raises(ValueError, match="0 <= start < stop, got 3-3"):
        window_scores(returns(np.ones((1, 1, 6))), 3, 3)


def test_scores_are_normalised_by_the_score_range() -> None:
    assert matrix([[0.0, 1.0], [2.0, 4.0]], (0.0, 4.0)).normalised().values.tolist() == [[0, 0.25], [0.5, 1]]
    assert matrix([[-1.0], [3.0]], (-1.0, 3.0)).normalised().values.tolist() == [[0], [1]]


def test_scores_of_the_wrong_shape_or_with_infinities_are_refused() -> None:
    with pytest.raises(ValueError, match="infinities"):
        matrix([[float("inf")]])
    with pytest.raises(ValueError, match=r"shape \(1, 1, 1\)"):
        type(matrix([[1.0]]))(np.ones((1, 1, 1)), (0,), (0,))
