"""Learning target tasks by prior-regularised soft actor-critic over skills: SPiRL, and the last phase of SiMPL.

One independent learner per target task, all in one stack. Each learner alternates, on its own clock,

    one episode -> replay -> ``transition_reuse * skill transitions / batch_size`` updates -> next episode

so a learner whose episodes are short simply gets through them sooner: updates run on the whole stack, and a
learner with none left to do collects its next episode first. What a learner does is what it would do alone.

Axes: M learner (target task), B batch, E task embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.files import save_tensors
from algorithms.networks import torch_generator
from algorithms.ranges import COUNT, FRACTION, RATE, WEIGHT, require_between
from algorithms.regularized_sac import (
    ActorCriticConfig,
    DualCoefficients,
    FrozenPolicies,
    SkillActorCritic,
    StateInputs,
    TransitionBatch,
    critic_loss,
    policy_loss,
    td_target,
    transition_fields,
)
from algorithms.replay import MultiTaskReplay
from algorithms.rollout import (
    EpisodeKey,
    EpisodeNoise,
    LowLevelPolicy,
    SkillEpisode,
    collect_episodes,
    max_skills_per_episode,
)
from algorithms.skill_model import SkillModel, load_skill_model
from algorithms.stage import EpisodeRow, Progress, Stage, StageContext, StageReport

ADAPTED_FILE = "adapted.pt"


@dataclass(frozen=True)
class AdaptConfig:
    """Target-task learning (SiMPL section 4.3, appendix E.2.2; SPiRL uses the same settings, F.3)."""

    episodes: int = 500
    """Training episodes per target task, exploration included (paper, Figure 4: about 500)."""
    exploration_episodes: int = 20
    """Episodes with e ~ p(e) before the task is encoded (paper: 20); algorithms without an encoder take none."""
    batch_size: int = 256
    """Skill transitions per update (paper: 256)."""
    replay_capacity: int = 20_000
    """Skill transitions kept per task (paper: 20,000)."""
    transition_reuse: float = 256.0
    """Updates per episode = this x skill transitions / batch_size (released: 256)."""
    updates_per_episode: int = 0
    """Departure: this many updates after each episode, whatever its length, so that all learners keep step and
    collect together (0: by ``transition_reuse``, as released)."""
    learning_rate: float = 3e-4
    """Adam, for policy and critics (paper: 3e-4)."""
    coefficient_learning_rate: float = 3e-4
    """Adam, for the regularisation coefficient (released: 3e-4; SPiRL on the kitchen 3e-3)."""
    initial_coefficient: float = 0.05
    """alpha at the start, where it is not meta-trained (released SPiRL: 0.05; paper F.3: 0.01)."""
    coefficient_only_grows: bool = True
    """alpha is never lowered (released: on for SiMPL, off for SPiRL)."""
    target_kl: float = 1.0
    """Target divergence delta (paper: maze 1)."""
    kl_clip: float = 5.0
    """Clip of the KL in the TD target (released: maze 5)."""
    discount: float = 0.99
    """Per skill (released)."""
    n_step: int = 1
    """Departure: TD targets look this many skills ahead along the stored episode, uncorrected and without the KL of
    the skills in between (released: 1)."""
    target_rate: float = 0.005
    """Smoothing of the target critics (released)."""
    rewarded_fraction: float = 0.0
    """Departure: this part of each batch is drawn from rewarded transitions, where there are any (released: 0)."""
    clip_targets: bool = False
    """Departure: TD targets never exceed the highest possible return, so that values cannot diverge (released: off)."""
    bf16: bool = False
    """Departure: hidden layers in bfloat16 autocast (off: float32)."""

    def validate(self) -> None:
        require_between(self, (1, 10**6), "episodes")
        require_between(self, (0, self.episodes - 1), "exploration_episodes")
        require_between(self, COUNT, "replay_capacity")
        require_between(self, (1, self.replay_capacity), "batch_size")
        require_between(self, (0, 10**6), "updates_per_episode")
        require_between(self, (1, 10_000), "n_step")
        require_between(self, FRACTION, "rewarded_fraction")
        require_between(self, RATE, "learning_rate", "coefficient_learning_rate", "discount", "target_rate")
        require_between(self, WEIGHT, "transition_reuse", "initial_coefficient", "target_kl", "kl_clip")


class SkillAdaptation(Stage):
    """skills (and whatever initialises the learners) -> episode rows and adapted learners."""

    MAX_UPDATES_PER_ADVANCE = 50

    def __init__(self, config: AdaptConfig, actor_critic: ActorCriticConfig, context: StageContext) -> None:
        self.config, self.context, self.actor_critic = config, context, actor_critic
        self.distribution = context.task_distribution
        self.skill_model: SkillModel = load_skill_model(context.inputs["skills"], context.device)
        self.low_level_policy = LowLevelPolicy(load_skill_model(context.inputs["skills"]))
        self.inputs = StateInputs(self.skill_model, actor_critic.standardise_states)
        self.fields = transition_fields(self.distribution.observation_dim, self.skill_model.config.latent_dim)
        self.highest_target = self.distribution.score_range[1] if config.clip_targets else math.inf
        self.target_tasks = list(context.target_tasks)
        self.learning_tasks = list(context.target_tasks)
        """Target tasks still being learned: learner i of the stack learns ``learning_tasks[i]``."""
        self.networks, self.task_embeddings, self.coefficients = self.initial_learners()
        self._make_optimizers()
        copies = len(self.learning_tasks)
        self.replay = MultiTaskReplay(
            copies, config.replay_capacity, self.fields, context.device, reward_field="td_rewards"
        )
        self.owed_updates = torch.zeros(copies, dtype=torch.int64)
        self.updates = torch.zeros(copies, dtype=torch.int64)
        self.episodes: dict[int, int] = dict.fromkeys(self.target_tasks, 0)
        self.env_steps: dict[int, int] = dict.fromkeys(self.target_tasks, 0)
        self.finished_learners: dict[int, dict[str, Any]] = {}
        self._last_success: dict[int, bool] = {}

    # -- what an algorithm says ----------------------------------------------------------------

    def initial_learners(self) -> tuple[SkillActorCritic, Tensor, DualCoefficients]:
        """Networks of M copies, task embeddings (M, E), coefficients (M,). Here: policies at the prior, E = 0."""
        dims = (self.distribution.observation_dim, self.skill_model.config.latent_dim, 0)
        generators = [torch_generator(self.context.seed, "adapt", "init", task) for task in self.target_tasks]
        singles = [SkillActorCritic(self.actor_critic, *dims, 1, generator) for generator in generators]
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
        successes = list(self._last_success.values())
        return Progress(
            done=sum(self.episodes.values()),
            total=self.config.episodes * len(self.target_tasks),
            unit="episodes",
            success=sum(successes) / len(successes) if successes else None,
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
        keys = [self.episode_key(task, self.episodes[task]) for task in tasks]
        policies = FrozenPolicies(
            self.networks,
            self.task_embeddings[waiting],
            self.inputs,
            self.skill_model,
            self.episode_noise(keys),
            chosen_models=waiting,
        )
        episodes = self.collect(tasks, keys, policies)
        rows = []
        for learner, task, episode in zip(waiting.tolist(), tasks, episodes, strict=True):
            self.learn_from(learner, self.pack(episode))
            rows.append(self.row("adapt", task, episode))
        return rows

    def learn_from(self, learner: int, transitions: Tensor) -> None:
        """Store an episode's transitions (T', F); it brings updates once the replay can fill a batch."""
        self.replay.add(learner, transitions)
        if int(self.replay.sizes[learner]) >= self.config.batch_size:
            by_reuse = round(self.config.transition_reuse * len(transitions) / self.config.batch_size)
            self.owed_updates[learner] += self.config.updates_per_episode or by_reuse

    def collect(self, tasks: Sequence[int], keys: Sequence[EpisodeKey], policy: Any) -> Any:
        world = self.distribution.make_world(len(tasks), threads=self.context.threads)
        return collect_episodes(
            world, [self.distribution.target_tasks[task] for task in tasks], keys, policy, self.low_level_policy
        )

    def pack(self, episode: SkillEpisode) -> Tensor:
        return self.inputs.pack(self.fields, episode, self.config.discount, self.config.n_step)

    def episode_key(self, task: int, episode: int) -> EpisodeKey:
        return (self.context.seed, "adapt", task, episode)

    def episode_noise(self, keys: Sequence[EpisodeKey]) -> EpisodeNoise:
        skills = max_skills_per_episode(self.distribution.episode_env_steps, self.low_level_policy.skill_length)
        return EpisodeNoise(keys, skills, self.skill_model.config.latent_dim)

    def row(self, phase: str, task: int, episode: Any) -> EpisodeRow:
        self.env_steps[task] += episode.length
        success = episode.episode_return >= self.distribution.score_range[1]
        self._last_success[task] = success
        row = EpisodeRow(
            phase, task, self.episodes[task], self.env_steps[task], episode.episode_return, success, episode.length
        )
        self.episodes[task] += 1
        return row

    # -- one update of the whole stack ---------------------------------------------------------

    def _draw(self) -> tuple[Tensor, Tensor]:
        """(replay positions (M, B), noise (2, M, B, Z)), keyed by task and that task's own update count."""
        batch, latent = self.config.batch_size, self.skill_model.config.latent_dim
        uniform = torch.empty((len(self.learning_tasks), batch))
        noise = torch.empty((2, len(self.learning_tasks), batch, latent))
        for learner, task in enumerate(self.learning_tasks):
            generator = torch_generator(self.context.seed, "adapt", "update", task, int(self.updates[learner]))
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
            targets = td_target(self.networks, batch, coefficients, noise[0], config.kl_clip, self.highest_target)
            losses = critic_loss(self.networks, batch, targets)
        self.critic_optimizer.zero_grad()
        losses.sum().backward()  # a sum: each learner's gradient is its own
        self.critic_optimizer.step()
        self.networks.update_targets(self.config.target_rate)

        with autocast:
            policy_losses, kl = policy_loss(self.networks, batch, coefficients, noise[1])
        self.policy_optimizer.zero_grad()
        policy_losses.sum().backward()
        self.policy_optimizer.step()
        self.coefficients.update(kl.mean(1) - self.config.target_kl)
        self.updates += 1
        return {
            "critic_loss": float(losses.detach().mean()),
            "policy_loss": float(policy_losses.detach().mean()),
            "kl": float(kl.detach().mean()),
            "coefficient": float(coefficients.mean()),
            "target_mean": float(targets.mean()),
            "updates": float(self.updates.float().mean()),
            "learners": float(len(self.learning_tasks)),
        }

    # -- the stack shrinks as learners finish --------------------------------------------------

    def make_coefficients(self, initial: Tensor) -> DualCoefficients:
        config = self.config
        return DualCoefficients(initial, config.coefficient_learning_rate, config.coefficient_only_grows)

    def _make_optimizers(self) -> None:
        rate = self.config.learning_rate
        self.critic_optimizer = torch.optim.Adam(self.networks.critics.parameters(), lr=rate, fused=True)
        self.policy_optimizer = torch.optim.Adam(self.networks.policy.parameters(), lr=rate, fused=True)

    def _retire_finished(self) -> None:
        """Learners that have had all their episodes leave the stack."""
        done = [i for i, task in enumerate(self.learning_tasks) if self.episodes[task] >= self.config.episodes]
        done = [i for i in done if int(self.owed_updates[i]) == 0]
        if not done:
            return
        for i in done:
            self.finished_learners[self.learning_tasks[i]] = self._learner_state(i)
        kept = [i for i in range(len(self.learning_tasks)) if i not in done]
        self._keep(kept)

    def _learner_state(self, learner: int) -> dict[str, Any]:
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
            "episodes": dict(self.episodes),
            "env_steps": dict(self.env_steps),
            "last_success": dict(self._last_success),
            "finished_learners": dict(self.finished_learners),
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
        self.episodes, self.env_steps = dict(state["episodes"]), dict(state["env_steps"])
        self._last_success = dict(state["last_success"])
        self.finished_learners = dict(state["finished_learners"])

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        save_tensors(folder / ADAPTED_FILE, {"learners": self.finished_learners})
        return {"tasks": len(self.finished_learners)}
