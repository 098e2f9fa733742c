"""The study of a tuning: what it proposes, what it gives up, and that neither a kill nor a second call changes it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from algorithms.stage import Between, OneOf
from bench.errors import UserError
from bench.tune_study import (
    CHECKPOINTS,
    DONE,
    FAILED,
    GIVEN_UP,
    RANDOM_TRIALS,
    Outcome,
    TrialRecord,
    TuningStudy,
    cut_last_line,
    mean_returns,
)

SPACE = {"a.rate": Between(1e-4, 1e-2, log=True), "a.count": Between(1, 20, log=True), "a.kind": OneOf(("x", "y"))}
PRESET = {"a.rate": 1e-3, "a.count": 10, "a.kind": "x"}


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna syncs every line; here that would be all the time, and no power fails."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def study(folder: Path, seed: int = 0, space: Mapping[str, Any] = SPACE) -> TuningStudy:
    return TuningStudy(folder / "study.journal", space, {name: PRESET[name] for name in space}, ("algo", "env"), seed)


def good(values: Mapping[str, Any]) -> float:
    """Highest at a rate of 3e-3, and better with y."""
    return -((math.log10(values["a.rate"] / 3e-3)) ** 2) + 0.1 * (values["a.kind"] == "y")


def run(tuning: TuningStudy, trials: int, parallel: int = 1, score: Callable[..., float] = good) -> list[TrialRecord]:
    target, _ = tuning.begin_call(trials)
    while open_trials := tuning.open_trials(parallel, target):
        assert len(open_trials) <= parallel
        tuning.end({trial.number: Outcome(DONE, score(trial.values), 100) for trial in open_trials})
    tuning.end_call()
    return tuning.trials


def rows(returns: Mapping[int, list[float]], phase: str = "adapt") -> pd.DataFrame:
    """Of tasks, each with its returns by episode."""
    made = [(phase, task, e, value, "ok", 1.0 * e) for task, own in returns.items() for e, value in enumerate(own)]
    return pd.DataFrame(made, columns=["phase", "task", "episode", "return", "status", "seconds"])


def test_the_first_trial_is_the_preset_and_all_are_within_the_ranges(tmp_path: Path) -> None:
    trials = run(study(tmp_path), 12)
    assert trials[0].values == PRESET
    assert [trial.number for trial in trials] == list(range(12))
    for trial in trials:
        assert 1e-4 <= trial.values["a.rate"] <= 1e-2 and trial.values["a.kind"] in ("x", "y")
        assert isinstance(trial.values["a.count"], int) and 1 <= trial.values["a.count"] <= 20
        assert trial.values["a.rate"] == float(f"{trial.values['a.rate']:.3g}"), "three digits are enough for people"
    assert len({trial.values["a.rate"] for trial in trials}) == 12


def test_a_trial_is_a_function_of_the_seed_and_the_results_before_it(tmp_path: Path) -> None:
    first = [trial.values for trial in run(study(tmp_path / "a"), 12)]
    assert [trial.values for trial in run(study(tmp_path / "b"), 12)] == first
    assert [trial.values for trial in run(study(tmp_path / "c", seed=1), 12)][1:] != first[1:]
    # Random ones know no results; those proposed do.
    other = [trial.values for trial in run(study(tmp_path / "d"), 12, score=lambda values: -good(values))]
    assert other[:RANDOM_TRIALS] == first[:RANDOM_TRIALS] and other != first


def test_it_finds_what_is_better_than_chance(tmp_path: Path) -> None:
    """Proposed trials are nearer to the optimum than random ones, over a few seeds."""
    drawn, proposed = [], []
    for seed in range(3):
        scores = [good(trial.values) for trial in run(study(tmp_path / str(seed), seed), 26)]
        drawn += scores[1:RANDOM_TRIALS]
        proposed += scores[-10:]
    assert sum(proposed) / len(proposed) > sum(drawn) / len(drawn) + 0.2


@pytest.mark.parametrize("calls", [(6, 6), (1, 4, 7), (12,)])
def test_calls_add_trials_as_if_they_had_been_one(tmp_path: Path, calls: tuple[int, ...]) -> None:
    for trials in calls:
        run(study(tmp_path / "calls"), trials)  # opened anew each time, as by another process
    assert study(tmp_path / "calls").trials == run(study(tmp_path / "whole"), 12)


def test_an_interrupted_call_is_finished_and_only_then_added_to(tmp_path: Path) -> None:
    tuning = study(tmp_path)
    assert tuning.begin_call(4) == (4, False)
    for _ in range(2):
        (trial,) = tuning.open_trials(1, 4)
        tuning.end({trial.number: Outcome(DONE, 0.0, 10)})
    (under_way,) = tuning.open_trials(1, 4)
    again = study(tmp_path)  # its process was killed
    assert again.begin_call(4) == (4, True)
    (taken_up,) = again.open_trials(1, 4)
    assert taken_up == under_way
    again.end({taken_up.number: Outcome(DONE, 0.0, 10)})
    assert len(run(again, 4)) == 4, "finished, not added to"
    assert len(run(study(tmp_path), 4)) == 8


def test_whatever_the_journal_was_cut_off_at_the_trials_are_the_same(tmp_path: Path) -> None:
    """A kill leaves any part of the journal, and maybe half a line: going on ends where it would have ended."""
    whole = run(study(tmp_path / "whole"), 8)
    journal = (tmp_path / "whole" / "study.journal").read_bytes()
    ends = [index + 1 for index, byte in enumerate(journal) if byte == ord("\n")]
    assert len(ends) > 40
    for place, cut in enumerate(range(2, len(ends) - 1, 5)):  # at each kind of line: what a trial takes are nine
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "study.journal").write_bytes(journal[: ends[cut] + 5 * (place % 2)])
        assert run(study(folder), 8) == whole


def test_trials_of_a_round_are_proposed_together(tmp_path: Path) -> None:
    target = 8
    tuning = study(tmp_path)
    tuning.begin_call(target)
    rounds = []
    while open_trials := tuning.open_trials(3, target):
        rounds.append([trial.number for trial in open_trials])
        taken_up = study(tmp_path)  # a process that died in the middle of the round
        assert taken_up.open_trials(3, target) == open_trials
        taken_up.end({trial.number: Outcome(DONE, good(trial.values), 10) for trial in open_trials})
        tuning = study(tmp_path)
    assert rounds == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert len({str(trial.values) for trial in tuning.trials}) == 8


def test_a_round_of_which_only_a_part_was_told_is_told_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = study(tmp_path)
    tuning.begin_call(2)
    opened = tuning.open_trials(2, 2)

    def die(number: int, outcome: Outcome) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_tell", die)
    with pytest.raises(KeyboardInterrupt):
        tuning.end({trial.number: Outcome(DONE, 0.25 * trial.number, 10) for trial in opened})
    again = study(tmp_path)
    assert [trial.outcome for trial in again.finished] == [Outcome(DONE, 0.0, 10), Outcome(DONE, 0.25, 10)]


def test_a_trial_below_the_median_is_given_up_at_the_first_checkpoint_that_says_so(tmp_path: Path) -> None:
    tuning = study(tmp_path)
    tuning.begin_call(9)
    curves = [[0.5] * 100, [0.6] * 100, [0.3] * 100, [0.4] * 100]
    for curve in curves:
        (trial,) = tuning.open_trials(1, 9)
        # None is given up while fewer than four are complete, nor the fourth, which is the fourth then.
        assert tuning.look(trial.number, rows({0: curve}), 1) is None
        tuning.end({trial.number: Outcome(DONE, curve[0], 100)})
    (trial,) = tuning.open_trials(1, 9)
    # The median at every checkpoint is 0.45. Early on nothing is given up; at 40 the mean so far is 0.3.
    slow = [0.5] * 20 + [0.1] * 80
    assert tuning.look(trial.number, rows({0: slow[:39]}), 1) is None
    ended = tuning.look(trial.number, rows({0: slow[:79]}), 1)
    assert ended is None, "the best of its means so far, 0.5 after 20 episodes, is above the median"
    low = [0.9] * 3 + [0.0] * 97
    tuning.end({trial.number: Outcome(DONE, 0.18, 100)})
    (trial,) = tuning.open_trials(1, 9)
    assert tuning.look(trial.number, rows({0: low[:19]}), 1) is None
    never = [0.1] * 100
    tuning.end({trial.number: Outcome(FAILED, reason="chance")})
    (trial,) = tuning.open_trials(1, 9)
    assert tuning.look(trial.number, rows({0: never[:19]}), 1) is None
    given_up = tuning.look(trial.number, rows({0: never[:25]}), 1)
    assert given_up == Outcome(GIVEN_UP, pytest.approx(0.1), 20)
    tuning.end({trial.number: given_up})
    assert tuning.best is not None and tuning.best.number == 1


def test_when_a_trial_is_looked_at_does_not_matter(tmp_path: Path) -> None:
    """Given up in its middle, or found out at its end: the same outcome."""
    curve = [0.1] * 100
    outcomes = []
    for name, lengths in (("often", range(1, 101)), ("once", [100]), ("twice", [50, 100])):
        tuning = study(tmp_path / name)
        tuning.begin_call(5)
        for value in (0.5, 0.6, 0.7, 0.8):
            (trial,) = tuning.open_trials(1, 5)
            tuning.look(trial.number, rows({0: [value] * 100}), 1)
            tuning.end({trial.number: Outcome(DONE, value, 100)})
        (trial,) = tuning.open_trials(1, 5)
        found = (tuning.look(trial.number, rows({0: curve[:length]}), 1) for length in lengths)
        outcomes.append(next(outcome for outcome in found if outcome is not None))
    assert outcomes == [Outcome(GIVEN_UP, pytest.approx(0.1), 20)] * 3


def test_episodes_count_when_all_tasks_have_completed_them() -> None:
    table = rows({0: [1.0, 0.0, 1.0], 3: [0.0, 0.0]})
    assert mean_returns(table, 2).tolist() == [0.5, 0.0]
    assert mean_returns(table, 3).tolist() == []  # one of three tasks has not begun
    assert mean_returns(rows({0: [1.0]}, phase="meta_train_prior"), 1).tolist() == []
    explored = pd.concat([rows({0: [1.0, 1.0]}, phase="explore"), rows({0: [0.0] * 3}).query("episode >= 2")])
    assert mean_returns(explored, 1).tolist() == [1.0, 1.0, 0.0]
    assert CHECKPOINTS[:4] == (5, 10, 20, 40)


def test_failed_trials_are_kept_and_proposed_around(tmp_path: Path) -> None:
    tuning = study(tmp_path)
    tuning.begin_call(3)
    for outcome in (Outcome(FAILED, reason="it broke"), Outcome(DONE, 0.5, 10), Outcome(FAILED, reason="again")):
        (trial,) = tuning.open_trials(1, 3)
        tuning.end({trial.number: outcome})
    assert [trial.outcome.reason for trial in tuning.finished if trial.outcome] == ["it broke", "", "again"]
    assert tuning.best is not None and tuning.best.number == 1
    assert len(run(study(tmp_path), 3)) == 3, "the call that was begun is complete"


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    run(study(tmp_path), 2)
    path = tmp_path / "study.journal"
    path.write_bytes(b"{broken\n" + path.read_bytes())
    with pytest.raises(UserError, match=r"study.journal is damaged \(.*\); remove its folder to tune anew"):
        study(tmp_path)


def test_only_a_line_without_an_end_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    cut_last_line(path)
    for content, kept in ((b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"a", b""), (b"", b"")):
        path.write_bytes(content)
        cut_last_line(path)
        assert path.read_bytes() == kept
