"""Commands that repeat runs, links to rows, tracebacks of what failed."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from bench.config import split_overrides
from bench.files import read_json
from bench.graph import merge_plans
from bench.ledger import Ledger
from bench.node_records import end_record, start_record, sweep_folder
from bench.plan import RunRequest, plan_run
from bench.reporting.inputs import load_inputs
from bench.reporting.runs import failures, relative_link, run_command, run_entries
from tests.conftest import Bench
from tests.statistics_helpers import write_run


@pytest.mark.usefixtures("denormals")
@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--seed 3",
        "--tasks 0,2",
        "--on validation",
        "--on validation --tasks 1",
        "--fit.kind tanh --fit.widths 4,4 --seed 1",
        "--data mirrored",
        "--until fit",
    ],
)
def test_the_command_of_a_run_repeats_it(tmp_path: Path, bench: Bench, arguments: str) -> None:
    words = ["run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", *shlex.split(arguments)]
    assert bench(*words, "--out", tmp_path).code == 0
    (made,) = tmp_path.glob("toy-*/run.json")
    first, *again = shlex.split(run_command(read_json(made)))
    assert first == "bench"
    assert bench(*again, "--out", tmp_path / "again").code == 0
    (repeated,) = (tmp_path / "again").glob("toy-*/run.json")
    assert repeated.parent.name == made.parent.name
    for before, after in zip(read_json(made)["stages"], read_json(repeated)["stages"], strict=True):
        assert before["artefact"] == after["artefact"]


def test_overrides_that_a_shell_would_take_apart_are_quoted() -> None:
    record = {"algo": "toy", "env": "toy-line", "preset": "smoke", "seed": 0, "overrides": {"x.y": "a b; rm"}}
    command = run_command(record)
    assert command.endswith("--x.y 'a b; rm'")
    assert split_overrides(shlex.split(command)[1:])[1][0].text == "a b; rm"


@pytest.mark.parametrize("name", ["plain", "a b", "javascript:alert(1)", "100%", "que?ry#x", 'quo"te', "ümlaut"])
def test_links_to_rows_are_relative_whatever_the_name(tmp_path: Path, name: str) -> None:
    for seed in range(2):
        write_run(tmp_path / name / f"s{seed}", [0.5], seed=seed)
    report = tmp_path / "deep" / "report"
    for entry in run_entries(load_inputs([tmp_path / name]), report):
        parts = urlsplit(entry.rows_link)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
        report.mkdir(parents=True, exist_ok=True)
        assert (report / unquote(entry.rows_link)).resolve() == tmp_path / name / f"s{entry.seed}" / "episodes.parquet"


def test_a_link_never_begins_with_a_scheme(tmp_path: Path) -> None:
    assert urlsplit(relative_link(tmp_path / "javascript:x", tmp_path)).scheme == ""


def test_a_failed_stage_is_told_with_its_traceback(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "now").touch()
    monkeypatch.setenv("TOY_FAIL_WHEN_EXISTS", str(tmp_path / "now"))
    out = tmp_path / "runs"
    assert bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--out", out).code == 1
    (failure,) = failures(load_inputs([out]), tmp_path / "report")
    assert failure.name == str(out / "toy-toy-line-smoke-s0")
    assert failure.reason == "failed: ArithmeticError: the toy was told to fail"
    assert failure.traceback.startswith("Traceback (most recent call last):")
    assert failure.traceback.rstrip().endswith("ArithmeticError: the toy was told to fail")


def test_a_stage_that_failed_in_a_sweep_is_told_though_its_run_has_no_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "other", [0.5])
    graph = merge_plans([plan_run(RunRequest("toy", "toy-line", "smoke", 0))], tmp_path)
    settings = {"device": "cpu", "threads": 1, "checkpoint_seconds": 60.0, "profile": None, "max_parallel": None}
    Ledger("toys-smoke", "Toys", "smoke", "toys.toml", "local", (), graph, settings).write(tmp_path)
    fit = next(node for node in graph.nodes.values() if node.stage == "fit")
    folder = sweep_folder(tmp_path, "toys-smoke")
    trace = "Traceback (most recent call last):\nValueError: no good\n"
    end_record(folder, start_record(folder, fit.name, {}), "failed", error="stage fit failed", traceback=trace)
    (failure,) = failures(load_inputs([tmp_path]), tmp_path / "report")
    assert failure.name == f"{fit.name} of sweep toys-smoke (for toy-toy-line-smoke-s0)"
    assert (failure.reason, failure.traceback) == ("ValueError: no good", trace)


def test_a_run_that_cannot_be_read_has_its_reason_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "good", [0.5])
    write_run(tmp_path / "cut", [0.5], seed=1)
    (tmp_path / "cut" / "episodes.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text("[]")
    found = {Path(failure.name).name: failure for failure in failures(load_inputs([tmp_path]), tmp_path / "report")}
    assert set(found) == {"cut", "odd"}
    assert all("cannot be read" in failure.reason and not failure.traceback for failure in found.values())
