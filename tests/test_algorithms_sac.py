"""SAC as a stage: its update against an independent one, who gets gradient from what, ends of episodes, learning.

Axes: M learner, B batch, D feature, A action feature.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from algorithms.adaptation import Adaptation
from algorithms.networks import Gaussian, torch_generator
from algorithms.regularized_sac import (
    SkillActorCritic,
    SquashedActorCriticConfig,
    StackedMLP,
    critic_errors,
    policy_loss,
    td_target,
)
from algorithms.sac import ALGORITHM, SacAdaptConfig, make_adapt_stage, play_adapted
from algorithms.stage import EpisodeRow, PlayRequest
from algorithms.transitions import TransitionBatch
from envs.core import Task, TaskDistribution
from envs.registry import task_distribution
from envs.validation.point_world import PointProblem, PointWorld
from tests.algorithm_helpers import (
    ACTION_DIM,
    FAR_GOAL,
    OBSERVATION_DIM,
    START_GOAL,
    advance_to_end,
    config_of,
    differences,
    short_maze,
    stage_context,
    through_disk,
)

AT_ONCE, NEVER = 0, 1
"""Target tasks: one is solved by the first env_step (one transition per episode), one never (60)."""
MAZE = short_maze(60, [START_GOAL, FAR_GOAL])
NETWORKS = SquashedActorCriticConfig(hidden_dim=8, hidden_layers=2)
CONFIG = SacAdaptConfig(
    episodes=4, batch_size=8, replay_capacity=150, updates_per_episode=6, learning_rate=1e-2,
    coefficient_learning_rate=1e-2, target_rate=0.2, actor_critic=NETWORKS,
)  # fmt: skip


def make_stage(config: SacAdaptConfig = CONFIG, seed: int = 0, tasks: tuple[int, ...] = (0, 1)) -> Adaptation:
    return make_adapt_stage(config, stage_context(MAZE, {}, seed, tasks))


def ready_stage(config: SacAdaptConfig = CONFIG) -> Adaptation:
    """Both learners have enough transitions for a batch, and the first updates behind them."""
    stage = make_stage(dataclasses.replace(config, episodes=100))
    while int(stage.replay.sizes.min()) < config.batch_size:
        stage._collect_where_waiting()
        stage.owed_updates.zero_()
    for _ in range(3):
        stage._update()
    return stage


# -- one update, written down again with torch.nn and torch.distributions ---------------------------------


class OneLearner:
    """SAC of Haarnoja et al. 2018 for one task: plain networks, two optimisers of critics, alpha by autograd."""

    def __init__(self, stage: Adaptation, learner: int) -> None:
        self.config = stage.config
        networks = stage.networks
        both = [2 * learner, 2 * learner + 1]
        self.policy = plain_network(networks.policy, learner)
        self.critics = [plain_network(networks.critics, index) for index in both]
        self.targets = [plain_network(networks.target_critics, index) for index in both]
        self.log_alpha = stage.coefficients.raw.detach()[learner].clone().requires_grad_()
        self.policy_adam = adam_like(stage.policy_optimizer, self.policy, learner)
        self.critic_adams = [
            adam_like(stage.critic_optimizer, critic, index) for critic, index in zip(self.critics, both, strict=True)
        ]
        theirs = stage.coefficients.optimizer
        self.alpha_adam = torch.optim.Adam([self.log_alpha], lr=self.config.coefficient_learning_rate)
        ((_, moments),) = theirs.state.items()
        self.alpha_adam.state[self.log_alpha] = {
            name: value.clone() if name == "step" else value[learner].clone() for name, value in moments.items()
        }

    def distribution(self, states: Tensor) -> tuple[Tensor, Tensor, TransformedDistribution]:
        mean, log_sigma = self.policy(states).chunk(2, -1)
        sigma = log_sigma.clamp(-20, 2).exp()
        squash = TanhTransform(cache_size=1)  # type: ignore[no-untyped-call]
        return mean, sigma, TransformedDistribution(Independent(Normal(mean, sigma), 1), squash)

    def sample(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(actions, their log-probabilities)."""
        mean, sigma, distribution = self.distribution(states)
        actions = distribution.transforms[0](mean + sigma * noise)
        return actions, distribution.log_prob(actions)

    @staticmethod
    def lowest(critics: list[nn.Sequential], states: Tensor, actions: Tensor) -> Tensor:
        return torch.minimum(*(critic(torch.cat([states, actions], -1))[:, 0] for critic in critics))

    def update(self, columns: dict[str, Tensor], noise: Tensor) -> None:
        """``columns`` of stored transitions (B, .), ``noise`` (2, B, A)."""
        config, alpha = self.config, self.log_alpha.detach().exp()
        with torch.no_grad():
            actions, log_probability = self.sample(columns["next_states"], noise[0])
            values = self.lowest(self.targets, columns["next_states"], actions) - alpha * log_probability
            returns = columns["rewards"][:, 0] + config.discount * (1 - columns["dones"][:, 0]) * values
        for critic, adam in zip(self.critics, self.critic_adams, strict=True):
            inputs = torch.cat([columns["states"], columns["skills"]], -1)
            loss = F.mse_loss(critic(inputs)[:, 0], returns)
            adam.zero_grad()
            loss.backward()
            adam.step()
        with torch.no_grad():
            for target, critic in zip(self.targets, self.critics, strict=True):
                for old, new in zip(target.parameters(), critic.parameters(), strict=True):
                    old.copy_((1 - config.target_rate) * old + config.target_rate * new)
        actions, log_probability = self.sample(columns["states"], noise[1])
        loss = (alpha * log_probability - self.lowest(self.critics, columns["states"], actions)).mean()
        self.policy_adam.zero_grad()
        loss.backward()
        self.policy_adam.step()
        entropy = -log_probability.detach().mean()
        target_entropy = -float(columns["skills"].shape[1])  # -dim(A)
        self.alpha_adam.zero_grad()
        (self.log_alpha * (entropy - target_entropy)).backward()  # released SAC: log alpha, not alpha
        self.alpha_adam.step()


def plain_network(stack: StackedMLP, index: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in stack.layers:
        weight, bias = (layer.get_parameter(name).detach()[index] for name in ("weight", "bias"))
        linear = nn.Linear(*weight.shape)
        linear.weight.data, linear.bias.data = weight.T.clone(), bias[0].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def adam_like(theirs: torch.optim.Optimizer, network: nn.Sequential, index: int) -> torch.optim.Adam:
    """Plain Adam with the stack's moments of this network."""
    adam = torch.optim.Adam(network.parameters(), lr=theirs.param_groups[0]["lr"])
    for mine, stacked in zip(network.parameters(), theirs.param_groups[0]["params"], strict=True):
        moments = {name: value.clone() for name, value in theirs.state[stacked].items()}
        adam.state[mine] = {
            name: value if name == "step" else (value[index].T if mine.ndim == 2 else value[index, 0]).clone()
            for name, value in moments.items()
        }
    return adam


def test_an_update_equals_an_independent_one() -> None:
    """Three updates in a row of each learner: targets, both losses, target critics, alpha towards -dim(A), Adam."""
    stage = ready_stage()
    alone = [OneLearner(stage, learner) for learner in range(2)]
    for _ in range(3):
        positions, noise = stage._draw()
        rows = stage.replay.gather(torch.arange(2), positions)
        for learner, one in enumerate(alone):
            one.update(stage.fields.unpack(rows[learner]), noise[:, learner])
        stage._update()
    for learner, one in enumerate(alone):
        pairs = [(one.policy, stage.networks.policy, learner)]
        for index in range(2):
            pairs.append((one.critics[index], stage.networks.critics, 2 * learner + index))
            pairs.append((one.targets[index], stage.networks.target_critics, 2 * learner + index))
        for mine, stack, index in pairs:
            for expected, found in zip(mine.parameters(), plain_network(stack, index).parameters(), strict=True):
                torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5)
        alpha = one.log_alpha.detach().exp()
        assert float(stage.coefficients.values[learner]) == pytest.approx(float(alpha), rel=1e-5)
    assert float((stage.coefficients.values - 0.1).abs().min()) > 1e-3, "alpha was moved at all"


# -- losses and gradients -------------------------------------------------------------------------------


def random_batch(dones: Tensor) -> TransitionBatch:
    shape, empty = dones.shape[:2], torch.empty(*dones.shape[:2], 0)
    return TransitionBatch(
        states=torch.randn(*shape, 4),
        skills=torch.rand(*shape, 2) * 2 - 1,
        td_rewards=torch.randn(*shape, 1),
        td_discounts=0.9 * (1 - dones),
        td_states=torch.randn(*shape, 4),
        prior=Gaussian(empty, empty),
        td_prior=Gaussian(empty, empty),
        task_embeddings=empty,
        views=empty,
        td_views=empty,
    )


def fresh_networks(copies: int = 1) -> SkillActorCritic:
    return SkillActorCritic(NETWORKS, 4, 2, 0, copies, torch_generator(0, "test"))


def parts_with_gradient(networks: SkillActorCritic) -> set[str]:
    return {
        name
        for name, part in networks.named_children()
        if any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    }


def test_who_gets_gradient_from_what() -> None:
    torch.manual_seed(0)
    batch, noise, alpha = random_batch(torch.zeros(1, 6, 1)), torch.randn(1, 6, 2), torch.tensor([[0.2]])
    networks = fresh_networks()
    networks.target_critics.requires_grad_()  # so that only the losses keep gradient away from them
    targets = td_target(networks, batch, alpha, noise, math.inf)
    assert not targets.requires_grad
    critic_errors(networks, batch, targets).sum().backward()
    assert parts_with_gradient(networks) == {"critics"}
    networks.zero_grad()
    policy_loss(networks, batch, alpha, noise)[0].sum().backward()
    assert parts_with_gradient(networks) == {"policy"}
    for parameter in networks.policy.parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), "every one of the policy's parameters"


def test_no_value_is_bootstrapped_past_termination_and_the_whole_value_past_truncation() -> None:
    """Shifting the target critics by 100 shifts the targets by 100 x discount where the episode goes on, else by 0."""
    torch.manual_seed(0)
    dones = (torch.arange(6) % 2 == 0).float()[None, :, None]
    batch, networks, noise = random_batch(dones), fresh_networks(), torch.randn(1, 6, 2)
    before = td_target(networks, batch, torch.tensor([[0.2]]), noise, math.inf)
    networks.target_critics.layers[-1].get_parameter("bias").data += 100.0
    after = td_target(networks, batch, torch.tensor([[0.2]]), noise, math.inf)
    torch.testing.assert_close(after - before, 90.0 * (1 - dones[..., 0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(before[dones[..., 0] == 1], batch.td_rewards[dones == 1])


def test_the_entropy_bonus_of_the_next_state_is_part_of_its_value() -> None:
    torch.manual_seed(0)
    batch, networks, noise = random_batch(torch.zeros(1, 6, 1)), fresh_networks(), torch.randn(1, 6, 2)
    without = td_target(networks, batch, torch.tensor([[0.0]]), noise, math.inf)
    with_bonus = td_target(networks, batch, torch.tensor([[0.5]]), noise, math.inf)
    policy = networks.policy_distribution(batch.td_states, batch.task_embeddings, batch.td_prior)
    log_probability = networks.head.divergence(policy, batch.td_prior, noise).detach()
    torch.testing.assert_close(with_bonus - without, -0.9 * 0.5 * log_probability, rtol=1e-4, atol=1e-5)


# -- ends of episodes in the replay -------------------------------------------------------------------------


@pytest.mark.parametrize("n_step", [1, 10])
def test_stored_episodes_end_as_they_ended_in_the_maze(n_step: int) -> None:
    """Success has no value after it; the time limit has, discounted by as many env_steps as there were left."""
    stage = make_stage(dataclasses.replace(CONFIG, n_step=n_step, discount=0.9))
    stage._collect_where_waiting()
    columns = stage.fields.unpack(stage.replay.rows)
    assert stage.replay.sizes.tolist() == [1, 60]
    assert columns["td_discounts"][AT_ONCE, 0].tolist() == [0.0]
    assert columns["td_rewards"][AT_ONCE, 0].tolist() == [1.0]
    assert columns["dones"][NEVER, :60].sum() == 0
    ahead = [min(n_step, 60 - start) for start in range(60)]
    discounts = columns["td_discounts"][NEVER, :60, 0].tolist()
    assert discounts == pytest.approx([0.9**count for count in ahead], rel=1e-5)
    ends = [start + count - 1 for start, count in enumerate(ahead)]
    assert torch.equal(columns["td_states"][NEVER, :60], columns["next_states"][NEVER, ends])
    assert bool((columns["skills"][NEVER, :60].abs() <= 1).all()), "actions of the policy are within bounds"


# -- alpha ----------------------------------------------------------------------------------------------


def test_alpha_starts_at_a_tenth_and_its_target_is_an_entropy_of_minus_dim_a() -> None:
    config = SacAdaptConfig()
    assert config.initial_coefficient == 0.1
    assert [config.target_divergence(action_dim) for action_dim in (1, 2, 9)] == [1.0, 2.0, 9.0]
    half = dataclasses.replace(config, target_entropy_per_action_dim=-0.5)
    assert half.target_divergence(4) == 2.0
    assert config.divergence_clip == math.inf
    torch.testing.assert_close(make_stage().coefficients.values, torch.full((2,), 0.1))
    assert not make_stage().coefficients.growing_only


@pytest.mark.parametrize(("log_sigma", "rises"), [(-4.0, True), (0.5, False)])
def test_alpha_rises_where_the_policy_is_too_certain_and_falls_where_it_is_not(log_sigma: float, rises: bool) -> None:
    stage = ready_stage()
    last = stage.networks.policy.layers[-1]
    for name in ("weight", "bias"):
        last.get_parameter(name).data.zero_()
    last.get_parameter("bias").data[..., ACTION_DIM:] = log_sigma
    stage.coefficients.optimizer.state.clear()  # no momentum from before
    before = stage.coefficients.values
    stage._update()
    assert ((stage.coefficients.values > before) == rises).all()


# -- the stage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [0.0, 0.3, 0.6, 0.95])
def test_a_resumed_stage_ends_bit_for_bit_the_same(moment: float, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, n_step=3, rewarded_fraction=0.25, clip_targets=True)
    whole = make_stage(config)
    rows: list[EpisodeRow] = []
    while whole.progress.done < moment * whole.progress.total:
        rows += whole.advance().episodes
    resumed = make_stage(config)
    resumed.load_state_dict(through_disk(whole.state_dict(), tmp_path))
    assert rows + advance_to_end(resumed) == rows + advance_to_end(whole)
    assert differences(whole.state_dict(), resumed.state_dict()) == []


def test_the_artefact_plays_the_policy_it_holds(tmp_path: Path) -> None:
    stage = make_stage()
    advance_to_end(stage)
    stage.write_artefact(tmp_path)
    context = stage_context(MAZE, {})
    episodes = play_adapted(CONFIG, context, PlayRequest(tmp_path, NEVER, 2, seed=3))
    assert [episode.length for episode in episodes] == [60, 60]
    assert episodes[0].observations.shape == (61, OBSERVATION_DIM)
    (alone,) = play_adapted(CONFIG, context, PlayRequest(tmp_path, NEVER, 1, seed=3))
    assert (alone.observations == episodes[0].observations).all()


def test_paper_presets_hold_the_papers_numbers() -> None:
    """Appendix F.1."""
    for family, batch_size in (("maze", 4096), ("kitchen", 1024)):
        config = config_of(ALGORITHM, "adapt", ALGORITHM.presets[family, "paper"])
        assert (config.batch_size, config.initial_coefficient) == (batch_size, 0.1)
        assert config.target_entropy_per_action_dim == -1.0
        assert (config.n_step, config.rewarded_fraction, config.clip_targets, config.bf16) == (1, 0.0, False, False)
    assert ALGORITHM.stages[0].inputs == () and not ALGORITHM.needs_train_tasks


# -- learning --------------------------------------------------------------------------------------------


def test_critics_learn_the_reward_of_transitions_that_terminate() -> None:
    """On the task that the first env_step solves, every value is 1 exactly."""
    config = dataclasses.replace(CONFIG, episodes=100, updates_per_episode=20, learning_rate=3e-3)
    stage = make_stage(config, tasks=(AT_ONCE,))
    rows: list[EpisodeRow] = []
    while len(rows) < 30:
        rows += stage.advance().episodes
    assert all(row.success for row in rows)
    columns = stage.fields.unpack(stage.replay.rows[:, :30])
    empty = torch.zeros(1, 30, 0)
    values = stage.networks.q_values(stage.networks.critics, columns["states"], empty, columns["skills"]).detach()
    assert float((values - 1).abs().max()) < 0.05


def one_goal(end_radius: float = 0.0) -> TaskDistribution:
    """The point robot with one goal, half as many env_steps."""
    problem = PointProblem(reward="distance", episode_env_steps=10, end_radius=end_radius)
    return dataclasses.replace(
        task_distribution("point-robot"),
        target_tasks=(Task("goal", {"goal": [0.5, -0.3]}),),
        make_world=partial(PointWorld, problem),
        episode_env_steps=10,
    )


def test_a_tiny_problem_is_solved() -> None:
    """From what chance does to what is best, straight to the goal by 0.1 per env_step and axis: four fifths of the way
    at least. The rest is the price of an entropy that is kept at -2."""
    config = SacAdaptConfig(
        episodes=50, batch_size=64, updates_per_episode=20, learning_rate=3e-3, coefficient_learning_rate=3e-3,
        replay_capacity=1000, discount=0.9, target_rate=0.02,
        actor_critic=SquashedActorCriticConfig(hidden_dim=32, hidden_layers=2),
    )  # fmt: skip
    distances = [math.hypot(max(0.5 - 0.1 * t, 0), max(0.3 - 0.1 * t, 0)) for t in range(1, 11)]
    best = -sum(distances)
    stage = make_adapt_stage(config, stage_context(one_goal(), {}))
    returns = [row.episode_return for row in advance_to_end(stage)]
    first, last = sum(returns[:10]) / 10, sum(returns[-10:]) / 10
    assert first < 3 * best, "chance is far from it"
    assert last > first + 0.8 * (best - first), (best, first, last)


def test_fields_that_make_no_sense_are_refused() -> None:
    changes: list[dict[str, Any]] = [{"target_entropy_per_action_dim": -1e3}, {"batch_size": 151}, {"discount": 1.5}]
    for change in changes:
        with pytest.raises(ValueError, match=next(iter(change))):
            dataclasses.replace(CONFIG, **change).validate()
