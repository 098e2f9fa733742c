"""Roll-outs: hand-made episodes for what a skill transition is, the real maze for independence of lanes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from algorithms.rollout import (
    EpisodeKey,
    EpisodeNoise,
    LowLevelPolicy,
    SkillEpisode,
    collect_episodes,
    max_skills_per_episode,
)
from algorithms.skill_model import SkillConfig
from envs.core import Task
from tests.algorithm_helpers import (
    FAR_GOAL,
    NEAR_GOAL,
    START_GOAL,
    Script,
    ScriptedWorld,
    short_maze,
    tiny_skill_model,
    untrained_skill_model,
)

SKILL_LENGTH, LATENT_DIM = 10, 3
SOME_TASK = Task("scripted", {})


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@cache
def scripted_low_level_policy(skill_length: int = SKILL_LENGTH) -> LowLevelPolicy:
    config = SkillConfig(
        skill_length=skill_length, latent_dim=LATENT_DIM, hidden_dim=8, decoder_layers=1, prior_layers=1
    )
    return LowLevelPolicy(untrained_skill_model(2, 1, config))


def skills_that_name_lane_and_index(states: Tensor, lanes: NDArray[np.int64], skill_index: int) -> Tensor:
    """Skill = (lane, index of the skill, env_step at which it was chosen)."""
    lane_column = torch.from_numpy(lanes).float()
    return torch.stack([lane_column, torch.full_like(lane_column, skill_index), states[:, 1]], dim=1)


def play(
    *scripts: Script, skill_length: int = SKILL_LENGTH, num_lanes: int | None = None, record_paths: bool = False
) -> list[SkillEpisode]:
    world = ScriptedWorld(scripts, num_lanes)
    episodes = collect_episodes(
        world,
        [SOME_TASK] * len(scripts),
        [(0, "scripted", lane) for lane in range(len(scripts))],
        skills_that_name_lane_and_index,
        scripted_low_level_policy(skill_length),
        record_paths,
    )
    assert world.env_steps[: len(scripts)].tolist() == [len(script.rewards) for script in scripts]
    return episodes


def numbered_rewards(length: int) -> tuple[float, ...]:
    """1, 2, 3, ...: a sum tells which env_steps it is made of."""
    return tuple(float(env_step + 1) for env_step in range(length))


# -- what a skill transition is ----------------------------------------------------------------------


def test_an_episode_of_23_env_steps_is_three_transitions_with_undiscounted_rewards() -> None:
    (episode,) = play(Script(numbered_rewards(23), terminates=True))
    assert episode.rewards.tolist() == [[sum(range(1, 11))], [sum(range(11, 21))], [21 + 22 + 23]]
    assert episode.states.tolist() == [[0, 0], [0, 10], [0, 20]]
    assert episode.next_states.tolist() == [[0, 10], [0, 20], [0, 23]]
    assert episode.skills.tolist() == [[0, 0, 0], [0, 1, 10], [0, 2, 20]]
    assert episode.length == 23
    assert episode.episode_return == sum(range(1, 24))


@pytest.mark.parametrize(
    ("env_steps", "transitions"),
    [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3), (23, 3), (30, 3)],
)
def test_done_belongs_to_the_skill_in_which_the_episode_terminated(env_steps: int, transitions: int) -> None:
    """The released code reads ``done`` one index late: at 11 and 21 env_steps, where the last skill lasts a single
    env_step, it marks the transition before as done, too."""
    (episode,) = play(Script(numbered_rewards(env_steps), terminates=True))
    assert episode.dones.tolist() == [[0.0]] * (transitions - 1) + [[1.0]]
    assert len(episode.states) == len(episode.skills) == len(episode.rewards) == len(episode.next_states) == transitions


@pytest.mark.parametrize("env_steps", [1, 10, 11, 23])
def test_a_time_limit_is_not_an_end(env_steps: int) -> None:
    """Truncation bootstraps: no transition is done."""
    (episode,) = play(Script(numbered_rewards(env_steps), terminates=False))
    assert not episode.dones.any()
    assert episode.length == env_steps
    assert episode.next_states[-1].tolist() == [0, env_steps]


@pytest.mark.parametrize("skill_length", [1, 3, 10, 50])
def test_skills_of_any_length_cut_an_episode_the_same_way(skill_length: int) -> None:
    (episode,) = play(Script(numbered_rewards(23), terminates=True), skill_length=skill_length)
    starts = list(range(0, 23, skill_length))
    ends = [min(start + skill_length, 23) for start in starts]
    assert episode.states[:, 1].tolist() == starts
    assert episode.next_states[:, 1].tolist() == ends
    assert episode.rewards[:, 0].tolist() == [sum(range(a + 1, b + 1)) for a, b in zip(starts, ends, strict=True)]
    assert len(starts) == max_skills_per_episode(23, skill_length)


def test_lanes_of_different_length_keep_their_own_transitions() -> None:
    scripts = (
        Script(numbered_rewards(23), terminates=True),
        Script(numbered_rewards(4), terminates=False),
        Script(numbered_rewards(11), terminates=True),
        Script(numbered_rewards(30), terminates=False),
        Script(numbered_rewards(4), terminates=True),
    )
    for lane, (together, script) in enumerate(zip(play(*scripts), scripts, strict=True)):
        (alone,) = play(script)
        for name in ("rewards", "dones"):
            assert torch.equal(getattr(together, name), getattr(alone, name)), (lane, name)
        for name in ("states", "next_states", "skills"):
            assert torch.equal(getattr(together, name)[:, 1:], getattr(alone, name)[:, 1:]), (lane, name)
            assert getattr(together, name)[:, 0].tolist() == [lane] * len(alone.states), (lane, name)
        assert (together.length, together.episode_return) == (alone.length, alone.episode_return)


def test_a_world_may_have_more_lanes_than_tasks() -> None:
    episodes = play(Script(numbered_rewards(12), True), Script(numbered_rewards(15), False), num_lanes=4)
    assert [episode.length for episode in episodes] == [12, 15]
    assert [episode.dones[:, 0].tolist() for episode in episodes] == [[0, 1], [0, 0]]


def test_paths_hold_every_observation_from_start_to_end() -> None:
    scripts = (Script(numbered_rewards(23), True), Script(numbered_rewards(4), False))
    for lane, (episode, script) in enumerate(zip(play(*scripts, record_paths=True), scripts, strict=True)):
        length = len(script.rewards)
        assert episode.path is not None
        assert episode.path.tolist() == [[lane, env_step] for env_step in range(length + 1)]
    assert all(episode.path is None for episode in play(*scripts))


# -- the low-level policy ------------------------------------------------------------------------------


def test_low_level_policy_is_the_decoders_mean_at_the_current_state() -> None:
    """Closed loop: the skill is held, the state is the current one, standardised as the decoder was trained."""
    model = untrained_skill_model(4, 2, SkillConfig(hidden_dim=8, latent_dim=LATENT_DIM))
    model.state_mean.copy_(torch.tensor([10.0, 9.0, 0.5, -0.5]))
    model.state_sigma.copy_(torch.tensor([5.0, 4.0, 1.5, 2.0]))
    policy = LowLevelPolicy(model)
    skills = torch.randn(3, LATENT_DIM)
    policy.begin(skills, torch.zeros(3, 4))
    for _ in range(2):
        states = torch.randn(3, 4) * 5 + 10
        torch.testing.assert_close(policy.act(states).clone(), model.decode(states, skills), rtol=1e-5, atol=1e-6)
    policy.drop(np.array([True, False, True]))
    torch.testing.assert_close(
        policy.act(states[[0, 2]]).clone(), model.decode(states[[0, 2]], skills[[0, 2]]), rtol=1e-5, atol=1e-6
    )


def test_actions_reach_the_lanes_they_were_made_for() -> None:
    """Also after lanes have dropped out in the middle of a skill."""
    scripts = [Script(numbered_rewards(length), terminates=True) for length in (12, 3, 12, 5)]
    world = ScriptedWorld(scripts)
    model = untrained_skill_model(2, 1, SkillConfig(hidden_dim=8, latent_dim=LATENT_DIM))
    skills = torch.randn(4, LATENT_DIM)
    keys: list[EpisodeKey] = [(0, lane) for lane in range(4)]
    collect_episodes(world, [SOME_TASK] * 4, keys, lambda _, lanes, __: skills[lanes], LowLevelPolicy(model))
    assert len(world.actions) == 12
    for env_step, actions in enumerate(world.actions):
        for lane, script in enumerate(scripts):
            if env_step < len(script.rewards):
                state = torch.tensor([[lane, env_step]], dtype=torch.float32)
                expected = float(model.decode(state, skills[lane : lane + 1]))
                assert actions[lane, 0] == pytest.approx(expected, rel=1e-4, abs=1e-5)


# -- the real maze ---------------------------------------------------------------------------------------


def maze_episodes(goals: list[tuple[float, float]], keys: list[EpisodeKey], threads: int = 1) -> list[SkillEpisode]:
    """Episodes of the skill prior of the tiny skill model."""
    model = tiny_skill_model()
    distribution = short_maze(60, goals)
    noise = EpisodeNoise(keys, 6, model.config.latent_dim)
    return collect_episodes(
        distribution.make_world(len(goals), threads=threads),
        distribution.target_tasks,
        keys,
        lambda states, lanes, skill_index: model.skill_prior(states).sample(noise(lanes, skill_index)),
        LowLevelPolicy(model),
        record_paths=True,
    )


def test_an_episode_depends_on_its_key_and_task_but_not_on_the_lanes_beside_it() -> None:
    goals = [FAR_GOAL, NEAR_GOAL, START_GOAL, NEAR_GOAL, FAR_GOAL]
    keys: list[EpisodeKey] = [(0, "lanes", 9 - lane) for lane in range(5)]
    together = maze_episodes(goals, keys)
    threaded = maze_episodes(goals, keys, threads=2)
    assert len({episode.length for episode in together}) > 1, "lanes should end at different times here"
    for lane, episode in enumerate(together):
        (alone,) = maze_episodes([goals[lane]], [keys[lane]])
        for name in ("states", "skills", "rewards", "dones", "next_states"):
            assert torch.equal(getattr(episode, name), getattr(threaded[lane], name)), name
            torch.testing.assert_close(getattr(episode, name), getattr(alone, name), rtol=1e-4, atol=1e-4)
        assert episode.length == alone.length


def test_another_key_is_another_episode() -> None:
    first, second = maze_episodes([FAR_GOAL, FAR_GOAL], [(0, "lanes", 0), (0, "lanes", 1)])
    assert not torch.equal(first.states[0], second.states[0])
    assert not torch.equal(first.skills[0], second.skills[0])


def test_transitions_in_the_maze_match_the_recorded_path() -> None:
    episodes = maze_episodes([NEAR_GOAL] * 20, [(0, "paths", lane) for lane in range(20)])
    assert len({float(episode.dones.sum()) for episode in episodes}) == 2, "both ends should occur here"
    for episode in episodes:
        assert episode.path is not None
        count = len(episode.states)
        ends = [min(10 * (index + 1), episode.length) for index in range(count)]
        assert np.array_equal(episode.states.numpy(), episode.path[[10 * index for index in range(count)]])
        assert np.array_equal(episode.next_states.numpy(), episode.path[ends])
        # Success is reward 1 and the end; without it the episode runs to its limit, which is not terminal.
        distance = np.linalg.norm(episode.path[-1, :2] - np.array(NEAR_GOAL))
        assert episode.rewards[-1] == episode.dones[-1] == float(distance <= 1.0)
        assert episode.rewards.sum() == episode.dones.sum() == episode.episode_return
        assert (episode.length == 60) or bool(episode.dones[-1])


def test_states_of_transitions_are_not_the_worlds_buffers() -> None:
    """The world overwrites its buffers: what an episode keeps must not follow."""
    model, distribution = tiny_skill_model(), short_maze(60, [FAR_GOAL])
    world = distribution.make_world(1)

    def collect(number: int) -> SkillEpisode:
        (episode,) = collect_episodes(
            world,
            distribution.target_tasks,
            [(0, "buffers", number)],
            lambda states, _, __: model.skill_prior(states).mean,
            LowLevelPolicy(model),
            record_paths=True,
        )
        return episode

    first = collect(0)
    kept = {name: getattr(first, name).clone() for name in ("states", "next_states", "rewards")}
    collect(1)
    assert all(torch.equal(getattr(first, name), value) for name, value in kept.items())
    assert first.path is not None
    assert np.array_equal(first.path[0], kept["states"][0])


# -- noise -------------------------------------------------------------------------------------------------


def test_noise_is_keyed_by_episode_and_the_same_whatever_the_lane() -> None:
    keys: list[EpisodeKey] = [(0, "a", 0), (0, "a", 1), (1, "a", 0)]
    noise, reverse = EpisodeNoise(keys, 4, LATENT_DIM), EpisodeNoise(keys[::-1], 4, LATENT_DIM)
    assert torch.equal(noise.values, reverse.values.flip(0))
    assert len(set(noise.values.flatten().tolist())) == 3 * 4 * LATENT_DIM
    lanes = np.array([2, 0])
    assert torch.equal(noise(lanes, 3), noise.values[[2, 0], 3])


def test_noise_is_standard_normal() -> None:
    values = EpisodeNoise([(0, index) for index in range(50)], 20, 10).values
    assert float(values.mean()) == pytest.approx(0.0, abs=0.04)
    assert float(values.std()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("episode_env_steps", "skill_length", "skills"), [(2000, 10, 200), (23, 10, 3), (280, 10, 28), (1, 10, 1)]
)
def test_max_skills_per_episode(episode_env_steps: int, skill_length: int, skills: int) -> None:
    assert max_skills_per_episode(episode_env_steps, skill_length) == skills
