"""What each algorithm lets ``bench tune`` search: real fields, few of them, over ranges that hold every preset."""

from __future__ import annotations

import pytest

from algorithms.stage import Between
from bench.fields import flatten
from bench.lookup import find_algorithm, find_task_distribution, presets_of_pair
from bench.plan import RunRequest, plan_run
from bench.tune import with_values
from envs.registry import task_distribution_names

PAPERS = ("simpl", "spirl", "mtrl", "sac", "pearl", "pearl-ft", "bc+pearl", "bc+maml")
"""The algorithms of the paper's comparisons: all have the same chance."""
TUNED = (*PAPERS, "maml")
BUDGET = {"episodes", "batch_size", "transition_reuse", "updates_per_episode", "replay_capacity", "lanes"}
"""Fields of ``adapt`` that say how much is computed."""


def one_env_of_each_family() -> list[str]:
    found: dict[str, str] = {}
    for name in task_distribution_names():
        if not name.startswith("toy"):
            found.setdefault(find_task_distribution(name).family, name)
    return list(found.values())


@pytest.mark.parametrize("algo", TUNED)
def test_a_space_has_two_to_five_fields_of_the_adapt_stage_and_no_budget(algo: str) -> None:
    space = find_algorithm(algo).search_space
    assert 2 <= len(space) <= 5
    for name in space:
        stage, _, field = name.partition(".")
        assert stage == "adapt" and field not in BUDGET


@pytest.mark.parametrize("algo", TUNED)
def test_every_preset_lies_within_the_ranges_whose_ends_are_accepted(algo: str) -> None:
    algorithm = find_algorithm(algo)
    seen = 0
    for env in one_env_of_each_family():
        for preset in presets_of_pair(algorithm, find_task_distribution(env)):
            request = RunRequest(algo, env, preset)
            config = dict(flatten(plan_run(request).configs["adapt"]))
            for name, searched in algorithm.search_space.items():
                value = config[name.removeprefix("adapt.")]
                if isinstance(searched, Between):
                    assert searched.low <= value <= searched.high, (env, preset, name, value)
                    for end in (searched.low, searched.high):
                        plan_run(with_values(request, {name: end}))
                else:
                    assert value in searched.values, (env, preset, name, value)
                seen += 1
    assert seen >= 6


def test_what_differs_between_algorithms_is_what_they_do_not_have() -> None:
    """Fields that all fine-tuning has are searched over the same ranges for all."""
    spaces = [
        find_algorithm(algo).search_space
        for algo in PAPERS
        if "adapt.learning_rate" in find_algorithm(algo).search_space
    ]
    assert len(spaces) == 6
    for name in ("adapt.learning_rate", "adapt.coefficient_learning_rate"):
        assert {space[name] for space in spaces} == {spaces[0][name]}
    for algo in PAPERS:
        n_step = find_algorithm(algo).search_space.get("adapt.n_step")
        if n_step is not None:
            skills = any(stage.name == "skills" for stage in find_algorithm(algo).stages)
            assert n_step == Between(1, 20 if skills else 200, log=True), f"{algo}: to 200 env_steps ahead"
