"""Plans: which stages a run has, and that a hash changes exactly with what determines a result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.registry import algorithm
from algorithms.stage import ADDED_LATER
from bench.config import Override
from bench.errors import UserError
from bench.fields import leaf_types
from bench.files import canonical_json, sha256_of_text
from bench.lookup import find_algorithm, find_task_distribution, why_impossible
from bench.plan import RunPlan, RunRequest, plan_run, plan_stage, request_from_json, tasks_key
from envs.core import Task, TaskDistribution
from envs.registry import task_distribution, task_distribution_names
from tests.contract_helpers import ALGORITHMS
from tests.toy import ADAPT, FIT, TOY_LINE, AdaptConfig, FitConfig

ROOT = Path(__file__).parent.parent
REQUEST = RunRequest("toy", "toy-line", "smoke")
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def hashes(plan: RunPlan) -> dict[str, str]:
    return {stage.spec.name: stage.hash for stage in plan.stages}


def changed(**request: Any) -> set[str]:
    """Stages whose hash differs from that of ``REQUEST`` when the request is changed."""
    before, after = hashes(plan_run(REQUEST)), hashes(plan_run(replace(REQUEST, **request)))
    return {name for name in before if before[name] != after[name]}


def test_stages_come_in_order_with_data_first() -> None:
    plan = plan_run(REQUEST)
    assert [stage.spec.name for stage in plan.stages] == ["data", "fit", "adapt"]
    assert plan.stages[2].inputs == {"fit": plan.stages[1].artefact_name}
    assert plan.run_name == "toy-toy-line-smoke-s0"


def test_planning_twice_gives_the_same_hashes() -> None:
    assert hashes(plan_run(REQUEST)) == hashes(plan_run(REQUEST))


def test_a_request_goes_through_json_and_older_ones_are_on_target_tasks() -> None:
    request = replace(REQUEST, task_set="validation", target_tasks=(1,), overrides=(Override("fit.updates", "3"),))
    content = json.loads(json.dumps(asdict(request)))
    assert request_from_json(content) == request
    del content["task_set"]
    assert request_from_json(content) == replace(request, task_set="target")


def test_a_change_reaches_exactly_the_stages_that_depend_on_it() -> None:
    assert changed(seed=1) == {"fit", "adapt"}
    assert changed(target_tasks=(0,)) == {"adapt"}
    assert changed(overrides=(Override("adapt.episodes", "7"),)) == {"adapt"}
    assert changed(overrides=(Override("fit.updates", "7"),)) == {"fit", "adapt"}
    assert changed(overrides=(Override("data.seed", "7"),)) == {"data", "fit", "adapt"}


def test_an_override_with_the_presets_value_changes_no_stage() -> None:
    assert changed(overrides=(Override("fit.updates", "10"), Override("fit.learning_rate", "0.01"))) == set()


def test_order_and_repetition_of_tasks_do_not_matter_or_are_refused() -> None:
    forward = plan_run(replace(REQUEST, target_tasks=(0, 2)))
    backward = plan_run(replace(REQUEST, target_tasks=(2, 0)))
    assert hashes(forward) == hashes(backward)
    assert forward.run_name == backward.run_name != plan_run(REQUEST).run_name
    assert plan_run(replace(REQUEST, target_tasks=(0, 1, 2))).run_name == plan_run(REQUEST).run_name
    with pytest.raises(UserError, match="different target tasks"):
        plan_run(replace(REQUEST, target_tasks=(1, 1)))
    with pytest.raises(UserError, match="no target task 3; valid: 0 to 2"):
        plan_run(replace(REQUEST, target_tasks=(0, 3)))


def test_validation_tasks_are_adapted_to_by_a_stage_of_their_own() -> None:
    assert changed(task_set="validation") == {"adapt"}
    assert changed(task_set="validation", target_tasks=(0,)) == {"adapt"}
    plan = plan_run(replace(REQUEST, task_set="validation"))
    assert plan.run_name == "toy-toy-line-smoke-s0-on-validation"
    assert plan.target_tasks == (0, 1)
    data, fit, adapt = plan.stages
    assert adapt.key["tasks"]["target"] == [
        [0, {"name": "validation-0", "spec": {"goal": [10]}}], [1, {"name": "validation-1", "spec": {"goal": [11]}}],
    ]  # fmt: skip
    assert adapt.key["tasks"]["task_set"] == "validation"
    assert plan.distribution_of(adapt).target_tasks == TOY_LINE.validation_tasks
    assert plan.distribution_of(fit) is plan.distribution_of(data) is TOY_LINE
    assert [plan.task_set_of(stage) for stage in plan.stages] == ["", "", "validation"]
    some = plan_run(replace(REQUEST, task_set="validation", target_tasks=(1,)))
    assert some.run_name.startswith("toy-toy-line-smoke-s0-on-validation-")
    assert plan_run(replace(REQUEST, task_set="validation", target_tasks=(1, 0))).run_name == plan.run_name


def test_equal_tasks_in_both_sets_are_not_mixed() -> None:
    """However alike the tasks are: the set is part of the hash."""
    alike = replace(TOY_LINE, validation_tasks=TOY_LINE.target_tasks)
    planned = {"fit": plan_run(REQUEST).stages[1]}
    on_target = plan_stage(ADAPT, AdaptConfig(), 0, alike, (0,), planned)
    on_validation = plan_stage(ADAPT, AdaptConfig(), 0, alike, (0,), planned, "validation")
    assert on_target.hash != on_validation.hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task_set": "validaton"}, r"unknown set of tasks \(--on\) 'validaton': did you mean 'validation'"),
        ({"task_set": "validation", "target_tasks": (2,)}, "toy-line has no validation task 2; valid: 0 to 1"),
        ({"task_set": "validation", "target_tasks": (1, 1)}, "expected different validation tasks, got 1,1"),
        (
            {"algo": "sac", "env": "pendulum", "task_set": "validation"},
            "^--on validation: pendulum has no validation tasks; those that have: maze, .*, kitchen, point-robot, .*$",
        ),
    ],
)
def test_tasks_that_are_not_there_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_run(replace(REQUEST, **changes))


def test_runs_on_target_tasks_keep_their_names_and_hashes() -> None:
    """As they were recorded with no other set of tasks in the plan."""
    assert hashes(plan_run(REQUEST)) == {
        "data": "67cb4c8e51a359aaa61f0494ad7c0183563648a2a26a0fbff2c6d0fd6bf88f48",
        "fit": "67d8411a6f536e658dc21bfb39bbe44a8aacc84f9fff9fdb392d047737be0778",
        "adapt": "5781ad1449e01a22c8108010dd27bc853ae42da77b60e064a699cc64a5119ac2",
    }
    some = plan_run(replace(REQUEST, target_tasks=(0, 2)))
    assert some.run_name == "toy-toy-line-smoke-s0-e4e9fa86"
    assert some.stages[-1].hash == "f0237f9b5a4b67a1ab0bdc20e4abed00f540352c20cb6f0e4ab4f72c0a6d8409"


def test_what_shipped_stages_depend_on_in_their_tasks_is_what_plans_say_today() -> None:
    seen = set()
    for path in sorted((ROOT / "results" / "runs").glob("*/run.json")):
        shipped = json.loads(path.read_text())
        specs = {stage.name: stage for stage in algorithm(shipped["algo"]).stages}
        for stage in shipped["stages"]:
            if stage["name"] in specs and specs[stage["name"]].tasks != "none":  # these were keyed by nothing then
                distribution = task_distribution(shipped["env"])
                today = tasks_key(specs[stage["name"]], distribution, tuple(shipped["target_tasks"]))
                assert canonical_json(today) == canonical_json(stage["manifest"]["key"]["tasks"]), path
                seen.add((shipped["env"], stage["name"]))
    assert {("maze", "adapt"), ("kitchen", "adapt"), ("image-maze", "adapt"), ("maze", "meta_train")} <= seen


@pytest.mark.parametrize("field", [field.name for field in fields(FitConfig)])
def test_every_field_is_part_of_the_hash(field: str) -> None:
    other = {"kind": "tanh", "widths": (9,), "nesterov": True, "clip": 1.0}.get(field, 0.25)
    config = FitConfig() if field not in ("updates", "ballast") else FitConfig(**{field: 1})
    planned = {"data": plan_run(REQUEST).stages[0]}
    before = plan_stage(FIT, config, 0, TOY_LINE, (0,), planned)
    after = plan_stage(FIT, replace(config, **{field: other}), 0, TOY_LINE, (0,), planned)
    assert before.hash != after.hash


@dataclass(frozen=True)
class OlderConfig:
    """As it was when artefacts were made with it."""

    updates: int = 10


@dataclass(frozen=True)
class YoungerConfig(OlderConfig):
    """With a field more, which is off by default."""

    twist: float = field(default=0.0, metadata=ADDED_LATER)


def test_a_field_added_later_is_part_of_the_hash_but_at_its_default() -> None:
    planned = {"data": plan_run(REQUEST).stages[0]}
    older, same, twisted, longer = (
        plan_stage(FIT, config, 0, TOY_LINE, (0,), planned).hash
        for config in (OlderConfig(), YoungerConfig(), YoungerConfig(twist=1.0), YoungerConfig(updates=11))
    )
    assert older == same
    assert len({older, twisted, longer}) == 3


@pytest.mark.parametrize(
    ("distribution", "differs"),
    [
        (replace(TOY_LINE, world_fingerprint="toy/2"), True),
        (replace(TOY_LINE, episode_env_steps=11), True),
        (replace(TOY_LINE, target_tasks=(Task("target-0", {"goal": [5]}), *TOY_LINE.target_tasks[1:])), True),
        (replace(TOY_LINE, summary="other words"), False),
        (replace(TOY_LINE, target_tasks=(TOY_LINE.target_tasks[0],)), False),
    ],
)
def test_a_target_stage_depends_on_the_world_and_its_chosen_tasks(
    distribution: TaskDistribution, differs: bool
) -> None:
    planned = {"fit": plan_run(REQUEST).stages[1]}
    before = plan_stage(ADAPT, AdaptConfig(), 0, TOY_LINE, (0,), planned)
    after = plan_stage(ADAPT, AdaptConfig(), 0, distribution, (0,), planned)
    assert (before.hash != after.hash) is differs


def test_the_implementation_is_part_of_the_hash() -> None:
    planned = {"data": plan_run(REQUEST).stages[0]}
    before = plan_stage(FIT, FitConfig(), 0, TOY_LINE, (0,), planned)
    after = plan_stage(replace(FIT, implementation="toy-fit/2"), FitConfig(), 0, TOY_LINE, (0,), planned)
    assert before.hash != after.hash


def test_a_run_until_a_stage_is_the_beginning_of_the_whole_run() -> None:
    whole, part = plan_run(REQUEST), plan_run(replace(REQUEST, until="fit"))
    assert part.stages == whole.stages[:2]
    assert part.run_name == "toy-toy-line-smoke-s0-until-fit"
    assert plan_run(replace(REQUEST, until="adapt")) == replace(whole, request=replace(REQUEST, until="adapt"))


@given(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=5), st.randoms(use_true_random=False))
def test_key_order_does_not_matter(content: dict[str, Any], random: Any) -> None:
    items = list(content.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(content)


@given(JSON_VALUES, JSON_VALUES)
def test_different_content_has_a_different_hash(first: Any, second: Any) -> None:
    same_text = canonical_json(first) == canonical_json(second)
    assert (sha256_of_text(canonical_json(first)) == sha256_of_text(canonical_json(second))) is same_text


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (RunRequest("toyy", "toy-line"), "unknown algorithm 'toyy': did you mean 'toy'"),
        (RunRequest("toy", "toy-lin"), "unknown task distribution 'toy-lin'.*'toy-line'"),
        (RunRequest("toy", "toy-line", "quik"), "unknown preset .* 'quik': did you mean 'quick'"),
        (RunRequest("toy", "maze"), "toy has no preset for the family 'maze'"),
        (RunRequest("toy", "toy-line", "smoke", until="fitt"), "unknown stage of toy 'fitt': did you mean 'fit'"),
    ],
)
def test_unknown_names_and_impossible_pairs_are_refused(request_: RunRequest, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_run(request_)


def worlds_with_negative_rewards() -> Iterator[tuple[str, str, str]]:
    """(algorithm, world, stage) wherever TD targets could be clipped but rewards can be negative."""
    for name in ALGORITHMS:
        algorithm = find_algorithm(name)
        for env in task_distribution_names():
            distribution = find_task_distribution(env)
            if distribution.score_range[0] >= 0 or why_impossible(algorithm, distribution) is not None:
                continue
            for stage in algorithm.stages:
                if "clip_targets" in {field for field, _, _ in leaf_types(stage.config_class)}:
                    yield name, env, stage.name


def test_a_setting_that_a_world_does_not_allow_is_refused_before_anything_runs() -> None:
    """In one line, for every algorithm and stage that has the setting."""
    pairs = list(worlds_with_negative_rewards())
    assert {("pearl", "point-robot", "meta_train"), ("sac", "pendulum", "adapt")} <= set(pairs)
    assert {stage for name, _, stage in pairs if name == "pearl-ft"} == {"meta_train", "adapt"}
    for name, env, stage in pairs:
        request = RunRequest(name, env, "smoke", overrides=(Override(f"{stage}.clip_targets", "true"),))
        message = rf"^{stage} on {env}: clip_targets is on, but returns go down to -\d"
        with pytest.raises(UserError, match=message) as error:
            plan_run(request)
        assert "\n" not in str(error.value)
        plan_run(replace(request, overrides=()))
