"""What a report says first: who stands where, what beats what, by how much, how sure, and what the seeds cannot show.

Everything is the declared analysis (``bench.statistics.analysis``), with the numbers of ``bench compare`` and
``bench power``; here they are chosen and put in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.power import PowerAnswer, PowerRequest, power_answers, seeds_text
from bench.statistics.aggregates import aggregate
from bench.statistics.analysis import Study, Window, deciding_window, study
from bench.statistics.comparison import LEVEL, Comparison, verdict
from bench.statistics.coverage import coverage_warning
from bench.statistics.curves import episodes_to_threshold, middle_score
from bench.statistics.episodes import EpisodeReturns
from bench.statistics.intervals import CONFIDENCE, MIN_RUNS, Estimate
from bench.statistics.scores import window_scores

POWER_SHARE = 0.1
"""The difference whose seeds are counted, as a share of the score range."""
POWER = 0.8
_MOST_SENTENCES = 3
"""As many comparisons with the leader are told in full; more are told as lists of names."""

PERCENT = f"{100 * CONFIDENCE:g}"


@dataclass(frozen=True)
class Standing:
    """One algorithm in the window that the summary looks at."""

    label: str
    seeds: int
    mean: Estimate
    iqm: Estimate
    better_than: tuple[str, ...]
    worse_than: tuple[str, ...]
    not_told_from: tuple[str, ...]
    """No difference can be told, by the corrected p-value."""
    too_few_against: tuple[str, ...]
    """Not compared: fewer than three seeds of one of the two."""
    area: Estimate | None
    """Mean score over all episodes that every algorithm here has: the area under the learning curve."""
    to_threshold: str
    """Episodes until the mean of ten is halfway up the score range, median over runs and tasks."""


@dataclass(frozen=True)
class Findings:
    """All that is said of one task distribution and preset."""

    env: str
    preset: str
    score_range: tuple[float, float] | None
    window: Window | None
    """Where ``standings`` are: the last that decides (``analysis.py``); None where no algorithm has any."""
    area_episodes: int
    """As many episodes the areas under the curves are over."""
    tasks: int
    """Target tasks of the standings; where algorithms differ in them, the most."""
    standings: tuple[Standing, ...]
    """Best mean first."""
    comparisons: tuple[Comparison, ...]
    """Every pair of algorithms in each window that decides; corrected as one family."""
    family: int
    """How many of them have a test and are corrected together."""
    sentences: tuple[str, ...]
    """What beats what, by how much, how sure."""
    warnings: tuple[str, ...]
    """What the number of seeds does not allow."""
    power: PowerAnswer | None
    """How many seeds ``power_difference`` needs; None where no algorithm has two runs or the range is not known."""

    @property
    def power_difference(self) -> float | None:
        """``POWER_SHARE`` of the score range."""
        return None if self.score_range is None else POWER_SHARE * (self.score_range[1] - self.score_range[0])

    @property
    def window_name(self) -> str:
        """``190-200``."""
        return "" if self.window is None else f"{self.window[0]}-{self.window[1]}"


def find(groups: Sequence[EpisodeReturns], windows: Sequence[Window] | None = None) -> Findings:
    """Findings of the groups of one task distribution and preset; ``windows`` decide instead of the usual one."""
    return findings_of(study(groups, windows))


def findings_of(found: Study) -> Findings:
    """A study in words."""
    groups = found.groups
    window = deciding_window(groups, found.windows) if found.windows else None
    here = [c for c in found.comparisons if (c.start, c.stop) == window]
    area_episodes = min(group.returns.shape[2] for group in groups)
    standings = [] if window is None else _standings(groups, window, here, area_episodes)
    tasks = 0 if window is None else max(window_scores(group, *window).n_tasks for group in groups)
    findings = Findings(
        found.env, found.preset, groups[0].score_range, window, area_episodes, tasks, tuple(standings),
        found.comparisons, found.family, tuple(_sentences(groups, window, standings, found.comparisons)), (),
        _power(groups, window, found.family),
    )  # fmt: skip
    return replace(findings, warnings=tuple(_warnings(findings, here)))


def _standings(
    groups: Sequence[EpisodeReturns], window: Window, here: Sequence[Comparison], area_episodes: int
) -> list[Standing]:
    standings = []
    for group in groups:
        matrix = window_scores(group, *window)
        if not matrix.n_tasks:
            continue
        aggregates, area = aggregate(matrix), window_scores(group, 0, area_episodes)
        threshold = middle_score(group)
        against: dict[str, list[str]] = {}
        for c in here:
            if group.label in (c.label_a, c.label_b):
                own = c if c.label_a == group.label else c.swapped()
                against.setdefault(own.decision, []).append(own.label_b)
        standings.append(
            Standing(
                group.label, matrix.n_seeds, aggregates["mean"], aggregates["iqm"],
                tuple(against.get("better", ())), tuple(against.get("worse", ())), tuple(against.get("untold", ())),
                tuple(against.get("too few seeds", ())),
                aggregate(area)["mean"] if area.n_tasks else None,
                "" if threshold is None else episodes_to_threshold(group, threshold).median_text(),
            )
        )  # fmt: skip
    return sorted(standings, key=lambda standing: -standing.mean.point)


def _power(groups: Sequence[EpisodeReturns], window: Window | None, family: int) -> PowerAnswer | None:
    score_range = groups[0].score_range
    if window is None or score_range is None:
        return None
    request = PowerRequest(POWER_SHARE * (score_range[1] - score_range[0]), POWER, LEVEL, max(1, family))
    return next(iter(power_answers(groups, request, [window])), None)


def _sentences(
    groups: Sequence[EpisodeReturns],
    window: Window | None,
    standings: Sequence[Standing],
    comparisons: Sequence[Comparison],
) -> list[str]:
    if window is None or not standings:
        return ["No algorithm has completed the episodes that were asked for: there is nothing to compare."]
    where = f"Episodes {window[0]}-{window[1]}"
    best, others = standings[0], standings[1:]
    if others:
        rest = names_text([f"{s.label} {s.mean.point:.2f}" for s in others])
        sentences = [f"{where}: {best.label} has the highest mean score, {interval_text(best.mean)}; then {rest}."]
    else:
        sentences = [
            f"{where}: {best.label} has a mean score of {interval_text(best.mean)}; there is no other to compare."
        ]
    if len(others) <= _MOST_SENTENCES:
        told = [c for c in comparisons if best.label in (c.label_a, c.label_b)]
        sentences += [f"Episodes {c.window}: {verdict(c)}." for c in told]
    else:
        if best.better_than:
            sentences.append(f"{where}: {best.label} is better than {names_text(best.better_than)}.")
        if best.not_told_from:
            sentences.append(
                f"{where}: between {best.label} and {names_text(best.not_told_from)} no difference can be told."
            )
        if best.too_few_against:
            sentences.append(f"{where}: too few seeds to compare {best.label} with {names_text(best.too_few_against)}.")
    standing = {s.label for s in standings}
    late = [group.label for group in groups if group.label not in standing]
    if late:
        sentences.append(
            f"Not in the order above, for want of complete episodes {window[0]}-{window[1]}: {names_text(late)}."
        )
    return sentences


def _warnings(found: Findings, here: Sequence[Comparison]) -> list[str]:
    warnings = []
    standings, power, difference = found.standings, found.power, found.power_difference
    for seeds in sorted({standing.seeds for standing in standings}):
        alike = [standing.label for standing in standings if standing.seeds == seeds]
        coverage = coverage_warning(seeds)
        if coverage is not None:
            warnings.append(f"{names_text(alike)}: {coverage}.")
    if power is not None and difference is not None and power.seeds >= MIN_RUNS:
        family = f", one of {power.comparisons} compared," if power.comparisons > 1 else ""
        advice = (
            f"To see one of {difference:.3g} takes {seeds_text(power)} seeds of each algorithm."
            if power.spread.is_known
            else "How many seeds a smaller one takes cannot be said: the spread between seeds is hardly known."
        )
        size = "whatever its size"
        if power.smallest_difference is not None:
            size = f"where it is below {power.smallest_difference:.2f}"
        missed = f"missed more often than {100 - 100 * POWER:.0f} % of the time"
        warnings.append(f"With {power.seeds} seeds of each, a true difference{family} is {missed} {size}. {advice}")
    pairs: dict[str, list[str]] = {}
    for c in here:
        for note in c.notes:
            pairs.setdefault(note, []).append(f"{c.label_a} and {c.label_b}")
    warnings += [f"Episodes {found.window_name}, {'; '.join(named)}: {note}." for note, named in pairs.items()]
    return warnings


def interval_text(estimate: Estimate) -> str:
    """``0.98 (95 % interval 0.97 to 0.99)``; the reason where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.point:.2f} ({estimate.note})"
    return f"{estimate.point:.2f} ({PERCENT} % interval {estimate.low:.2f} to {estimate.high:.2f})"


def names_text(names: Sequence[str]) -> str:
    """``a, b and c``"""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
