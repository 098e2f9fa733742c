"""Roll-outs of skills: a high-level policy picks a skill every K env_steps, the low-level policy acts in between.

    env_steps   0 1 2 ... 9 | 10 ... 19 | 20 21 22            K = 10; the episode ends at env_step 22
    skills          z_0     |    z_1    |   z_2               3 skill transitions; the last one is cut short
    reward      r_0 + ... + r_9         |   undiscounted sum over the skill
    done            0       |     0     |    1 if it terminated, 0 if the time limit cut it (truncation bootstraps)

Axes: L lane, A active lane, B transition, D observation feature, F feature of a view, Z latent dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algorithms.networks import FoldedMLP
from algorithms.skill_model import SkillModel
from algorithms.view_encoder import ConvEncoder, FoldedConvEncoder, as_floats
from envs.core import Task, World
from envs.randomness import keyed_rng

HighLevelPolicy = Callable[[Tensor, NDArray[np.int64], int], Tensor]
"""(states (A, D) or (A, D + F), active lanes (A,), index of the skill in its episode) -> skills (A, Z)"""

EpisodeKey = tuple[int, *tuple[int | str, ...]]
"""(seed, *key): what an episode draws everything random from."""


@dataclass(frozen=True)
class SkillEpisode:
    """One episode as T' skill transitions."""

    states: Tensor
    """(T', D), or (T', D + F): observations as ``ActsInBetween.see`` shows them"""
    skills: Tensor
    """(T', Z)"""
    rewards: Tensor
    """(T', 1), summed over the skill"""
    dones: Tensor
    """(T', 1), 1 where the episode terminated within the skill"""
    next_states: Tensor
    """As ``states``"""
    length: int
    """env_steps"""
    episode_return: float
    path: NDArray[np.float32] | None = None
    """Observations at every env_step (length + 1, D), where asked for."""


class ActsInBetween(Protocol):
    """What turns skills into actions: a skill is begun and acts for ``skill_length`` env_steps; lanes may end early."""

    skill_length: int
    action_dim: int

    def see(self, observations: Tensor) -> Tensor:
        """Observations (A, D) -> states: the same, or with the F features of their views behind (A, D + F)."""
        ...

    def begin(self, skills: Tensor, states: Tensor) -> None:
        """Hold skills (A, Z), chosen at ``states``, until the next ``begin``."""

    def act(self, states: Tensor) -> Tensor:
        """Actions (A, action_dim) at ``states`` under the held skills; overwritten by the next call."""
        ...

    def drop(self, kept: NDArray[np.bool_]) -> None:
        """Keep only these of the active lanes."""


class PrimitiveActions:
    """No skills: the high-level policy's choice is the action itself, one per env_step (Z = action_dim, K = 1)."""

    skill_length = 1

    def __init__(self, action_dim: int) -> None:
        self.action_dim = action_dim
        self._actions = torch.empty((0, action_dim))

    def see(self, observations: Tensor) -> Tensor:
        return observations

    def begin(self, skills: Tensor, states: Tensor) -> None:
        self._actions = skills

    def act(self, states: Tensor) -> Tensor:
        return self._actions

    def drop(self, kept: NDArray[np.bool_]) -> None:
        self._actions = self._actions[torch.from_numpy(kept)]


class LowLevelPolicy:
    """The frozen skill decoder, acting on a batch with its mean, clipped to the action bounds by the world.

    Where there are views, each env_step draws and encodes one for each lane, once: the features that a skill begins
    with serve the high-level policy, the skill prior and the decoder.
    """

    def __init__(self, model: SkillModel, choices_are_latents: bool = False) -> None:
        """``choices_are_latents``: ``begin`` is given z itself, also where the prior is over something else."""
        self.skill_length = model.config.skill_length
        self.action_dim = model.action_dim
        self._choices_are_latents = choices_are_latents
        self._model, self._views = model, model.views
        self._network = FoldedMLP(model.decoder)
        self._view_encoders = [FoldedConvEncoder(cast(ConvEncoder, encoder)) for encoder in model.view_encoders]
        self._mean = model.state_mean.cpu()
        self._inverse_sigma = 1.0 / model.state_sigma.cpu()
        self._observation_dim, self._seen_dim = model.observation_dim, model.seen_dim
        self._inputs = torch.empty((0, 0))

    @torch.no_grad()
    def see(self, observations: Tensor) -> Tensor:
        """See ``ActsInBetween.see``; views are of the world's own scene."""
        if self._views is None:
            return observations
        pixels = as_floats(torch.from_numpy(self._views.draw(observations.numpy())))
        return torch.cat([observations, *(encoder(pixels) for encoder in self._view_encoders)], dim=1)

    @torch.inference_mode()
    def begin(self, skills: Tensor, states: Tensor) -> None:
        """Hold skills (A, Z), chosen at ``states``, until the next ``begin``."""
        inputs = torch.empty((len(skills), self._seen_dim + skills.shape[1]))
        inputs[:, self._seen_dim :] = skills if self._choices_are_latents else self._model.latents(states, skills)
        self._inputs = inputs

    @torch.inference_mode()
    def act(self, states: Tensor) -> Tensor:
        """Actions (A, action_dim) at ``states`` under the held skills; overwritten by the next call."""
        part = self._inputs[:, : self._seen_dim]
        if self._views is None:
            torch.sub(states, self._mean, out=part)
            part.mul_(self._inverse_sigma)
        else:
            part.copy_(states[:, self._observation_dim : self._observation_dim + self._seen_dim])
        return self._network(self._inputs)

    def drop(self, kept: NDArray[np.bool_]) -> None:
        """Keep only these of the active lanes."""
        self._inputs = self._inputs[torch.from_numpy(kept)]


class _SkillRecord:
    """What one round of skills brought: arrays over the lanes that were active at its start."""

    def __init__(self, lanes: NDArray[np.int64], states: Tensor, skills: Tensor) -> None:
        self.lanes, self.states, self.skills = lanes, states, skills
        self.rewards: NDArray[np.float32] = np.zeros(0, np.float32)
        self.dones: NDArray[np.float32] = np.zeros(0, np.float32)
        self.next_states = states


def collect_episodes(
    world: World,
    tasks: Sequence[Task],
    episode_keys: Sequence[EpisodeKey],
    high_level_policy: HighLevelPolicy,
    low_level_policy: ActsInBetween,
    record_paths: bool = False,
) -> list[SkillEpisode]:
    """One episode per task, in lockstep; lane i holds ``tasks[i]`` and draws from ``episode_keys[i]``."""
    lane_count = len(tasks)
    observations = np.array(world.start(tasks, episode_keys), dtype=np.float32)
    actions = np.zeros((world.num_envs, low_level_policy.action_dim), np.float32)
    rewards = np.zeros(world.num_envs, np.float32)
    lengths = np.zeros(world.num_envs, np.int64)
    terminated = np.zeros(world.num_envs, np.bool_)
    records: list[_SkillRecord] = []
    paths = [observations[:lane_count].copy()] if record_paths else []
    lanes = world.active_lanes.copy()
    states = low_level_policy.see(torch.from_numpy(observations[lanes]))
    while len(lanes):
        skills = high_level_policy(states, lanes, len(records)).cpu()
        low_level_policy.begin(skills, states)
        record = _SkillRecord(lanes, states, skills)
        rewards[lanes] = 0.0
        active, states_now = lanes, states
        for env_step in range(low_level_policy.skill_length):
            if env_step > 0:
                rows = observations if len(active) == world.num_envs else observations[active]
                states_now = low_level_policy.see(torch.from_numpy(rows))
            actions[active] = low_level_policy.act(states_now).numpy()
            observations, step_rewards, terminations, _, _ = world.step(actions)
            rewards += step_rewards
            lengths[active] += 1
            if record_paths:
                paths.append(observations[:lane_count].copy())
            still_active = world.active_lanes
            if len(still_active) != len(active):
                terminated |= terminations
                if len(still_active) == 0:
                    break
                low_level_policy.drop(np.isin(active, still_active, assume_unique=True))
                active = still_active.copy()
        record.rewards, record.dones = rewards[lanes], terminated[lanes].astype(np.float32)
        record.next_states = low_level_policy.see(torch.from_numpy(observations[lanes]))
        records.append(record)
        still_active = world.active_lanes
        if len(still_active) == len(lanes):
            states = record.next_states
        else:
            states = record.next_states[torch.from_numpy(np.isin(lanes, still_active, assume_unique=True))]
        lanes = still_active.copy()
    return _split_by_lane(records, lane_count, lengths, np.stack(paths, axis=1) if record_paths else None)


def _split_by_lane(
    records: Sequence[_SkillRecord], lane_count: int, lengths: NDArray[np.int64], paths: NDArray[np.float32] | None
) -> list[SkillEpisode]:
    """Rounds of skills over lanes -> episodes; a lane's transitions keep their order."""
    lanes = np.concatenate([record.lanes for record in records])
    order = torch.from_numpy(np.argsort(lanes, kind="stable"))
    counts = np.bincount(lanes, minlength=lane_count)[:lane_count].tolist()

    def split(name: str) -> tuple[Tensor, ...]:
        parts: list[Any] = [getattr(record, name) for record in records]
        flat = torch.cat([torch.as_tensor(part) for part in parts])[order]
        columns: tuple[Tensor, ...] = (flat if flat.ndim == 2 else flat[:, None]).split(counts)
        return columns

    fields = (split("states"), split("skills"), split("rewards"), split("dones"), split("next_states"))
    return [
        SkillEpisode(
            states=states,
            skills=skills,
            rewards=rewards,
            dones=dones,
            next_states=next_states,
            length=int(lengths[lane]),
            episode_return=float(rewards.sum()),
            path=None if paths is None else paths[lane, : int(lengths[lane]) + 1],
        )
        for lane, (states, skills, rewards, dones, next_states) in enumerate(zip(*fields, strict=True))
    ]


class EpisodeNoise:
    """Standard normal noise for the skills of each lane's episode, keyed by its episode: (L, T', Z)."""

    def __init__(self, episode_keys: Sequence[EpisodeKey], max_skills: int, latent_dim: int) -> None:
        shape = (max_skills, latent_dim)
        draws = [keyed_rng(*key, "skills").standard_normal(shape, np.float32) for key in episode_keys]
        self.values = torch.from_numpy(np.stack(draws))

    def __call__(self, lanes: NDArray[np.int64], skill_index: int) -> Tensor:
        return self.values[torch.from_numpy(lanes), skill_index]


def max_skills_per_episode(episode_env_steps: int, skill_length: int) -> int:
    """High-level decisions in an episode that runs to the time limit."""
    return -(-episode_env_steps // skill_length)
