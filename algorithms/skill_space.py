"""What a high-level policy chooses from: learned skills, or primitive actions.

SPiRL, SiMPL and MTRL choose a skill every K env_steps; the skill prior regularises them, and the low-level policy acts
in between. SAC and PEARL choose an action at every env_step, and nothing regularises them but entropy. BC+PEARL chooses
actions too, regularised by the behaviour policy. One pair of parts says which:

    prior               p(z given s), stored with each transition          skill model | behaviour policy | ``NoPrior``
    low-level policy    what acts on z for K env_steps                      decoder     | the action itself, K = 1

Axes: B batch, D observation feature, F feature of a view, Z skill (an action where there are no skills).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from algorithms.networks import Gaussian
from algorithms.rollout import ActsInBetween, LowLevelPolicy, PrimitiveActions, max_skills_per_episode
from algorithms.skill_model import load_skill_model
from algorithms.stage import StageContext
from envs.core import ObservationBounds, TaskDistribution, observation_bounds


class SkillPrior(Protocol):
    """A frozen p(z given s), and the scale of states that it was learned with, or that is known of them."""

    @property
    def latent_dim(self) -> int:
        """Z."""
        ...

    @property
    def prior_dim(self) -> int:
        """Columns of ``prior_columns``: 2 Z, or 0 where there is no prior."""
        ...

    @property
    def feature_dim(self) -> int:
        """F, columns behind the observation in a state: the features of its view; 0 where there are no views."""
        ...

    def split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(what critics and task encoder see of states, the F columns that the high-level policy sees besides)."""
        ...

    def standardise(self, states: Tensor) -> Tensor:
        """States (..., D), or their leading columns, by the mean and deviation of the data, or by known bounds."""
        ...

    def skill_prior(self, states: Tensor) -> Gaussian:
        """p(z given s): (B, D) -> (B, Z)."""
        ...

    def prior_columns(self, states: Tensor) -> Tensor:
        """(mean, sigma) side by side, (B, prior_dim): stored with transitions, computed once."""
        ...


class NoPrior:
    """No p(z given s): its columns are empty. There is no data either, so states are scaled by their bounds."""

    prior_dim = 0
    feature_dim = 0

    def __init__(self, latent_dim: int, find_bounds: Callable[[], ObservationBounds]) -> None:
        """``find_bounds`` is called where states are scaled, once."""
        self.latent_dim = latent_dim
        self._find_bounds = find_bounds
        self._scale: tuple[Tensor, Tensor] | None = None

    def split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return states, states[..., :0]

    def standardise(self, states: Tensor) -> Tensor:
        """To between -1 and 1 by the bounds of each feature; one without finite bounds stays as it is."""
        if self._scale is None:
            low, high = (torch.from_numpy(bound) for bound in self._find_bounds())
            known = low.isfinite() & high.isfinite()
            centre = torch.where(known, (low + high) / 2, torch.zeros_like(low))
            inverse_half_width = torch.where(known, 2 / (high - low), torch.ones_like(low))
            self._scale = centre.to(states.device), inverse_half_width.to(states.device)
        centre, inverse_half_width = (part[: states.shape[-1]] for part in self._scale)
        return (states - centre) * inverse_half_width

    def skill_prior(self, states: Tensor) -> Gaussian:
        return Gaussian(states[:, :0], states[:, :0])

    def prior_columns(self, states: Tensor) -> Tensor:
        return states[:, :0]


@dataclass(frozen=True)
class SkillSpace:
    """See the module's docstring."""

    prior: SkillPrior
    """On the device of the learners."""
    low_level_policy: ActsInBetween
    """On the CPU, where the worlds are."""

    @property
    def latent_dim(self) -> int:
        """Z, of one skill or action."""
        return self.prior.latent_dim

    def state_dims(self, distribution: TaskDistribution) -> tuple[int, int]:
        """Columns of a state that critics and task encoder see, and those that the high-level policy sees besides."""
        views = distribution.views
        return distribution.observation_dim if views is None else views.state_dim, self.prior.feature_dim

    def max_skills(self, episode_env_steps: int) -> int:
        """High-level decisions in an episode that runs to the time limit."""
        return max_skills_per_episode(episode_env_steps, self.low_level_policy.skill_length)


def learned_skills(context: StageContext) -> SkillSpace:
    """The skills of the stage's ``skills`` artefact."""
    folder, views = context.inputs["skills"], context.task_distribution.views
    prior = load_skill_model(folder, context.device, views)
    return SkillSpace(prior, LowLevelPolicy(load_skill_model(folder, views=views)))


def primitive_actions(context: StageContext, prior: SkillPrior | None = None) -> SkillSpace:
    """Actions as they are; ``prior`` over them where one was learned (``behavior_cloning.py``)."""
    distribution = context.task_distribution
    no_prior = NoPrior(distribution.action_dim, partial(observation_bounds, distribution))
    return SkillSpace(prior or no_prior, PrimitiveActions(distribution.action_dim))


def as_gaussian(columns: Tensor) -> Gaussian:
    """(mean, sigma) side by side -> Gaussian; empty where there is no prior."""
    return Gaussian(*torch.chunk(columns, 2, dim=-1))
