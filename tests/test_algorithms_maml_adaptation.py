"""MAML on target tasks: the calendar of episodes and inner steps, sizes of steps, resume, playing."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from algorithms.adaptation import ADAPTED_FILE
from algorithms.behavior_cloning import BehaviorPolicy, GaussianPolicyConfig, behavior_policy_contents
from algorithms.files import DamagedFileError, load_tensors, save_tensors
from algorithms.maml import MamlConfig, inner_steps
from algorithms.maml_adaptation import MamlAdaptation, MamlAdaptConfig, play_adapted
from algorithms.meta_training import META_FILE
from algorithms.policy_gradient import make_gradient_batch, same_for_all
from algorithms.stage import PlayRequest, StageContext
from tests.algorithm_helpers import (
    ACTION_DIM,
    FAR_GOAL,
    NEAR_GOAL,
    OBSERVATION_DIM,
    START_GOAL,
    advance_to_end,
    short_maze,
    stage_context,
)

ENV_STEPS = 40
META = MamlConfig(inner_rate=2.0, discount=0.9, gradient_rows=30)
CONFIG = MamlAdaptConfig(episodes=11, exploration_episodes=4, episodes_per_step=3, lanes=6)


def make_context(folder: Path, seed: int = 0, target_tasks: tuple[int, ...] = (0, 1, 2)) -> StageContext:
    """A meta_train artefact with a policy that was not learned from anything, on three target goals."""
    torch.manual_seed(0)
    policy = BehaviorPolicy(GaussianPolicyConfig(hidden_dim=8, hidden_layers=1), OBSERVATION_DIM, ACTION_DIM)
    save_tensors(folder / META_FILE, {"config": asdict(META), "policy": behavior_policy_contents(policy)})
    distribution = short_maze(ENV_STEPS, [START_GOAL, NEAR_GOAL, FAR_GOAL])
    return stage_context(distribution, {"meta_train": folder}, seed, target_tasks)


def make_stage(folder: Path, config: MamlAdaptConfig = CONFIG, seed: int = 0) -> MamlAdaptation:
    return MamlAdaptation(config, make_context(folder, seed))


def test_calendar_of_episodes_and_steps(tmp_path: Path) -> None:
    """4 to explore, a step, then a step after each 3; two lanes per task."""
    stage = make_stage(tmp_path)
    calendar = []
    while not stage.finished:
        rows = stage.advance().episodes
        calendar.append((len(rows) // 3, rows[0].phase, stage.steps))
    assert calendar == [
        (2, "explore", 0), (2, "explore", 1), (2, "adapt", 1), (1, "adapt", 2), (2, "adapt", 2), (1, "adapt", 3),
        (1, "adapt", 3),
    ]  # fmt: skip
    assert stage.progress.done == stage.progress.total == 33


def test_fewer_lanes_than_tasks_take_turns(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, dataclasses.replace(CONFIG, lanes=2))
    reports = [stage.advance().episodes for _ in range(8)]
    assert [[row.task for row in rows] for rows in reports] == [[0, 1], [2]] * 4
    assert stage.steps == 1
    rows = [row for report in reports for row in report] + advance_to_end(stage)
    whole = advance_to_end(make_stage(tmp_path))
    assert len(rows) == len(whole) == 33
    returns = [
        {(row.task, row.episode): row.episode_return for row in each if row.episode < 4} for each in (rows, whole)
    ]
    assert returns[0] == returns[1], "the same exploration"


def test_rows_are_numbered_per_task(tmp_path: Path) -> None:
    rows = advance_to_end(make_stage(tmp_path))
    for task in range(3):
        of_this = [row for row in rows if row.task == task]
        assert [row.episode for row in of_this] == list(range(11))
        assert [row.env_steps for row in of_this] == [sum(r.length for r in of_this[: i + 1]) for i in range(11)]
    assert all(row.success for row in rows if row.task == 0), "the start lies within this goal"


def test_the_first_step_has_full_size_and_later_ones_half(tmp_path: Path) -> None:
    """Each from where the last one led, on all env_steps of the episodes since then, though meta-training took 30."""
    stage = make_stage(tmp_path, dataclasses.replace(CONFIG, lanes=100))
    parameters = same_for_all(dict(stage.policy.named_parameters()), 3)
    for count, rate in ((4, 2.0), (3, 1.0), (3, 1.0)):
        episodes: list[list[object]] = []
        take = stage._step

        def keep_and_step(take=take, episodes=episodes) -> None:  # type: ignore[no-untyped-def]
            episodes += [list(of_task) for of_task in stage.episodes]
            take()

        stage._step = keep_and_step  # type: ignore[method-assign]
        stage.advance()
        stage._step = take  # type: ignore[method-assign]
        assert [len(of_task) for of_task in episodes] == [count] * 3
        batch = make_gradient_batch(stage.policy, episodes, 0.9, ENV_STEPS)  # type: ignore[arg-type]
        assert batch.states.shape[1] > META.gradient_rows
        parameters = inner_steps(stage.policy, parameters, batch, rate)
        torch.testing.assert_close(stage.parameters, parameters)


def test_tasks_are_adapted_to_by_themselves(tmp_path: Path) -> None:
    """The policy of the goal that is never reached stays the meta-policy."""
    stage = make_stage(tmp_path)
    advance_to_end(stage)
    weights, start = stage.parameters["layers.0.weight"], stage.policy.layers[0].weight
    assert torch.equal(weights[2], start)
    assert not torch.equal(weights[0], start)


def test_artefact_holds_each_tasks_policy_and_can_be_played(tmp_path: Path) -> None:
    context = make_context(tmp_path, target_tasks=(1, 2))
    stage = MamlAdaptation(CONFIG, context)
    advance_to_end(stage)
    assert stage.write_artefact(tmp_path) == {"tasks": 2, "inner_steps": 3}
    saved = load_tensors(tmp_path / ADAPTED_FILE)
    assert list(saved["learners"]) == [1, 2]
    assert torch.equal(saved["learners"][2]["layers.1.bias"], stage.parameters["layers.1.bias"][1])
    two, three = (play_adapted(CONFIG, context, PlayRequest(tmp_path, 1, count, 5)) for count in (2, 3))
    assert [episode.observations.shape for episode in three] == [(e.length + 1, OBSERVATION_DIM) for e in three]
    for few, many in zip(two, three, strict=False):
        assert few.episode_return == many.episode_return
        assert torch.equal(torch.from_numpy(few.observations), torch.from_numpy(many.observations))


def test_a_damaged_meta_train_artefact_is_refused(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    (tmp_path / META_FILE).write_bytes(b"not a file of tensors")
    with pytest.raises(DamagedFileError, match=META_FILE):
        MamlAdaptation(CONFIG, context)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exploration_episodes": 12}, "exploration_episodes is 12; valid is 1 to 11"),
        ({"exploration_episodes": 0}, "exploration_episodes is 0"),
        ({"episodes_per_step": 0}, "episodes_per_step is 0"),
        ({"later_rate_fraction": -1.0}, "later_rate_fraction is -1.0"),
    ],
)
def test_a_bad_configuration_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change).validate()
