"""Plans: which stages a run has, and that a hash changes exactly with what determines a result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.stage import ADDED_LATER
from bench.config import Override
from bench.errors import UserError
from bench.fields import leaf_types
from bench.files import canonical_json, sha256_of_text
from bench.lookup import find_algorithm, find_task_distribution, why_impossible
from bench.plan import RunPlan, RunRequest, plan_run, plan_stage
from envs.core import Task, TaskDistribution
from envs.registry import task_distribution_names
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


@pytest.mark.parametrize("env", ["maze", "kitchen"])
def test_skills_of_shipped_runs_are_still_found(env: str) -> None:
    shipped = json.loads((ROOT / "results" / "runs" / f"spirl-{env}-quick-s0" / "run.json").read_text())
    (skills,) = (stage for stage in shipped["stages"] if stage["name"] == "skills")
    planned = next(s for s in plan_run(RunRequest("spirl", env, "quick")).stages if s.spec.name == "skills")
    assert planned.key["config"] == skills["manifest"]["key"]["config"]


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
