"""Meta-training of a task-conditioned policy: collecting, contexts, and the calendar of updates.

    warm-up    contexts filled with e ~ p(e), then the critics' replay with e ~ q(e given c)
    epoch      one episode per task with e ~ p(e), one with e ~ q(e given a large context: the last context group)
               -> ``transition_reuse * collected / sets / transitions_per_task`` updates of the learner

Only episodes with e ~ p(e) enter the context replay, since that is what a new task will be explored with; both
kinds enter the critics' replay. What an update is, the algorithm's learner says (``simpl.py``, ``pearl.py``).

Axes: N task, S context set, C context transition, B transitions per set, E task embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from algorithms.episode_log import EpisodeLog
from algorithms.episode_paths import EpisodePaths
from algorithms.files import save_tensors
from algorithms.latents import save_latents
from algorithms.networks import Gaussian, torch_generator
from algorithms.ranges import COUNT, FRACTION, RATE, WEIGHT, require_between
from algorithms.regularized_sac import FrozenPolicies, SkillActorCritic, highest_target
from algorithms.replay import MultiTaskReplay, PackedFields
from algorithms.rollout import EpisodeKey, EpisodeNoise, collect_episodes
from algorithms.skill_space import SkillSpace
from algorithms.stage import EpisodeRow, Progress, Stage, StageContext, StageReport, TimedWork
from algorithms.transitions import StateInputs
from envs.core import TaskDistribution

META_FILE = "meta.pt"


class ContextGroup(NamedTuple):
    """Context sets of one size within an update."""

    tasks: int
    """Sets, each of a task drawn with replacement."""
    transitions: int
    """In each set."""


@dataclass(frozen=True)
class MetaTrainConfig(ABC):
    """Budget and contexts of meta-training. Values: released SiMPL code for the maze, unless a line says otherwise."""

    epochs: int = 1000
    """Each: one episode per task with e ~ p(e) and one with e ~ q (released: maze 1000, kitchen 500; the paper
    counts 10,000 / 18,000 / 16,000 episodes for 10 / 20 / 40 maze tasks)."""
    task_embedding_dim: int = 5
    """dim(e) (released: maze 5, kitchen 6; paper: 6 with 40 maze tasks, else 5; kitchen 10)."""
    transitions_per_task: int = 1024
    """RL transitions per context set and update (paper: maze 1024, kitchen 256)."""
    warm_up_transitions: int = 8192
    """Context transitions collected per task with e ~ p(e) before the first epoch (released: the large context)."""
    transition_reuse: float = 256.0
    """Updates per epoch = this x transitions collected / context sets / transitions_per_task (released: 256)."""
    discount: float = 0.99
    """Per skill (released)."""
    n_step: int = 1
    """Departure: TD targets look this many skills ahead along the stored episode, uncorrected and without the KL of
    the skills in between (released: 1)."""
    replay_capacity: int = 20_000
    """Transitions kept per task for the critics (released: maze 20,000, kitchen 3,000)."""
    context_capacity: int = 20_000
    """Transitions kept per task for contexts (released: the same)."""
    encoder_hidden_dim: int = 128
    """Width of the task encoder (paper: 128, 4 heads, 32 inducing points)."""
    learning_rate: float = 3e-4
    """Adam, for every network (SiMPL, Rakelly et al.: 3e-4)."""
    coefficient_learning_rate: float = 3e-4
    """Adam, for every coefficient (released SiMPL: 3e-4)."""
    target_rate: float = 0.005
    """Smoothing of the target critics (released SiMPL, Rakelly et al.: 0.005)."""
    clip_targets: bool = False
    """Departure: TD targets never exceed the highest possible return (released: off)."""
    rewarded_fraction: float = 0.0
    """Departure: this part of each critic batch comes from rewarded transitions (released: 0)."""
    context_drawn: int = 0
    """Departure: draw this many transitions, keep the largest context of them with the rewarded first (0: off)."""

    def validate_for(self, tasks: TaskDistribution) -> None:
        """Raise ``ValueError`` where the bound of ``clip_targets`` would be none."""
        highest_target(self.clip_targets, tasks.score_range)

    def validate(self) -> None:
        require_between(self, COUNT, "epochs", "replay_capacity", "context_capacity", "encoder_hidden_dim")
        require_between(self, (1, 10_000), "task_embedding_dim", "n_step")
        require_between(self, (1, self.replay_capacity), "transitions_per_task")
        require_between(self, (1, self.context_capacity), "warm_up_transitions")
        require_between(self, FRACTION, "rewarded_fraction")
        require_between(self, RATE, "discount", "learning_rate", "coefficient_learning_rate", "target_rate")
        require_between(self, WEIGHT, "transition_reuse")
        largest = self.context_groups[-1].transitions
        if self.context_drawn != 0 and not largest <= self.context_drawn <= COUNT[1]:
            raise ValueError(f"context_drawn is {self.context_drawn}; valid is 0, or {largest:,} to {COUNT[1]:,}")

    @property
    @abstractmethod
    def context_groups(self) -> tuple[ContextGroup, ...]:
        """What an update's contexts are, smallest first; the policy that collects is given the last group's size."""

    @property
    def context_sets(self) -> int:
        """Context sets, and so tasks, in an update."""
        return sum(group.tasks for group in self.context_groups)


LATENTS_PER_TASK = 8
"""Contexts of each training task whose posterior is kept for a picture."""


class MetaLearner(nn.Module):
    """What meta-training asks of an algorithm."""

    fields: PackedFields
    context_dim: int
    """A context transition is this many leading columns of ``fields``."""
    latent_dim: int
    config: MetaTrainConfig
    encoder: nn.Module
    """q(e given c): contexts (S, C, context_dim) -> (S, E)."""
    networks: SkillActorCritic

    def make_optimizers(self) -> None:
        """After the module has its device. The encoder learns with the critics."""
        rate = self.config.learning_rate
        critic_parameters = [*self.networks.critics.parameters(), *self.encoder.parameters()]
        self.critic_optimizer = torch.optim.Adam(critic_parameters, lr=rate, fused=True)
        self.policy_optimizer = torch.optim.Adam(self.networks.policy.parameters(), lr=rate, fused=True)

    @abstractmethod
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]: ...

    @abstractmethod
    def update(self, rows: Tensor, contexts: Sequence[Tensor], tasks: Tensor, noise: Tensor) -> dict[str, float]:
        """One update and its diagnostics.

        ``rows`` (S, B, F), ``contexts`` one tensor per context group, ``tasks`` (S,) in the order of the groups,
        ``noise`` (2, S B, Z + E) from N(0, I).
        """

    @property
    @abstractmethod
    def target_task_coefficient(self) -> Tensor:
        """alpha (), which learning a target task starts from."""


def prior_task_embeddings(episode_keys: Sequence[EpisodeKey], dim: int) -> Tensor:
    """e ~ p(e) = N(0, I) for each episode, keyed by it: (episodes, dim)."""
    return torch.stack([torch.randn(dim, generator=torch_generator(*key, "e")) for key in episode_keys])


class MetaTraining(Stage):
    """skills or actions -> meta-trained encoder, policy and critics (SiMPL, section 4.2)."""

    MAX_UPDATES_PER_ADVANCE = 10
    MAX_TRANSITIONS_PER_ADVANCE = 20_480
    """Limits of one piece of updating, so that a signal is answered soon at every preset."""

    def __init__(self, config: MetaTrainConfig, learner: MetaLearner, space: SkillSpace, context: StageContext) -> None:
        self.config, self.context, self.space = config, context, space
        self.distribution = context.task_distribution
        self.tasks = self.distribution.train_tasks
        self.inputs = StateInputs(space.prior, learner.networks.config.standardise_states, context.device)
        self.learner = learner.to(context.device)
        self.learner.make_optimizers()
        count, fields = len(self.tasks), learner.fields
        self.replay = MultiTaskReplay(count, config.replay_capacity, fields, context.device, reward_field="td_rewards")
        self.context_replay = MultiTaskReplay(count, config.context_capacity, fields, context.device)
        self.epochs = self.updates = self.owed_updates = self.rounds = 0
        self.log = EpisodeLog(self.distribution.score_range[1])
        self._success: float | None = None
        self.paths = EpisodePaths()
        """Of the last epoch, with e ~ q(e given c) (paper, Figure 9)."""

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
        per_update = self.config.context_sets * self.config.transitions_per_task
        self.owed_updates = round(self.config.transition_reuse * collected / per_update)
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
        embeddings = prior_task_embeddings(keys, self.config.task_embedding_dim).to(self.context.device)
        if posterior_tasks:
            index = torch.tensor(posterior_tasks)
            generator = torch_generator(self.context.seed, "meta_train", "acting_context", self.rounds)
            posterior = self._encode(index, generator)
            embeddings[len(prior_tasks) :] = posterior.sample(embeddings[len(prior_tasks) :])
        max_skills = self.space.max_skills(self.distribution.episode_env_steps)
        noise = EpisodeNoise(keys, max_skills, self.space.latent_dim)
        episodes = collect_episodes(
            self.distribution.make_world(len(tasks), threads=self.context.threads),
            [self.tasks[task] for task in tasks],
            keys,
            FrozenPolicies(self.learner.networks, embeddings, self.inputs, self.space.prior, noise),
            self.space.low_level_policy,
        )
        rows = []
        for task, phase, episode in zip(tasks, phases, episodes, strict=True):
            packed = self.inputs.pack(self.learner.fields, episode, self.config.discount, self.config.n_step)
            self.replay.add(task, packed)
            if phase == "meta_train_prior":
                self.context_replay.add(task, packed)
            if phase == "meta_train_posterior" and self.epochs == self.config.epochs - 1:
                self.paths.keep(task, self.log.count(task), episode)
            rows.append(self.log.row(phase, task, episode))
        return rows

    @torch.inference_mode()
    def _encode(self, tasks: Tensor, generator: torch.Generator) -> Gaussian:
        size = self.config.context_groups[-1].transitions
        posterior: Gaussian = self.learner.encoder(self._contexts(tasks, size, self.config.context_drawn, generator))
        return posterior

    def _contexts(self, tasks: Tensor, size: int, drawn: int, generator: torch.Generator) -> Tensor:
        """(S, size, context features) of each task in ``tasks`` (S,), drawn with replacement.

        With ``drawn``, so many are drawn and ``size`` of them kept, rewarded ones first.
        """
        uniform = torch.rand((len(tasks), drawn or size), generator=generator)
        if drawn:
            positions = self.context_replay.draw_rewarded_first(tasks, uniform, size)
        else:
            positions = self.context_replay.draw_uniform(tasks, uniform)
        return self.context_replay.gather(tasks, positions)[..., : self.learner.context_dim]

    # -- updating ------------------------------------------------------------------------------

    def _some_updates(self) -> StageReport:
        per_update = self.config.context_sets * self.config.transitions_per_task
        affordable = max(1, self.MAX_TRANSITIONS_PER_ADVANCE // per_update)
        count = min(self.owed_updates, self.MAX_UPDATES_PER_ADVANCE, affordable)
        metrics: dict[str, float] = {}
        for _ in range(count):
            metrics = self._update()
        self.owed_updates -= count
        return StageReport(metrics={"updates": float(self.updates)} | metrics)

    def _update(self) -> dict[str, float]:
        metrics = self.learner.update(*self._draw())
        self.updates += 1
        return metrics

    def _draw(self) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Everything random about update ``self.updates``, keyed by it."""
        config, groups = self.config, self.config.context_groups
        generator = torch_generator(self.context.seed, "meta_train", "update", self.updates)
        sets = config.context_sets
        tasks = torch.randint(len(self.tasks), (sets,), generator=generator)
        contexts = []
        for group, group_tasks in zip(groups, tasks.split([group.tasks for group in groups]), strict=True):
            drawn = config.context_drawn if group is groups[-1] else 0
            contexts.append(self._contexts(group_tasks, group.transitions, drawn, generator))
        uniform = torch.rand((sets, config.transitions_per_task), generator=generator)
        rewarded = round(config.rewarded_fraction * config.transitions_per_task)
        rows = self.replay.gather(tasks, self.replay.draw_stratified(tasks, uniform, rewarded))
        noise_shape = (2, sets * config.transitions_per_task, self.learner.latent_dim + config.task_embedding_dim)
        noise = torch.randn(noise_shape, generator=generator).to(self.context.device)
        return rows, contexts, tasks, noise

    # -- state ---------------------------------------------------------------------------------

    _COUNTERS = ("epochs", "updates", "owed_updates", "rounds", "_success")

    def state_dict(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.learner.optimizers()],
            "replay": self.replay.state_dict(),
            "context_replay": self.context_replay.state_dict(),
            **self.log.state_dict(),
            "paths": self.paths.state_dict(),
            "counters": {name: getattr(self, name) for name in self._COUNTERS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        for optimizer, saved in zip(self.learner.optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.replay.load_state_dict(state["replay"])
        self.context_replay.load_state_dict(state["context_replay"])
        self.log.load_state_dict(state)
        self.paths.load_state_dict(state.get("paths", {}))  # checkpoints of before paths were kept
        for name in self._COUNTERS:
            setattr(self, name, state["counters"][name])

    def _save_latents(self, folder: Path) -> None:
        """Means of q(e given c) for contexts drawn anew, some of each training task."""
        tasks = torch.arange(len(self.tasks)).repeat_interleave(LATENTS_PER_TASK)
        posterior = self._encode(tasks, torch_generator(self.context.seed, "meta_train", "latents"))
        what = f"means of q(e given c), {LATENTS_PER_TASK} contexts of each training task"
        save_latents(folder, posterior.mean, tasks, what, "training task (index)")

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        config = asdict(self.config)
        save_tensors(
            folder / META_FILE,
            {"config": config, "learner": self.learner.state_dict(), "train_tasks": len(self.tasks)},
        )
        self.paths.write(folder)
        self._save_latents(folder)
        return {"updates": self.updates, "last_posterior_success": self._success}

    # -- speed ---------------------------------------------------------------------------------

    def timed_work(self) -> Sequence[TimedWork]:
        """An episode of every training task with e ~ p(e); an update."""
        generator = torch_generator(self.context.seed, "profile")
        for replay in (self.replay, self.context_replay):
            replay.fill_with_noise(generator)

        def update() -> int:
            self._update()
            return 1

        everyone = list(range(len(self.tasks)))
        return (
            TimedWork("roll-out", "env_steps", lambda: sum(row.length for row in self._collect(everyone, []))),
            TimedWork("update", "updates", update),
        )
