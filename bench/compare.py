"""``bench compare``: which runs are meant by two names or folders, and the verdict on them as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.errors import UserError, unknown_name
from bench.loading import print_excluded
from bench.results import WINDOWS
from bench.statistics.aggregates import METRICS
from bench.statistics.analysis import DECLARATION, Study, Window, corrected, deciding_window, study
from bench.statistics.comparison import Comparison, compare, p_text, verdict
from bench.statistics.coverage import coverage_warning
from bench.statistics.curves import episodes_to_threshold, middle_score
from bench.statistics.episodes import EpisodeReturns, Excluded, LoadedEpisodes, load_episodes
from bench.statistics.intervals import Estimate
from bench.statistics.scores import window_scores
from bench.statistics.with_rliable import RLIABLE, RUNS, require_rliable, rliable_aggregates, rliable_improvement
from bench.tables import print_table

Pair = tuple[EpisodeReturns, EpisodeReturns]


@dataclass(frozen=True)
class PairResult:
    """A against B on one task distribution at one preset."""

    a: EpisodeReturns
    b: EpisodeReturns
    decided: tuple[Comparison, ...]
    """In the windows that decide, corrected with the whole family."""
    described: tuple[Comparison, ...]
    """In the other usual windows, and over all episodes that both have (the area under the curve)."""

    @property
    def shown(self) -> list[Comparison]:
        """All of them; the widest, an area, last."""
        return sorted(
            (*self.decided, *self.described), key=lambda c: (c not in self.decided and _is_area(c), c.start, c.stop)
        )


def _is_area(c: Comparison) -> bool:
    """Over all episodes from the first on, beyond the usual windows: the area under the curve."""
    return c.start == 0 and (c.start, c.stop) not in WINDOWS


def print_comparison(
    a: str,
    b: str,
    results: Sequence[Path],
    env: str | None,
    windows: Sequence[Window] | None,
    as_json: bool,
    method: str = RUNS,
) -> None:
    """Compare two algorithms in ``results``, or two result folders. Raises ``UserError``."""
    if method == RLIABLE:
        require_rliable()
    found, excluded = compare_named(a, b, results, env, windows)
    print_excluded(excluded)
    if not any(result.decided or result.described for result in found):
        episodes = max(min(x.a.returns.shape[2], x.b.returns.shape[2]) for x in found)
        asked = "" if windows is None else " " + ", ".join(f"{start}-{stop}" for start, stop in windows)
        raise UserError(f"{a} and {b} have no task on which both completed episodes{asked}; they reach {episodes}")
    if as_json:
        by_rliable = [_rliable_record(result) for result in found] if method == RLIABLE else []
        print(json.dumps({**_record(found, excluded), **({"rliable": by_rliable} if by_rliable else {})}, indent=2))
        return
    for result in found:
        if result.decided or result.described:
            _print_pair(result)
            if method == RLIABLE:
                _print_rliable(result)
    print(DECLARATION)


def compare_named(
    a: str, b: str, results: Sequence[Path], env: str | None = None, windows: Sequence[Window] | None = None
) -> tuple[list[PairResult], tuple[Excluded, ...]]:
    """A against B, task distribution by task distribution, and the runs left out.

    An existing folder is taken for a folder, anything else for the name of an algorithm. Two algorithms are compared
    within the family of all algorithms in ``results``; two folders within that of what they have in common.
    Raises ``UserError``.
    """
    folders = [Path(text).is_dir() for text in (a, b)]
    if a == b:
        raise UserError(f"nothing to compare: A and B are both {a}")
    if any(folders) and not all(folders):
        raise UserError(f"A and B are two algorithms or two folders; {a if folders[0] else b} is a folder")
    if all(folders):
        first, second = load_episodes([Path(a)]), load_episodes([Path(b)])
        excluded = first.excluded + second.excluded
        pairs = _pairs_of_folders(groups_of(first, a, env), groups_of(second, b, env), a, b)
        found = _compare_pairs(pairs, windows)
    else:
        loaded = load_episodes(results)
        excluded = loaded.excluded
        found = compare_algorithms(groups_of(loaded, ", ".join(map(str, results)), env), a, b, windows)
    if not found:
        raise UserError(f"{a} and {b} have no task distribution and preset in common")
    return found, excluded


def compare_algorithms(
    groups: Sequence[EpisodeReturns], a: str, b: str, windows: Sequence[Window] | None = None
) -> list[PairResult]:
    """Two algorithms among ``groups``, which are the family, task distribution by task distribution."""
    pairs = _pairs(_of_algorithm(groups, a), _of_algorithm(groups, b), by_label=False)
    return [_of_study(x, y, study(_same_study(groups, x), windows), windows) for x, y in pairs]


def _same_study(groups: Sequence[EpisodeReturns], x: EpisodeReturns) -> list[EpisodeReturns]:
    return [group for group in groups if (group.env, group.preset) == (x.env, x.preset)]


def _of_study(x: EpisodeReturns, y: EpisodeReturns, found: Study, windows: Sequence[Window] | None) -> PairResult:
    decided = found.between(x.label, y.label)
    return PairResult(x, y, tuple(decided), tuple(_described(x, y, found.windows) if windows is None else ()))


def _described(x: EpisodeReturns, y: EpisodeReturns, decided: Sequence[Window]) -> list[Comparison]:
    everything = (0, min(x.returns.shape[2], y.returns.shape[2]))
    windows = [window for window in dict.fromkeys((*WINDOWS, everything)) if window not in decided]
    return [found for window in windows if (found := compare(x, y, window)) is not None]


def _compare_pairs(pairs: Sequence[Pair], windows: Sequence[Window] | None) -> list[PairResult]:
    """Pairs of two folders: those on one task distribution and preset are a family."""
    found = []
    for env, preset in dict.fromkeys((x.env, x.preset) for x, _ in pairs):
        own = [pair for pair in pairs if (pair[0].env, pair[0].preset) == (env, preset)]
        window = deciding_window([group for pair in own for group in pair])
        deciding = list(windows or ([] if window is None else [window]))
        made = [compare(x, y, one) for x, y in own for one in deciding]
        family = corrected([comparison for comparison in made if comparison is not None])
        for x, y in own:
            decided = tuple(c for c in family if (c.label_a, c.label_b) == (x.label, y.label))
            found.append(PairResult(x, y, decided, tuple(_described(x, y, deciding) if windows is None else ())))
    return found


def groups_of(loaded: LoadedEpisodes, where: str, env: str | None) -> list[EpisodeReturns]:
    """The groups on ``env`` (all by default). Raises ``UserError`` when there is none."""
    if not loaded.groups:
        first = loaded.excluded[0] if loaded.excluded else None
        why = f": {first.run} ({first.reason})" if first else ": their target tasks have no episodes"
        raise UserError(f"no run in {where} can be used{why}")
    names = sorted({group.env for group in loaded.groups})
    if env is not None and env not in names:
        raise unknown_name(f"task distribution of runs in {where}", env, names)
    return [group for group in loaded.groups if env in (None, group.env)]


def _of_algorithm(groups: Sequence[EpisodeReturns], name: str) -> list[EpisodeReturns]:
    """Groups with this label; or of this algorithm, when there is one variant of it only."""
    exact = [group for group in groups if group.label == name]
    labels = sorted({group.label for group in groups})
    variants = [label for label in labels if label.split()[0] == name]
    if exact or not variants:
        if not exact:
            raise unknown_name("folder or algorithm of the runs", name, labels)
        return exact
    if len(variants) > 1:
        raise UserError(f"{name!r} can be any of: {', '.join(map(repr, variants))}; give one of them in quotes")
    return [group for group in groups if group.label == variants[0]]


def _pairs(first: Sequence[EpisodeReturns], second: Sequence[EpisodeReturns], by_label: bool) -> list[Pair]:
    return [
        (x, y)
        for x in first
        for y in second
        if (x.env, x.preset) == (y.env, y.preset) and (not by_label or x.label == y.label)
    ]


def _pairs_of_folders(first: Sequence[EpisodeReturns], second: Sequence[EpisodeReturns], a: str, b: str) -> list[Pair]:
    """The same algorithm in both; folders of one algorithm each are compared whatever it is."""
    pairs = _pairs(first, second, by_label=True)
    if not pairs and len({x.label for x in first}) == len({y.label for y in second}) == 1:
        pairs = _pairs(first, second, by_label=False)
    return [
        (replace(x, label=f"{x.label} in {a}"), replace(y, label=f"{y.label} in {b}"))
        for x, y in pairs
    ]  # fmt: skip


def _print_pair(result: PairResult) -> None:
    x, y = result.a, result.b
    scores = "" if x.score_range is None else f"; scores {x.score_range[0]:g} to {x.score_range[1]:g}"
    title = f"A: {x.label}, B: {y.label}, on {x.env}, {x.preset}{scores}"
    columns = ("episodes", "A", "B", "A - B", "IQM A - B", "P(A > B)", "p", "A is", "seeds", "tasks")
    shown = result.shown
    print_table(title, columns, [_row(comparison) for comparison in shown])
    for comparison in result.decided:
        print(f"{comparison.window}: {verdict(comparison)}")
    noted: dict[str, list[str]] = {}
    for comparison in shown:
        for note in comparison.notes:
            noted.setdefault(note, []).append(comparison.window)
    for note, windows in noted.items():
        print(f"{', '.join(windows)}: note: {note}")
    threshold = middle_score(x)
    if threshold is not None:
        needed = [f"{group.label} {episodes_to_threshold(group, threshold).median_text()}" for group in (x, y)]
        print(f"episodes until the mean of ten reaches {threshold:g}, median of runs and tasks: {'; '.join(needed)}")
    warning = coverage_warning(min(min(c.seeds_a, c.seeds_b) for c in shown))
    print(f"warning: {warning}\n" if warning else "")


def _rliable_record(result: PairResult) -> dict[str, object]:
    """What rliable says of the window that decides, of the scores from 0 to 1."""
    if not result.decided:
        return {"env": result.a.env, "preset": result.a.preset}
    last = result.decided[-1]
    scores = {group.label: window_scores(group, last.start, last.stop) for group in (result.a, result.b)}
    aggregates, improvement = rliable_aggregates(scores), rliable_improvement(scores)
    return {
        "env": result.a.env, "preset": result.a.preset, "window": last.window,
        "aggregates": {label: {name: asdict(e) for name, e in own.items()} for label, own in aggregates.items()},
        "improvement": [asdict(estimate) for estimate in improvement.values()],
    }  # fmt: skip


def _print_rliable(result: PairResult) -> None:
    if not result.decided:
        return
    last = result.decided[-1]
    scores = {group.label: window_scores(group, last.start, last.stop) for group in (result.a, result.b)}
    rows = [
        (label, *(estimate_text(own[name]) for name in METRICS)) for label, own in rliable_aggregates(scores).items()
    ]
    title = f"By rliable, episodes {last.window}, scores from 0 to 1"
    print_table(title, ("algorithm", "IQM", "median", "mean", "optimality gap"), rows)
    for (x, y), estimate in rliable_improvement(scores).items():
        print(f"P({x} > {y}): {estimate_text(estimate).replace(chr(10), ' ')}")
    print()


def _row(c: Comparison) -> tuple[str, ...]:
    p_value = c.p_value if c.p_holm is None else c.p_holm
    return (
        f"{c.window}, area" if _is_area(c) else c.window, f"{c.mean_a:.2f}", f"{c.mean_b:.2f}",
        estimate_text(c.mean_difference, "+"), estimate_text(c.iqm_difference, "+"), estimate_text(c.improvement),
        "" if p_value is None else p_text(p_value), c.decision,
        f"{c.seeds_a} pairs" if c.paired else f"{c.seeds_a}, {c.seeds_b}", str(c.tasks),
    )  # fmt: skip


def estimate_text(estimate: Estimate, sign: str = "") -> str:
    """``+0.19``, and below it ``[0.13, 0.25]`` where there is an interval."""
    point = f"{estimate.point:{sign}.2f}"
    if estimate.low is None or estimate.high is None:
        return point
    return f"{point}\n[{estimate.low:.2f}, {estimate.high:.2f}]"


def _record(found: Sequence[PairResult], excluded: Sequence[Excluded]) -> dict[str, object]:
    return {
        "declaration": DECLARATION,
        "comparisons": [
            {
                **asdict(c), "window": c.window, "decision": c.decision, "verdict": verdict(c),
                "warning": coverage_warning(min(c.seeds_a, c.seeds_b)),
            }
            for result in found
            for c in result.shown
        ],
        "excluded": [asdict(run) for run in excluded],
    }  # fmt: skip
