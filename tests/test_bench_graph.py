"""Runs as one graph: equal stages merge, inputs come first, only what is missing is run."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bench.config import Override
from bench.graph import REPORT, StageGraph, StageNode, merge_plans
from bench.plan import RunRequest, plan_run
from tests.conftest import Bench


def toy_request(seed: int = 0, episodes: int | None = None) -> RunRequest:
    overrides = () if episodes is None else (Override("adapt.episodes", str(episodes)),)
    return RunRequest("toy", "toy-line", "smoke", seed, None, overrides)


def test_equal_stages_of_different_runs_are_one_node(tmp_path: Path) -> None:
    requests = [toy_request(seed, episodes) for seed in (0, 1) for episodes in (None, 26)]
    graph = merge_plans([plan_run(request) for request in requests], tmp_path)
    kinds = [node.stage for node in graph.nodes.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"data": 1, "fit": 2, "adapt": 4, REPORT: 4}
    assert graph.stages_before_merging == 12
    data = next(node for node in graph.nodes.values() if node.stage == "data")
    assert data.runs == graph.runs
    assert len(set(graph.runs)) == 4
    assert [[node.stage for node in level] for level in graph.levels()] == [
        ["data"], ["fit"] * 2, ["adapt"] * 4, [REPORT] * 4,
    ]  # fmt: skip


def test_the_same_run_twice_is_one_run(tmp_path: Path) -> None:
    assert len(merge_plans([plan_run(toy_request())] * 2, tmp_path).nodes) == 4


def test_what_plain_runs_have_made_exists(tmp_path: Path, bench: Bench) -> None:
    requests = [toy_request(), toy_request(episodes=26)]
    plans = [plan_run(request) for request in requests]
    assert bench("run", "--algo", "toy", "--env", "toy-line", "--preset", "smoke", "--out", tmp_path).code == 0
    missing = merge_plans(plans, tmp_path).missing()
    assert [node.name for node in missing] == [plans[1].stages[-1].artefact_name, f"report-{plans[1].run_name}"]
    # An artefact that only a finished run needed is not made again; one that a missing run needs is.
    for stage, expected in (("adapt", 2), ("data", 3)):
        name = next(planned.artefact_name for planned in plans[0].stages if planned.spec.name == stage)
        (tmp_path / "artefacts" / name).rename(tmp_path / stage)
        assert len(merge_plans(plans, tmp_path).missing()) == expected


def test_selecting_runs_keeps_what_they_need(tmp_path: Path) -> None:
    plans = [plan_run(toy_request(seed)) for seed in (0, 1)]
    part = merge_plans(plans, tmp_path).select(lambda run: run == plans[1].run_name)
    assert part.runs == (plans[1].run_name,)
    assert set(part.nodes) == {stage.artefact_name for stage in plans[1].stages} | {f"report-{plans[1].run_name}"}
    assert part.stages_before_merging == 3


@st.composite
def graphs(draw: st.DrawFn) -> StageGraph:
    """Stages that read any earlier ones, some of which exist; reports that read some stages and all these need."""
    request = toy_request()
    nodes: dict[str, StageNode] = {}
    needs: dict[str, set[str]] = {}
    for index in range(draw(st.integers(1, 15))):
        inputs = tuple(draw(st.sets(st.sampled_from(list(nodes)), max_size=3))) if nodes else ()
        name = f"stage-{index}"
        needs[name] = {name}.union(*(needs[other] for other in inputs))
        nodes[name] = StageNode(name, "stage", "", inputs, request, ("run",), draw(st.booleans()))
    for index in range(draw(st.integers(1, 4))):
        last = draw(st.sets(st.sampled_from(list(needs)), min_size=1, max_size=3))
        inputs = tuple(sorted(set().union(*(needs[name] for name in last))))
        exists = draw(st.booleans())
        nodes[f"report-{index}"] = StageNode(f"report-{index}", REPORT, "", inputs, request, (f"{index}",), exists)
    return StageGraph(nodes)


@given(graphs())
def test_each_missing_stage_is_run_once_and_never_before_its_inputs(graph: StageGraph) -> None:
    levels = graph.levels()
    run_at = {node.name: depth for depth, level in enumerate(levels) for node in level}
    assert len(run_at) == sum(map(len, levels)) == len(graph.missing())
    assert all(levels)
    for name, depth in run_at.items():
        node = graph.nodes[name]
        assert not node.exists
        for other in node.inputs:
            assert graph.nodes[other].exists or run_at[other] < depth
        # A level is as early as it can be.
        assert depth == 0 or any(run_at.get(other) == depth - 1 for other in node.inputs)


@given(graphs())
def test_what_is_missing_is_just_what_unfinished_reports_need(graph: StageGraph) -> None:
    needed = {node.name for node in graph.nodes.values() if node.stage == REPORT and not node.exists}
    needed |= {name for report in needed for name in graph.nodes[report].inputs if not graph.nodes[name].exists}
    assert {node.name for node in graph.missing()} == needed
