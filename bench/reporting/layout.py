"""How a report is laid out: the matrix and sentences that it opens with, what belongs to which task distribution.

Task distributions come in the order in which the studies that ship, which are the paper's, name them; others behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Protocol, TypeVar

from bench.reporting.figures.drawing import file_name
from bench.reporting.findings import Findings, Standing, names_text
from bench.reporting.model import ReportInputs
from bench.reporting.palette import in_order
from bench.results import total_seconds
from bench.sweep_file import load_sweep, shipped_sweeps


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Item = TypeVar("Item", bound=_Named)


@dataclass(frozen=True)
class Cell:
    """One algorithm on one task distribution."""

    text: str
    """``0.98``"""
    interval: str
    """``0.94 to 1.00``; empty where there is none."""
    verdict: str
    """``best``, ``worse``, ``untold``, ``few`` (too few seeds to say) or empty: not run."""
    seeds: int


@dataclass(frozen=True)
class Matrix:
    """Algorithms by task distributions."""

    columns: tuple[Findings, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class World:
    """What belongs to one task distribution at one preset."""

    findings: Findings
    figures: tuple[int, ...]
    """Places among the figures of the report."""
    tables: tuple[int, ...]

    @property
    def anchor(self) -> str:
        return file_name("world", self.findings.env, self.findings.preset)


@cache
def _paper_order() -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name in shipped_sweeps():
        spec = load_sweep(name)
        for preset in list(spec.presets)[:1]:
            found |= dict.fromkeys(request.env for request in spec.requests(preset))
    return tuple(found)


def in_paper_order(found: Sequence[Findings]) -> list[Findings]:
    """Task distributions as the paper has them, others behind by name; presets by name."""
    order = _paper_order()

    def key(one: Findings) -> tuple[int, str, str]:
        return (order.index(one.env) if one.env in order else len(order), one.env, one.preset)

    return sorted(found, key=key)


def matrix_of(found: Sequence[Findings]) -> Matrix:
    """Every algorithm on every task distribution, with the verdict on it against the best there."""
    columns = tuple(one for one in found if one.standings)
    labels = in_order([standing.label for one in columns for standing in one.standings])
    rows = []
    for label in labels:
        cells = []
        for one in columns:
            standing = next((standing for standing in one.standings if standing.label == label), None)
            cells.append(Cell("", "", "", 0) if standing is None else _cell(standing, one.standings[0]))
        rows.append((label, tuple(cells)))
    return Matrix(columns, tuple(rows))


def _cell(standing: Standing, best: Standing) -> Cell:
    mean = standing.mean
    interval = "" if mean.low is None or mean.high is None else f"{mean.low:.2f} to {mean.high:.2f}"
    if standing.label == best.label:
        verdict = "best"
    elif best.label in standing.worse_than:
        verdict = "worse"
    elif best.label in standing.too_few_against:
        verdict = "few"
    else:
        verdict = "untold"
    return Cell(f"{mean.point:.2f}", interval, verdict, standing.seeds)


def headline(found: Sequence[Findings], inputs: ReportInputs) -> tuple[str, ...]:
    """What beats what, how sure, at what cost: three sentences."""
    told = [one for one in found if one.standings]
    if not told:
        return ()
    leaders: dict[str, list[str]] = {}
    for one in told:
        leaders.setdefault(one.standings[0].label, []).append(_where(one, told))
    what = "Highest score: " + "; ".join(f"{label} on {names_text(envs)}" for label, envs in leaders.items())
    tested = sum(one.family for one in told)
    better = sum(c.decision in ("better", "worse") for one in told for c in one.comparisons)
    pairs = sum(len(one.comparisons) for one in told)
    sure = f"Of {pairs} pairs of algorithms {tested} have three seeds or more of both, and {better} can be told apart"
    first = told[0]
    minutes = _minutes(first, inputs)
    cost = ""
    if minutes:
        listed = [f"{label} {minutes[label]:,.0f}" for label in minutes]
        where = _where(first, told)
        cost = f"From nothing, on {where}, a run takes {names_text(listed)} minutes of one machine's time"
    return tuple(f"{text}." for text in (what, sure, cost) if text)


def _where(one: Findings, among: Sequence[Findings]) -> str:
    return one.env if sum(other.env == one.env for other in among) == 1 else f"{one.env} ({one.preset})"


def _minutes(one: Findings, inputs: ReportInputs) -> Mapping[str, float]:
    """Wall time of all stages, data and skills included, mean over the runs of each algorithm, quickest first."""
    spent: dict[str, list[float]] = {}
    for run in inputs.runs:
        if (run.env, run.preset) == (one.env, one.preset) and any(run.label == s.label for s in one.standings):
            spent.setdefault(run.label, []).append(total_seconds(run.record) / 60)
    means = {label: fmean(values) for label, values in spent.items()}
    return dict(sorted(means.items(), key=lambda item: item[1])) if any(means.values()) else {}


def worlds_of(found: Sequence[Findings], figures: Sequence[_Named], tables: Sequence[_Named]) -> list[World]:
    """A section for each, with the figures and tables whose names end with its own."""
    stems = {file_name(one.env, one.preset): one for one in found}
    owners = [[_owner(item.name, list(stems)) for item in items] for items in (figures, tables)]
    return [
        World(one, *(tuple(place for place, owner in enumerate(own) if owner == stem) for own in owners))
        for stem, one in stems.items()
    ]


def _owner(name: str, stems: Sequence[str]) -> str | None:
    """The longest stem that a name ends with: ``image-maze-quick`` is not ``maze-quick``."""
    return max((stem for stem in stems if name.endswith(f"-{stem}") or name == stem), key=len, default=None)
