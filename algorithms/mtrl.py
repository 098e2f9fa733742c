"""MTRL: multi-task RL on skills. One SPiRL policy per meta-training task, distilled into one, which then adapts.

The baseline of SiMPL's comparison (Nam et al. 2022, arXiv 2204.11828, section 5.2 and appendix F.4), "inspired by
Distral" (Teh et al. 2017, arXiv 1707.04175). It uses what SiMPL uses, offline data and meta-training tasks, without
meta-learning: no task encoder, and neither critic nor alpha is carried over.

Stages: data -> skills -> task_policies -> distil -> adapt

    task_policies   pi_T for each meta-training task T, by SPiRL (``spirl.py``), all in one stack of learners
    distil          pi_0: min E_T E_s [ KL(pi_T(z given s), pi_0(z given s)) ]   subject to
                          E_T E_s [ KL(pi_0(z given s), p(z given s)) ] <= delta
                    by gradient descent on the first plus alpha times the second, alpha by dual gradient
                    s: the last ``states_per_task`` states at which pi_T chose a skill while it learned, T uniform
    adapt           SPiRL on each target task, policy from pi_0, critics and alpha from scratch

What equation 6 says, and what is done here. The text "distills the individual policies" by

    max over pi_0 of  E_T E_{(s, z) ~ pi_0} [ r_T(s, z) - alpha KL(pi_0(z given s, e), p(z given s)) ]        (6)

Read literally, no individual policy occurs in (6): it is SPiRL on all tasks at once, with an e that pi_0 does not have.
What would be distilled is then unclear. Distral's distillation, for a fixed set of policies, makes pi_0 their centroid:
it minimises the mean KL(pi_T, pi_0). We take that as the objective, and from (6) what it adds: pi_0 stays close to the
skill prior, with alpha "auto-tuned to satisfy a target KL" delta of 0.1 on the maze and 0.2 on the kitchen.

Differences from the paper (no code was released for this baseline)
- The reading above. In Distral the policies and their centroid learn at the same time; here, as the paper says, first
  the individual policies are learned, then they are distilled.
- Settings of the task policies are SPiRL's; the paper gives none.
- At ``quick`` delta is what SiMPL's policy has there for small contexts: under the paper's 0.1 the KL to the task
  policies falls by less than a fifth in distillation, and MTRL is hardly anything but SPiRL.
- Departures, all off in ``paper``, are SPiRL's (``spirl.py``), in ``task_policies`` and in ``adapt``.

Axes: M learner (task), N task, B batch, S stored state of one task, D feature, Z skill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.adaptation import Adaptation
from algorithms.adaptation_config import AdaptConfig
from algorithms.budget import Budget, Scale
from algorithms.files import load_tensors, save_tensors
from algorithms.networks import Gaussian, torch_generator
from algorithms.playback import play_skill_policy
from algorithms.presets import MTRL_PRESETS, with_skills
from algorithms.ranges import COUNT, RATE, WEIGHT, require_between
from algorithms.regularized_sac import ActorCriticConfig, DualCoefficients, SkillActorCritic
from algorithms.search_spaces import SPIRL_SPACE
from algorithms.skill_space import SkillSpace, as_gaussian, learned_skills
from algorithms.skills import SKILLS_STAGE
from algorithms.spirl import SpirlAdaptConfig
from algorithms.stage import (
    Algorithm,
    PlayedEpisode,
    PlayRequest,
    Progress,
    Stage,
    StageContext,
    StageReport,
    StageSpec,
    TimedWork,
)
from algorithms.transitions import with_views
from envs.core import Task

TASK_POLICIES_FILE, DISTILLED_FILE = "task_policies.pt", "distilled.pt"

# -- one policy per meta-training task -------------------------------------------------------------


@dataclass(frozen=True)
class TaskPoliciesConfig(SpirlAdaptConfig):
    """SPiRL on each meta-training task (F.4). Its settings are SPiRL's."""

    states_per_task: int = 2000
    """States that are kept of each task for distillation: the last ones at which its policy chose a skill (ours)."""

    def validate(self) -> None:
        super().validate()
        require_between(self, (1, self.replay_capacity), "states_per_task")


class TaskPolicies(Adaptation):
    """skills -> pi_T of each meta-training task, and what it does in the states that it came to."""

    config: TaskPoliciesConfig
    phase = "task_policy"

    def __init__(self, config: TaskPoliciesConfig, context: StageContext) -> None:
        super().__init__(config, config.actor_critic, learned_skills(context), context)

    def tasks_to_learn(self) -> tuple[Sequence[Task], Sequence[int]]:
        return self.distribution.train_tasks, range(len(self.distribution.train_tasks))

    @torch.no_grad()
    def learner_state(self, learner: int) -> dict[str, Any]:
        """What distillation needs of one learner: states as networks see them, prior and pi_T there, (S, .) each."""
        added, kept = int(self.replay.added[learner]), int(self.replay.sizes[learner])
        newest = torch.arange(added - min(kept, self.config.states_per_task), added) % self.config.replay_capacity
        rows = self.replay.rows[learner, newest.to(self.replay.rows.device)]
        columns = self.fields.unpack(rows)
        states, prior = with_views(columns["states"], columns["views"]), columns["prior"]
        policy = self.networks.policy_of_model(learner, states, states[:, :0], as_gaussian(prior))
        teacher = torch.cat([policy.mean, policy.sigma], dim=-1)
        return {"states": states.cpu().clone(), "prior": prior.cpu().clone(), "teacher": teacher.cpu()}

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        saved = [self.finished_learners[task] for task in range(len(self.tasks))]
        save_tensors(folder / TASK_POLICIES_FILE, {"actor_critic": asdict(self.config.actor_critic), "tasks": saved})
        return {"tasks": len(saved), "last_success": self.progress.success}

    def timed_work(self) -> Sequence[TimedWork]:
        work = super().timed_work()
        for learner, task in enumerate(self.learning_tasks):
            self.finished_learners[task] = self.learner_state(learner)
        return work


# -- distillation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DistilConfig:
    """Distillation of the task policies into one (F.4, equation 6)."""

    updates: int = 10_000
    """Gradient updates (ours)."""
    batch_size: int = 1024
    """States per update, each of a task drawn uniformly (ours)."""
    learning_rate: float = 3e-4
    """Adam (as everywhere in the paper: 3e-4)."""
    target_kl: float = 0.1
    """delta: largest mean KL(pi_0, prior) (paper F.4: maze 0.1, kitchen 0.2). What SiMPL's policy may depart from the
    prior before it knows the task is 0.1 on the maze in the paper, too, and more in the released code, which SiMPL's
    presets follow; so ``quick`` has SiMPL's value for small contexts there."""
    initial_coefficient: float = 0.1
    """alpha at the start (ours)."""
    coefficient_learning_rate: float = 3e-3
    """Adam, for alpha, which is tuned both ways (ours)."""

    def validate(self) -> None:
        require_between(self, COUNT, "updates", "batch_size")
        require_between(self, RATE, "learning_rate", "coefficient_learning_rate")
        require_between(self, WEIGHT, "target_kl", "initial_coefficient")

    def budget(self, scale: Scale) -> Budget:
        """Of distillation."""
        return Budget(updates=self.updates, rows=self.updates * self.batch_size)


class Distillation(Stage):
    """task_policies -> pi_0."""

    UPDATES_PER_ADVANCE = 50

    def __init__(self, config: DistilConfig, context: StageContext) -> None:
        self.config, self.context = config, context
        saved = load_tensors(context.inputs["task_policies"] / TASK_POLICIES_FILE)
        self.actor_critic = ActorCriticConfig(**saved["actor_critic"])
        tasks: list[dict[str, Tensor]] = saved["tasks"]
        self.sizes = torch.tensor([len(task["states"]) for task in tasks])
        """(N,) states of each task; they lie end to end in ``states``, ``prior`` and ``teacher``."""
        self.states, self.prior, self.teacher = (
            torch.cat([task[name] for task in tasks]).to(context.device) for name in ("states", "prior", "teacher")
        )
        dims = (self.states.shape[1], self.prior.shape[1] // 2, 0, 1)  # critics are not used
        networks = SkillActorCritic(self.actor_critic, *dims, torch_generator(context.seed, "distil", "init"))
        self.networks = networks.to(context.device)
        self.optimizer = torch.optim.Adam(self.networks.policy.parameters(), lr=config.learning_rate)
        self.coefficient = DualCoefficients(
            torch.tensor([config.initial_coefficient]), config.coefficient_learning_rate, growing_only=False
        ).to(context.device)
        self.updates = 0

    # -- losses --------------------------------------------------------------------------------

    def shared_policy(self, states: Tensor, prior: Gaussian) -> Gaussian:
        """pi_0(z given s): (B, D) -> (B, Z)."""
        policy = self.networks.policy_distribution(states[None], states.new_zeros((1, len(states), 0)), prior)
        return Gaussian(policy.mean[0], policy.sigma[0])

    def distillation_loss(self, policy: Gaussian, teacher: Gaussian) -> Tensor:
        """Mean of KL(pi_T, pi_0) over states (B, Z): scalar."""
        return teacher.kl(policy).mean()

    def prior_divergence(self, policy: Gaussian, prior: Gaussian) -> Tensor:
        """Mean of KL(pi_0, p) over states (B, Z): scalar."""
        return policy.kl(prior).mean()

    # -- update --------------------------------------------------------------------------------

    def update(self, states: Tensor, prior: Gaussian, teacher: Gaussian) -> dict[str, float]:
        """One update of pi_0, then of alpha: (B, D), (B, Z), (B, Z)."""
        policy = self.shared_policy(states, prior)
        distillation, divergence = self.distillation_loss(policy, teacher), self.prior_divergence(policy, prior)
        loss = distillation + self.coefficient.values[0] * divergence
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.coefficient.update((divergence - self.config.target_kl)[None])
        return {
            "kl_from_task_policies": float(distillation.detach()),
            "kl_to_prior": float(divergence.detach()),
            "coefficient": float(self.coefficient.values[0]),
        }

    def draw(self) -> tuple[Tensor, Gaussian, Gaussian]:
        """The batch of update ``self.updates``, keyed by it: a task uniformly, then one of its states."""
        generator = torch_generator(self.context.seed, "distil", "update", self.updates)
        uniform = torch.rand((2, self.config.batch_size), generator=generator)
        tasks = (uniform[0] * len(self.sizes)).long()
        places = (uniform[1] * self.sizes[tasks]).long().clamp(max=self.sizes[tasks] - 1)
        flat = (places + (self.sizes.cumsum(0) - self.sizes)[tasks]).to(self.context.device)
        return self.states[flat], as_gaussian(self.prior[flat]), as_gaussian(self.teacher[flat])

    # -- stage ---------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        return Progress(self.updates, self.config.updates, "updates")

    def advance(self) -> StageReport:
        metrics: dict[str, float] = {}
        for _ in range(min(self.UPDATES_PER_ADVANCE, self.config.updates - self.updates)):
            metrics = self.update(*self.draw())
            self.updates += 1
        return StageReport(metrics=metrics)

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.networks.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "coefficient": self.coefficient.state_dict(),
            "coefficient_optimizer": self.coefficient.optimizer.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.networks.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.coefficient.load_state_dict(state["coefficient"])
        self.coefficient.optimizer.load_state_dict(state["coefficient_optimizer"])
        self.updates = state["updates"]

    @torch.no_grad()
    def write_artefact(self, folder: Path) -> dict[str, Any]:
        policy = [parameter.detach()[0].cpu().clone() for parameter in self.networks.policy.parameters()]
        save_tensors(folder / DISTILLED_FILE, {"actor_critic": asdict(self.actor_critic), "policy": policy})
        prior, teacher = as_gaussian(self.prior), as_gaussian(self.teacher)
        shared = self.shared_policy(self.states, prior)
        return {
            "kl_from_task_policies": float(self.distillation_loss(shared, teacher)),
            "kl_from_task_policies_of_the_prior": float(self.distillation_loss(prior, teacher)),
            "kl_to_prior": float(self.prior_divergence(shared, prior)),
        }

    def timed_work(self) -> Sequence[TimedWork]:
        """An update."""

        def update() -> int:
            self.update(*self.draw())
            self.updates += 1
            return 1

        return (TimedWork("update", "updates", update),)


# -- target tasks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MtrlAdaptConfig(AdaptConfig):
    """Target-task learning from the distilled policy (F.4: as SiMPL's, critics and alpha from scratch)."""

    coefficient_only_grows: bool = False
    """alpha is tuned both ways (released SPiRL)."""
    kl_clip: float = 10.0
    """Clip of the KL in the TD target (released SPiRL: maze and kitchen 10)."""


class MtrlAdaptation(Adaptation):
    """skills, pi_0 -> episode rows and adapted learners."""

    def __init__(self, config: MtrlAdaptConfig, space: SkillSpace, context: StageContext) -> None:
        self._distilled = load_tensors(context.inputs["distil"] / DISTILLED_FILE)
        super().__init__(config, ActorCriticConfig(**self._distilled["actor_critic"]), space, context)

    def initial_learners(self) -> tuple[SkillActorCritic, Tensor, DualCoefficients]:
        """Every policy is pi_0; critics and alpha are SPiRL's at the start."""
        networks, embeddings, coefficients = super().initial_learners()
        for parameter, distilled in zip(networks.policy.parameters(), self._distilled["policy"], strict=True):
            parameter.data[:] = distilled
        return networks, embeddings, coefficients


def make_adapt_stage(config: MtrlAdaptConfig, context: StageContext) -> MtrlAdaptation:
    return MtrlAdaptation(config, learned_skills(context), context)


def play_adapted(config: MtrlAdaptConfig, context: StageContext, request: PlayRequest) -> list[PlayedEpisode]:
    actor_critic = ActorCriticConfig(**load_tensors(context.inputs["distil"] / DISTILLED_FILE)["actor_critic"])
    return play_skill_policy(actor_critic, learned_skills(context), context, request)


ALGORITHM = Algorithm(
    name="mtrl",
    title="MTRL: task policies distilled into one (Nam et al. 2022, appendix F.4; Teh et al. 2017)",
    stages=(
        SKILLS_STAGE,
        StageSpec(
            name="task_policies",
            config_class=TaskPoliciesConfig,
            factory=TaskPolicies,
            inputs=("skills",),
            tasks="train",
            implementation="mtrl_task_policies/2",
        ),
        StageSpec(
            name="distil",
            config_class=DistilConfig,
            factory=Distillation,
            inputs=("task_policies",),
            tasks="train",
            implementation="mtrl_distil/1",
        ),
        StageSpec(
            name="adapt",
            config_class=MtrlAdaptConfig,
            factory=make_adapt_stage,
            inputs=("skills", "distil"),
            tasks="target",
            implementation="mtrl_adapt/2",
            play=play_adapted,
        ),
    ),
    presets=with_skills(MTRL_PRESETS),
    search_space=SPIRL_SPACE,
    needs_train_tasks=True,
)
