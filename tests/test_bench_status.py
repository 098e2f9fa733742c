"""Where a sweep stands, told from files alone: ledger, exit records, locks, checkpoints and artefacts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import slurm.states
from bench.files import read_json, read_sealed_json, write_sealed_json
from bench.graph import REPORT, StageGraph, StageNode, merge_plans
from bench.ledger import LEDGER, Ledger
from bench.locks import lock_file
from bench.node_records import end_record, start_record, sweep_folder
from bench.plan import RunRequest, plan_run
from bench.run import RunOptions
from bench.signals import StopRequest
from bench.status import read_status
from bench.store import ArtefactStore
from bench.worker import NodeRequest, run_node
from slurm.ledger import JobArray
from tests.conftest import ROOT, Bench

SWEEP = "toys-smoke"
SETTINGS = {"device": "cpu", "threads": 1, "checkpoint_seconds": 60.0, "profile": None, "max_parallel": None}


pytestmark = pytest.mark.usefixtures("denormals")


@pytest.fixture
def graph(tmp_path: Path) -> StageGraph:
    """Two seeds of the toy, in a ledger; nothing of it is computed."""
    plans = [plan_run(RunRequest("toy", "toy-line", "smoke", seed)) for seed in (0, 1)]
    graph = merge_plans(plans, tmp_path)
    write_ledger(graph, tmp_path)
    return graph


def write_ledger(graph: StageGraph, out: Path, executor: str = "local") -> None:
    Ledger(SWEEP, "Toys", "smoke", "toys.toml", executor, ("algorithm 'gone'",), graph, SETTINGS).write(out)


def nodes_of(graph: StageGraph, stage: str) -> list[StageNode]:
    return [node for node in graph.nodes.values() if node.stage == stage]


def run(node: StageNode, out: Path, stop: StopRequest | None = None) -> int:
    return run_node(NodeRequest(SWEEP, node.name, node.hash, node.request), RunOptions(out), stop)


def states(out: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in read_status(out, SWEEP).nodes.values():
        found.setdefault(node.stage, []).append(node.state)
    return found


def test_from_pending_to_done(graph: StageGraph, tmp_path: Path) -> None:
    pair = ["pending", "pending"]
    assert states(tmp_path) == {"data": ["pending"], "fit": pair, "adapt": pair, REPORT: pair}
    for node in graph.nodes.values():
        assert run(node, tmp_path) == 0
    status = read_status(tmp_path, SWEEP)
    assert status.counts == {"done": 7}
    assert {name: status.run_state(name) for name in graph.runs} == dict.fromkeys(graph.runs, "done")
    assert not status.is_moving


def test_failed_blocks_what_needs_it(graph: StageGraph, tmp_path: Path, bench: Bench) -> None:
    first, second = nodes_of(graph, "fit")
    folder = sweep_folder(tmp_path, SWEEP)
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no [good]\n'
    end_record(folder, start_record(folder, first.name, {}), "failed", error="stage fit failed", traceback=trace)
    status = read_status(tmp_path, SWEEP)
    assert status.counts == {"pending": 4, "failed": 1, "blocked": 2}
    assert status.nodes[first.name].reason == "ValueError: no [good]"
    assert status.nodes[f"report-{first.runs[0]}"].reason == f"needs {first.name}, which failed"
    assert [status.run_state(name) for name in graph.runs] == ["failed", "pending"]
    shown = bench("status", SWEEP, "--out", tmp_path)
    assert "toys-smoke: Toys; 4 pending, 1 failed, 2 blocked" in shown.out
    assert "left out: algorithm 'gone'" in shown.out
    assert "ValueError: no [good]" in shown.out
    failed = bench("status", SWEEP, "--out", tmp_path, "--failed")
    assert trace in failed.out and second.name not in failed.out
    every = bench("status", "--out", tmp_path)
    assert "toys-smoke" in every.out and "4 pending, 1 failed, 2 blocked" in every.out
    assert json.loads(bench("status", "--out", tmp_path, "--json").out)[0]["counts"] == status.counts


def test_running_only_while_its_lock_is_held(graph: StageGraph, tmp_path: Path) -> None:
    (data,) = nodes_of(graph, "data")
    start_record(sweep_folder(tmp_path, SWEEP), data.name, {})
    with lock_file(ArtefactStore(tmp_path / "artefacts").lock_path(data.name), wait=False):
        status = read_status(tmp_path, SWEEP)
        assert status.nodes[data.name].state == "running"
        assert status.nodes[data.name].where == f"pid {os.getpid()} on {os.uname().nodename}"
        assert status.is_moving
        assert set(map(status.run_state, graph.runs)) == {"running"}
    status = read_status(tmp_path, SWEEP)
    assert status.nodes[data.name].state == "stopped"
    assert "is gone without a word" in status.nodes[data.name].reason
    assert not status.is_moving


def test_interrupted_shows_how_far_it_is_and_how_fast(graph: StageGraph, tmp_path: Path) -> None:
    (data,), (fit, _) = nodes_of(graph, "data"), nodes_of(graph, "fit")
    assert run(data, tmp_path) == 0
    stop = StopRequest()
    stop.signal_number = 15
    for count in (1, 2):
        assert run(fit, tmp_path, stop) == 143
        node = read_status(tmp_path, SWEEP).nodes[fit.name]
        assert (node.state, node.attempts) == ("interrupted", count)
    seconds = read_json(tmp_path / "artefacts" / f"{fit.name}.partial" / "checkpoint.json")["seconds"]
    assert node.progress == f"2 of 10 updates, {2 / seconds:.3g} per second"


def test_an_artefact_that_has_gone_is_pending_with_the_reason(graph: StageGraph, tmp_path: Path) -> None:
    (data,) = nodes_of(graph, "data")
    assert run(data, tmp_path) == 0
    (tmp_path / "artefacts" / data.name).rename(tmp_path / "gone")
    node = read_status(tmp_path, SWEEP).nodes[data.name]
    assert (node.state, node.reason) == ("pending", "it was done, and its artefact has gone since")


@pytest.mark.parametrize(
    ("record", "cluster", "expected"),
    [
        (None, "pending", "pending"),
        (None, "running", "running"),
        (None, "cancelled", "cancelled"),
        (None, "failed", "failed"),
        (None, "unknown", "pending"),
        ("running", "running", "running"),
        ("running", "unknown", "stopped"),
        ("running", "failed", "failed"),
        ("interrupted", "pending", "preempted"),
        ("interrupted", "preempted", "preempted"),
        ("interrupted", "unknown", "interrupted"),
        ("failed", "pending", "pending"),
        ("failed", "unknown", "failed"),
    ],
)
def test_the_word_of_the_cluster_is_added(
    graph: StageGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str | None, cluster: str, expected: str
) -> None:
    (data,) = nodes_of(graph, "data")
    folder = sweep_folder(tmp_path, SWEEP)
    if record is not None:
        started = start_record(folder, data.name, {})
        if record != "running":
            end_record(folder, started, record)
    job = slurm.states.NodeJob(JobArray("a", "data", ((data.name,),)), None, tmp_path / "log")
    known = slurm.states.ClusterNodes({data.name: slurm.states.ClusterNode(cluster, said="", job=job)})
    monkeypatch.setattr(slurm.states, "ask_nodes", lambda folder: known)
    write_ledger(graph, tmp_path, executor="slurm")
    status = read_status(tmp_path, SWEEP)
    assert status.nodes[data.name].state == expected
    assert status.is_moving == (cluster in ("pending", "running", "preempted"))


def test_unknown_sweep_other_version_and_damage(graph: StageGraph, tmp_path: Path, bench: Bench) -> None:
    outcome = bench("status", "toy-smoke", "--out", tmp_path)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "'toy-smoke': did you mean 'toys-smoke'?" in outcome.err
    assert (
        bench("status", "--watch", "--out", tmp_path).err
        == "bench: bench status needs a SWEEP for --watch and --failed\n"
    )
    path = sweep_folder(tmp_path, SWEEP) / LEDGER
    content = read_sealed_json(path, "")
    write_sealed_json(path, content | {"format": 2})
    for command in ("status", "retry", "cancel"):
        outcome = bench(command, SWEEP, "--out", tmp_path)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert "is of another version (format 2, expected 1); run bench sweep again to write it anew" in outcome.err
    path.write_text(path.read_text().replace("Toys", "Boys"))
    assert "is damaged or was altered" in bench("status", SWEEP, "--out", tmp_path).err


def test_watch_ends_when_nothing_moves(graph: StageGraph, tmp_path: Path, bench: Bench) -> None:
    outcome = bench("status", SWEEP, "--out", tmp_path, "--watch")
    assert outcome.code == 0
    assert "7 pending" in outcome.out


def test_two_thousand_stages_in_two_seconds(graph: StageGraph, tmp_path: Path) -> None:
    """CPU time of the whole command, so that a busy machine does not matter; it needs no torch."""
    (data,), (fit, _) = nodes_of(graph, "data"), nodes_of(graph, "fit")
    nodes = {data.name: replace(data, runs=tuple(f"run-{index}" for index in range(1000)))}
    folder = sweep_folder(tmp_path, SWEEP)
    started = start_record(folder, data.name, {})
    for index in range(1000):
        run_name, name = f"run-{index}", f"fit-{index:012x}"
        nodes[name] = replace(fit, name=name, runs=(run_name,))
        report = f"report-{run_name}"
        nodes[report] = replace(fit, name=report, stage=REPORT, inputs=(data.name, name), runs=(run_name,))
        if index % 2:
            end_record(folder, replace(started, node=name), "failed", error="x", traceback="T\n" * 20)
    write_ledger(StageGraph(nodes), tmp_path)
    command = [sys.executable, "-X", "importtime", "-m", "bench", "status", SWEEP, "--out", str(tmp_path)]
    before = os.times()
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = os.times()
    assert "1000 pending, 1 stopped, 500 failed, 500 blocked" in outcome.stdout
    assert " torch\n" not in outcome.stderr
    assert after.children_user + after.children_system - before.children_user - before.children_system <= 2.0
