"""Learning tasks one by one with soft actor-critic: SPiRL and SAC, MTRL's task policies, the last phase of SiMPL.

One independent learner per target task, all in one stack. Each learner alternates, on its own clock,

    one episode -> replay -> ``transition_reuse * transitions / batch_size`` updates -> next episode

so a learner whose episodes are short simply gets through them sooner: updates run on the whole stack, and a
learner with none left to do collects its next episode first. What a learner does is what it would do alone.

What it chooses from (skills or actions) is the ``SkillSpace``; what regularises it is the policy head of its networks.

Axes: M learner (task), B batch, E task embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.adaptation_config import TaskLearningConfig
from algorithms.episode_log import EpisodeLog
from algorithms.episode_paths import EpisodePaths
from algorithms.files import save_tensors
from algorithms.networks import torch_generator
from algorithms.regularized_sac import (
    DualCoefficients,
    FrozenPolicies,
    NetworkConfig,
    SkillActorCritic,
    critic_errors,
    highest_soft_value,
    highest_target,
    policy_loss,
    td_target,
)
from algorithms.replay import MultiTaskReplay
from algorithms.rollout import EpisodeKey, EpisodeNoise, SkillEpisode, collect_episodes
from algorithms.skill_space import SkillSpace
from algorithms.stage import EpisodeRow, Progress, Stage, StageContext, StageReport, TimedWork
from algorithms.transitions import StateInputs, TransitionBatch, transition_fields
from envs.core import Task

ADAPTED_FILE = "adapted.pt"


class Adaptation(Stage):
    """skills (and whatever initialises the learners) -> episode rows and adapted learners."""

    MAX_UPDATES_PER_ADVANCE = 50

    phase = "adapt"
    """Of the episode rows."""

    def __init__(
        self, config: TaskLearningConfig, actor_critic: NetworkConfig, space: SkillSpace, context: StageContext
    ) -> None:
        self.config, self.context, self.actor_critic, self.space = config, context, actor_critic, space
        self.distribution = context.task_distribution
        self.tasks, indices = self.tasks_to_learn()
        self.inputs = StateInputs(space.prior, actor_critic.standardise_states, context.device)
        self.state_dim, self.feature_dim = space.state_dims(self.distribution)
        self.fields = transition_fields(self.state_dim, space.latent_dim, space.prior.prior_dim, self.feature_dim)
        self.highest_return = highest_target(config.clip_targets, self.distribution.score_range)
        self.task_indices = list(indices)
        self.learning_tasks = list(indices)
        """Tasks still being learned: learner i of the stack learns ``learning_tasks[i]``, an index into ``tasks``."""
        self.networks, self.task_embeddings, self.coefficients = self.initial_learners()
        self._make_optimizers()
        copies = len(self.learning_tasks)
        self.replay = MultiTaskReplay(
            copies, config.replay_capacity, self.fields, context.device, "td_rewards", config.rewarded_capacity
        )
        self.owed_updates = torch.zeros(copies, dtype=torch.int64)
        self.updates = torch.zeros(copies, dtype=torch.int64)
        self.log = EpisodeLog(self.distribution.score_range[1])
        self.finished_learners: dict[int, dict[str, Any]] = {}
        self.paths = EpisodePaths()

    # -- what an algorithm says ----------------------------------------------------------------

    def tasks_to_learn(self) -> tuple[Sequence[Task], Sequence[int]]:
        """(tasks, which of them). Here: the target tasks that the run was asked for."""
        return self.distribution.target_tasks, self.context.target_tasks

    def initial_learners(self) -> tuple[SkillActorCritic, Tensor, DualCoefficients]:
        """Networks of M copies, task embeddings (M, E), coefficients (M,). Here: policies at the prior, E = 0."""
        dims = (self.state_dim, self.space.latent_dim, 0)
        generators = [torch_generator(self.context.seed, self.phase, "init", task) for task in self.task_indices]
        singles = [
            SkillActorCritic(self.actor_critic, *dims, 1, generator, self.feature_dim) for generator in generators
        ]
        networks = SkillActorCritic.stack(singles).to(self.context.device)
        copies = len(singles)
        initial = torch.full((copies,), self.config.initial_coefficient, device=self.context.device)
        embeddings = torch.zeros((copies, 0), device=self.context.device)
        return networks, embeddings, self.make_coefficients(initial)

    def explore(self) -> StageReport | None:
        """Called until it returns None, before any fine-tuning."""
        return None

    # -- stage ---------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        return Progress(
            done=self.log.total,
            total=self.config.episodes * len(self.task_indices),
            unit="episodes",
            success=self.log.success,
        )

    @property
    def finished(self) -> bool:
        return not self.learning_tasks

    def advance(self) -> StageReport:
        explored = self.explore()
        if explored is not None:
            return explored
        rows = self._collect_where_waiting()
        updates = min(int(self.owed_updates.min()), self.MAX_UPDATES_PER_ADVANCE)
        metrics: dict[str, float] = {}
        for _ in range(updates):
            metrics = self._update()
        self.owed_updates -= updates
        self._retire_finished()
        return StageReport(episodes=rows, metrics=metrics)

    def _collect_where_waiting(self) -> list[EpisodeRow]:
        """One episode for each learner with no update left to do."""
        waiting = torch.nonzero(self.owed_updates == 0).flatten()
        if len(waiting) == 0:
            return []
        tasks = [self.learning_tasks[i] for i in waiting]
        episodes = self._act(waiting)
        rows = []
        for learner, task, episode in zip(waiting.tolist(), tasks, episodes, strict=True):
            self.learn_from(learner, self.pack(episode))
            rows.append(self.row(self.phase, task, episode))
        return rows

    def _act(self, learners: Tensor) -> list[SkillEpisode]:
        """The next episode of each of these learners (L,)."""
        tasks = [self.learning_tasks[i] for i in learners]
        keys = [self.episode_key(task, self.log.count(task)) for task in tasks]
        policies = FrozenPolicies(
            self.networks,
            self.task_embeddings[learners],
            self.inputs,
            self.space.prior,
            self.episode_noise(keys),
            chosen_models=learners,
        )
        episodes: list[SkillEpisode] = self.collect(tasks, keys, policies)
        return episodes

    def learn_from(self, learner: int, transitions: Tensor) -> None:
        """Store an episode's transitions (T', F); it brings updates once the replay can fill a batch."""
        self.replay.add(learner, transitions)
        if int(self.replay.sizes[learner]) >= self.config.batch_size:
            self.owed_updates[learner] += self.config.updates_after(len(transitions))

    def collect(self, tasks: Sequence[int], keys: Sequence[EpisodeKey], policy: Any) -> Any:
        world = self.distribution.make_world(len(tasks), threads=self.context.threads)
        return collect_episodes(world, [self.tasks[task] for task in tasks], keys, policy, self.space.low_level_policy)

    def pack(self, episode: SkillEpisode) -> Tensor:
        return self.inputs.pack(self.fields, episode, self.config.discount, self.config.n_step)

    def episode_key(self, task: int, episode: int) -> EpisodeKey:
        return (self.context.seed, self.phase, task, episode)

    def episode_noise(self, keys: Sequence[EpisodeKey]) -> EpisodeNoise:
        skills = self.space.max_skills(self.distribution.episode_env_steps)
        return EpisodeNoise(keys, skills, self.space.latent_dim)

    def row(self, phase: str, task: int, episode: SkillEpisode) -> EpisodeRow:
        row = self.log.row(phase, task, episode)
        self.paths.keep_if_chosen(row, episode)
        return row

    # -- one update of the whole stack ---------------------------------------------------------

    def _draw(self) -> tuple[Tensor, Tensor]:
        """(replay positions (M, B), noise (2, M, B, Z)), keyed by task and that task's own update count."""
        batch, latent = self.config.batch_size, self.space.latent_dim
        uniform = torch.empty((len(self.learning_tasks), batch))
        noise = torch.empty((2, len(self.learning_tasks), batch, latent))
        for learner, task in enumerate(self.learning_tasks):
            generator = torch_generator(self.context.seed, self.phase, "update", task, int(self.updates[learner]))
            torch.rand(batch, generator=generator, out=uniform[learner])
            noise[:, learner] = torch.randn((2, batch, latent), generator=generator)
        learners = torch.arange(len(self.learning_tasks))
        rewarded = round(self.config.rewarded_fraction * batch)
        positions = self.replay.draw_stratified(learners, uniform, rewarded)
        return positions, noise.to(self.context.device)

    def _update(self) -> dict[str, float]:
        positions, noise = self._draw()
        learners = torch.arange(len(self.learning_tasks))
        rows = self.replay.gather(learners, positions)
        embeddings = self.task_embeddings[:, None].expand(-1, rows.shape[1], -1)
        batch = TransitionBatch.from_rows(self.fields, rows, embeddings)
        coefficients = self.coefficients.values[:, None]
        config = self.config
        autocast = torch.autocast(self.context.device, dtype=torch.bfloat16, enabled=config.bf16)
        with autocast:
            clip, latent_dim = config.divergence_clip, self.space.latent_dim
            highest = highest_soft_value(
                self.networks.head, self.highest_return, coefficients, config.discount, latent_dim
            )
            targets = td_target(self.networks, batch, coefficients, noise[0], clip, highest)
            errors = critic_errors(self.networks, batch, targets)
        self.critic_optimizer.zero_grad()
        errors.sum().backward()  # a sum: the gradient of each learner, and of each of its critics, is its own
        self.critic_optimizer.step()
        self.networks.update_targets(self.config.target_rate)

        with autocast:
            policy_losses, divergence = policy_loss(self.networks, batch, coefficients, noise[1])
        self.policy_optimizer.zero_grad()
        policy_losses.sum().backward()
        self.policy_optimizer.step()
        self.coefficients.update(divergence.mean(1) - config.target_divergence(self.space.latent_dim))
        self.updates += 1
        return {
            "critic_loss": float(errors.detach().mean()),
            "policy_loss": float(policy_losses.detach().mean()),
            "divergence": float(divergence.detach().mean()),
            "coefficient": float(coefficients.mean()),
            "target_mean": float(targets.mean()),
            "updates": float(self.updates.float().mean()),
            "learners": float(len(self.learning_tasks)),
        }

    # -- the stack shrinks as learners finish --------------------------------------------------

    def make_coefficients(self, initial: Tensor) -> DualCoefficients:
        config, kind = self.config, self.actor_critic.make_head().coefficient
        return DualCoefficients(initial, config.coefficient_learning_rate, config.divergence_only_weighs_more, kind)

    def _make_optimizers(self) -> None:
        rate = self.config.learning_rate
        self.critic_optimizer = torch.optim.Adam(self.networks.critics.parameters(), lr=rate, fused=True)
        self.policy_optimizer = torch.optim.Adam(self.networks.policy.parameters(), lr=rate, fused=True)

    def _retire_finished(self) -> None:
        """Learners that have had all their episodes leave the stack."""
        done = [i for i, task in enumerate(self.learning_tasks) if self.log.count(task) >= self.config.episodes]
        done = [i for i in done if int(self.owed_updates[i]) == 0]
        if not done:
            return
        for i in done:
            self.finished_learners[self.learning_tasks[i]] = self.learner_state(i)
        kept = [i for i in range(len(self.learning_tasks)) if i not in done]
        self._keep(kept)

    def learner_state(self, learner: int) -> dict[str, Any]:
        """What is kept of a learner that has had all its episodes."""
        networks = self.networks
        return {
            "policy": [p.detach()[learner].cpu().clone() for p in networks.policy.parameters()],
            "critics": [
                p.detach().unflatten(0, (networks.model_copies, -1))[learner].cpu().clone()
                for p in networks.critics.parameters()
            ],
            "task_embedding": self.task_embeddings[learner].cpu().clone(),
            "coefficient": float(self.coefficients.values[learner]),
        }

    def _keep(self, kept: Sequence[int]) -> None:
        """Shrink every tensor with a learner axis to these learners."""
        index = torch.as_tensor(kept, dtype=torch.int64, device=self.context.device)
        both = (index[:, None] * 2 + torch.arange(2, device=index.device)).flatten()
        optimizers = (self.policy_optimizer, self.critic_optimizer, self.coefficients.optimizer)
        stacks = (
            (self.networks.policy, index, optimizers[0]),
            (self.networks.critics, both, optimizers[1]),
            (self.networks.target_critics, both, None),
            (self.coefficients, index, optimizers[2]),
        )
        for module, chosen, optimizer in stacks:
            for parameter in module.parameters():
                parameter.data = parameter.data[chosen].contiguous()
                parameter.grad = None
                for name, value in (optimizer.state[parameter] if optimizer else {}).items():
                    if name != "step":
                        optimizer.state[parameter][name] = value[chosen].contiguous()  # type: ignore[union-attr]
        self.networks.model_copies = len(kept)
        self.task_embeddings = self.task_embeddings[index]
        self.replay.keep(kept)
        self.owed_updates = self.owed_updates[index.cpu()]
        self.updates = self.updates[index.cpu()]
        self.learning_tasks = [self.learning_tasks[i] for i in kept]

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "learning_tasks": list(self.learning_tasks),
            "networks": self.networks.state_dict(),
            "coefficients": self.coefficients.state_dict(),
            "task_embeddings": self.task_embeddings.clone(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers()],
            "replay": self.replay.state_dict(),
            "owed_updates": self.owed_updates.clone(),
            "updates": self.updates.clone(),
            **self.log.state_dict(),
            "finished_learners": dict(self.finished_learners),
            "paths": self.paths.state_dict(),
        }

    def _optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.policy_optimizer, self.critic_optimizer, self.coefficients.optimizer)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = [self.learning_tasks.index(task) for task in state["learning_tasks"]]
        if len(kept) != len(self.learning_tasks):
            self._keep(kept)
        self.networks.load_state_dict(state["networks"])
        self.coefficients.load_state_dict(state["coefficients"])
        self.task_embeddings = state["task_embeddings"].to(self.context.device)
        for optimizer, saved in zip(self._optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.replay.load_state_dict(state["replay"])
        self.owed_updates, self.updates = state["owed_updates"].clone(), state["updates"].clone()
        self.log.load_state_dict(state)
        self.finished_learners = dict(state["finished_learners"])
        self.paths.load_state_dict(state.get("paths", {}))  # checkpoints of before paths were kept

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        save_tensors(folder / ADAPTED_FILE, {"learners": self.finished_learners})
        self.paths.write(folder)
        return {"tasks": len(self.finished_learners)}

    # -- speed ---------------------------------------------------------------------------------

    def timed_work(self) -> Sequence[TimedWork]:
        """An episode of every learner; an update of the whole stack."""
        self.replay.fill_with_noise(torch_generator(self.context.seed, "profile"))
        everyone = torch.arange(len(self.learning_tasks))

        def update() -> int:
            self._update()
            return 1

        return (
            TimedWork("roll-out", "env_steps", lambda: sum(episode.length for episode in self._act(everyone))),
            TimedWork("update", "updates", update),
        )
