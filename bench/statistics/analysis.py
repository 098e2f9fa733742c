"""The one declared analysis: what is compared, what is corrected with what, where a verdict is given.

``bench compare``, ``bench power``, ``bench report`` and the README all say what this says, so the same rows have one
verdict. A *study* is all that the rows hold of one task distribution at one preset.

    unit        a run: its score is the mean over the target tasks of the mean return in a window of episodes
    window      one decides: the last of the usual windows that half of the algorithms, two at least, have completed; or
                those that are asked for. What is said of other windows is described, with intervals, and not decided
    test        t-test of the differences at equal seeds; Welch's where seeds are not shared (``comparison.py``)
    family      every pair of algorithms of the study that has three runs or more of each, in every window that decides:
                one family for Holm's correction, whatever part of it is asked for or shown
    better      a corrected p-value below 0.05
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby

from bench.results import WINDOWS
from bench.statistics.comparison import Comparison, compare
from bench.statistics.episodes import EpisodeReturns
from bench.statistics.holm import holm
from bench.statistics.scores import window_scores

Window = tuple[int, int]

DECLARATION = (
    "Unit: a run, scored by the mean over its target tasks. Differences are paired by seed where the two share seeds "
    "(runs of a seed share their skills and their noise), with a t interval and a t-test of three runs or more; "
    "otherwise Welch's. Better: p below 0.05 after Holm's correction for all pairs of algorithms on the task "
    "distribution, one family. Another seed never means other offline data: all runs of a preset share it."
)
"""In a few sentences, for whoever reads a verdict."""


@dataclass(frozen=True)
class Study:
    """The declared analysis of one task distribution at one preset."""

    env: str
    preset: str
    groups: tuple[EpisodeReturns, ...]
    windows: tuple[Window, ...]
    """Those that decide; empty where no algorithm has completed any."""
    comparisons: tuple[Comparison, ...]
    """Every pair of algorithms in each of them, A before B in the order of the groups; corrected as one family."""

    @property
    def family(self) -> int:
        """How many tests are corrected together."""
        return sum(c.p_holm is not None for c in self.comparisons)

    def between(self, label_a: str, label_b: str) -> list[Comparison]:
        """The comparisons of A with B, whichever comes first."""
        return [
            c if c.label_a == label_a else c.swapped()
            for c in self.comparisons
            if (c.label_a, c.label_b) in ((label_a, label_b), (label_b, label_a))
        ]


def studies(groups: Sequence[EpisodeReturns], windows: Sequence[Window] | None = None) -> list[Study]:
    """A study for each task distribution and preset, in their order."""
    ordered = sorted(groups, key=lambda group: (group.env, group.preset))
    parts = groupby(ordered, key=lambda group: (group.env, group.preset))
    return [study(list(part), windows) for _, part in parts]


def study(groups: Sequence[EpisodeReturns], windows: Sequence[Window] | None = None) -> Study:
    """The study of groups of one task distribution and preset; ``windows`` decide instead of the usual one."""
    window = deciding_window(groups) if windows is None else None
    deciding = tuple(dict.fromkeys(windows or ([] if window is None else [window])))
    made = [compare(x, y, one) for one in deciding for x, y in combinations(groups, 2)]
    family = corrected([comparison for comparison in made if comparison is not None])
    return Study(groups[0].env, groups[0].preset, tuple(groups), deciding, tuple(family))


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with Holm's correction for all of them that have a test, as one family."""
    tested = [c.p_value for c in comparisons if c.p_value is not None]
    adjusted = iter(holm(tested))
    return [
        c if c.p_value is None else replace(c, p_holm=next(adjusted), family=len(tested)) for c in comparisons
    ]  # fmt: skip


def deciding_window(groups: Sequence[EpisodeReturns], windows: Sequence[Window] | None = None) -> Window | None:
    """The last of ``windows`` (the usual ones) that half of the groups, two at least, have completed on some task.

    Where not even that many share one, the one that most have; where none has any usual one, the episodes that all
    have. None where there are none.
    """
    completed = [_completed(group, windows or WINDOWS) for group in groups]
    if windows is None and not any(completed):
        everywhere = (0, min(group.returns.shape[2] for group in groups))
        completed = [_completed(group, [everywhere]) for group in groups]
    counts = Counter(window for own in completed for window in own)
    enough = min(len(groups), max(2, math.ceil(len(groups) / 2)))
    return max(counts, key=lambda window: (min(counts[window], enough), window), default=None)


def _completed(group: EpisodeReturns, windows: Sequence[Window]) -> list[Window]:
    return [window for window in windows if window_scores(group, *window).n_tasks]
