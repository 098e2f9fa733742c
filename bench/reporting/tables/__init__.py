"""Families of tables. Each takes the inputs and says what it made and what it could not make."""

from __future__ import annotations

from bench.reporting.model import Made, ReportInputs, ReportTable, TableFamily
from bench.reporting.tables.across import across_tables
from bench.reporting.tables.budgets import budget_tables
from bench.reporting.tables.cost import cost_tables
from bench.reporting.tables.deviations import deviation_tables
from bench.reporting.tables.hyperparameters import hyperparameter_tables
from bench.reporting.tables.offline_models import offline_model_tables
from bench.reporting.tables.rliable import rliable_tables
from bench.reporting.tables.scores import score_tables

ALL_TABLES: tuple[TableFamily, ...] = (
    across_tables, score_tables, budget_tables, cost_tables, offline_model_tables, rliable_tables,
    hyperparameter_tables, deviation_tables,
)  # fmt: skip
"""In the order of a report."""


def make_tables(inputs: ReportInputs) -> Made[ReportTable]:
    """Every table that the runs allow."""
    return Made.joined([family(inputs) for family in ALL_TABLES])
