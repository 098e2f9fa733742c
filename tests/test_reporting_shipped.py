"""The report that ships is that of the rows that ship."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from bench.reporting.findings import findings_of
from bench.reporting.findings_tables import comparisons_table, standings_table
from bench.reporting.inputs import load_inputs
from bench.reporting.model import ReportInputs, ReportTable
from bench.reporting.tables.across import across_tables
from bench.reporting.tables.budgets import budget_tables
from bench.reporting.tables.cost import cost_tables
from bench.reporting.tables.scores import score_tables
from bench.statistics.analysis import studies
from tests.conftest import ROOT

REPORT = ROOT / "results" / "report"
FAMILIES = (score_tables, cost_tables, budget_tables, across_tables)
REMEDY = "bench report results/runs -o results/report makes it again"


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return load_inputs([ROOT / "results" / "runs"])


@pytest.fixture(scope="module")
def fresh(inputs: ReportInputs) -> dict[str, ReportTable]:
    """The tables that depend on rows alone."""
    tables = [t for family in FAMILIES for t in family(inputs).items]
    for study in studies(inputs.groups):
        found = findings_of(study)
        tables += [table for table in (standings_table(found), comparisons_table(found)) if table is not None]
    return {table.name: table for table in tables}


def test_the_shipped_tables_are_those_of_the_rows(fresh: dict[str, ReportTable]) -> None:
    assert {name.split("-")[0] for name in fresh} == {"scores", "cost", "budgets", "across", "standings", "comparisons"}
    for name, table in fresh.items():
        texts = {column.heading: str for column in table.columns if not column.numeric}
        shipped = pd.read_csv(REPORT / "tables" / f"{name}.csv", dtype=texts)  # type: ignore[arg-type]
        assert list(shipped.columns) == [column.heading for column in table.columns], f"{name}: {REMEDY}"
        assert len(shipped) == len(table.rows), f"{name}: {REMEDY}"
        for index, column in enumerate(table.columns):
            for place, row in enumerate(table.rows):
                value, kept = row[index], shipped.iloc[place, index]
                if value is None or value == "":
                    assert pd.isna(kept), f"{name}, {column.label}: {REMEDY}"
                elif column.numeric:
                    assert kept == pytest.approx(value, rel=1e-14, abs=1e-9), f"{name}, {column.label}: {REMEDY}"
                else:
                    assert str(kept) == str(value), f"{name}, {column.label}: {REMEDY}"


def test_the_page_names_every_shipped_run_and_its_scores(fresh: dict[str, ReportTable], inputs: ReportInputs) -> None:
    page = (REPORT / "index.html").read_text()
    for run in inputs.runs:
        assert run.folder.name in page, REMEDY
    for name, table in fresh.items():
        assert table.caption.split(".")[0].split("'")[0] in page, f"{name}: {REMEDY}"


def test_the_readmes_picture_is_the_reports() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert pictures == ["results/report/figures/figure4-quick.png"]
    assert (ROOT / pictures[0]).read_bytes().startswith(b"\x89PNG")
