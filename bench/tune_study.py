"""What ``bench tune`` tries next and what it gives up: an Optuna study, kept in a journal that any crash leaves whole.

The first trial is the preset as it is; the next few are drawn at random; from then on a Tree-structured Parzen
Estimator (Bergstra et al. 2011) proposes. Trial k is a function of the seed, of k and of the results known when it is
asked for, and of nothing else: its proposal is made by a sampler of its own seed, on a copy of the study in memory, and
is written down whole before anything is run.

After each of ``CHECKPOINTS`` episodes a trial's mean return so far is noted. It is given up when the best of these is
below the median of what completed trials had after as many episodes (Golovin et al. 2017, "Google Vizier").
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from algorithms.stage import Between, SearchRange
from bench.errors import UserError
from bench.files import storage_errors
from bench.rows import TARGET_PHASES
from envs.randomness import key_to_integer

CHECKPOINTS = tuple(5 * 2**doubling for doubling in range(20))
"""Episodes of each task after which a trial is looked at: 5, 10, 20, 40, ..."""
FIRST_GIVEN_UP = 20
"""Episodes before which no trial is given up: the paper's exploration, which no field of ``adapt`` changes much."""
RANDOM_TRIALS = 6
"""Drawn at random before there is enough to propose from; the preset itself is one of them."""
TRIALS_TO_COMPARE_WITH = 4
"""Completed trials that there must be before one is given up."""

DONE, GIVEN_UP, FAILED = "done", "given up", "failed"
_STATES = {DONE: TrialState.COMPLETE, GIVEN_UP: TrialState.PRUNED, FAILED: TrialState.FAIL}
_OUTCOME, _BEFORE_CALL = "outcome", "finished_before_this_call"
_STUDY = "tune"

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: str
    """``done``, ``given up`` or ``failed``."""
    score: float | None = None
    """Mean return of its training episodes, over tasks and episodes; None of a failed trial."""
    episodes: int = 0
    """Of each task, over which the score is."""
    seconds: float = 0.0
    """Wall time of what the trial had for itself."""
    reason: str = ""
    """Why it failed, one line."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial: what it tried, and what came of it."""

    number: int
    values: Mapping[str, Any]
    """``stage.field`` -> value."""
    outcome: Outcome | None
    """None while it is open."""


class _NoLock:
    """Nobody else writes the journal: whoever tunes holds the lock of the sweep."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...


class TuningStudy:
    """The trials of one tuning. To be used by one process at a time."""

    def __init__(
        self, journal: Path, space: Mapping[str, SearchRange], preset: Mapping[str, Any], key: Sequence[str], seed: int
    ) -> None:
        """``space`` and ``preset``: ranges and the preset's values, by field; ``key`` and ``seed`` fix what is random.

        Raises ``StorageError`` when the journal cannot be written, ``UserError`` when it is damaged.
        """
        self._preset, self._key, self._seed = dict(preset), tuple(key), seed
        self._distributions = {name: _distribution(space[name], preset[name]) for name in space}
        with storage_errors(f"write {journal}"):
            journal.parent.mkdir(parents=True, exist_ok=True)
            cut_last_line(journal)
            backend = JournalFileBackend(str(journal), _NoLock())  # type: ignore[arg-type]  # its base is private
        pruner = optuna.pruners.MedianPruner(n_startup_trials=TRIALS_TO_COMPARE_WITH, n_warmup_steps=FIRST_GIVEN_UP)
        try:
            self._study = optuna.create_study(
                storage=JournalStorage(backend), study_name=_STUDY, direction="maximize", pruner=pruner,
                sampler=self._sampler(0), load_if_exists=True,
            )  # fmt: skip
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{journal} is damaged ({error}); remove its folder to tune anew: no run is lost"
            ) from error
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and _OUTCOME in trial.user_attrs:
                self._tell(trial.number, Outcome(**trial.user_attrs[_OUTCOME]))

    # -- which trials there are --------------------------------------------------------------------

    @property
    def trials(self) -> list[TrialRecord]:
        """All trials in order, open ones among them."""
        return [_record(trial) for trial in self._study.get_trials(deepcopy=False)]

    @property
    def finished(self) -> list[TrialRecord]:
        """Trials that have ended, whichever way."""
        return [trial for trial in self.trials if trial.outcome is not None]

    @property
    def best(self) -> TrialRecord | None:
        """The completed trial with the highest score, the first of equals."""
        done = [trial for trial in self.finished if trial.outcome is not None and trial.outcome.state == DONE]
        return max(done, key=lambda trial: (trial.outcome.score, -trial.number), default=None)  # type: ignore[union-attr]

    def begin_call(self, trials: int) -> tuple[int, bool]:
        """How many trials there shall be at the end of a call that asks for ``trials``, and whether it goes on with one
        that was interrupted: its trials are not asked for again."""
        before = self._study.user_attrs.get(_BEFORE_CALL)
        if before is None:
            self._study.set_user_attr(_BEFORE_CALL, len(self.finished))
            return len(self.finished) + trials, False
        return int(before) + trials, True

    def end_call(self) -> None:
        """The trials that were asked for are there: the next call adds to them."""
        self._study.set_user_attr(_BEFORE_CALL, None)

    # -- asking and telling ------------------------------------------------------------------------

    def open_trials(self, up_to: int, target: int) -> list[TrialRecord]:
        """The next trials to run: those that are open, and new ones until there are ``up_to`` of them, or ``target`` in
        all. All of them are proposed from the trials that have ended."""
        known = self._study.get_trials(deepcopy=False)
        is_open = (TrialState.RUNNING, TrialState.WAITING)
        count = max(sum(trial.state in is_open for trial in known), min(up_to, target - len(self.finished)))
        ended = [trial for trial in known if trial.state not in is_open]
        for number in range(len(known), len(ended) + count):
            self._study.enqueue_trial(self._proposal(number, ended))
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING:
                self._study.ask(self._distributions)
            elif trial.state == TrialState.RUNNING and trial.params.keys() != self._distributions.keys():
                taken_up = Trial(self._study, trial._trial_id)  # a process died while it wrote down the values
                for name, distribution in self._distributions.items():
                    _suggest(taken_up, name, distribution)
        return [trial for trial in self.trials if trial.outcome is None]

    def _proposal(self, number: int, ended: Sequence[FrozenTrial]) -> dict[str, Any]:
        if number == 0:
            return dict(self._preset)
        memory = optuna.create_study(direction="maximize", sampler=self._sampler(number))
        memory.add_trials(ended)
        proposed = memory.ask(self._distributions).params
        return {name: _rounded(value, self._distributions[name]) for name, value in proposed.items()}

    def _sampler(self, number: int) -> optuna.samplers.TPESampler:
        seed = key_to_integer(self._seed, *self._key, "trial", number, bits=32)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)

    def look(self, number: int, rows: pd.DataFrame, tasks: int) -> Outcome | None:
        """Take note of a trial's episodes so far; the outcome if it is to be given up, at the checkpoint that says so.

        ``rows`` are those of its stage so far, on so many ``tasks``. Whenever and however often this is called, the
        answer is that of having looked at every checkpoint in turn.
        """
        record = self._study.get_trials(deepcopy=False)[number]
        trial = Trial(self._study, record._trial_id)
        returns = mean_returns(rows, tasks)
        seen = record.intermediate_values
        for episodes in CHECKPOINTS:
            if episodes > len(returns):
                break
            score = float(returns[:episodes].mean())
            if episodes not in seen:
                trial.report(score, episodes)
            elif episodes != max(seen):
                continue
            if trial.should_prune():
                return Outcome(GIVEN_UP, score, episodes)
        return None

    def end(self, outcomes: Mapping[int, Outcome]) -> None:
        """Write down how trials ended. Those of one round together: none has a say in whether another is given up."""
        for number, outcome in outcomes.items():
            trial = Trial(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)
            trial.set_user_attr(_OUTCOME, asdict(outcome))
        for number, outcome in outcomes.items():
            self._tell(number, outcome)

    def _tell(self, number: int, outcome: Outcome) -> None:
        self._study.tell(number, outcome.score if outcome.state == DONE else None, _STATES[outcome.state])


def mean_returns(rows: pd.DataFrame, tasks: int) -> pd.Series:
    """Mean over ``tasks`` of the return of episode 0, 1, ..., as far as all of the tasks have completed them."""
    own = rows[rows["phase"].isin(TARGET_PHASES) & (rows["status"] == "ok")]
    by_episode = own.groupby("episode")["return"].agg(["mean", "count"]).sort_index()
    whole = (by_episode["count"] == tasks) & (by_episode.index == np.arange(len(by_episode)))
    return by_episode.loc[whole.cummin(), "mean"]


def _record(trial: FrozenTrial) -> TrialRecord:
    ended = trial.state.is_finished()
    return TrialRecord(
        trial.number, dict(trial.params), Outcome(**trial.user_attrs[_OUTCOME]) if ended else None
    )  # fmt: skip


def _distribution(searched: SearchRange, preset: Any) -> BaseDistribution:
    if not isinstance(searched, Between):
        return CategoricalDistribution(searched.values)
    if isinstance(preset, int) and not isinstance(preset, bool):
        return IntDistribution(int(searched.low), int(searched.high), log=searched.log)
    return FloatDistribution(searched.low, searched.high, log=searched.log)


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> None:
    """What ``Study.ask`` does for one value; it has been written down already, so nothing is drawn."""
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _rounded(value: Any, distribution: BaseDistribution) -> Any:
    """Numbers of three digits, for people: what lies beyond them is chance."""
    if not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(f"{value:.3g}"), distribution.low), distribution.high)


def cut_last_line(path: Path) -> None:
    """Take off a last line that has no end, as a process leaves it that dies while it writes. Raises ``OSError``."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
