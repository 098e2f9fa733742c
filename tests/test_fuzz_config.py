"""Values that nobody means in every field of every configuration: refused in one line, or taken; never a traceback.

What is taken is planned as a run would be, and of offline data the first piece is asked for, where that is cheap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from algorithms.registry import algorithm_names
from bench.config import Override, resolve_config
from bench.errors import UserError, one_line
from bench.fields import leaf_types
from bench.lookup import find_algorithm, find_task_distribution, needs_data, presets_of_pair, why_impossible
from bench.plan import RunRequest, plan_run
from envs.registry import task_distribution_names

VALUES_PER_FIELD = 40
NASTY = (
    "", " ", "0", "-0", "-1", "1", "2", "0.0", "0.5", "1e-300", "5e-324", "1e12", "1e13", "1e308", "1e309", "-1e309",
    "nan", "NaN", "inf", "-inf", "true", "false", "none", "None", "null", "[]", "()", "(1,", "1,2", "1,,2", "0,0,0,0",
    "0x10", "1_000", "9" * 400, "9" * 5000, "1." + "0" * 400, "../../x", "\x1b[31m", "[/b]", "a b", "\u202e", "\n",
)  # fmt: skip


def texts() -> st.SearchStrategy[str]:
    return st.one_of(
        st.sampled_from(NASTY), st.integers().map(str), st.floats().map(str), st.text(max_size=12),
        st.lists(st.floats(-10, 10).map(str), max_size=4).map(",".join),
    )  # fmt: skip


@cache
def config_classes() -> dict[type[Any], tuple[str, str, str]]:
    """Every configuration class of a stage, with a run that has it: (algorithm, task distribution, stage)."""
    found: dict[type[Any], tuple[str, str, str]] = {}
    for name in algorithm_names():
        if name == "toy":
            continue
        try:
            algorithm = find_algorithm(name)
        except UserError:
            continue  # Its optional package is not here.
        for env in task_distribution_names():
            tasks = find_task_distribution(env)
            if why_impossible(algorithm, tasks) is None and "smoke" in presets_of_pair(algorithm, tasks):
                for stage in algorithm.stages:
                    found.setdefault(stage.config_class, (name, env, stage.name))
                if needs_data(algorithm) and tasks.data_source is not None:
                    found.setdefault(tasks.data_source.config_class, (name, env, "data"))
    return found


FIELDS = [(config_class, field) for config_class in config_classes() for field, _, _ in leaf_types(config_class)]


def check_refusal(error: UserError) -> None:
    assert str(error).strip()
    assert len(one_line(str(error))) <= 1000


@pytest.mark.parametrize(
    ("config_class", "field"), FIELDS, ids=[f"{config_class.__name__}.{field}" for config_class, field in FIELDS]
)
def test_every_field_takes_or_refuses_what_it_is_given(config_class: type[Any], field: str) -> None:
    _, env, stage = config_classes()[config_class]
    tasks = find_task_distribution(env)

    @seed(20)
    @settings(max_examples=VALUES_PER_FIELD, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(texts())
    def check(text: str) -> None:
        try:
            config = resolve_config(config_class, stage, {}, [Override(f"{stage}.{field}", text)], "smoke")
        except UserError as error:
            check_refusal(error)
            return
        assert dataclasses.is_dataclass(config)
        if stage == "data" and tasks.data_source is not None:
            assert tasks.data_source.num_chunks(config) >= 1

    check()


def runs() -> Iterator[tuple[str, str, str, str]]:
    for config_class, (algo, env, stage) in config_classes().items():
        for field, _, _ in leaf_types(config_class):
            yield algo, env, stage, field


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (Override("data.waypoint_jitter", "5"), "waypoint_jitter is 5.0; valid is 0.0 to 0.399"),
        (Override("data.waypoint_tolerance", "0"), "waypoint_tolerance is 0.0; valid is"),
        (Override("data.max_env_steps", "0"), "max_env_steps is 0; valid is 1 to 1,000,000"),
        (Override("data.num_trajectories", "0"), "num_trajectories is 0; valid is 1 to 10,000,000"),
        (Override("data.chunk_trajectories", "0"), "chunk_trajectories is 0; valid is"),
    ],
)
def test_what_the_maze_data_cannot_be_built_with_is_not_planned(override: Override, words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_run(RunRequest("spirl", "maze", "smoke", overrides=(override,)))


@pytest.mark.parametrize("size", ["0", "1", "7", "1000000000000"])
def test_mazes_of_no_size_are_not_planned(size: str) -> None:
    with pytest.raises(UserError, match="layout_size"):
        plan_run(RunRequest("spirl", "image-maze", "smoke", overrides=(Override("data.layout_size", size),)))


@pytest.mark.parametrize("stage", ["meta_train", "adapt"])
def test_a_bound_that_is_none_is_refused_when_the_run_is_planned(stage: str) -> None:
    """The point robot's returns are negative: there is no highest target to clip to."""
    overrides = (Override(f"{stage}.clip_targets", "true"),)
    with pytest.raises(UserError, match=rf"{stage} on point-robot: clip_targets is on, but returns go down to"):
        plan_run(RunRequest("pearl-ft", "point-robot", "smoke", overrides=overrides))


def test_the_fuzz_reaches_every_kind_of_stage() -> None:
    stages = {stage for _, _, stage in config_classes().values()}
    assert {"data", "skills", "bc", "meta_train", "adapt", "task_policies", "distil"} <= stages
    assert len(FIELDS) > 150


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_long_fuzz_of_whole_plans() -> None:
    """As the one above, through ``plan_run``, which also hashes what is taken: 200 values of every field."""

    for run in runs():
        _fuzz_plan(*run)


def _fuzz_plan(algo: str, env: str, stage: str, field: str) -> None:
    @seed(21)
    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(texts())
    def check(text: str) -> None:
        try:
            plan = plan_run(RunRequest(algo, env, "smoke", overrides=(Override(f"{stage}.{field}", text),)))
        except UserError as error:
            check_refusal(error)
        else:
            assert all(len(planned.hash) == 64 for planned in plan.stages)

    check()
