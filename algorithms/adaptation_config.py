"""Settings of learning one task at a time (``adaptation.py``): what is shared, and what regularises the policy.

OffPolicyConfig         budget, batches, targets
  SacSettings           alpha is tuned to a target entropy                     whoever implements SAC
  TaskLearningConfig    what ``adaptation.py`` can do besides
    AdaptConfig         close to a prior: alpha is tuned to a target KL        SPiRL, SiMPL, MTRL, BC+PEARL
    SacConfig           SacSettings too                                        SAC, PEARL-ft
ExplorationConfig       beside one of them, where the task is encoded first    SiMPL, PEARL-ft, BC+PEARL
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from algorithms.ranges import COUNT, FRACTION, RATE, WEIGHT, require_between
from envs.core import TaskDistribution


@dataclass(frozen=True)
class OffPolicyConfig:
    """Off-policy learning of each task by itself. Values: SiMPL section 4.3 and appendix E.2.2, maze."""

    episodes: int = 500
    """Training episodes per target task, exploration included (paper, Figure 4: about 500)."""
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
    discount: float = 0.99
    """Per skill (released)."""
    n_step: int = 1
    """Departure: TD targets look this many skills ahead along the stored episode, uncorrected and without the KL of
    the skills in between (released: 1)."""
    target_rate: float = 0.005
    """Smoothing of the target critics (released)."""

    def validate(self) -> None:
        require_between(self, (1, 10**6), "episodes")
        require_between(self, COUNT, "replay_capacity")
        require_between(self, (1, self.replay_capacity), "batch_size")
        require_between(self, (0, 10**6), "updates_per_episode")
        require_between(self, (1, 10_000), "n_step")
        require_between(self, RATE, "learning_rate", "coefficient_learning_rate", "discount", "target_rate")
        require_between(self, WEIGHT, "transition_reuse", "initial_coefficient")

    def updates_after(self, transitions: int) -> int:
        """Updates that an episode of so many transitions brings."""
        return self.updates_per_episode or round(self.transition_reuse * transitions / self.batch_size)


@dataclass(frozen=True)
class TaskLearningConfig(OffPolicyConfig, ABC):
    """Off-policy learning of each task by itself, by the shared actor-critic (``regularized_sac.py``)."""

    rewarded_fraction: float = 0.0
    """Departure: this part of each batch is drawn from rewarded transitions, where there are any (released: 0)."""
    clip_targets: bool = False
    """Departure: TD targets never exceed the highest possible return, so that values cannot diverge (released: off)."""
    bf16: bool = False
    """Departure: hidden layers in bfloat16 autocast (off: float32)."""

    def validate(self) -> None:
        super().validate()
        require_between(self, FRACTION, "rewarded_fraction")

    def validate_for(self, tasks: TaskDistribution) -> None:
        """Raise ``ValueError`` where the bound of ``clip_targets`` would be none."""
        from algorithms.regularized_sac import (
            highest_target,  # imports torch, which reading a configuration does not need
        )

        highest_target(self.clip_targets, tasks.score_range)

    # What regularises the policy, as the policy head measures it.

    @property
    def divergence_only_weighs_more(self) -> bool:
        """alpha is never lowered."""
        return False

    @property
    def divergence_clip(self) -> float:
        """Clip of the divergence in the TD target."""
        return math.inf

    @abstractmethod
    def target_divergence(self, latent_dim: int) -> float:
        """What alpha is tuned towards."""


@dataclass(frozen=True)
class AdaptConfig(TaskLearningConfig):
    """Target-task learning close to a prior (SiMPL section 4.3, appendix E.2.2; SPiRL uses the same settings, F.3)."""

    coefficient_only_grows: bool = True
    """alpha is never lowered (released: on for SiMPL, off for SPiRL)."""
    target_kl: float = 1.0
    """Target divergence delta (paper: maze 1)."""
    kl_clip: float = 5.0
    """Clip of the KL in the TD target (released: maze 5)."""

    def validate(self) -> None:
        super().validate()
        require_between(self, WEIGHT, "target_kl", "kl_clip")

    @property
    def divergence_only_weighs_more(self) -> bool:
        return self.coefficient_only_grows

    @property
    def divergence_clip(self) -> float:
        return self.kl_clip

    def target_divergence(self, latent_dim: int) -> float:
        return self.target_kl


@dataclass(frozen=True)
class SacSettings(OffPolicyConfig):
    """Soft actor-critic over primitive actions (Haarnoja et al. 2018, arXiv 1812.05905), as in SiMPL's appendix F.1."""

    batch_size: int = 4096
    """Transitions per update (paper F.1: maze 4096, kitchen 1024)."""
    replay_capacity: int = 200_000
    """Transitions kept per task (SAC: 1,000,000; the paper gives no number): the last 100 episodes of the maze."""
    initial_coefficient: float = 0.1
    """alpha at the start (paper F.1: 0.1)."""
    target_entropy_per_action_dim: float = -1.0
    """Target entropy, per dimension of the action (paper F.1: -dim(A))."""

    def validate(self) -> None:
        super().validate()
        require_between(self, (-100.0, 100.0), "target_entropy_per_action_dim")


@dataclass(frozen=True)
class SacConfig(SacSettings, TaskLearningConfig):
    """Soft actor-critic over primitive actions, by the shared actor-critic."""

    def target_divergence(self, latent_dim: int) -> float:
        return -self.target_entropy_per_action_dim * latent_dim


@dataclass(frozen=True)
class ExplorationConfig:
    """Episodes from which the task is encoded (SiMPL section 4.3)."""

    exploration_episodes: int = 20
    """Episodes with e ~ p(e) before the task is encoded (paper: 20)."""
    replay_exploration: bool = False
    """Departure: the exploration episodes enter the replay too, and the updates that so many episodes bring come before
    the first episode of fine-tuning (released: they serve to encode the task, and are dropped)."""

    def validate_exploration(self, episodes: int) -> None:
        """The task is encoded from at least one episode, and at least one is left to fine-tune."""
        require_between(self, (1, episodes - 1), "exploration_episodes")
