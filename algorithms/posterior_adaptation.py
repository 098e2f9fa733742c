"""Adapting to target tasks by inference alone (PEARL): encode some episodes, then act with the task known; no gradient.

    explore    ``exploration_episodes`` with e ~ p(e) (SiMPL's protocol), or with e ~ q(e given the episodes before)
               (``posterior_sampling``: Rakelly et al. 2019, algorithm 2)
    infer      ``inferring_episodes`` with e ~ q(e given all episodes before), of both kinds (Rakelly et al., where the
               reward is sparse)
    act        pi(a given s, e*), e* = the encoder's mean over all transitions of both

Axes: M target task, C context transition, E task embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.adaptation import ADAPTED_FILE
from algorithms.budget import Budget, Scale, acting
from algorithms.encoded_adaptation import encode_context
from algorithms.episode_log import EpisodeLog
from algorithms.episode_paths import EpisodePaths
from algorithms.files import save_tensors
from algorithms.meta_training import MetaLearner, MetaTrainConfig, prior_task_embeddings
from algorithms.networks import Gaussian, torch_generator
from algorithms.ranges import require_between
from algorithms.regularized_sac import FrozenPolicies
from algorithms.rollout import EpisodeKey, EpisodeNoise, collect_episodes
from algorithms.skill_space import SkillSpace
from algorithms.stage import ADDED_LATER, EpisodeRow, Progress, Stage, StageContext, StageReport, TimedWork
from algorithms.transitions import StateInputs


@dataclass(frozen=True)
class PosteriorAdaptConfig:
    """Adapting by encoding exploration episodes, without gradients (SiMPL F.2; Rakelly et al.)."""

    episodes: int = 500
    """Episodes per target task, exploration included (SiMPL, Figure 4: about 500)."""
    exploration_episodes: int = 20
    """Episodes before the task is encoded (SiMPL F.2: 20; Rakelly et al.: 1 to 3)."""
    posterior_sampling: bool = False
    """e is drawn anew for each exploration episode, given those before (Rakelly et al.); off: e ~ p(e) for all of them
    (SiMPL)."""
    inferring_episodes: int = field(default=0, metadata=ADDED_LATER)
    """Episodes after the exploration that are encoded too, each with an e drawn given all before (Rakelly et al.: 15
    after 5 where the reward is sparse; SiMPL: 0, e* is kept)."""
    deterministic: bool = field(default=False, metadata=ADDED_LATER)
    """Act with the policy's mean (Rakelly et al.: on); off: with its samples, as everywhere here."""
    shuffled_contexts: bool = field(default=False, metadata=ADDED_LATER)
    """A control: each task is encoded from the episodes of the next one, so that nothing is inferred of it."""
    lanes: int = 40
    """Episodes collected together, where they do not depend on each other (ours: a matter of speed alone)."""

    def validate(self) -> None:
        require_between(self, (1, 10**6), "episodes")
        require_between(self, (1, self.episodes), "exploration_episodes")
        require_between(self, (0, self.episodes - self.exploration_episodes), "inferring_episodes")
        require_between(self, (1, 100_000), "lanes")

    def budget(self, scale: Scale) -> Budget:
        """Of acting on every task, without updates."""
        return acting(scale.tasks * self.episodes, scale)


class PosteriorAdaptation(Stage):
    """meta_train -> episode rows, and e* of every target task."""

    def __init__(
        self,
        config: PosteriorAdaptConfig,
        meta_config: MetaTrainConfig,
        meta: MetaLearner,
        space: SkillSpace,
        context: StageContext,
    ) -> None:
        self.config, self.meta_config, self.space, self.context = config, meta_config, space, context
        self.meta = meta.to(context.device).requires_grad_(False)
        self.distribution = context.task_distribution
        self.tasks = list(context.target_tasks)
        self.inputs = StateInputs(space.prior, meta.networks.config.standardise_states, context.device)
        count = len(self.tasks)
        self.log = EpisodeLog(self.distribution.score_range[1])
        self.contexts: list[list[Tensor]] = [[] for _ in self.tasks]
        """Context transitions (C, context features) of the episodes that each task is encoded from."""
        self.task_embeddings = torch.zeros((count, meta_config.task_embedding_dim), device=context.device)
        self.paths = EpisodePaths()

    @property
    def episodes(self) -> list[int]:
        """Episodes of each target task so far."""
        return [self.log.count(task) for task in self.tasks]

    @property
    def progress(self) -> Progress:
        return Progress(
            done=self.log.total,
            total=self.config.episodes * len(self.tasks),
            unit="episodes",
            success=self.log.success,
        )

    def advance(self) -> StageReport:
        """One batch of episodes that do not depend on each other."""
        first = min(self.episodes)
        phase = "explore" if first < self.config.exploration_episodes else "adapt"
        if first >= self.encoded_episodes:
            return StageReport(self._collect(phase, self._next_learners(self.config.episodes), self._known_task))
        if phase == "adapt" or self.config.posterior_sampling:
            learners = [i for i, done in enumerate(self.episodes) if done == first][: self.config.lanes]
            rows = self._collect(phase, learners, self._sampled_task)
        else:
            rows = self._collect(phase, self._next_learners(self.config.exploration_episodes), self._any_task)
        if min(self.episodes) >= self.encoded_episodes:
            for learner in range(len(self.tasks)):
                self.task_embeddings[learner] = self._posterior(learner).mean
        return StageReport(rows)

    @property
    def encoded_episodes(self) -> int:
        """Episodes of each task that it is encoded from."""
        return self.config.exploration_episodes + self.config.inferring_episodes

    def _next_learners(self, until: int) -> list[int]:
        """Whose episodes come next, up to ``lanes`` of them, none beyond ``until`` episodes."""
        left = [i for i, done in enumerate(self.episodes) for _ in range(until - done)]
        return left[: self.config.lanes]

    # -- which e acts --------------------------------------------------------------------------

    def _any_task(self, learners: Sequence[int], keys: Sequence[EpisodeKey]) -> Tensor:
        """e ~ p(e)."""
        return prior_task_embeddings(keys, self.task_embeddings.shape[1]).to(self.context.device)

    def _sampled_task(self, learners: Sequence[int], keys: Sequence[EpisodeKey]) -> Tensor:
        """e ~ q(e given the episodes so far), at first e ~ p(e)."""
        noise = self._any_task(learners, keys)
        for place, learner in enumerate(learners):
            if self.contexts[self._encoded_from(learner)]:
                noise[place] = self._posterior(learner).sample(noise[place])
        return noise

    def _known_task(self, learners: Sequence[int], keys: Sequence[EpisodeKey]) -> Tensor:
        """e*."""
        return self.task_embeddings[list(learners)]

    def _posterior(self, learner: int) -> Gaussian:
        """q(e given c) (E,), c all transitions so far, of the episodes that the task is encoded from."""
        context = torch.cat(self.contexts[self._encoded_from(learner)])
        return encode_context(self.meta, self.meta_config, context, self.context.seed, self.tasks[learner])

    def _encoded_from(self, learner: int) -> int:
        """Whose episodes tell of its task: its own."""
        return (learner + 1) % len(self.tasks) if self.config.shuffled_contexts else learner

    # -- collecting ----------------------------------------------------------------------------

    def _collect(self, phase: str, learners: Sequence[int], choose: Any) -> list[EpisodeRow]:
        """One episode for each entry of ``learners``; a learner that occurs twice plays its next two episodes."""
        numbers, seen = [], dict(enumerate(self.episodes))
        for learner in learners:
            numbers.append(seen[learner])
            seen[learner] += 1
        seed = self.context.seed
        keys: list[EpisodeKey] = [
            (seed, "adapt", self.tasks[learner], number) for learner, number in zip(learners, numbers, strict=True)
        ]
        max_skills = self.space.max_skills(self.distribution.episode_env_steps)
        noise = EpisodeNoise(keys, max_skills, self.space.latent_dim)
        if self.config.deterministic:
            noise.values.zero_()
        policies = FrozenPolicies(self.meta.networks, choose(learners, keys), self.inputs, self.space.prior, noise)
        world = self.distribution.make_world(len(learners), threads=self.context.threads)
        tasks = [self.distribution.target_tasks[self.tasks[learner]] for learner in learners]
        episodes = collect_episodes(world, tasks, keys, policies, self.space.low_level_policy)
        rows = []
        for learner, number, episode in zip(learners, numbers, episodes, strict=True):
            if number < self.encoded_episodes:
                packed = self.inputs.pack(self.meta.fields, episode, self.meta_config.discount, 1)
                self.contexts[learner].append(packed[:, : self.meta.context_dim])
            row = self.log.row(phase, self.tasks[learner], episode)
            self.paths.keep_if_chosen(row, episode)
            rows.append(row)
        return rows

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "log": self.log.state_dict(),
            "contexts": [list(parts) for parts in self.contexts],
            "task_embeddings": self.task_embeddings.clone(),
            "paths": self.paths.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.log.load_state_dict(state["log"])
        self.contexts = [[part.to(self.context.device) for part in parts] for parts in state["contexts"]]
        self.task_embeddings = state["task_embeddings"].to(self.context.device)
        self.paths.load_state_dict(state["paths"])

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        policy = [parameter.detach()[0].cpu().clone() for parameter in self.meta.networks.policy.parameters()]
        learners = {
            task: {"policy": policy, "task_embedding": self.task_embeddings[i].cpu().clone()}
            for i, task in enumerate(self.tasks)
        }
        save_tensors(folder / ADAPTED_FILE, {"learners": learners})
        self.paths.write(folder)
        return {"tasks": len(self.tasks)}

    # -- speed ---------------------------------------------------------------------------------

    def timed_work(self) -> Sequence[TimedWork]:
        """An episode of every target task; encoding one task from its exploration episodes at full length."""
        everyone = list(range(len(self.tasks)))
        transitions = self.config.exploration_episodes * self.space.max_skills(self.distribution.episode_env_steps)
        generator = torch_generator(self.context.seed, "profile")
        context = torch.rand((transitions, self.meta.context_dim), generator=generator).to(self.context.device)

        def encode() -> int:
            encode_context(self.meta, self.meta_config, context, self.context.seed, 0)
            return 1

        def roll_out() -> int:
            return sum(row.length for row in self._collect("adapt", everyone, self._known_task))

        return (TimedWork("roll-out", "env_steps", roll_out), TimedWork("encoding", "contexts", encode))
