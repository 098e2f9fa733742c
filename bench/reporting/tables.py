"""Families of tables. Each takes the inputs and says what it made and what it could not make."""

from __future__ import annotations

from bench.reporting.model import Made, ReportInputs, ReportTable, TableFamily

ALL_TABLES: tuple[TableFamily, ...] = ()
"""In the order of a report."""


def make_tables(inputs: ReportInputs) -> Made[ReportTable]:
    """Every table that the runs allow."""
    return Made.joined([family(inputs) for family in ALL_TABLES])
