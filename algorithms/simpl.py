"""SiMPL: skill-based meta-policy learning.

Nam, Sun, Pertsch, Hwang, Lim 2022, "Skill-based Meta-Reinforcement Learning" (arXiv 2204.11828).

Stages: data -> skills (4.1) -> meta_train (4.2) -> adapt (4.3)

    equation 4:  max E_T, e ~ q(e given c) E [ r(s, z) - alpha KL(pi(z given s, e), p(z given s)) ]
                 with alpha_1 for small contexts and alpha_2 for large ones, tuned to target KLs delta_1 < delta_2
    equation 5:  the same on the target task with e* ~ q(e given c*), c* from 20 episodes with e ~ p(e)

One meta-training update (order of the released code)

    context sets -> e -> RL batch -> TD target -> critics and encoder -> target networks
      -> encoder coefficients -> policy -> policy coefficients

The task encoder learns through the critic loss and its KL to N(0, I) alone; the policy sees e detached; e is
sampled once per transition. Contexts hold episodes collected with e ~ p(e) only; both kinds feed the critics.

Differences from paper and released code (``paper`` keeps the released values; each field names the other)
- ``rewarded_fraction`` and ``context_rewarded_first`` bring rare rewarded transitions into critics' batches and
  contexts; ``standardise_states``; ``bf16``: departures, all off in ``paper``.
- The residual policy starts exactly at the prior (last layer zero); the released code leaves that open.
- Prior parameters are stored with transitions, all tasks go through the networks in one pass, and the encoder
  folds projections: the same function, cheaper.

Axes: N task, S context set, C context transition, B transitions per set, E task embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.adaptation import AdaptConfig, SkillAdaptation
from algorithms.files import load_tensors, save_tensors
from algorithms.networks import Gaussian, torch_generator
from algorithms.regularized_sac import (
    CONTEXT_LAST_FIELD,
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
from algorithms.rollout import EpisodeKey, EpisodeNoise, LowLevelPolicy, collect_episodes, max_skills_per_episode
from algorithms.set_transformer import TaskEncoder
from algorithms.skill_model import load_skill_model
from algorithms.skills import SKILL_PRESETS, SKILLS_STAGE
from algorithms.spirl import ADAPT_QUICK, ADAPT_SMOKE
from algorithms.stage import Algorithm, EpisodeRow, Progress, Stage, StageContext, StageReport, StageSpec

META_FILE = "meta.pt"


@dataclass(frozen=True)
class SimplMetaTrainConfig:
    """Skill-based meta-training. Values: released code for the maze, unless a line says otherwise."""

    epochs: int = 1000
    """Each: one episode per task with e ~ p(e) and one with e ~ q (released: maze 1000, kitchen 500; the paper
    counts 10,000 / 18,000 / 16,000 episodes for 10 / 20 / 40 maze tasks)."""
    task_embedding_dim: int = 5
    """dim(e) (released: maze 5, kitchen 6; paper: 6 with 40 maze tasks, else 5; kitchen 10)."""
    small_context_tasks: int = 4
    """Context sets of ``small_context`` per update (released: 4; paper: 20 tasks in all)."""
    large_context_tasks: int = 26
    """Context sets of ``large_context`` per update (released: 26)."""
    transitions_per_task: int = 1024
    """RL transitions per context set and update (paper: maze 1024, kitchen 256)."""
    small_context: int = 4
    """Transitions in a small context (paper: maze 4, kitchen 2)."""
    large_context: int = 8192
    """Transitions in a large context (paper: maze 8192, kitchen 1024)."""
    warm_up_transitions: int = 8192
    """Context transitions collected per task with e ~ p(e) before the first epoch (released: the large context)."""
    transition_reuse: float = 256.0
    """Updates per epoch = this x transitions collected / context sets / transitions_per_task (released: 256)."""
    replay_capacity: int = 20_000
    """Transitions kept per task for the critics (released: maze 20,000, kitchen 3,000)."""
    context_capacity: int = 20_000
    """Transitions kept per task for contexts (released: the same)."""
    small_target_kl: float = 0.5
    """delta_1 (released: 0.5; paper: 0.1)."""
    large_target_kl: float = 1.0
    """delta_2 (released: 1; paper: 0.4)."""
    small_initial_coefficient: float = 3e-3
    """alpha_1 at the start (released)."""
    large_initial_coefficient: float = 1e-3
    """alpha_2 at the start (released)."""
    small_encoder_target_kl: float = 1.0
    """Target of KL(q(e given c), N(0, I)) for small contexts (released)."""
    large_encoder_target_kl: float = 10.0
    """The same for large contexts (released)."""
    small_initial_encoder_coefficient: float = 1e-5
    """Its weight at the start, one shared by all tasks (released)."""
    large_initial_encoder_coefficient: float = 3e-6
    """Its weight at the start, one per training task (released)."""
    kl_clip: float = 5.0
    """Clip of the KL in the TD target (released: maze 5, kitchen 6)."""
    learning_rate: float = 3e-4
    """Adam, for every network (paper: 3e-4)."""
    coefficient_learning_rate: float = 3e-4
    """Adam, for every coefficient (released: 3e-4)."""
    discount: float = 0.99
    """Per skill (released)."""
    target_rate: float = 0.005
    """Smoothing of the target critics (released)."""
    encoder_hidden_dim: int = 128
    """Width of the task encoder (paper: 128, 4 heads, 32 inducing points)."""
    rewarded_fraction: float = 0.0
    """Departure: this part of each critic batch comes from rewarded transitions (released: 0)."""
    context_drawn: int = 0
    """Departure: draw this many transitions, keep ``large_context`` of them with the rewarded first (0: off)."""
    bf16: bool = False
    """Departure: networks in bfloat16 autocast (off: float32)."""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """The high-level policy and critics."""

    def validate(self) -> None:
        for name in ("epochs", "transitions_per_task", "small_context", "large_context", "warm_up_transitions"):
            if not 1 <= getattr(self, name) <= 10**7:
                raise ValueError(f"{name} is {getattr(self, name)}; valid is 1 to 10,000,000")
        for name in ("small_context_tasks", "large_context_tasks"):
            if not 1 <= getattr(self, name) <= 10**4:
                raise ValueError(f"{name} is {getattr(self, name)}; valid is 1 to 10,000")
        if self.transitions_per_task > self.replay_capacity:
            raise ValueError(f"transitions_per_task {self.transitions_per_task} exceeds replay_capacity")
        if not 1 <= self.task_embedding_dim <= 10_000:
            raise ValueError(f"task_embedding_dim is {self.task_embedding_dim}; valid is 1 to 10,000")
        if self.warm_up_transitions > self.context_capacity:
            raise ValueError(f"warm_up_transitions {self.warm_up_transitions} exceeds context_capacity")
        if 0 < self.context_drawn < self.large_context:
            raise ValueError(f"context_drawn is {self.context_drawn}; valid is 0 or at least {self.large_context}")
        if not 0 <= self.rewarded_fraction <= 1:
            raise ValueError(f"rewarded_fraction is {self.rewarded_fraction}; valid is 0 to 1")


class SimplLearner(torch.nn.Module):
    """Task encoder, task-conditioned actor-critic, dual coefficients, and their joint update."""

    def __init__(
        self, config: SimplMetaTrainConfig, observation_dim: int, latent_dim: int, task_count: int, seed: int
    ) -> None:
        super().__init__()
        self.config, self.seed, self.latent_dim = config, seed, latent_dim
        self.fields = transition_fields(observation_dim, latent_dim)
        self.context_dim = self.fields.through(CONTEXT_LAST_FIELD)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator(seed, "meta_train", "encoder").initial_seed())
            self.encoder = TaskEncoder(self.context_dim, config.task_embedding_dim, config.encoder_hidden_dim)
        self.networks = SkillActorCritic(
            config.actor_critic,
            observation_dim,
            latent_dim,
            config.task_embedding_dim,
            1,
            torch_generator(seed, "meta_train", "init"),
        )
        rate = config.coefficient_learning_rate
        initial_policy = torch.tensor([config.small_initial_coefficient, config.large_initial_coefficient])
        self.policy_coefficients = DualCoefficients(initial_policy, rate)  # [small, large]
        initial_encoder = torch.full((1 + task_count,), config.large_initial_encoder_coefficient)
        initial_encoder[0] = config.small_initial_encoder_coefficient
        self.encoder_coefficients = DualCoefficients(initial_encoder, rate)  # [small, task 0, task 1, ...]

    def make_optimizers(self) -> None:
        """After the module has its device."""
        rate = self.config.learning_rate
        critic_parameters = [*self.networks.critics.parameters(), *self.encoder.parameters()]
        self.critic_optimizer = torch.optim.Adam(critic_parameters, lr=rate, fused=True)
        self.policy_optimizer = torch.optim.Adam(self.networks.policy.parameters(), lr=rate, fused=True)

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        coefficients = (self.policy_coefficients, self.encoder_coefficients)
        return (self.critic_optimizer, self.policy_optimizer, *(group.optimizer for group in coefficients))

    # -- losses --------------------------------------------------------------------------------

    def encode(self, small_contexts: Tensor, large_contexts: Tensor) -> Gaussian:
        """q(e given c) of all sets, small first: (S, E)."""
        small, large = self.encoder(small_contexts), self.encoder(large_contexts)
        return Gaussian(torch.cat([small.mean, large.mean]), torch.cat([small.sigma, large.sigma]))

    def encoder_regularisation(self, posterior: Gaussian, coefficient_index: Tensor) -> tuple[Tensor, Tensor]:
        """(mean over sets of coefficient x KL(q, N(0, I)), KL (S,))."""
        kl = posterior.kl_to_unit()
        return (self.encoder_coefficients.values[coefficient_index] * kl).mean(), kl

    def losses_of_critic_and_encoder(
        self, rows: Tensor, contexts: tuple[Tensor, Tensor], tasks: Tensor, noise: Tensor
    ) -> tuple[Tensor, TransitionBatch, Tensor, Tensor, Tensor]:
        """(loss, batch with e attached, row coefficients (1, S B), encoder KL (S,), coefficient index (S,)).

        ``rows`` (S, B, F), ``contexts`` (small, large), ``tasks`` (S,) with the small-context sets first,
        ``noise`` (2, S B, Z + E).
        """
        config = self.config
        sets, per_set = rows.shape[:2]
        posterior = self.encode(*contexts)
        spread = Gaussian(posterior.mean.repeat_interleave(per_set, 0), posterior.sigma.repeat_interleave(per_set, 0))
        embeddings = spread.sample(noise[0, :, self.latent_dim :])[None]
        batch = TransitionBatch.from_rows(self.fields, rows.reshape(1, sets * per_set, -1), embeddings)
        is_large = (torch.arange(sets, device=rows.device) >= config.small_context_tasks).long()
        coefficients = self.policy_coefficients.values[is_large].repeat_interleave(per_set)[None]
        skill_noise = noise[0, :, : self.latent_dim][None]
        targets = td_target(self.networks, batch, coefficients, skill_noise, config.discount, config.kl_clip)
        coefficient_index = torch.where(is_large.bool(), 1 + tasks.to(rows.device), 0)
        regularisation, kl = self.encoder_regularisation(posterior, coefficient_index)
        loss = critic_loss(self.networks, batch, targets).sum() + regularisation
        return loss, batch, coefficients, kl.detach(), coefficient_index

    # -- update --------------------------------------------------------------------------------

    def update(
        self, rows: Tensor, contexts: tuple[Tensor, Tensor], tasks: Tensor, noise: Tensor
    ) -> dict[str, float]:
        """One meta-training update; shapes as in ``losses_of_critic_and_encoder``."""
        config = self.config
        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            critic_total, batch, coefficients, encoder_kl, coefficient_index = self.losses_of_critic_and_encoder(
                rows, contexts, tasks, noise
            )
        self.critic_optimizer.zero_grad()
        critic_total.backward()
        self.critic_optimizer.step()
        self.networks.update_targets(config.target_rate)
        self._update_encoder_coefficients(encoder_kl, coefficient_index)

        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            losses, kl = policy_loss(self.networks, batch, coefficients, noise[1, :, : self.latent_dim][None])
        self.policy_optimizer.zero_grad()
        losses.sum().backward()
        self.policy_optimizer.step()
        small_rows = config.small_context_tasks * rows.shape[1]
        kl = kl.detach()
        small_kl, large_kl = kl[0, :small_rows].mean(), kl[0, small_rows:].mean()
        targets = kl.new_tensor([config.small_target_kl, config.large_target_kl])
        self.policy_coefficients.update(torch.stack([small_kl, large_kl]) - targets)
        small_sets = config.small_context_tasks
        return {
            "critic_loss": float(critic_total.detach()),
            "policy_loss": float(losses.detach().sum()),
            "small_kl": float(small_kl),
            "large_kl": float(large_kl),
            "small_coefficient": float(self.policy_coefficients.values[0]),
            "large_coefficient": float(self.policy_coefficients.values[1]),
            "small_encoder_kl": float(encoder_kl[:small_sets].mean()),
            "large_encoder_kl": float(encoder_kl[small_sets:].mean()),
        }

    def _update_encoder_coefficients(self, encoder_kl: Tensor, coefficient_index: Tensor) -> None:
        """Each coefficient sees the mean excess of its own sets; one whose task is not in the batch sees 0."""
        config = self.config
        target = torch.where(coefficient_index == 0, config.small_encoder_target_kl, config.large_encoder_target_kl)
        shape = self.encoder_coefficients.raw.shape
        zeros = torch.zeros(shape, device=encoder_kl.device)
        excess = zeros.index_add(0, coefficient_index, encoder_kl - target)
        counts = zeros.index_add(0, coefficient_index, torch.ones_like(encoder_kl))
        self.encoder_coefficients.update(excess / counts.clamp(min=1))


class SimplMetaTraining(Stage):
    """skills -> meta-trained encoder, policy and critics (section 4.2)."""

    MAX_UPDATES_PER_ADVANCE = 10

    def __init__(self, config: SimplMetaTrainConfig, context: StageContext) -> None:
        self.config, self.context = config, context
        self.distribution = context.task_distribution
        self.tasks = self.distribution.train_tasks
        self.skill_model = load_skill_model(context.inputs["skills"], context.device)
        self.low_level_policy = LowLevelPolicy(load_skill_model(context.inputs["skills"]))
        self.inputs = StateInputs(self.skill_model, config.actor_critic.standardise_states)
        latent_dim = self.skill_model.config.latent_dim
        count, observation_dim = len(self.tasks), self.distribution.observation_dim
        self.learner = SimplLearner(config, observation_dim, latent_dim, count, context.seed).to(context.device)
        self.learner.make_optimizers()
        fields = self.learner.fields
        self.replay = MultiTaskReplay(count, config.replay_capacity, fields, context.device)
        self.context_replay = MultiTaskReplay(count, config.context_capacity, fields, context.device)
        self.epochs = self.updates = self.owed_updates = self.rounds = 0
        self.episodes, self.env_steps = [0] * count, [0] * count
        self._success: float | None = None

    @property
    def progress(self) -> Progress:
        return Progress(self.epochs, self.config.epochs, "epochs", self._success)

    @property
    def finished(self) -> bool:
        return self.epochs >= self.config.epochs and self.owed_updates == 0

    def advance(self) -> StageReport:
        if self.owed_updates:
            return self._some_updates()
        # Warm-up: fill the contexts with e ~ p(e), then the critics' replay with e ~ q(e given c).
        if short := self._tasks_below(self.context_replay, self.config.warm_up_transitions):
            return StageReport(self._collect(short, []))
        if short := self._tasks_below(self.replay, self.config.transitions_per_task):
            return StageReport(self._collect([], short))
        return self._begin_epoch()

    def _tasks_below(self, replay: MultiTaskReplay, transitions: int) -> list[int]:
        return [n for n in range(len(self.tasks)) if int(replay.sizes[n]) < transitions]

    # -- collecting ----------------------------------------------------------------------------

    def _begin_epoch(self) -> StageReport:
        everyone = list(range(len(self.tasks)))
        before = int(self.replay.added.sum())
        rows = self._collect(everyone, everyone)
        collected = int(self.replay.added.sum()) - before
        sets = self.config.small_context_tasks + self.config.large_context_tasks
        self.owed_updates = round(
            self.config.transition_reuse * collected / sets / self.config.transitions_per_task
        )
        self.epochs += 1
        success = {
            phase: sum(row.success for row in rows if row.phase == phase) / len(everyone)
            for phase in ("meta_train_prior", "meta_train_posterior")
        }
        self._success = success["meta_train_posterior"]
        metrics = {"epochs": float(self.epochs), "collected": float(collected)}
        return StageReport(rows, metrics | {f"{phase}_success": value for phase, value in success.items()})

    def _collect(self, prior_tasks: list[int], posterior_tasks: list[int]) -> list[EpisodeRow]:
        """One episode per listed task with e ~ p(e) / e ~ q(e given a large context); e is held for the episode."""
        tasks = [*prior_tasks, *posterior_tasks]
        phases = ["meta_train_prior"] * len(prior_tasks) + ["meta_train_posterior"] * len(posterior_tasks)
        keys: list[EpisodeKey] = [
            (self.context.seed, phase, task, self.rounds) for phase, task in zip(phases, tasks, strict=True)
        ]
        self.rounds += 1
        embeddings = torch.stack(
            [torch.randn(self.config.task_embedding_dim, generator=torch_generator(*key, "e")) for key in keys]
        ).to(self.context.device)
        if posterior_tasks:
            index = torch.tensor(posterior_tasks)
            generator = torch_generator(self.context.seed, "meta_train", "acting_context", self.rounds)
            posterior = self._encode_large(index, generator)
            embeddings[len(prior_tasks) :] = posterior.sample(embeddings[len(prior_tasks) :])
        model = self.skill_model
        max_skills = max_skills_per_episode(self.distribution.episode_env_steps, model.config.skill_length)
        noise = EpisodeNoise(keys, max_skills, model.config.latent_dim)
        episodes = collect_episodes(
            self.distribution.make_world(len(tasks), threads=self.context.threads),
            [self.tasks[task] for task in tasks],
            keys,
            FrozenPolicies(self.learner.networks, embeddings, self.inputs, model, noise),
            self.low_level_policy,
        )
        rows = []
        for task, phase, episode in zip(tasks, phases, episodes, strict=True):
            packed = self.inputs.pack(self.learner.fields, episode)
            self.replay.add(task, packed)
            if phase == "meta_train_prior":
                self.context_replay.add(task, packed)
            self.env_steps[task] += episode.length
            success = episode.episode_return >= self.distribution.score_range[1]
            rows.append(
                EpisodeRow(
                    phase,
                    task,
                    self.episodes[task],
                    self.env_steps[task],
                    episode.episode_return,
                    success,
                    episode.length,
                )
            )
            self.episodes[task] += 1
        return rows

    @torch.inference_mode()
    def _encode_large(self, tasks: Tensor, generator: torch.Generator) -> Gaussian:
        return self.learner.encoder(self._large_contexts(tasks, generator))

    def _large_contexts(self, tasks: Tensor, generator: torch.Generator) -> Tensor:
        """(S, large_context, context features) of each task in ``tasks`` (S,), drawn with replacement."""
        config = self.config
        if config.context_drawn:
            uniform = torch.rand((len(tasks), config.context_drawn), generator=generator)
            positions = self.context_replay.draw_rewarded_first(tasks, uniform, config.large_context)
        else:
            uniform = torch.rand((len(tasks), config.large_context), generator=generator)
            positions = self.context_replay.draw_uniform(tasks, uniform)
        return self.context_replay.gather(tasks, positions)[..., : self.learner.context_dim]

    # -- updating ------------------------------------------------------------------------------

    def _some_updates(self) -> StageReport:
        count = min(self.owed_updates, self.MAX_UPDATES_PER_ADVANCE)
        metrics: dict[str, float] = {}
        for _ in range(count):
            metrics = self.learner.update(*self._draw())
            self.updates += 1
        self.owed_updates -= count
        return StageReport(metrics={"updates": float(self.updates)} | metrics)

    def _draw(self) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor, Tensor]:
        """Everything random about update ``self.updates``, keyed by it."""
        config = self.config
        generator = torch_generator(self.context.seed, "meta_train", "update", self.updates)
        sets = config.small_context_tasks + config.large_context_tasks
        tasks = torch.randint(len(self.tasks), (sets,), generator=generator)
        small_tasks, large_tasks = tasks[: config.small_context_tasks], tasks[config.small_context_tasks :]
        uniform = torch.rand((len(small_tasks), config.small_context), generator=generator)
        small_positions = self.context_replay.draw_uniform(small_tasks, uniform)
        small = self.context_replay.gather(small_tasks, small_positions)[..., : self.learner.context_dim]
        large = self._large_contexts(large_tasks, generator)
        uniform = torch.rand((sets, config.transitions_per_task), generator=generator)
        rewarded = round(config.rewarded_fraction * config.transitions_per_task)
        rows = self.replay.gather(tasks, self.replay.draw_stratified(tasks, uniform, rewarded))
        noise_shape = (2, sets * config.transitions_per_task, self.learner.latent_dim + config.task_embedding_dim)
        noise = torch.randn(noise_shape, generator=generator).to(self.context.device)
        return rows, (small, large), tasks, noise

    # -- state ---------------------------------------------------------------------------------

    _COUNTERS = ("epochs", "updates", "owed_updates", "rounds", "_success")

    def state_dict(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.learner.optimizers()],
            "replay": self.replay.state_dict(),
            "context_replay": self.context_replay.state_dict(),
            "episodes": list(self.episodes),
            "env_steps": list(self.env_steps),
            "counters": {name: getattr(self, name) for name in self._COUNTERS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        for optimizer, saved in zip(self.learner.optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.replay.load_state_dict(state["replay"])
        self.context_replay.load_state_dict(state["context_replay"])
        self.episodes, self.env_steps = list(state["episodes"]), list(state["env_steps"])
        for name in self._COUNTERS:
            setattr(self, name, state["counters"][name])

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        config = asdict(self.config)
        save_tensors(
            folder / META_FILE,
            {"config": config, "learner": self.learner.state_dict(), "train_tasks": len(self.tasks)},
        )
        return {"updates": self.updates, "last_posterior_success": self._success}


@dataclass(frozen=True)
class SimplAdaptConfig(AdaptConfig):
    """Target-task learning from the meta-trained policy, critics and alpha (section 4.3, E.2.2)."""


class SimplAdaptation(SkillAdaptation):
    """20 episodes with e ~ p(e), encode them, then fine-tune pi(z given s, e*) (equation 5)."""

    def __init__(self, config: SimplAdaptConfig, context: StageContext) -> None:
        saved = load_tensors(context.inputs["meta_train"] / META_FILE)
        actor_critic = ActorCriticConfig(**saved["config"].pop("actor_critic"))
        self.meta_config = SimplMetaTrainConfig(**saved["config"], actor_critic=actor_critic)
        self._saved = saved
        self.explored = False
        super().__init__(config, actor_critic, context)

    def initial_learners(self) -> tuple[SkillActorCritic, Tensor, DualCoefficients]:
        """A copy of the meta-trained networks for each target task; alpha is the large-context one."""
        copies = len(self.target_tasks)
        observation_dim, latent_dim = self.distribution.observation_dim, self.skill_model.config.latent_dim
        self.meta = SimplLearner(self.meta_config, observation_dim, latent_dim, self._saved["train_tasks"], 0)
        self.meta.load_state_dict(self._saved["learner"])
        self.meta.to(self.context.device).requires_grad_(False)
        networks = SkillActorCritic(
            self.actor_critic,
            observation_dim,
            latent_dim,
            self.meta_config.task_embedding_dim,
            copies,
            torch_generator(self.context.seed, "adapt", "init"),
        ).to(self.context.device)
        source = self.meta.networks
        pairs = ((networks.policy, source.policy), (networks.critics, source.critics))
        for stack, one in (*pairs, (networks.target_critics, source.target_critics)):
            for target, value in zip(stack.parameters(), one.parameters(), strict=True):
                target.data.copy_(value.repeat(copies, 1, 1))
        embeddings = torch.zeros((copies, self.meta_config.task_embedding_dim), device=self.context.device)
        initial = self.meta.policy_coefficients.values[1].expand(copies).clone()
        return networks, embeddings, self.make_coefficients(initial)

    def explore(self) -> StageReport | None:
        """All exploration episodes of all tasks in one batch, then e* = the encoder's mean over them."""
        if self.explored:
            return None
        count = self.config.exploration_episodes
        tasks = [task for task in self.target_tasks for _ in range(count)]
        keys = [self.episode_key(task, episode) for task in self.target_tasks for episode in range(count)]
        draws = [torch.randn(self.task_embeddings.shape[1], generator=torch_generator(*k, "e")) for k in keys]
        embeddings = torch.stack(draws).to(self.context.device)
        policies = FrozenPolicies(
            self.meta.networks, embeddings, self.inputs, self.skill_model, self.episode_noise(keys)
        )
        episodes = self.collect(tasks, keys, policies)
        rows = [self.row("explore", task, episode) for task, episode in zip(tasks, episodes, strict=True)]
        for learner in range(len(self.target_tasks)):
            packed = [self.inputs.pack(self.fields, e) for e in episodes[learner * count : (learner + 1) * count]]
            self.task_embeddings[learner] = self._encode(torch.cat(packed))
        self.explored = True
        return StageReport(rows, {"exploration_success": sum(row.success for row in rows) / len(rows)})

    @torch.no_grad()
    def _encode(self, transitions: Tensor) -> Tensor:
        """e* (E,): the posterior's mean over exploration transitions (C, F), as contexts were in meta-training."""
        if self.meta_config.context_drawn:
            rewards = transitions[:, self.fields.slices["rewards"].start]
            order = torch.argsort((rewards > 0).to(torch.int8), descending=True, stable=True)
            transitions = transitions[order[: self.meta_config.large_context]]
        mean: Tensor = self.meta.encoder(transitions[None, :, : self.meta.context_dim]).mean[0]
        return mean

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"explored": self.explored}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.explored = state["explored"]


META_QUICK: dict[str, Any] = {
    "meta_train.epochs": 400,
    "meta_train.small_context_tasks": 2,
    "meta_train.large_context_tasks": 6,
    "meta_train.transitions_per_task": 256,
    "meta_train.large_context": 512,
    "meta_train.context_drawn": 2048,
    "meta_train.warm_up_transitions": 1024,
    "meta_train.rewarded_fraction": 0.0625,
    "meta_train.transition_reuse": 8.0,
    "meta_train.learning_rate": 1e-3,
    "meta_train.coefficient_learning_rate": 1e-3,
    "meta_train.small_initial_coefficient": 0.01,
    "meta_train.large_initial_coefficient": 0.003,
    "meta_train.encoder_hidden_dim": 64,
    "meta_train.bf16": True,
    "meta_train.actor_critic.hidden_dim": 128,
    "meta_train.actor_critic.standardise_states": True,
}

META_SMOKE: dict[str, Any] = META_QUICK | {
    "meta_train.epochs": 2,
    "meta_train.large_context": 64,
    "meta_train.context_drawn": 128,
    "meta_train.warm_up_transitions": 128,
    "meta_train.transitions_per_task": 64,
    "meta_train.transition_reuse": 0.5,
    "meta_train.encoder_hidden_dim": 32,
    "meta_train.actor_critic.hidden_dim": 32,
}

ALGORITHM = Algorithm(
    name="simpl",
    title="SiMPL: skill-based meta-policy learning (Nam et al. 2022)",
    stages=(
        SKILLS_STAGE,
        StageSpec(
            name="meta_train",
            config_class=SimplMetaTrainConfig,
            factory=SimplMetaTraining,
            inputs=("skills",),
            tasks="train",
            implementation="simpl_meta_train/1",
        ),
        StageSpec(
            name="adapt",
            config_class=SimplAdaptConfig,
            factory=SimplAdaptation,
            inputs=("skills", "meta_train"),
            tasks="target",
            implementation="simpl_adapt/1",
        ),
    ),
    presets={
        ("maze", "paper"): {**SKILL_PRESETS["maze", "paper"]},
        ("maze", "quick"): {**SKILL_PRESETS["maze", "quick"], **META_QUICK, **ADAPT_QUICK},
        ("maze", "smoke"): {
            **SKILL_PRESETS["maze", "smoke"],
            **META_SMOKE,
            **ADAPT_SMOKE,
            "adapt.exploration_episodes": 2,
        },
    },
    needs_train_tasks=True,
)
