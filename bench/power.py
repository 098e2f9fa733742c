"""``bench power``: how many seeds a difference needs, by the spread of the runs that exist; a table or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.compare import groups_of
from bench.errors import UserError
from bench.loading import print_excluded
from bench.statistics.analysis import studies, study
from bench.statistics.coverage import DIFFERENCE, SEEDS, coverage_warning, stated_coverage
from bench.statistics.episodes import EpisodeReturns, load_episodes
from bench.statistics.power import LARGEST_SEEDS, Spread, power, run_spread, seeds_needed, smallest_difference
from bench.statistics.scores import ScoreMatrix, window_scores
from bench.tables import print_table

SHOWN_SEEDS = (3, 5, 10, 20)
"""Numbers of seeds whose power is shown."""


@dataclass(frozen=True)
class PowerRequest:
    """What is to be seen: a true difference of means, in the unit of a score."""

    difference: float
    power: float
    """Chance to see it."""
    alpha: float
    """Chance to see one where there is none, in the whole family."""
    comparisons: int | None = None
    """In the family; None: as many as the runs make."""


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
    comparisons: int
    """In the family: each is tested at ``alpha`` over their number."""
    seeds_needed: int | None
    """Of each algorithm; None above ``LARGEST_SEEDS``."""
    seeds_needed_range: tuple[int | None, int | None]
    """With the ends of the spread's own interval."""
    power_at: dict[int, float]
    """Power by seeds of each algorithm."""
    smallest_difference: float | None
    """What the runs that exist can show with the power asked for; None where scores cannot differ so much."""
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
    answers = [
        answer for found in studies(groups) for answer in power_answers(found.groups, request, windows)
    ]  # fmt: skip
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
    groups: Sequence[EpisodeReturns], request: PowerRequest, windows: Sequence[tuple[int, int]] | None = None
) -> list[PowerAnswer]:
    """For groups of one task distribution and preset, in each window that decides and where some group has two runs."""
    found = study(groups, windows)
    comparisons = request.comparisons or max(1, found.family)
    made = [_answer(groups, window, request, comparisons) for window in found.windows]
    return [answer for answer in made if answer is not None]


def _answer(
    groups: Sequence[EpisodeReturns], window: tuple[int, int], request: PowerRequest, comparisons: int
) -> PowerAnswer | None:
    matrices: dict[str, ScoreMatrix] = {group.label: window_scores(group, *window) for group in groups}
    usable = {label: matrix for label, matrix in matrices.items() if matrix.n_seeds >= 2}
    spread = run_spread(list(usable.values()))
    if spread is None:
        return None
    alone = [label for label, matrix in matrices.items() if matrix.n_seeds == 1]
    gaps = [f"{label}: {gap}" for label, matrix in usable.items() for gap in matrix.gaps()]
    gaps += [f"{label} has one run: not part of the spread" for label in alone]
    level = request.alpha / comparisons
    wanted = (request.power, level, spread.paired)
    seeds = min(matrix.n_seeds for matrix in usable.values())
    return PowerAnswer(
        env=groups[0].env, preset=groups[0].preset, window=f"{window[0]}-{window[1]}",
        algorithms=tuple(usable), seeds=seeds, spread=spread, comparisons=comparisons,
        seeds_needed=seeds_needed(request.difference, spread.sd, *wanted),
        seeds_needed_range=(
            seeds_needed(request.difference, spread.sd_low, *wanted),
            seeds_needed(request.difference, spread.sd_high, *wanted),
        ),
        power_at={n: power(n, request.difference, spread.sd, level, spread.paired) for n in SHOWN_SEEDS},
        smallest_difference=_possible(smallest_difference(seeds, spread.sd, *wanted), groups[0]), gaps=tuple(gaps),
    )  # fmt: skip


def _possible(difference: float | None, group: EpisodeReturns) -> float | None:
    if difference is None or group.score_range is None:
        return difference
    low, high = group.score_range
    return difference if difference <= high - low else None


def _print_answers(answers: Sequence[PowerAnswer], request: PowerRequest) -> None:
    columns = (
        "episodes", "SD of differences", "test", "comparisons", "seeds needed", f"power, {SHOWN_SEEDS[0]} seeds",
        *map(str, SHOWN_SEEDS[1:]), "seeds now", "they show",
    )  # fmt: skip
    for env, preset in dict.fromkeys((answer.env, answer.preset) for answer in answers):
        own = [answer for answer in answers if (answer.env, answer.preset) == (env, preset)]
        title = f"{env}, {preset} ({', '.join(own[0].algorithms)}): to see a difference of {request.difference:g}"
        print_table(title, columns, [_row(answer) for answer in own])
        for answer in own:
            for gap in answer.gaps:
                print(f"{answer.window}: note: {gap}")
            if not answer.spread.is_known:
                print(f"{answer.window}: note: {unknown_spread_text(answer)}")
    chance = f"{100 * request.power:g} %"
    print(
        f"seeds needed: runs of each algorithm, so that a true difference of {request.difference:g} in the mean score "
        f"is called one (p < {request.alpha:g} after correction for all comparisons of the family) with a chance of "
        f"{chance}, by the test of bench compare. In brackets: the same for the ends of an 80 % interval of the SD.\n"
        "SD of differences: how much the difference of two runs varies from seed to seed: of equal seeds where the "
        "test is paired. --comparisons 1 plans a study of two algorithms alone.\n"
        f"they show: the smallest difference that the seeds there are now show with a chance of {chance}."
    )


def unknown_spread_text(answer: PowerAnswer) -> str:
    """Why a number of seeds is no advice."""
    freedom = f"{answer.spread.degrees_of_freedom:.0f} degree{'s' if answer.spread.degrees_of_freedom != 1 else ''}"
    return (
        f"the spread is known from {freedom} of freedom: too few for advice, so only the range of seeds is given; run "
        "more seeds and ask again"
    )


def seeds_text(answer: PowerAnswer) -> str:
    """``17 [9, 40]``; the range alone where the spread is hardly known."""
    low, high = map(_seeds_text, answer.seeds_needed_range)
    return f"{_seeds_text(answer.seeds_needed)} [{low}, {high}]" if answer.spread.is_known else f"{low} to {high}"


def _row(answer: PowerAnswer) -> tuple[str, ...]:
    smallest = "nothing" if answer.smallest_difference is None else f"{answer.smallest_difference:.2f}"
    return (
        answer.window, f"{answer.spread.sd:.3f}", "paired" if answer.spread.paired else "unpaired",
        str(answer.comparisons), seeds_text(answer), *(f"{value:.2f}" for value in answer.power_at.values()),
        str(answer.seeds), smallest,
    )  # fmt: skip


def _seeds_text(seeds: int | None) -> str:
    return f"> {LARGEST_SEEDS}" if seeds is None else str(seeds)


def _print_coverage(seeds: int) -> None:
    rows = [
        (str(number), *("{:.0f} to {:.0f} %".format(*(100 * end for end in stated_coverage(number, statistic)))
                        for statistic in ("mean", "iqm", DIFFERENCE)))
        for number in SEEDS
    ]  # fmt: skip
    title = "How often a nominal 95 % interval holds the truth (simulated, ten tasks, correlations 0 to 0.8)"
    print_table(title, ("seeds", "mean", "IQM", "difference"), rows)
    warning = coverage_warning(seeds)
    if warning:
        print(f"warning: {warning}")
