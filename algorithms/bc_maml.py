"""BC+MAML: meta-learning from a cloned policy, without skills; and MAML without the cloning, which validates it.

SiMPL's appendix A (Nam et al. 2022, arXiv 2204.11828) compares with "BC+MAML": a policy cloned from the offline data
(``behavior_cloning.py``), meta-trained by the original MAML (``maml.py``: Finn et al. 2017, arXiv 1703.03400) with
REINFORCE for adaptation and TRPO for the meta-policy.

Stages:  data -> bc -> meta_train -> adapt   ``bc+maml``
                 meta_train -> adapt         ``maml``: a fresh network

    D (K episodes with theta) -> inner step -> theta_i -> D' (K episodes with theta_i) -> trust region step of theta

The policy is the behaviour policy's network. All of it is meta-trained and adapted, sigma included: ``bc+maml`` keeps
the cloned sigma(s), wide where the data goes several ways; ``maml`` has one sigma for all states, as Finn et al. have.

Differences from papers and released code (SiMPL released none of it; MAML's code is cbfinn/maml_rl)
- 2-D navigation follows MAML's paper, inner rate 0.1, 20 tasks, reward -distance^2; its released script has inner rate
  0.5, 40 tasks and reward -distance.
- Hessians of the KL are exact, by double backward (released: finite differences of gradients).
- The baseline's features are of standardised states, unclipped (released: clipped at 10, which would hide half the
  maze), and its time runs from 0 to 1 within the limit (released: env_steps / 100).
- Every task counts alike in the meta-objective's KL (released: every env_step does, so long episodes count more).
- A meta-iteration's tasks are all different, and drawn from a fixed set (released: fresh tasks from a distribution).
- The last meta-policy is kept (paper: the best one of 500 iterations).
- ``min_log_sigma`` is higher than the cloned network's (Finn et al. clamp sigma at 1e-6).
- Departures, off in ``paper``: ``gradient_rows`` takes the meta-update over a uniform choice of env_steps,
  ``curvature_every`` the Hessian over fewer still, and ``first_order`` leaves out how the inner step moves with theta.
  The inner step is over all env_steps of its episodes at every preset: a gradient on 1,500 of those of ten episodes of
  the maze is mostly noise, and lowers success.

Metrics: ``meta_train_prior_return`` and ``meta_train_posterior_return`` are means over the episodes before and after
the inner step; ``inner_kl`` is KL(pi_theta, pi_theta_i) over the rows that the inner step was on, which says whether
``inner_rate`` is of a sensible size; ``kl`` is that of an accepted meta-update, never above ``trust_region.max_kl``;
``accepted`` is 0 where the line search found no length; ``surrogate_gain`` is how much the meta-objective rose.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from algorithms.behavior_cloning import BC_STAGE, BehaviorPolicy, GaussianPolicyConfig, load_behavior_policy
from algorithms.maml import MamlConfig, MamlMetaTraining
from algorithms.maml_adaptation import MamlAdaptation, MamlAdaptConfig, play_adapted
from algorithms.networks import torch_generator
from algorithms.primitive_presets import BC_MAML_PRESETS, MAML_PRESETS
from algorithms.ranges import LOG_SIGMA, require_between
from algorithms.search_spaces import MAML_SPACE
from algorithms.stage import Algorithm, StageContext, StageSpec

ADAPT_STAGE = StageSpec(
    name="adapt",
    config_class=MamlAdaptConfig,
    factory=MamlAdaptation,
    inputs=("meta_train",),
    tasks="target",
    implementation="maml_adapt/2",
    play=play_adapted,
)


@dataclass(frozen=True)
class BcMamlConfig(MamlConfig):
    """Meta-training from a cloned policy."""

    min_log_sigma: float = -1.0
    """Lower clamp of log sigma, in place of a lower one of the cloned network (ours). The planner of
    the maze hardly errs, and at the sigma of 0.02 that is cloned in places, one inner step throws the policy far off:
    the gradient grows as 1 / sigma^2. Of actions in [-1, 1], mostly at an end, sigma 0.37 spoils little."""

    def validate(self) -> None:
        super().validate()
        require_between(self, LOG_SIGMA, "min_log_sigma")


def meta_train_from_bc(config: BcMamlConfig, context: StageContext) -> MamlMetaTraining:
    policy = load_behavior_policy(context.inputs["bc"])
    min_log_sigma = max(config.min_log_sigma, policy.config.min_log_sigma)
    policy.config = replace(policy.config, min_log_sigma=min_log_sigma)
    return MamlMetaTraining(config, policy, context)


ALGORITHM = Algorithm(
    name="bc+maml",
    title="BC+MAML: MAML from a cloned policy (Nam et al. 2022, appendix A)",
    stages=(
        BC_STAGE,
        StageSpec(
            name="meta_train",
            config_class=BcMamlConfig,
            factory=meta_train_from_bc,
            inputs=("bc",),
            tasks="train",
            implementation="bc_maml_meta_train/2",
        ),
        ADAPT_STAGE,
    ),
    presets=BC_MAML_PRESETS,
    search_space=MAML_SPACE,
    needs_train_tasks=True,
)


def _policy_from_scratch() -> GaussianPolicyConfig:
    return GaussianPolicyConfig(hidden_dim=100, hidden_layers=2, sigma="parameter")


@dataclass(frozen=True)
class ScratchMamlConfig(MamlConfig):
    """Meta-training from a fresh network."""

    policy: GaussianPolicyConfig = field(default_factory=_policy_from_scratch)
    """The network (Finn et al., section 5.3: two hidden layers of 100, ReLU; sigma a parameter that starts at 1)."""


def meta_train_from_scratch(config: ScratchMamlConfig, context: StageContext) -> MamlMetaTraining:
    distribution = context.task_distribution
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(context.seed, "meta_train", "init").initial_seed())
        policy = BehaviorPolicy(config.policy, distribution.observation_dim, distribution.action_dim)
    return MamlMetaTraining(config, policy, context)


MAML = Algorithm(
    name="maml",
    title="MAML without behaviour cloning (Finn et al. 2017): the validation of bc+maml",
    stages=(
        StageSpec(
            name="meta_train",
            config_class=ScratchMamlConfig,
            factory=meta_train_from_scratch,
            inputs=(),
            tasks="train",
            implementation="maml_meta_train/2",
        ),
        ADAPT_STAGE,
    ),
    presets=MAML_PRESETS,
    search_space=MAML_SPACE,
    needs_train_tasks=True,
)
