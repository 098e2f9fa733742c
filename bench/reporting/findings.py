"""What a report says first: who stands where, what beats what, by how much, how sure, and what the seeds cannot show.

Everything is counted by ``bench.statistics``, with the numbers of ``bench compare`` and ``bench power``; here they are
chosen and put in words. Comparisons on one task distribution and preset are one family for Holm's correction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby

from bench.power import PowerAnswer, PowerRequest, power_answers
from bench.results import WINDOWS
from bench.statistics.aggregates import aggregate
from bench.statistics.bootstrap import CONFIDENCE, Estimate
from bench.statistics.comparison import LEVEL, Comparison, compare, corrected, verdict
from bench.statistics.coverage import coverage_warning
from bench.statistics.episodes import EpisodeReturns
from bench.statistics.power import LARGEST_SEEDS
from bench.statistics.scores import window_scores

EARLY = WINDOWS[1]
"""Compared besides the last window: the first after the episodes that the paper spends exploring."""
POWER_SHARE = 0.1
"""The difference whose seeds are counted, as a share of the score range."""
POWER = 0.8
_MOST_SENTENCES = 3
"""As many comparisons with the leader are told in full; more are told as lists of names."""

PERCENT = f"{100 * CONFIDENCE:g}"

Window = tuple[int, int]


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
    """No difference can be told, by the corrected p-value, or by one seed."""


@dataclass(frozen=True)
class Findings:
    """All that is said of one task distribution and preset."""

    env: str
    preset: str
    score_range: tuple[float, float] | None
    window: Window | None
    """Where ``standings`` are: the last window that half of the algorithms have completed, two at least; None where
    none has any."""
    tasks: int
    """Target tasks of the standings; where algorithms differ in them, the most."""
    standings: tuple[Standing, ...]
    """Best mean first."""
    comparisons: tuple[Comparison, ...]
    """Every pair of algorithms, by window; corrected as one family."""
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
    """Findings of the groups of one task distribution and preset, in ``windows`` (default: ``EARLY`` and the last)."""
    window = _standing_window(groups, windows)
    comparisons = corrected(
        [c for x, y in combinations(groups, 2) for c in compare(x, y, windows or _usual_windows(x, y))]
    )
    here = [c for c in comparisons if (c.start, c.stop) == window]
    standings = [] if window is None else _standings(groups, window, here)
    tasks = 0 if window is None else max(window_scores(group, *window).n_tasks for group in groups)
    found = Findings(
        groups[0].env, groups[0].preset, groups[0].score_range, window, tasks, tuple(standings), tuple(comparisons),
        tuple(_sentences(groups, window, standings, comparisons)), (), _power(groups, window),
    )  # fmt: skip
    return replace(found, warnings=tuple(_warnings(found, here)))


def families(groups: Sequence[EpisodeReturns]) -> list[list[EpisodeReturns]]:
    """Groups of the same task distribution and preset, in their order."""
    ordered = sorted(groups, key=lambda group: (group.env, group.preset))
    return [list(part) for _, part in groupby(ordered, key=lambda group: (group.env, group.preset))]


def _completed(group: EpisodeReturns, windows: Sequence[Window]) -> list[Window]:
    return [window for window in windows if window_scores(group, *window).n_tasks]


def _usual_windows(x: EpisodeReturns, y: EpisodeReturns) -> list[Window] | None:
    """None, where the two share none of the usual windows: then ``compare`` looks at all episodes that both have."""
    shared = [window for window in _completed(x, WINDOWS) if window in _completed(y, WINDOWS)]
    return sorted({*shared[-1:], *(window for window in shared if window == EARLY)}) or None


def _standing_window(groups: Sequence[EpisodeReturns], windows: Sequence[Window] | None) -> Window | None:
    everywhere = (0, min(group.returns.shape[2] for group in groups))
    completed = [_completed(group, windows or WINDOWS) for group in groups]
    if windows is None and not any(completed):
        completed = [_completed(group, [everywhere]) for group in groups]
    counts = Counter(window for own in completed for window in own)
    enough = min(len(groups), max(2, math.ceil(len(groups) / 2)))
    # Where not even that many share a window, the one that most have.
    return max(counts, key=lambda window: (min(counts[window], enough), window), default=None)


def _standings(groups: Sequence[EpisodeReturns], window: Window, here: Sequence[Comparison]) -> list[Standing]:
    found = []
    for group in groups:
        matrix = window_scores(group, *window)
        if not matrix.n_tasks:
            continue
        aggregates = aggregate(matrix)
        against = [(c, c.label_b if c.label_a == group.label else c.label_a) for c in here
                   if group.label in (c.label_a, c.label_b)]  # fmt: skip
        told = {
            other: (c.mean_difference.point > 0) == (c.label_a == group.label)
            for c, other in against
            if c.p_holm is not None and c.p_holm < LEVEL
        }
        found.append(
            Standing(
                group.label, matrix.n_seeds, aggregates["mean"], aggregates["iqm"],
                tuple(other for other, better in told.items() if better),
                tuple(other for other, better in told.items() if not better),
                tuple(other for _, other in against if other not in told),
            )
        )  # fmt: skip
    return sorted(found, key=lambda standing: -standing.mean.point)


def _power(groups: Sequence[EpisodeReturns], window: Window | None) -> PowerAnswer | None:
    score_range = groups[0].score_range
    if window is None or score_range is None:
        return None
    request = PowerRequest(POWER_SHARE * (score_range[1] - score_range[0]), POWER, LEVEL)
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
    here = [c for c in comparisons if (c.start, c.stop) == window]
    if others:
        rest = _names([f"{s.label} {s.mean.point:.2f}" for s in others])
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
            sentences.append(f"{where}: {best.label} is better than {_names(best.better_than)}. {_by_runs(best, here)}")
        if best.not_told_from:
            sentences.append(
                f"{where}: between {best.label} and {_names(best.not_told_from)} no difference can be told."
            )
    standing = {s.label for s in standings}
    late = [group.label for group in groups if group.label not in standing]
    if late:
        sentences.append(
            f"Not in the order above, for want of complete episodes {window[0]}-{window[1]}: {_names(late)}."
        )
    return sentences


def _by_runs(best: Standing, here: Sequence[Comparison]) -> str:
    """Of whom it is better than, those for which that holds whatever the tasks of a run have to do with one another."""
    sure = [
        c.label_b if c.label_a == best.label else c.label_a
        for c in here
        if best.label in (c.label_a, c.label_b) and c.by_runs is not None and c.by_runs.p_value < LEVEL
    ]
    sure = [label for label in sure if label in best.better_than]
    if set(sure) == set(best.better_than):
        return "That also holds with whole runs as the unit."
    return f"With whole runs as the unit that holds {'of none' if not sure else f'only of {_names(sure)}'}."


def _warnings(found: Findings, here: Sequence[Comparison]) -> list[str]:
    warnings = []
    standings, power, difference = found.standings, found.power, found.power_difference
    for seeds in sorted({standing.seeds for standing in standings}):
        alike = [standing.label for standing in standings if standing.seeds == seeds]
        coverage = coverage_warning(seeds, _run_correlations(alike, here))
        if coverage is not None:
            warnings.append(f"{_names(alike)}: {coverage}.")
    if power is not None and difference is not None and power.smallest_difference is not None:
        low, high = map(_seeds_text, power.seeds_needed_range)
        warnings.append(
            f"With {power.seeds} seeds of each, a true difference is seen (p < {LEVEL}) with a chance of "
            f"{100 * POWER:g} % only where it is {power.smallest_difference:.2f} or more. To see one of "
            f"{difference:.3g} takes {_seeds_text(power.seeds_needed)} seeds of each algorithm ({low} to {high}, for "
            "the spread between seeds is itself known from few runs)."
        )
    pairs: dict[str, list[str]] = {}
    for c in here:
        for note in c.notes:
            pairs.setdefault(note, []).append(f"{c.label_a} and {c.label_b}")
    warnings += [f"Episodes {found.window_name}, {'; '.join(named)}: {note}." for note, named in pairs.items()]
    return warnings


def _run_correlations(labels: Sequence[str], here: Sequence[Comparison]) -> list[float]:
    """How much the scores of one run hang together where these algorithms are compared with each other."""
    among = [c for c in here if c.tasks > 1 and {c.label_a, c.label_b} <= set(labels)]
    return [c.run_correlation for c in among if c.run_correlation is not None]


def interval_text(estimate: Estimate) -> str:
    """``0.98 (95 % interval 0.97 to 0.99)``; the reason where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.point:.2f} ({estimate.note})"
    return f"{estimate.point:.2f} ({PERCENT} % interval {estimate.low:.2f} to {estimate.high:.2f})"


def _seeds_text(seeds: int | None) -> str:
    return f"more than {LARGEST_SEEDS}" if seeds is None else str(seeds)


def _names(names: Sequence[str]) -> str:
    """``a, b and c``"""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
