"""``bench compare``: which runs are meant by two names or folders, and the verdict on them as a table or as JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bench.errors import UserError, unknown_name
from bench.results import counted_out
from bench.statistics.bootstrap import Estimate
from bench.statistics.comparison import Comparison, compare, corrected, p_text, verdict
from bench.statistics.coverage import coverage_warning
from bench.statistics.episodes import EpisodeReturns, Excluded, LoadedEpisodes, load_episodes
from bench.tables import print_table

Pair = tuple[EpisodeReturns, EpisodeReturns]
Windows = Sequence[tuple[int, int]]


def print_comparison(
    a: str, b: str, results: Sequence[Path], env: str | None, windows: Windows | None, as_json: bool
) -> None:
    """Compare two algorithms in ``results``, or two result folders. Raises ``UserError``."""
    pairs, excluded = find_pairs(a, b, results, env)
    comparisons = corrected([comparison for pair in pairs for comparison in compare(*pair, windows)])
    print_excluded(excluded)
    if not comparisons:
        episodes = max(min(x.returns.shape[2], y.returns.shape[2]) for x, y in pairs)
        asked = "" if windows is None else " " + ", ".join(f"{start}-{stop}" for start, stop in windows)
        raise UserError(f"{a} and {b} have no task on which both completed episodes{asked}; they reach {episodes}")
    if as_json:
        print(json.dumps(_record(comparisons, excluded), indent=2))
        return
    for x, y in pairs:
        own = [c for c in comparisons if (c.label_a, c.label_b, c.env, c.preset) == (x.label, y.label, x.env, x.preset)]
        if own:
            _print_pair(x, y, own, len(comparisons))


def find_pairs(
    a: str, b: str, results: Sequence[Path], env: str | None
) -> tuple[list[Pair], tuple[Excluded, ...]]:  # fmt: skip
    """What A and B have in common, task distribution by task distribution, and the runs left out.

    An existing folder is taken for a folder, anything else for the name of an algorithm.
    """
    folders = [Path(text).is_dir() for text in (a, b)]
    if a == b:
        raise UserError(f"nothing to compare: A and B are both {a}")
    if all(folders):
        first, second = load_episodes([Path(a)]), load_episodes([Path(b)])
        excluded = first.excluded + second.excluded
        sides = [groups_of(first, a, env), groups_of(second, b, env)]
        pairs = _pairs_of_folders(sides[0], sides[1], a, b)
    elif any(folders):
        raise UserError(f"A and B are two algorithms or two folders; {a if folders[0] else b} is a folder")
    else:
        loaded = load_episodes(results)
        excluded = loaded.excluded
        found = groups_of(loaded, ", ".join(map(str, results)), env)
        pairs = _pairs(_of_algorithm(found, a), _of_algorithm(found, b), by_label=False)
    if not pairs:
        raise UserError(f"{a} and {b} have no task distribution and preset in common")
    return pairs, excluded


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


def print_excluded(excluded: Sequence[Excluded]) -> None:
    """Name each run that is in no statistic, on standard error; those that belong in none are counted in one line."""
    for run in excluded:
        if not run.expected:
            print(f"left out: {run.run} ({run.reason})", file=sys.stderr)
    for reason, count in Counter(run.reason for run in excluded if run.expected).items():
        print(f"left out: {counted_out(count, reason)}", file=sys.stderr)


def _print_pair(x: EpisodeReturns, y: EpisodeReturns, comparisons: Sequence[Comparison], family: int) -> None:
    scores = "" if x.score_range is None else f"; scores {x.score_range[0]:g} to {x.score_range[1]:g}"
    title = f"A: {x.label}, B: {y.label}, on {x.env}, {x.preset}{scores}"
    columns = ("episodes", "A", "B", "A - B", "IQM A - B", "P(A > B)", "p", "p runs", "seeds", "tasks")
    print_table(title, columns, [_row(comparison) for comparison in comparisons])
    for comparison in comparisons:
        print(f"{comparison.window}: {verdict(comparison)}")
    noted: dict[str, list[str]] = {}
    for comparison in comparisons:
        for note in comparison.notes:
            noted.setdefault(note, []).append(comparison.window)
    for note, windows in noted.items():
        print(f"{', '.join(windows)}: note: {note}")
    if family > 1:
        print(f"(p is corrected for {family} comparisons by Holm's method; p runs is not)")
    correlations = [c.run_correlation for c in comparisons if c.run_correlation is not None]
    warning = coverage_warning(min(min(c.seeds_a, c.seeds_b) for c in comparisons), correlations)
    print(f"warning: {warning}\n" if warning else "")


def _row(c: Comparison) -> tuple[str, ...]:
    return (
        c.window, f"{c.mean_a:.2f}", f"{c.mean_b:.2f}", estimate_text(c.mean_difference, "+"),
        estimate_text(c.iqm_difference, "+"), estimate_text(c.improvement),
        "" if c.p_holm is None else p_text(c.p_holm), "" if c.by_runs is None else p_text(c.by_runs.p_value),
        f"{c.seeds_a}, {c.seeds_b}", str(c.tasks),
    )  # fmt: skip


def estimate_text(estimate: Estimate, sign: str = "") -> str:
    """``+0.19``, and below it ``[0.13, 0.25]`` where there is an interval."""
    point = f"{estimate.point:{sign}.2f}"
    if estimate.low is None or estimate.high is None:
        return point
    return f"{point}\n[{estimate.low:.2f}, {estimate.high:.2f}]"


def _record(comparisons: Sequence[Comparison], excluded: Sequence[Excluded]) -> dict[str, object]:
    return {
        "comparisons": [
            {
                **asdict(c),
                "window": c.window,
                "verdict": verdict(c),
                "warning": coverage_warning(min(c.seeds_a, c.seeds_b)),
            }
            for c in comparisons
        ],
        "excluded": [asdict(run) for run in excluded],
    }
