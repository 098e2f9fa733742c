"""What stages that learn a model from offline trajectories share: ``skills.py`` and ``behavior_cloning.py``.

    trajectories -> keyed batches -> ``total_updates`` updates -> held-out losses -> roll-outs of what was learned

A subclass says what a batch and its losses are.

Axes: B batch, D feature, Z skill or action.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from algorithms.networks import StandardisedModel, torch_generator
from algorithms.rollout import (
    ActsInBetween,
    EpisodeKey,
    EpisodeNoise,
    collect_episodes,
    max_skills_per_episode,
)
from algorithms.stage import Progress, Stage, StageContext, StageReport, TimedWork
from envs.core import NO_TASK, TaskDistribution
from envs.trajectories import Trajectories

TRAJECTORIES_FILE = "trajectories.hdf5"
MIN_STATE_SIGMA = 0.01
"""Deviation that states are divided by at least. A joint that never moves in the data but for sensor noise would
otherwise be noise blown up to unit size, and a bump against it in a roll-out an input a thousand deviations away."""
ROLLOUTS = 40
"""Episodes in the picture and in the numbers beside it."""


def load_trajectories(context: StageContext, min_length: int) -> Trajectories:
    """The trajectories of the ``data`` artefact, fit for training. Raises ``TrajectoryError``."""
    trajectories = Trajectories.load_hdf5(context.inputs["data"] / TRAJECTORIES_FILE)
    distribution = context.task_distribution
    trajectories.validate(distribution.observation_dim, distribution.action_dim, min_length)
    return trajectories


def as_tensors(trajectories: Trajectories) -> tuple[Tensor, Tensor]:
    """States (transitions, D) and actions (transitions, A) as tensors."""
    observations, actions = trajectories.observations, trajectories.actions
    return torch.from_numpy(np.ascontiguousarray(observations)), torch.from_numpy(np.ascontiguousarray(actions))


def split_off_held_out(count: int, fraction: float, of_what: str) -> tuple[Tensor, Tensor]:
    """Indices of ``count`` trajectories that are trained on, and of the last ones (one at least), which are not.

    Raises ``ValueError`` where nothing would be left to train on.
    """
    held_out = max(1, round(count * fraction))
    if count - held_out < 1:
        raise ValueError(f"{count} {of_what}; need 2 or more to hold one out")
    return torch.arange(count - held_out), torch.arange(count - held_out, count)


class OfflineConfig(Protocol):
    """Fields that every such stage has."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def final_learning_rate_fraction(self) -> float: ...
    @property
    def standardise_states(self) -> bool: ...


class Losses(Protocol):
    """The terms of one batch (scalars)."""

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        ...


class OfflineTraining(Stage):
    """data -> model."""

    UPDATES_PER_ADVANCE = 50
    STAGE: ClassVar[str]
    """Keys everything random."""
    config: OfflineConfig
    model: Any
    """A ``StandardisedModel``."""
    total_updates: int
    optimizer: torch.optim.Optimizer

    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.updates = 0

    def make_model(self, states: Tensor, make: Callable[[], StandardisedModel]) -> None:
        """A fresh model, keyed, that standardises by all ``states`` (transitions, D) of the data if it should."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator(self.context.seed, self.STAGE, "init").initial_seed())
            self.model = make()
        if self.config.standardise_states:
            self.model.state_mean.copy_(states.mean(0))
            self.model.state_sigma.copy_(states.std(0).clamp(min=MIN_STATE_SIGMA))
        self.model.to(self.context.device)

    # -- what a subclass says ------------------------------------------------------------------

    @abstractmethod
    def _losses(self) -> Losses:
        """Of the batch of update ``self.updates``, keyed by it."""

    @abstractmethod
    def _metrics(self, losses: Any) -> dict[str, float]:
        """Diagnostics of the last update's losses."""

    def _limit_gradients(self) -> None:
        """Between gradients and update; here nothing."""

    # -- stage ---------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        return Progress(self.updates, self.total_updates, "updates")

    def advance(self) -> StageReport:
        self.model.train()
        losses = None
        for _ in range(min(self.UPDATES_PER_ADVANCE, self.total_updates - self.updates)):
            losses = self._update()
        return StageReport(metrics={"updates": self.updates} | self._metrics(losses))

    def _update(self) -> Losses:
        fraction = 1 - (1 - self.config.final_learning_rate_fraction) * self.updates / self.total_updates
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate * fraction
        losses = self._losses()
        self.optimizer.zero_grad()
        losses.total.backward()
        self._limit_gradients()
        self.optimizer.step()
        self.updates += 1
        return losses

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]

    # -- speed ---------------------------------------------------------------------------------

    def timed_work(self) -> Sequence[TimedWork]:
        """An update, again and again on the first batch: a later one of the same pass may be smaller."""
        self.model.train()

        def update() -> int:
            self.updates = 0
            self._update()
            return 1

        return (TimedWork("update", "updates", update),)


@torch.inference_mode()
def draw_rollouts(
    choose: Callable[[Tensor, Tensor], Tensor],
    low_level_policy: ActsInBetween,
    latent_dim: int,
    distribution: TaskDistribution,
    key: tuple[int, *tuple[int | str, ...]],
    path: Path,
    title: str,
) -> dict[str, float]:
    """Act without a task, draw the paths, and return what they did.

    ``choose(states (A, D), noise (A, Z))`` gives skills or actions (A, Z); episode i is keyed by (*key, i).
    """
    keys: list[EpisodeKey] = [(*key, i) for i in range(ROLLOUTS)]
    max_skills = max_skills_per_episode(distribution.episode_env_steps, low_level_policy.skill_length)
    noise = EpisodeNoise(keys, max_skills, latent_dim)
    episodes = collect_episodes(
        distribution.make_world(ROLLOUTS),
        [NO_TASK] * ROLLOUTS,
        keys,
        lambda states, lanes, skill_index: choose(states, noise(lanes, skill_index)),
        low_level_policy,
        record_paths=True,
    )
    paths = [episode.path for episode in episodes if episode.path is not None]
    if distribution.draw_paths is not None:
        distribution.draw_paths(paths, [], path, title)
    return {} if distribution.describe_episodes is None else dict(distribution.describe_episodes(paths))
