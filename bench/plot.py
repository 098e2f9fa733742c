"""``bench plot``: the learning curves of many runs in one picture, as a report draws them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.compare import groups_of
from bench.loading import print_excluded
from bench.reporting.figures.learning import draw_learning, learning_panel
from bench.reporting.inputs import load_inputs
from bench.reporting.save import save_figure
from bench.statistics.episodes import LoadedEpisodes


def draw_comparison(
    sources: Sequence[Path], output: Path, paper: Path | None = None, env: str | None = None
) -> list[str]:
    """Draw all runs below ``sources``, a panel per task distribution and preset; return the runs' folders.

    With ``env``, only the runs on that task distribution. ``paper`` is a CSV of published curves (columns ``domain,
    algorithm, episode, mean``; None: those of the paper), drawn dashed where domain and algorithm match. The ending of
    ``output`` is ``.png``, ``.svg`` or ``.pdf``. Runs left out are named on standard error.

    Raises ``UserError`` when no run can be used, a folder is missing, the CSV lacks a column, or the ending is another.
    """
    inputs = load_inputs(sources, paper)
    loaded = LoadedEpisodes(inputs.groups, inputs.excluded)
    groups = groups_of(loaded, ", ".join(map(str, sources)), env)
    print_excluded(inputs.excluded)
    pairs = sorted({(group.env, group.preset) for group in groups})
    figure = draw_learning([learning_panel(inputs, *pair) for pair in pairs])
    save_figure(figure, output.with_suffix(""), [output.suffix])
    return sorted(run for group in groups for run in group.runs)
