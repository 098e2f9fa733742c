"""What all figures share: panels, axes with their units, legends, words for captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.lookup import find_task_distribution
from bench.statistics.coverage import coverage_warning
from bench.statistics.episodes import EpisodeReturns
from bench.statistics.intervals import CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_INCHES = (4.6, 3.5)
INTERVAL = f"{100 * CONFIDENCE:g} %"
_CHARACTER_INCHES, _HANDLE_INCHES = 0.08, 0.7
"""Of a legend in small type, roughly."""
_SHORT_CHARACTERS, _TICK_CHARACTER_INCHES = 12, 0.11
"""Of labels beside an axis, roughly: so many fit into the usual margin."""
NOTE_LINES = 4
"""As many notes on what is missing go into a caption; the rest is counted."""


def new_panels(
    count: int, columns: int = 3, width: float = PANEL_INCHES[0], height: float = PANEL_INCHES[1]
) -> tuple[Figure, list[Axes]]:
    """A figure of its own (pyplot's state is left alone) with ``count`` panels, each (width, height) inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def long_label_inches(labels: Iterable[str]) -> float:
    """What labels beside an axis need beyond the margin that short ones fit in: overrides make them long."""
    return max(0, max(map(len, labels), default=0) - _SHORT_CHARACTERS) * _TICK_CHARACTER_INCHES


def tidy(axes: Axes) -> None:
    """No box, a faint grid behind the data."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def shared_legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """One legend below all panels, every label once; as many columns as fit."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        widest = max(map(len, found)) * _CHARACTER_INCHES + _HANDLE_INCHES
        columns = max(1, int(figure.get_figwidth() / widest))
        place: Any = "outside lower center"  # the library's type of it is short of this one
        figure.legend(
            list(found.values()), list(found), loc=place, ncols=min(columns, len(found)), frameon=False,
            fontsize="small",
        )  # fmt: skip


def set_score_axis(axes: Axes, group: EpisodeReturns, axis: str = "y", prefix: str = "") -> None:
    """The whole range of possible scores on an axis, with what a score counts; call it once all is drawn.

    Open where the range is not known. A negative lowest score is a bound that no learner is near (where rewards are
    never negative it is 0): there the axis begins at what is drawn.
    """
    limits: tuple[float | None, float | None] = (None, None)
    if group.score_range is not None:
        low, high = group.score_range
        if low < 0:
            low = max(low, float(axes.dataLim.ymin if axis == "y" else axes.dataLim.xmin))
        limits = (low - 0.02 * (high - low), high + 0.02 * (high - low))
    axes.set(**{f"{axis}label": prefix + score_name(group), f"{axis}lim": limits})


def score_name(group: EpisodeReturns) -> str:
    """``success (0 to 1)``"""
    name = score_noun(group.env)
    if group.score_range is None:
        return name
    low, high = group.score_range
    return f"{name} ({low:g} to {high:g})"


def score_noun(env: str) -> str:
    """What a return on this task distribution counts; ``return`` where it is not known here."""
    try:
        return find_task_distribution(env).score_name
    except UserError:
        return "return"


def runs_text(groups: Sequence[EpisodeReturns]) -> str:
    """``simpl: 3 seeds (0, 1, 2), 10 tasks; spirl: ...``"""
    return "; ".join(
        f"{group.label}: {counted(len(group.seeds), 'seed')} ({', '.join(map(str, group.seeds))}), "
        f"{counted(len(group.tasks), 'task')}"
        for group in groups
    )


def seeds_warning(groups: Sequence[EpisodeReturns]) -> str:
    """What few seeds mean for the intervals shown, as a sentence; empty where there are enough."""
    warning = coverage_warning(min(len(group.seeds) for group in groups))
    return f" Beware: {warning}." if warning else ""


def notes_text(notes: Sequence[str]) -> str:
    """What is missing, as a sentence."""
    if not notes:
        return ""
    more = f"; and {len(notes) - NOTE_LINES} more" if len(notes) > NOTE_LINES else ""
    return f" Note: {'; '.join(notes[:NOTE_LINES])}{more}."


def file_name(*parts: str) -> str:
    """Parts joined to lower-case letters, digits and ``-``; ``+`` becomes ``-plus``."""
    text = "-".join(parts).lower().replace("+", "-plus-")
    kept = "".join(character if character.isalnum() and character.isascii() else "-" for character in text)
    return "-".join(part for part in kept.split("-") if part)


def counted(number: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``"""
    return f"{number} {noun}{'' if number == 1 else 's'}"
