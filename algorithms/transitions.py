"""Transitions as the off-policy learners store them, and what networks see of a state.

Rows are of one width whatever the algorithm (``transition_fields``): a context's columns first, then what a TD target n
skills ahead needs, with the frozen prior's output computed once, when the episode is stored.

Axes: M model copy, B batch, D feature, F feature of the view, E task embedding, Z skill, T' skill of an episode.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.networks import Gaussian
from algorithms.replay import PackedFields
from algorithms.rollout import SkillEpisode
from algorithms.skill_space import SkillPrior, as_gaussian


def transition_fields(state_dim: int, latent_dim: int, prior_dim: int, feature_dim: int = 0) -> PackedFields:
    """Columns of a stored transition; ``prior_dim`` is 2 Z, or 0 where there is no prior.

    First the transition itself, as a context sees it; then what its TD target needs, n skills ahead: the discounted
    rewards on the way, the discount of the value there (0 after termination), the state there, and the frozen
    prior's (mean, sigma) here and there, computed once. Last what the policy alone sees besides the state, here and
    there: frozen features of the view, F columns, none where there are no views.
    """
    return PackedFields(
        {
            "states": state_dim,
            "skills": latent_dim,
            "rewards": 1,
            "dones": 1,
            "next_states": state_dim,
            "td_rewards": 1,
            "td_discounts": 1,
            "td_states": state_dim,
            "prior": prior_dim,
            "td_prior": prior_dim,
            "views": feature_dim,
            "td_views": feature_dim,
        }
    )


CONTEXT_LAST_FIELD = "next_states"
"""A context transition is the leading columns (state, skill, reward, done, next state)."""


class StateInputs:
    """What the high-level networks see of a state: itself, or standardised as the skill model does.

    Where there are views, states (B, D + F) hold more than that: critics and task encoder see position and velocity,
    as SPiRL's critics do; the policy sees the features of the view, too.
    """

    def __init__(self, prior: SkillPrior, standardise: bool, device: str = "cpu") -> None:
        self._prior, self._standardise, self._device = prior, standardise, device

    def __call__(self, states: Tensor) -> Tensor:
        """What critics and task encoder see."""
        return self._split(states)[0]

    def of_policy(self, states: Tensor) -> Tensor:
        """What the policy sees."""
        return with_views(*self._split(states))

    def _split(self, states: Tensor) -> tuple[Tensor, Tensor]:
        state, views = self._prior.split(states)
        return self._prior.standardise(state) if self._standardise else state, views

    def pack(
        self,
        fields: PackedFields,
        episode: SkillEpisode,
        discount: float,
        n_step: int,
        critic_rewards: Tensor | None = None,
    ) -> Tensor:
        """An episode as rows (T', F) of ``fields``; ``discount`` is per skill.

        ``critic_rewards`` (T', 1) are what TD targets are made of, where that is not the episode's own rewards.
        """
        device = self._device
        rewards = episode.rewards if critic_rewards is None else critic_rewards
        td_rewards, td_discounts, last = n_step_returns(rewards, episode.dones, discount, n_step)
        states, next_states = episode.states.to(device), episode.next_states.to(device)
        td_states = next_states[last.to(device)]
        inputs, views = self._split(states)
        td_inputs, td_views = self._split(td_states)
        return fields.pack(
            {
                "states": inputs,
                "skills": episode.skills.to(device),
                "rewards": episode.rewards.to(device),
                "dones": episode.dones.to(device),
                "next_states": self(next_states),
                "td_rewards": td_rewards.to(device),
                "td_discounts": td_discounts.to(device),
                "td_states": td_inputs,
                "prior": self._prior.prior_columns(states),
                "td_prior": self._prior.prior_columns(td_states),
                "views": views,
                "td_views": td_views,
            }
        )


def with_views(states: Tensor, views: Tensor) -> Tensor:
    """Side by side; the states themselves where ``views`` has no columns."""
    return torch.cat([states, views], dim=-1) if views.shape[-1] else states


def n_step_returns(rewards: Tensor, dones: Tensor, discount: float, n_step: int) -> tuple[Tensor, Tensor, Tensor]:
    """What follows each transition of one episode within ``n_step`` skills, or fewer where the episode ends.

    ``rewards`` and ``dones`` (T', 1) -> (discounted rewards (T', 1), discount of the value after them (T', 1), index
    of the transition they end with (T',)). A terminated end has discount 0; a truncated one bootstraps.
    """
    length = len(rewards)
    last = torch.clamp(torch.arange(length) + n_step, max=length) - 1
    returns = torch.zeros_like(rewards)
    for ahead in range(min(n_step, length)):
        returns[: length - ahead] += discount**ahead * rewards[ahead:]
    skills = last - torch.arange(length) + 1
    return returns, (discount ** skills.to(rewards.dtype))[:, None] * (1 - dones[last]), last


@dataclass(frozen=True)
class TransitionBatch:
    """Transitions (M, B, .) with their task embeddings (M, B, E); E may be 0."""

    states: Tensor
    skills: Tensor
    td_rewards: Tensor
    td_discounts: Tensor
    td_states: Tensor
    prior: Gaussian
    td_prior: Gaussian
    task_embeddings: Tensor
    views: Tensor
    """What the policy alone sees besides ``states`` (M, B, F); F may be 0."""
    td_views: Tensor
    """The same of ``td_states``."""

    @property
    def policy_states(self) -> Tensor:
        """What the policy sees of the states."""
        return with_views(self.states, self.views)

    @property
    def td_policy_states(self) -> Tensor:
        """What the policy sees of ``td_states``."""
        return with_views(self.td_states, self.td_views)

    @classmethod
    def from_rows(cls, fields: PackedFields, rows: Tensor, task_embeddings: Tensor) -> TransitionBatch:
        columns = fields.unpack(rows)
        return cls(
            states=columns["states"],
            skills=columns["skills"],
            td_rewards=columns["td_rewards"],
            td_discounts=columns["td_discounts"],
            td_states=columns["td_states"],
            prior=as_gaussian(columns["prior"]),
            td_prior=as_gaussian(columns["td_prior"]),
            task_embeddings=task_embeddings,
            views=columns["views"],
            td_views=columns["td_views"],
        )
