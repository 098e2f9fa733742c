"""What a tuning leaves for people and programs: its trials as CSV, what was found as TOML, and both printed.

``<out>/tuning/<run name>/`` holds ``tuning.json`` (what was tuned, over which ranges), ``study.journal`` (Optuna's,
from which it goes on), ``trials.csv`` and ``found.toml``.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.stage import Between, SearchRange
from bench.errors import UserError
from bench.files import read_sealed_json, replace_text, storage_errors, write_sealed_json
from bench.plan import RunPlan
from bench.progress import duration_text
from bench.reporting.runs import run_command
from bench.tables import print_table
from bench.versions import versions

if TYPE_CHECKING:
    from bench.tune_study import TrialRecord, TuningStudy

TUNING_FOLDER = "tuning"
STUDY_FILE, TRIALS_FILE, FOUND_FILE = "tuning.json", "trials.csv", "found.toml"
FORMAT = 1
_SHOWN_TRIALS = 10
OBJECTIVE = "mean return of the training episodes on the validation tasks"


@dataclass(frozen=True)
class StudyRecord:
    """What was tuned: ``tuning.json``."""

    algo: str
    env: str
    preset: str
    seed: int
    tasks: tuple[int, ...]
    """Of the validation tasks."""
    overrides: Mapping[str, str]
    """What all trials have besides."""
    data: str | None
    space: Mapping[str, Any]
    """Field -> ``[lowest, highest, "log"]`` or the values that may be tried."""
    preset_values: Mapping[str, Any]
    """Of the same fields: the first trial."""

    @classmethod
    def of(cls, plan: RunPlan, space: Mapping[str, SearchRange], preset: Mapping[str, Any]) -> StudyRecord:
        run = plan.request
        overrides = {override.name: override.text for override in run.overrides}
        shown = {name: _range_content(searched) for name, searched in space.items()}
        return cls(run.algo, run.env, run.preset, run.seed, plan.target_tasks, overrides, run.data, shown, dict(preset))

    def keep(self, path: Path) -> None:
        """Write it beside its trials. Raises ``UserError`` where trials of another search are there already."""
        content = json.loads(json.dumps(asdict(self)))
        remedy = "remove its folder to tune anew: no run is lost"
        if path.exists():
            known = read_sealed_json(path, remedy)
            changed = [name for name, value in content.items() if known.get(name) != value]
            if known.get("format") != FORMAT or changed:
                what = ", ".join(changed) or "its format"
                raise UserError(f"{path} is of another search ({what} changed since); {remedy}")
            return
        with storage_errors(f"write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sealed_json(path, {"format": FORMAT, **content, "objective": OBJECTIVE, "versions": versions()})

    def command(self, values: Mapping[str, Any]) -> str:
        """A run on the target tasks with these values, as one would type it."""
        texts = {name: value_text(value) for name, value in values.items()}
        record = {"algo": self.algo, "env": self.env, "preset": self.preset, "seed": self.seed, "data": self.data}
        return run_command({**record, "overrides": {**self.overrides, **texts}})


def study_folder(out: Path, run_name: str) -> Path:
    """Where a tuning is kept; ``run_name`` is that of the run with the preset's own values."""
    return out / TUNING_FOLDER / run_name


def _range_content(searched: SearchRange) -> list[Any]:
    if isinstance(searched, Between):
        return [searched.low, searched.high, *(["log"] if searched.log else [])]
    return list(searched.values)


def value_text(value: Any) -> str:
    """As the command line and TOML take it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def changes(trial: TrialRecord, record: StudyRecord) -> dict[str, Any]:
    """What a trial changes in the preset."""
    return {name: value for name, value in trial.values.items() if value != record.preset_values[name]}


def write_tuning(folder: Path, record: StudyRecord, study: TuningStudy) -> None:
    """Write ``trials.csv`` and, where a trial was completed, ``found.toml``. Raises ``StorageError``."""
    with storage_errors(f"write {folder}"):
        replace_text(folder / TRIALS_FILE, _csv_text(record, study))
        if (text := _found_text(record, study)) is not None:
            replace_text(folder / FOUND_FILE, text)


def _csv_text(record: StudyRecord, study: TuningStudy) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "score", "episodes", *record.space, "seconds", "reason"])
    for trial in study.finished:
        outcome = trial.outcome
        assert outcome is not None
        score = "" if outcome.score is None else f"{outcome.score:.6g}"
        values = (value_text(trial.values[name]) for name in record.space)
        writer.writerow(
            [trial.number, outcome.state, score, outcome.episodes or "", *values, outcome.seconds, outcome.reason]
        )
    return text.getvalue()


def _found_text(record: StudyRecord, study: TuningStudy) -> str | None:
    best = study.best
    if best is None:
        return None
    found = changes(best, record)
    lines = [
        f"# Found by bench tune for {record.algo} on {record.env}, preset {record.preset}, seed {record.seed}:",
        f"# {_summary_text(study)}, by the {OBJECTIVE}.",
        f"# {record.command(found)}",
        "",
        "# What differs from the preset, as a sweep's row takes it.",
        "[overrides]",
    ]
    lines += [f"{json.dumps(name)} = {_toml(value)}" for name, value in found.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else value_text(value)


def _summary_text(study: TuningStudy) -> str:
    best, ended = study.best, study.finished
    first = ended[0].outcome
    assert best is not None and best.outcome is not None and first is not None
    own = "" if first.score is None else f" (the preset itself: {first.score:.3f})"
    return f"the best of {len(ended)} trials is number {best.number} with {best.outcome.score:.3f}{own}"


def print_trial(trial: TrialRecord, best: TrialRecord | None) -> None:
    """One line on how a trial ended."""
    outcome = trial.outcome
    assert outcome is not None
    score = "" if outcome.score is None else f" {outcome.score:.3f} over {outcome.episodes} episodes"
    values = ", ".join(f"{name} {value_text(value)}" for name, value in trial.values.items())
    reason = f": {outcome.reason}" if outcome.reason else ""
    mark = "; the best so far" if best is not None and best.number == trial.number else ""
    print(f"trial {trial.number} ({values}): {outcome.state}{score}{reason}{mark}", flush=True)


def print_tuning(folder: Path, record: StudyRecord, study: TuningStudy) -> None:
    """The best trials, and where the rest is."""
    ended = sorted(study.finished, key=lambda trial: (-_score(trial), trial.number))
    rows = [_row(trial, record) for trial in ended[:_SHOWN_TRIALS]]
    title = f"Trials of {record.algo} on the validation tasks of {record.env}, {record.preset}"
    print_table(title, ("trial", "state", "score", "episodes", *record.space, "time"), rows)
    if len(ended) > len(rows):
        print(f"and {len(ended) - len(rows)} more, in {TRIALS_FILE}")
    if study.best is not None:
        print(_summary_text(study))
        print(f"found: {folder / FOUND_FILE}  (all trials: {TRIALS_FILE})")
        print(f"to use it: {record.command(changes(study.best, record))}")


def _score(trial: TrialRecord) -> float:
    """For the order of a table: completed trials first."""
    outcome = trial.outcome
    assert outcome is not None
    if outcome.score is None:
        return float("-inf")
    return outcome.score if outcome.state == "done" else outcome.score - 1e9


def _row(trial: TrialRecord, record: StudyRecord) -> tuple[str, ...]:
    outcome = trial.outcome
    assert outcome is not None
    score = "" if outcome.score is None else f"{outcome.score:.3f}"
    values = (value_text(trial.values[name]) for name in record.space)
    return (
        str(trial.number), outcome.state, score, str(outcome.episodes or ""), *values, duration_text(outcome.seconds),
    )  # fmt: skip


def is_tuning(folder: Path) -> bool:
    """Whether a folder is that of a tuning."""
    return (folder / STUDY_FILE).is_file()


def export_tuning(folder: Path, destination: Path) -> Path:
    """Copy what was tuned, all trials and what was found to ``destination/<its name>``, and return that folder.

    Raises ``UserError`` when no trial was completed or the folder exists.
    """
    target = destination / folder.resolve().name
    if not (folder / FOUND_FILE).is_file():
        raise UserError(f"{folder} has completed no trial; only a tuning that found something can be exported")
    if target.exists():
        raise UserError(f"{target} exists; remove it to export the tuning again")
    with storage_errors(f"export {folder} to {target}"):
        target.mkdir(parents=True)
        for name in (STUDY_FILE, TRIALS_FILE, FOUND_FILE):
            shutil.copyfile(folder / name, target / name)
    return target
