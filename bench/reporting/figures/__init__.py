"""Families of figures. Each takes the inputs and says what it made and what it could not make."""

from __future__ import annotations

from bench.reporting.figures.aggregates import improvement_figures, interval_figures, profile_figures
from bench.reporting.figures.artefacts import latent_figures, path_figures
from bench.reporting.figures.cost import cost_figures
from bench.reporting.figures.studies import other_learning_figures, other_meta_training_figures, study_figures
from bench.reporting.figures.task_distributions import task_figures, training_task_figures
from bench.reporting.model import FigureFamily, Made, ReportFigure, ReportInputs

ALL_FIGURES: tuple[FigureFamily, ...] = (
    study_figures,
    other_learning_figures,
    interval_figures,
    profile_figures,
    improvement_figures,
    cost_figures,
    other_meta_training_figures,
    training_task_figures,
    task_figures,
    path_figures,
    latent_figures,
)
"""In the order of a report."""


def make_figures(inputs: ReportInputs) -> Made[ReportFigure]:
    """Every figure that the runs allow; nothing is drawn yet."""
    return Made.joined([family(inputs) for family in ALL_FIGURES])
