"""One node of a sweep: computed once, recorded however it ends, refused when it is of another version."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config import Override
from bench.errors import StorageError, UserError
from bench.graph import REPORT, StageGraph, merge_plans
from bench.node_records import read_record, record_path, sweep_folder
from bench.plan import RunRequest, plan_run
from bench.run import RunOptions
from bench.signals import StopRequest
from bench.worker import NodeRequest, run_node
from tests.conftest import Bench
from tests.sweep_helpers import assert_same_results, records
from tests.toy import FAIL_WHEN_EXISTS

REQUEST = RunRequest("toy", "toy-line", "smoke", 3)


pytestmark = pytest.mark.usefixtures("denormals")


@pytest.fixture
def graph(tmp_path: Path) -> StageGraph:
    return merge_plans([plan_run(REQUEST)], tmp_path)


def node_request(graph: StageGraph, stage: str) -> NodeRequest:
    (node,) = [node for node in graph.nodes.values() if node.stage == stage]
    return NodeRequest("toys-smoke", node.name, node.hash, node.request)


def run_all(graph: StageGraph, out: Path) -> list[int]:
    stages = [node.stage for node in graph.nodes.values()]
    return [run_node(node_request(graph, stage), RunOptions(out)) for stage in stages]


def test_node_by_node_gives_the_run(graph: StageGraph, tmp_path: Path, bench: Bench) -> None:
    plain = tmp_path / "plain"
    run = ("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--seed", "3")
    assert bench(*run, "--out", plain).code == 0
    assert run_all(graph, tmp_path) == [0, 0, 0, 0]
    assert_same_results(plain, tmp_path)
    assert {name: record.status for name, record in records(tmp_path).items()} == dict.fromkeys(graph.nodes, "done")
    # Once more: nothing is computed, the record counts it.
    assert run_all(graph, tmp_path) == [0, 0, 0, 0]
    assert {record.attempts for record in records(tmp_path).values()} == {2}


def test_the_command_takes_a_node_from_a_file(graph: StageGraph, tmp_path: Path, bench: Bench) -> None:
    file = tmp_path / "node.json"
    file.write_text(json.dumps(node_request(graph, "data").to_json()))
    assert bench("stage", "--run-json", file, "--out", tmp_path).code == 0
    file.write_text(json.dumps(node_request(graph, "adapt").to_json()))
    outcome = bench("stage", "--run-json", file, "--out", tmp_path)
    assert outcome.code == 1
    assert "adapt-" in outcome.err and "cannot be computed: fit-" in outcome.err
    file.write_text('{"sweep": "x"}')
    outcome = bench("stage", "--run-json", file, "--out", tmp_path)
    assert outcome.code == 2
    assert re.fullmatch(r"bench: not a node of a sweep, .*: the field '(node|hash|request)' is missing\n", outcome.err)


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("fit", {"hash": "0" * 64}, "was planned with hash 000000000000 and is "),
        ("fit", {"node": "fit-000000000000"}, "is no stage of the run toy-toy-line-smoke-s3 as this version"),
        ("fit", {}, "cannot be computed: data-"),
        (REPORT, {"hash": "0" * 64}, "was planned with hash 000000000000 and is "),
        (REPORT, {}, "cannot be computed: data-"),
    ],
)
def test_what_cannot_be_right_is_refused(
    graph: StageGraph, tmp_path: Path, stage: str, change: dict[str, str], message: str
) -> None:
    request = replace(node_request(graph, stage), **change)
    assert run_node(request, RunOptions(tmp_path)) == 1
    record = records(tmp_path)[request.node]
    assert record.status == "failed"
    assert message in record.error
    assert not (tmp_path / "artefacts" / request.node).exists()


def test_a_stage_that_raises_leaves_its_traceback_and_can_be_retried(
    graph: StageGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "fail"
    told.touch()
    monkeypatch.setenv(FAIL_WHEN_EXISTS, str(told))
    assert run_all(graph, tmp_path) == [0, 1, 1, 1]
    record = records(tmp_path)[node_request(graph, "fit").node]
    assert record.last_line == "ArithmeticError: the toy was told to fail"
    assert "in advance" in record.traceback
    told.unlink()
    assert run_all(graph, tmp_path) == [0, 0, 0, 0]
    record = records(tmp_path)[node_request(graph, "fit").node]
    assert (record.status, record.attempts, record.error, record.traceback) == ("done", 2, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_request_to_stop_saves_and_says_so(graph: StageGraph, tmp_path: Path, number: signal.Signals) -> None:
    assert run_node(node_request(graph, "data"), RunOptions(tmp_path)) == 0
    stop = StopRequest()
    stop.signal_number = number
    fit = node_request(graph, "fit")
    assert run_node(fit, RunOptions(tmp_path), stop, labels={"job": "12_3"}) == 128 + number
    record = records(tmp_path)[fit.node]
    assert (record.status, record.signal, record.labels) == ("interrupted", number, {"job": "12_3"})
    assert "saved at 1 of 10 updates" in record.error
    assert run_node(fit, RunOptions(tmp_path)) == 0


names = st.text("abc-", min_size=1, max_size=5)
requests = st.builds(
    RunRequest, names, names, names, st.integers(0, 2**62),
    st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
    st.lists(st.builds(Override, names, names), max_size=2).map(tuple), st.none() | names,
)  # fmt: skip


@given(st.builds(NodeRequest, names, names, names, requests))
def test_a_request_survives_json(request: NodeRequest) -> None:
    assert NodeRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


def test_a_damaged_or_foreign_record_is_refused_with_its_reason(graph: StageGraph, tmp_path: Path) -> None:
    data = node_request(graph, "data")
    assert run_node(data, RunOptions(tmp_path)) == 0
    folder = sweep_folder(tmp_path, "toys-smoke")
    path = record_path(folder, data.node)
    path.write_text(path.read_text().replace('"done"', '"failed"'))
    with pytest.raises(StorageError, match=r"is damaged or was altered.*delete it"):
        read_record(folder, data.node)
    path.write_text("{")
    with pytest.raises(StorageError, match=r"cannot be read.*delete it"):
        read_record(folder, data.node)
    assert read_record(folder, "never-started") is None


def test_json_of_another_version_is_refused() -> None:
    content = NodeRequest("s", "n", "h", REQUEST).to_json()
    content["request"]["flavour"] = "sweet"
    with pytest.raises(UserError, match=r"of another version: request: unknown field 'flavour'"):
        NodeRequest.from_json(content)
