"""Families of figures. Each takes the inputs and says what it made and what it could not make."""

from __future__ import annotations

from bench.reporting.figures.aggregates import improvement_figures, interval_figures, profile_figures
from bench.reporting.figures.artefacts import latent_figures, path_figures
from bench.reporting.figures.cost import cost_figures
from bench.reporting.figures.per_task import per_task_figures
from bench.reporting.figures.rliable import rliable_figures
from bench.reporting.figures.studies import other_learning_figures, other_meta_training_figures, study_figures
from bench.reporting.figures.task_distributions import task_figures, training_task_figures
from bench.reporting.model import FigureFamily, Made, ReportFigure, ReportInputs
from bench.statistics.with_rliable import RLIABLE, RUNS

ALL_FIGURES: tuple[FigureFamily, ...] = (
    study_figures,
    other_learning_figures,
    interval_figures,
    profile_figures,
    improvement_figures,
    per_task_figures,
    cost_figures,
    other_meta_training_figures,
    training_task_figures,
    task_figures,
    path_figures,
    latent_figures,
)
"""In the order of a report."""
_BY_RLIABLE: tuple[FigureFamily, ...] = (interval_figures, profile_figures, improvement_figures)
"""With ``--method rliable`` the library draws these."""


def make_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """Every figure that the runs allow; nothing is drawn yet."""
    families = [family for family in ALL_FIGURES if inputs.method == RUNS or family not in _BY_RLIABLE]
    if inputs.method == RLIABLE:
        families.insert(ALL_FIGURES.index(interval_figures), rliable_figures)
    return Made.joined([family(inputs) for family in families])
