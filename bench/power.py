"""``bench power``: how many seeds a difference needs, by the spread of the runs that exist; a table or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from bench.compare import groups_of, print_excluded
from bench.errors import UserError
from bench.results import WINDOWS
from bench.statistics.coverage import RUN_CORRELATIONS, SEEDS, coverage_warning, stated_coverage
from bench.statistics.episodes import EpisodeReturns, load_episodes
from bench.statistics.power import LARGEST_SEEDS, Spread, power, run_spread, seeds_needed, smallest_difference
from bench.statistics.scores import ScoreMatrix, window_scores
from bench.tables import print_table


@dataclass(frozen=True)
class PowerRequest:
    """What is to be seen: a true difference of means, in the unit of a score."""

    difference: float
    power: float
    """Chance to see it."""
    alpha: float
    """Chance to see one where there is none."""


@dataclass(frozen=True)
class PowerAnswer:
    """For one task distribution, preset and window."""

    env: str
    preset: str
    window: str
    algorithms: tuple[str, ...]
    """Those with two runs or more, whose spread is pooled."""
    seeds: int
    """Fewest runs of any of them."""
    spread: Spread
    seeds_needed: int | None
    """Of each algorithm; None above ``LARGEST_SEEDS``."""
    seeds_needed_range: tuple[int | None, int | None]
    """With the ends of the spread's own interval."""
    power_at: dict[int, float]
    """Power by seeds of each algorithm."""
    smallest_difference: float | None
    """What the runs that exist can show with the power asked for."""
    gaps: tuple[str, ...]


def print_power(
    folders: Sequence[Path],
    request: PowerRequest,
    env: str | None,
    windows: Sequence[tuple[int, int]] | None,
    as_json: bool,
) -> None:
    """Print how many seeds are needed. Raises ``UserError`` when the runs cannot tell."""
    if request.power <= request.alpha:
        raise UserError(f"--power must be above --alpha ({request.alpha:g}), got {request.power:g}")
    loaded = load_episodes(folders)
    where = ", ".join(map(str, folders))
    groups = groups_of(loaded, where, env)
    print_excluded(loaded.excluded)
    answers = []
    for _, same in groupby(groups, key=lambda group: (group.env, group.preset)):
        answers += power_answers(list(same), request, windows)
    if not answers:
        asked = "" if windows is None else f" that completed episodes {', '.join(f'{a}-{b}' for a, b in windows)}"
        raise UserError(f"no algorithm in {where} has two runs{asked}: the spread between seeds is not known")
    if as_json:
        excluded = [asdict(run) for run in loaded.excluded]
        print(json.dumps({"answers": [asdict(answer) for answer in answers], "excluded": excluded}, indent=2))
        return
    _print_answers(answers, request)
    _print_coverage(min(answer.seeds for answer in answers))


def power_answers(
    groups: Sequence[EpisodeReturns], request: PowerRequest, windows: Sequence[tuple[int, int]] | None
) -> list[PowerAnswer]:
    """For groups of one task distribution and preset, in each window where some algorithm has two runs.

    By default in ``WINDOWS``, or else in all episodes that all of the groups have.
    """
    made = [_answer(groups, window, request) for window in windows or WINDOWS]
    if windows is None and not any(made):
        made = [_answer(groups, (0, min(group.returns.shape[2] for group in groups)), request)]
    return [answer for answer in made if answer is not None]


def _answer(groups: Sequence[EpisodeReturns], window: tuple[int, int], request: PowerRequest) -> PowerAnswer | None:
    matrices: dict[str, ScoreMatrix] = {group.label: window_scores(group, *window) for group in groups}
    usable = {label: matrix for label, matrix in matrices.items() if matrix.n_seeds >= 2}
    spread = run_spread(list(usable.values()))
    if spread is None:
        return None
    alone = [label for label, matrix in matrices.items() if matrix.n_seeds == 1]
    gaps = [f"{label}: {gap}" for label, matrix in usable.items() for gap in matrix.gaps()]
    gaps += [f"{label} has one run: not part of the spread" for label in alone]
    wanted = (request.power, request.alpha)
    seeds = min(matrix.n_seeds for matrix in usable.values())
    return PowerAnswer(
        env=groups[0].env, preset=groups[0].preset, window=f"{window[0]}-{window[1]}",
        algorithms=tuple(usable), seeds=seeds, spread=spread,
        seeds_needed=seeds_needed(request.difference, spread.sd, *wanted),
        seeds_needed_range=(
            seeds_needed(request.difference, spread.sd_low, *wanted),
            seeds_needed(request.difference, spread.sd_high, *wanted),
        ),
        power_at={number: power(number, request.difference, spread.sd, request.alpha) for number in SEEDS},
        smallest_difference=smallest_difference(seeds, spread.sd, *wanted), gaps=tuple(gaps),
    )  # fmt: skip


def _print_answers(answers: Sequence[PowerAnswer], request: PowerRequest) -> None:
    columns = (
        "episodes", "SD of runs", "correlation", "seeds needed", f"power, {SEEDS[0]} seeds", *map(str, SEEDS[1:]),
        "seeds now", "they show",
    )  # fmt: skip
    for (env, preset), part in groupby(answers, key=lambda answer: (answer.env, answer.preset)):
        own = list(part)
        title = f"{env}, {preset} ({', '.join(own[0].algorithms)}): to see a difference of {request.difference:g}"
        print_table(title, columns, [_row(answer) for answer in own])
        for answer in own:
            for gap in answer.gaps:
                print(f"{answer.window}: note: {gap}")
    freedom = min(answer.spread.degrees_of_freedom for answer in answers)
    chance = f"{100 * request.power:g} %"
    print(
        f"seeds needed: runs of each algorithm, so that a true difference of {request.difference:g} in the mean score "
        f"gives p < {request.alpha:g} with a chance of {chance} (t-test of run means). In brackets: the "
        "same for the ends of an 80 % interval of the SD, which is itself estimated from few runs "
        f"({freedom} degrees of freedom at the least).\n"
        "SD of runs: how much the mean over the tasks differs from seed to seed. correlation: how much the scores of "
        "one run hang together across tasks.\n"
        f"they show: the smallest difference that the seeds there are now show with a chance of {chance}."
    )


def _row(answer: PowerAnswer) -> tuple[str, ...]:
    low, high = answer.seeds_needed_range
    smallest = "" if answer.smallest_difference is None else f"{answer.smallest_difference:.2f}"
    return (
        answer.window, f"{answer.spread.sd:.3f}", f"{answer.spread.run_correlation:.2f}",
        f"{_seeds_text(answer.seeds_needed)} [{_seeds_text(low)}, {_seeds_text(high)}]",
        *(f"{value:.2f}" for value in answer.power_at.values()), str(answer.seeds), smallest,
    )  # fmt: skip


def _seeds_text(seeds: int | None) -> str:
    return f"> {LARGEST_SEEDS}" if seeds is None else str(seeds)


def _print_coverage(seeds: int) -> None:
    rows = [
        (str(number), *(f"{100 * stated_coverage(number, 'iqm', share):.0f} %" for share in RUN_CORRELATIONS))
        for number in SEEDS
    ]
    title = "How often a nominal 95 % interval of the IQM holds the truth (simulated, ten tasks)"
    print_table(title, ("seeds", "tasks independent", f"correlation {RUN_CORRELATIONS[1]:g}"), rows)
    warning = coverage_warning(seeds)
    if warning:
        print(f"warning: {warning}")
