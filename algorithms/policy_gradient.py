"""What policy gradients are made of: episodes, returns, a baseline, advantages; and acting with many policies.

    return        R_t = r_t + discount R_t+1           no bootstrap where the time limit cuts an episode (Duan et al.)
    baseline      b(s, t) = w . features(s, t)         ridge regression on the same episodes, one w per task
    features      s, s^2, t, t^2, t^3, 1               Duan et al. 2016 (arXiv 1604.06778), appendix
    advantage     R_t - b(s_t, t), shifted and scaled to mean 0 and deviation 1 over the task's env_steps

Log-probabilities are those of the Gaussian's own sample; the world clips what it is given to [-1, 1].

Axes: N task (or policy), K episode, T time, R row (an env_step of any episode), L lane, D feature, A action feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from torch import Tensor

from algorithms.behavior_cloning import BehaviorPolicy
from algorithms.networks import torch_generator
from algorithms.rollout import EpisodeKey, EpisodeNoise, PrimitiveActions, SkillEpisode, collect_episodes
from algorithms.stage import StageContext
from envs.core import Task

BASELINE_RIDGE = 1e-5
"""rllab's."""
Parameters = dict[str, Tensor]
"""A policy's parameters by name; stacked ones have a leading axis N."""


class TaskEpisode(NamedTuple):
    """One episode as a policy gradient sees it."""

    states: Tensor
    """(T, D)"""
    actions: Tensor
    """(T, A), before the world clips them"""
    rewards: Tensor
    """(T,)"""

    @staticmethod
    def of(episode: SkillEpisode) -> TaskEpisode:
        """An episode of primitive actions."""
        return TaskEpisode(episode.states, episode.skills, episode.rewards[:, 0])


class GradientBatch(NamedTuple):
    """The rows of each task, all of one number: those that a task lacks have weight 0."""

    states: Tensor
    """(N, R, D)"""
    actions: Tensor
    """(N, R, A)"""
    advantages: Tensor
    """(N, R)"""
    weights: Tensor
    """(N, R), with sum 1 over the rows of a task."""

    def every(self, rows: int) -> GradientBatch:
        """Every ``rows``-th row."""
        states, actions, advantages, weights = (column[:, ::rows] for column in self)
        return GradientBatch(states, actions, advantages, weights / weights.sum(1, keepdim=True))


def discounted_returns(rewards: Tensor, discount: float) -> Tensor:
    """(T,) -> (T,) in float64."""
    backwards = lfilter([1.0], [1.0, -discount], rewards.double().numpy()[::-1])
    return torch.from_numpy(backwards[::-1].copy())


def baseline_features(states: Tensor, longest_env_steps: int) -> Tensor:
    """(T, D) of an episode from its start -> (T, 2 D + 4), in float64; time runs from 0 to at most 1."""
    states = states.double()
    time = torch.arange(len(states), dtype=torch.float64)[:, None] / longest_env_steps
    return torch.cat([states, states.square(), time, time**2, time**3, torch.ones_like(time)], dim=1)


def fit_baseline(features: Tensor, returns: Tensor, ridge: float) -> Tensor:
    """w (F,) that minimises |features w - returns|^2 + ridge |w|^2."""
    gram = features.T @ features + ridge * torch.eye(features.shape[1], dtype=features.dtype)
    weights: Tensor = torch.linalg.solve(gram, features.T @ returns)
    return weights


def task_advantages(
    policy: BehaviorPolicy, episodes: Sequence[TaskEpisode], discount: float, longest_env_steps: int
) -> Tensor:
    """(R,) over the env_steps of one task's episodes in order."""
    states = [policy.standardise(episode.states.to(policy.state_mean.device)).cpu() for episode in episodes]
    features = torch.cat([baseline_features(each, longest_env_steps) for each in states])
    returns = torch.cat([discounted_returns(episode.rewards, discount) for episode in episodes])
    advantages = returns - features @ fit_baseline(features, returns, BASELINE_RIDGE)
    # Where no return differs from 0 the baseline is exactly 0 and so is each advantage: nothing is blown up.
    return ((advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)).float()


class RowChoice(NamedTuple):
    """A uniform choice of so many rows of each task that has more."""

    most_rows: int
    generator: torch.Generator


def make_gradient_batch(
    policy: BehaviorPolicy,
    episodes: Sequence[Sequence[TaskEpisode]],
    discount: float,
    longest_env_steps: int,
    choice: RowChoice | None = None,
) -> GradientBatch:
    """Episodes of each task -> rows: all of them, or those of ``choice``.

    Returns, baseline and advantages come from all rows before any is left out, so that the gradient's expectation is
    the same.
    """
    tasks = []
    for of_task in episodes:
        advantages = task_advantages(policy, of_task, discount, longest_env_steps)
        states = torch.cat([episode.states for episode in of_task])
        actions = torch.cat([episode.actions for episode in of_task])
        if choice is not None and len(states) > choice.most_rows:
            kept = torch.randperm(len(states), generator=choice.generator)[: choice.most_rows].sort().values
            states, actions, advantages = states[kept], actions[kept], advantages[kept]
        tasks.append((states, actions, advantages, torch.full((len(states),), 1 / len(states))))
    columns = (torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True) for column in zip(*tasks, strict=True))
    return GradientBatch(*(column.to(policy.state_mean.device) for column in columns))


def same_for_all(parameters: Mapping[str, Tensor], count: int) -> Parameters:
    """One policy's parameters, stacked ``count`` times without a copy."""
    return {name: value.detach().expand(count, *value.shape) for name, value in parameters.items()}


class StackedPolicies:
    """N policies of one shape for acting; lane i holds policy i // lanes_per_policy."""

    def __init__(
        self, policy: BehaviorPolicy, parameters: Mapping[str, Tensor], lanes_per_policy: int, noise: EpisodeNoise
    ) -> None:
        self._policy, self._noise = policy, noise
        self._layers = [
            (parameters[f"layers.{i}.weight"].transpose(1, 2), parameters[f"layers.{i}.bias"][:, None])
            for i in range(len(policy.layers))
        ]
        self._log_sigma = parameters["log_sigma"][:, None] if policy.log_sigma is not None else None
        self._shape = (len(self._layers[0][0]), lanes_per_policy, policy.observation_dim)

    @torch.inference_mode()
    def __call__(self, states: Tensor, lanes: NDArray[np.int64], env_step: int) -> Tensor:
        """States (L', D) of the active lanes -> sampled actions (L', A)."""
        device = self._policy.state_mean.device
        index = torch.from_numpy(lanes)
        inputs = torch.zeros((self._shape[0] * self._shape[1], self._shape[2]), device=device)
        inputs[index] = self._policy.standardise(states.to(device))
        hidden = inputs.view(self._shape)
        for layer, (weight, bias) in enumerate(self._layers):
            hidden = torch.baddbmm(bias, hidden, weight)
            hidden = hidden.relu_() if layer + 1 < len(self._layers) else hidden
        mean, sigma = (part.flatten(0, 1)[index] for part in self._policy.gaussian(hidden, self._log_sigma))
        return mean + sigma * self._noise(lanes, env_step).to(device)


def next_lanes(collected: Sequence[int], due: int, most_lanes: int) -> tuple[list[int], int]:
    """(tasks to collect for next, episodes of each), given how many each task has ``collected`` of those ``due``.

    All tasks at once where the lanes suffice, with as many episodes as fit; else some of those that have fewest.
    """
    fewest = min(collected)
    behind = [index for index, count in enumerate(collected) if count == fewest]
    return behind[: max(1, most_lanes)], max(1, min(most_lanes // len(collected), due - fewest))


def act(
    context: StageContext,
    policy: BehaviorPolicy,
    parameters: Mapping[str, Tensor],
    tasks: Sequence[Task],
    keys: Sequence[EpisodeKey],
    record_paths: bool = False,
) -> list[SkillEpisode]:
    """An episode per lane with N stacked policies, each of which acts in as many lanes in a row."""
    distribution = context.task_distribution
    noise = EpisodeNoise(keys, distribution.episode_env_steps, distribution.action_dim)
    lanes_per_policy = len(tasks) // len(next(iter(parameters.values())))
    actors = StackedPolicies(policy, parameters, lanes_per_policy, noise)
    world = distribution.make_world(len(tasks), threads=context.threads)
    return collect_episodes(
        world, tasks, keys, actors, PrimitiveActions(distribution.action_dim), record_paths=record_paths
    )


def timed_episodes(
    context: StageContext, policy: BehaviorPolicy, parameters: Mapping[str, Tensor], tasks: Sequence[Task]
) -> int:
    """env_steps of an episode of each task, always the same ones: to time acting by."""
    keys: list[EpisodeKey] = [(context.seed, "profile", lane) for lane in range(len(tasks))]
    return sum(episode.length for episode in act(context, policy, parameters, tasks, keys))


def random_gradient_batch(context: StageContext, policy: BehaviorPolicy, tasks: int, rows: int) -> GradientBatch:
    """Made-up rows, to time a gradient on."""
    generator = torch_generator(context.seed, "profile")
    shape = (tasks, rows)
    columns = (
        torch.rand((*shape, policy.observation_dim), generator=generator),
        torch.rand((*shape, policy.action_dim), generator=generator) * 2 - 1,
        torch.randn(shape, generator=generator),
        torch.full(shape, 1 / rows),
    )
    return GradientBatch(*(column.to(context.device) for column in columns))
