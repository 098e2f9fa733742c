"""Soft actor-critic with a regularised policy: what all off-policy algorithms here share.

    objective (SiMPL equations 1, 4, 5):   max E [ r - alpha D(pi(z given s, e)) ]
    TD target:     y = r + gamma (1 - done) (min_i Q'_i(s', z', e) - alpha clip(D'))      (or n skills ahead)
    critics:       each by the mean over the batch of (Q_i(s, z, e) - y)^2: the sum of the two, or their mean (SiMPL's
                   meta-training, where it also sets the scale of the gradient that reaches the task encoder)
    policy:        mean of alpha D - min_i Q_i(s, z ~ pi, e), critics frozen
    alpha:         dual gradient towards a target divergence; in released SiMPL it may only grow; in SAC it is log alpha
                   that moves

The divergence D is the policy head's (``policy_heads.py``): KL(pi, prior) over skills (SPiRL, SiMPL, MTRL) or actions
(BC+PEARL), or log pi, which makes it plain soft actor-critic over actions (SAC, PEARL). z is a skill, or an action
where there are no skills; gamma is per skill, whatever the skill's length.

What networks see of a state, and what a stored transition holds, is in ``transitions.py``.

Everything works on M independent learners at once. Meta-training is M = 1 with the tasks folded into the
batch; adapting to ten target tasks is M = 10. Axes: M model copy, B batch, D feature, E task embedding, Z skill.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from algorithms.networks import Gaussian, SigmaParametrization, StackedLinear, StackedMLP, softplus_inverse
from algorithms.policy_heads import CoefficientKind, PolicyHead, ResidualHead, SquashedGaussian, SquashedHead
from algorithms.ranges import require_between
from algorithms.skill_space import SkillPrior
from algorithms.transitions import StateInputs, TransitionBatch

CRITICS = 2


class NetworkConfig(Protocol):
    """What the actor-critic reads of its configuration."""

    @property
    def hidden_dim(self) -> int: ...
    @property
    def hidden_layers(self) -> int: ...
    @property
    def standardise_states(self) -> bool: ...
    @property
    def zero_initial_values(self) -> bool: ...
    def make_head(self) -> PolicyHead: ...


@dataclass(frozen=True)
class ActorCriticConfig:
    """Shape of the high-level policy and critics. Values: SiMPL, maze, released code."""

    hidden_dim: int = 256
    """Width (maze 256, kitchen 128; appendix E.1.3)."""
    hidden_layers: int = 3
    """Hidden layers: the paper counts linear layers, 4 for the maze and 6 for the kitchen (3 and 5 hidden)."""
    sigma_parametrization: SigmaParametrization = "softplus"
    """``softplus``: sigma = 0.001 + softplus(softplus^-1(sigma_prior) + residual) (released code);
    ``exp``: log sigma = log sigma_prior + residual (paper, E.1.3)."""
    standardise_states: bool = False
    """Departure: the networks see states standardised as the skill model does (released: raw states)."""
    zero_initial_values: bool = False
    """Departure: critics start at 0 everywhere, so that the policy does not chase random values (released: off)."""
    zero_initial_residual: bool = True
    """The policy's last layer starts at 0, so that the policy is the prior's (paper, F.3: "initialize the high-level
    policy to skill-prior"; released: off, a small random residual)."""

    def validate(self) -> None:
        require_between(self, (1, 10_000), "hidden_dim", "hidden_layers")

    def make_head(self) -> PolicyHead:
        return ResidualHead(self.sigma_parametrization, self.zero_initial_residual)


@dataclass(frozen=True)
class SquashedActorCriticConfig:
    """Shape of a policy over primitive actions that nothing but entropy regularises, and of its critics."""

    hidden_dim: int = 256
    """Width (SAC: 256)."""
    hidden_layers: int = 2
    """Hidden layers (SAC: 2)."""
    zero_initial_values: bool = False
    """Departure: critics start at 0 everywhere (SAC: off)."""
    standardise_states: bool = False
    """Departure: the networks see states scaled to between -1 and 1 by the world's bounds of observations, since there
    is no offline data whose scale could be used; what has no known bounds stays as it is (SAC: raw states)."""

    def validate(self) -> None:
        require_between(self, (1, 10_000), "hidden_dim", "hidden_layers")

    def make_head(self) -> PolicyHead:
        return SquashedHead()


class SkillActorCritic(nn.Module):
    """M task-conditioned policies, their twin critics and target critics."""

    def __init__(
        self,
        config: NetworkConfig,
        state_dim: int,
        latent_dim: int,
        task_embedding_dim: int,
        model_copies: int,
        generator: torch.Generator,
        feature_dim: int = 0,
    ) -> None:
        """``feature_dim``: columns that the policy alone sees, between state and e."""
        super().__init__()
        self.config, self.model_copies, self.latent_dim = config, model_copies, latent_dim
        hidden_dims = [config.hidden_dim] * config.hidden_layers
        self.head = config.make_head()
        policy_shape = (model_copies, state_dim + feature_dim + task_embedding_dim, hidden_dims, 2 * latent_dim)
        self.policy = StackedMLP(*policy_shape, generator, zero_output=self.head.zero_output)
        critic_shape = (CRITICS * model_copies, state_dim + task_embedding_dim + latent_dim, hidden_dims, 1)
        zero = config.zero_initial_values
        self.critics = StackedMLP(*critic_shape, generator, zero_output=zero)
        self.target_critics = StackedMLP(*critic_shape, generator, zero_output=zero).requires_grad_(False)
        self.restart_targets()

    @classmethod
    def stack(cls, singles: Sequence[SkillActorCritic]) -> SkillActorCritic:
        """Copies of these networks (one model copy each) side by side, policy and critics open to gradients."""
        stacked = copy.deepcopy(singles[0])
        for parameter, *parts in zip(stacked.parameters(), *(one.parameters() for one in singles), strict=True):
            parameter.data = torch.cat([part.detach() for part in parts])
        stacked.model_copies = len(singles)
        stacked.policy.requires_grad_(True)
        stacked.critics.requires_grad_(True)
        return stacked

    def policy_distribution(
        self, states: Tensor, task_embeddings: Tensor, prior: Gaussian
    ) -> Gaussian | SquashedGaussian:
        """pi(z given s, e): (M, B, what the policy sees), (M, B, E), prior (M, B, Z) -> (M, B, Z)."""
        return self.head.policy(self.policy(torch.cat([states, task_embeddings], dim=-1)), prior)

    def policy_of_model(
        self, model: int, states: Tensor, task_embeddings: Tensor, prior: Gaussian
    ) -> Gaussian | SquashedGaussian:
        """pi(z given s, e) of one model copy alone: (B, D), (B, E), prior (B, Z) -> (B, Z)."""
        own = {name: parameter[model : model + 1] for name, parameter in self.policy.named_parameters()}
        output: Tensor = functional_call(self.policy, own, (torch.cat([states, task_embeddings], dim=-1)[None],))
        return self.head.policy(output[0], prior)

    def q_values(
        self, critics: StackedMLP, states: Tensor, task_embeddings: Tensor, skills: Tensor, frozen: bool = False
    ) -> Tensor:
        """Both critics' values (M, 2, B)."""
        inputs = torch.cat([states, task_embeddings, skills], dim=-1)
        copies, batch, dim = inputs.shape
        both = inputs.unsqueeze(1).expand(copies, CRITICS, batch, dim).reshape(copies * CRITICS, batch, dim)
        values: Tensor = critics(both, frozen)
        return values.view(copies, CRITICS, batch)

    def restart_targets(self) -> None:
        """target <- critic"""
        self.target_critics.load_state_dict(self.critics.state_dict())

    @torch.no_grad()
    def update_targets(self, rate: float) -> None:
        """target <- target + rate (critic - target)"""
        torch._foreach_lerp_(list(self.target_critics.parameters()), list(self.critics.parameters()), rate)


@torch.no_grad()
def td_target(
    networks: SkillActorCritic,
    batch: TransitionBatch,
    coefficients: Tensor,
    noise: Tensor,
    kl_clip: float,
    highest: float | Tensor = math.inf,
) -> Tensor:
    """y (M, B). ``coefficients`` broadcasts to (M, B); ``noise`` (M, B, Z). The divergence is clipped here alone.

    ``highest``, which broadcasts to (M, B), bounds y from above: the critics' extrapolation knows no bounds. Where the
    head's divergence is never negative, as a KL, it is the highest return; else ``highest_soft_value``.
    """
    embeddings = batch.task_embeddings
    policy = networks.policy_distribution(batch.td_policy_states, embeddings, batch.td_prior)
    next_q = networks.q_values(networks.target_critics, batch.td_states, embeddings, policy.sample(noise))
    penalty = coefficients * networks.head.divergence(policy, batch.td_prior, noise).clamp(max=kl_clip)
    targets = batch.td_rewards.squeeze(-1) + batch.td_discounts.squeeze(-1) * (next_q.amin(1) - penalty)
    return targets.clamp(max=highest)


def highest_soft_value(
    head: PolicyHead, highest_return: float, coefficients: Tensor, discount: float, latent_dim: int
) -> float | Tensor:
    """What no policy's soft value exceeds, in the shape of ``coefficients``: the bound of TD targets.

    A value is made of rewards, which add up to at most ``highest_return``, and of alpha times what the divergence falls
    short of 0, at every later choice. A KL never does; log pi does where the policy is wide, and entropy is worth at
    most alpha dim(A) log 2 discount / (1 - discount).
    """
    most = -head.lowest_divergence(latent_dim)
    if most == 0.0 or math.isinf(highest_return):
        return highest_return
    if discount == 1.0:
        return math.inf
    return highest_return + coefficients * (most * discount / (1.0 - discount))


def highest_target(clip_targets: bool, score_range: tuple[float, float]) -> float:
    """The bound of TD targets: the highest return where ``clip_targets``, else none.

    Raises ``ValueError`` where rewards can be negative (the lowest return is): what is left of an episode can then be
    worth more than any whole one, so its return bounds nothing.
    """
    low, high = score_range
    if clip_targets and low < 0:
        raise ValueError(f"clip_targets is on, but returns go down to {low:g}; valid where rewards are never negative")
    return high if clip_targets else math.inf


def critic_errors(networks: SkillActorCritic, batch: TransitionBatch, targets: Tensor) -> Tensor:
    """(M, 2): of each critic, the mean over the batch of its squared TD error. ``targets`` (M, B).

    Their sum is the loss where each critic learns from its own full error: target-task learning (released SiMPL and
    SPiRL), PEARL (Rakelly et al.). Released SiMPL's meta-training takes their mean.
    """
    values = networks.q_values(networks.critics, batch.states, batch.task_embeddings, batch.skills)
    return (values - targets.unsqueeze(1)).square().mean(2)


def policy_loss(
    networks: SkillActorCritic, batch: TransitionBatch, coefficients: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """(loss (M,), divergence (M, B)). No gradient reaches the critics' weights or the task embeddings."""
    embeddings = batch.task_embeddings.detach()
    policy = networks.policy_distribution(batch.policy_states, embeddings, batch.prior)
    skills = policy.sample(noise)
    values = networks.q_values(networks.critics, batch.states, embeddings, skills, frozen=True).amin(1)
    divergence = networks.head.divergence(policy, batch.prior, noise)
    return (coefficients * divergence - values).mean(1), divergence


class DualCoefficients(nn.Module):
    """alpha, moved by dual gradient: up where the divergence exceeds its target.

        softplus      alpha = softplus(raw), objective alpha (target - divergence)        released SPiRL and SiMPL
        exponential   alpha = exp(raw),      objective log alpha (target - divergence)    released SAC

    Adam's steps are of about ``learning_rate`` in ``raw`` whatever the size of the gradient. So an exponential falls to
    a hundredth in log 100 / rate updates; of a softplus the gradient shrinks with alpha, and Adam, which remembers
    larger ones, takes about twice as long.

    With ``growing_only`` (released SiMPL) the gradient is clamped to <= 0, so alpha never falls; Adam's momentum still
    lifts it a little after the divergence is below its target.
    """

    def __init__(
        self, initial: Tensor, learning_rate: float, growing_only: bool = True, kind: CoefficientKind = "softplus"
    ) -> None:
        super().__init__()
        self.kind = kind
        self.raw = nn.Parameter(softplus_inverse(initial) if kind == "softplus" else initial.log())
        self.growing_only = growing_only
        self.optimizer = torch.optim.Adam([self.raw], lr=learning_rate)

    @property
    def values(self) -> Tensor:
        """Detached, in the shape of ``initial``."""
        raw = self.raw.detach()
        return F.softplus(raw) if self.kind == "softplus" else raw.exp()

    def update(self, excess: Tensor) -> None:
        """One dual step. ``excess`` = divergence - target, in the shape of the coefficients; 0 where unseen."""
        gradient = -excess.detach().to(self.raw.dtype)
        if self.kind == "softplus":
            gradient = torch.sigmoid(self.raw.detach()) * gradient
        self.raw.grad = gradient.clamp(max=0.0) if self.growing_only else gradient
        self.optimizer.step()


@dataclass
class FrozenPolicies:
    """Some of the M policies as they are now, for acting: lane i holds model ``i`` of the chosen ones."""

    networks: SkillActorCritic
    task_embeddings: Tensor
    """(lanes, E)"""
    inputs: StateInputs
    prior: SkillPrior
    noise: Callable[[NDArray[np.int64], int], Tensor]
    chosen_models: Tensor | None = None
    """(lanes,) which model acts in each lane; None: all lanes share the only model."""
    _layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for layer in self.networks.policy.layers:
            assert isinstance(layer, StackedLinear)
            weight, bias = layer.weight.detach(), layer.bias.detach()
            if self.chosen_models is not None:
                weight, bias = weight[self.chosen_models], bias[self.chosen_models]
            self._layers.append((weight, bias))

    @torch.inference_mode()
    def __call__(self, states: Tensor, lanes: NDArray[np.int64], skill_index: int) -> Tensor:
        """States of the active lanes, (A, D) or (A, D + F) -> sampled skills (A, Z)."""
        index = torch.from_numpy(lanes)
        device = self.task_embeddings.device
        states = states.to(device)
        inputs = torch.cat([self.inputs.of_policy(states), self.task_embeddings[index]], dim=-1)
        output = self._forward_shared(inputs) if self.chosen_models is None else self._forward_own(inputs, index)
        policy = self.networks.head.policy(output, self.prior.skill_prior(states))
        return policy.sample(self.noise(lanes, skill_index).to(device))

    def _forward_shared(self, hidden: Tensor) -> Tensor:
        for index, (weight, bias) in enumerate(self._layers):
            hidden = torch.addmm(bias[0, 0], hidden, weight[0])
            hidden = F.relu_(hidden) if index + 1 < len(self._layers) else hidden
        return hidden

    def _forward_own(self, inputs: Tensor, index: Tensor) -> Tensor:
        if len(self.task_embeddings) == 1:
            return self._forward_shared(inputs)
        hidden = inputs.new_zeros((len(self.task_embeddings), 1, inputs.shape[1]))
        hidden[index, 0] = inputs
        for layer, (weight, bias) in enumerate(self._layers):
            hidden = torch.baddbmm(bias, hidden, weight)
            hidden = F.relu_(hidden) if layer + 1 < len(self._layers) else hidden
        return hidden[index, 0]
