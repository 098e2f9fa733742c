"""A table's three forms, and what a report starts from."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.reporting.inputs import load_inputs
from bench.reporting.model import Column, Made, ReportTable
from bench.reporting.save import save_table
from tests.conftest import ROOT
from tests.statistics_helpers import NAN, write_run

TABLE = ReportTable(
    "scores", "Scores of A & B", "50 % of it", (Column("name"), Column("time", "s", 1), Column("n", decimals=0)),
    (("a|b_c", 1234.56, 3), ("d\ne", None, 0)),
)  # fmt: skip


def test_markdown_aligns_numbers_and_escapes_bars() -> None:
    assert TABLE.to_markdown() == (
        "| name | time (s) | n |\n| --- | ---: | ---: |\n| a\\|b_c | 1,234.6 | 3 |\n| d e |  | 0 |\n"
    )


def test_latex_has_booktabs_rules_and_escapes_what_it_would_take_for_commands() -> None:
    lines = TABLE.to_latex().splitlines()
    assert r"\caption{Scores of A \& B. 50 \% of it}" in lines
    assert r"\begin{tabular}{lrr}" in lines
    body = lines[lines.index(r"\toprule") : lines.index(r"\end{tabular}")]
    assert body == [
        r"\toprule", r"name & time (s) & n \\", r"\midrule",
        r"a|b\_c & 1,234.6 & 3 \\", r"d e &  & 0 \\", r"\bottomrule",
    ]  # fmt: skip


def test_csv_keeps_full_precision_and_line_breaks() -> None:
    assert list(csv.reader(io.StringIO(TABLE.to_csv()))) == [
        ["name", "time (s)", "n"], ["a|b_c", "1234.56", "3"], ["d\ne", "", "0"],
    ]  # fmt: skip


def test_a_table_refuses_what_does_not_fit_it() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, expected 2"):
        ReportTable("t", "", "", (Column("a"), Column("b")), (("x",),))
    with pytest.raises(TypeError, match="column 'n' holds numbers, got 'many'"):
        Column("n", decimals=0).text("many")


def test_a_table_is_saved_in_three_forms(tmp_path: Path) -> None:
    written = save_table(TABLE, tmp_path / "new" / "v1.2")
    assert [path.name for path in written] == ["v1.2.md", "v1.2.tex", "v1.2.csv"]
    assert written[0].read_text() == TABLE.to_markdown()


def test_what_families_made_is_joined_in_order() -> None:
    assert Made.joined([Made((1,), ("a",)), Made((2, 3)), Made((), ("b",))]) == Made((1, 2, 3), ("a", "b"))


def test_failed_and_nan_runs_are_named_and_no_figure_sees_them(tmp_path: Path) -> None:
    write_run(tmp_path / "good", [1.0], seed=1)
    write_run(tmp_path / "failed", [1.0], error="boom", status="failed", seed=2)
    write_run(tmp_path / "nan", [NAN, 1.0], seed=3)
    inputs = load_inputs([tmp_path])
    assert [run.folder.name for run in inputs.runs] == ["good"]
    assert {Path(run.run).name: run.reason for run in inputs.excluded} == {
        "failed": "failed: boom",
        "nan": "20 returns are not finite, the first in task task-0, episode 0",
    }
    assert [inputs.runs_of(group) for group in inputs.groups] == [inputs.runs]


def test_the_papers_curves_come_along_and_others_can_be_given(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", [1.0])
    assert len(load_inputs([tmp_path / "runs"]).published) == len(
        (ROOT / "results/paper/figure4_curves.csv").read_text().splitlines()[1:]
    )
    own = tmp_path / "own.csv"
    own.write_text("domain,algorithm,episode,mean\ne,A,0,0.1\n")
    assert load_inputs([tmp_path / "runs"], own).published.to_dict("list") == {
        "domain": ["e"], "algorithm": ["A"], "episode": [0], "mean": [0.1],
    }  # fmt: skip
    own.write_text("domain,algorithm,mean\n")
    with pytest.raises(UserError, match="lacks the column 'episode'"):
        load_inputs([tmp_path / "runs"], own)
    with pytest.raises(UserError, match="cannot read"):
        load_inputs([tmp_path / "runs"], tmp_path / "absent.csv")


def test_text_in_a_table_is_carried_out_by_nobody() -> None:
    table = ReportTable("t", "T", "C", (Column("run"), Column("score", decimals=1)), (
        ("<script>alert(1)</script>|x", 1.0), ("=HYPERLINK(1)", 2.0), ("-1+cmd", -3.0), ("--adapt.episodes 5", 4.0),
    ))  # fmt: skip
    markdown = table.to_markdown()
    assert "| &lt;script>alert(1)&lt;/script>\\|x | 1.0 |" in markdown
    assert table.to_csv().splitlines()[2:] == ["'=HYPERLINK(1),2.0", "'-1+cmd,-3.0", "--adapt.episodes 5,4.0"]
