"""SAC by tianshou: its parts against independent formulas and against ours, exact resume, its known defect.

Axes: B batch, T transition, D feature, A action feature.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.adaptation import ADAPTED_FILE
from algorithms.files import load_tensors
from algorithms.networks import Gaussian, torch_generator
from algorithms.regularized_sac import (
    SkillActorCritic,
    SquashedActorCriticConfig,
    critic_errors,
    policy_loss,
    td_target,
)
from algorithms.rollout import SkillEpisode
from algorithms.sac_tianshou import (
    ALGORITHM,
    SacTianshouConfig,
    TianshouAdaptation,
    TianshouNetworksConfig,
    add_episode,
    load_replay_state,
    make_learner,
    make_replay,
    play_adapted,
    replay_state,
    update,
)
from algorithms.stage import PlayRequest, StageContext
from algorithms.transitions import TransitionBatch
from envs.registry import task_distribution
from tests.algorithm_helpers import (
    FAR_GOAL,
    NEAR_GOAL,
    START_GOAL,
    advance_to_end,
    differences,
    short_maze,
    stage_context,
    through_disk,
)

pytest.importorskip("tianshou")

CONFIG = SacTianshouConfig(
    episodes=3,
    batch_size=16,
    replay_capacity=100,  # episodes of 60 env_steps: the ring turns over
    updates_per_episode=7,
    initial_coefficient=0.1,
    actor_critic=TianshouNetworksConfig(hidden_dim=8, hidden_layers=2),
)
PENDULUM = task_distribution("pendulum")


def context(seed: int = 0) -> StageContext:
    """Two tasks: one that ends at once, so that episodes differ in length, and one that never does."""
    return stage_context(short_maze(goals=(START_GOAL, FAR_GOAL)), {}, seed)


def episode(length: int, terminates: bool, observation_dim: int = 3, action_dim: int = 1) -> SkillEpisode:
    states = torch.randn(length + 1, observation_dim)
    dones = torch.zeros(length, 1)
    dones[-1] = float(terminates)
    actions, rewards = torch.rand(length, action_dim) * 2 - 1, torch.randn(length, 1)
    return SkillEpisode(states[:-1], actions, rewards, dones, states[1:], length, float(rewards.sum()))


def fresh_learner(**changes: Any) -> Any:
    torch.manual_seed(0)
    return make_learner(dataclasses.replace(CONFIG, **changes), PENDULUM, "cpu")


# -- the replay and its targets ------------------------------------------------------------------------


@pytest.mark.parametrize("n_step", [1, 3])
def test_targets_stop_at_termination_and_bootstrap_past_truncation(n_step: int) -> None:
    """Every transition of a terminated and of a truncated episode, against a loop over its rewards."""
    learner, replay = fresh_learner(n_step=n_step, discount=0.9), make_replay(100)
    episodes = [episode(5, terminates=True), episode(4, terminates=False)]
    for one in episodes:
        add_episode(replay, one)
    indices = np.arange(9)
    torch.manual_seed(7)
    learner.policy.is_within_training_step = True
    returns = learner._preprocess_batch(replay[indices], replay, indices).returns.flatten()

    expected, values_at = [], []
    for one in episodes:
        length = len(one.rewards)
        for start in range(length):
            ahead = range(start, min(start + n_step, length))
            reward = sum(0.9 ** (i - start) * float(one.rewards[i]) for i in ahead)
            alive = 1.0 - float(one.dones[ahead[-1]])
            expected.append((reward, alive * 0.9 ** len(ahead)))
            values_at.append(one.next_states[ahead[-1]])
    torch.manual_seed(7)  # the same noise, drawn for the same rows in the same order
    states = torch.stack(values_at)
    with torch.no_grad():
        (mean, sigma), _ = learner.policy.actor(states)
        before = mean + sigma * torch.randn(9, 1)
        action = torch.tanh(before)
        log_probability = torch.distributions.Normal(mean, sigma).log_prob(before) - torch.log(1 - action**2 + 1.2e-7)
        lower = torch.minimum(learner.critic_old(states, action), learner.critic2_old(states, action))
        values = (lower - 0.1 * log_probability).flatten()
    for index, (reward, discount) in enumerate(expected):
        assert float(returns[index]) == pytest.approx(reward + discount * float(values[index]), rel=1e-4, abs=1e-5)
    assert [discount for _, discount in expected].count(0.0) == n_step, "the end of the terminated episode alone"


def test_a_restored_replay_is_the_same_also_after_the_ring_has_turned_over() -> None:
    replay, restored = make_replay(12), make_replay(12)
    for length, terminates in ((5, True), (4, False), (6, False)):
        add_episode(replay, episode(length, terminates))
    load_replay_state(restored, replay_state(replay))
    extra = episode(3, terminates=True)
    for one in (replay, restored):
        add_episode(one, extra)
        one._random_state = np.random.RandomState(3)
    assert differences(replay_state(replay), replay_state(restored)) == []
    (batch, indices), (again, same) = replay.sample(20), restored.sample(20)
    assert np.array_equal(indices, same)
    assert np.array_equal(batch.obs_next, again.obs_next)
    assert np.array_equal(replay.next(indices), restored.next(indices))
    empty = make_replay(12)
    load_replay_state(empty, replay_state(make_replay(12)))
    assert len(empty) == 0


# -- against our own -------------------------------------------------------------------------------------


def as_ours(learner: Any) -> SkillActorCritic:
    """Our networks with tianshou's weights: its critics and target critics differ, as after some updates."""
    config = SquashedActorCriticConfig(hidden_dim=8, hidden_layers=2)
    ours = SkillActorCritic(config, 3, 1, 0, 1, torch_generator(0, "test"))

    def layers(*modules: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        linear = [m for module in modules for m in module.modules() if isinstance(m, torch.nn.Linear)]
        return [(layer.weight.detach().T, layer.bias.detach()) for layer in linear]

    actor = learner.policy.actor
    trunk, (mean,), (sigma,) = layers(actor.preprocess), layers(actor.mu), layers(actor.sigma)
    policy = [*trunk, (torch.cat([mean[0], sigma[0]], 1), torch.cat([mean[1], sigma[1]]))]
    stacks = (
        (ours.policy, [policy]),
        (ours.critics, [layers(learner.critic), layers(learner.critic2)]),
        (ours.target_critics, [layers(learner.critic_old), layers(learner.critic2_old)]),
    )
    for stack, copies in stacks:
        for copy, of_copy in enumerate(copies):
            for layer, (weight, bias) in zip(stack.layers, of_copy, strict=True):
                layer.get_parameter("weight").data[copy] = weight
                layer.get_parameter("bias").data[copy, 0] = bias
    return ours


def filled_replay() -> Any:
    replay = make_replay(100)
    for length, terminates in ((30, True), (40, False)):
        add_episode(replay, episode(length, terminates))
    return replay


def test_targets_losses_and_gradients_equal_ours() -> None:
    """Two implementations, the same weights, batch and noise: the same update, up to rounding."""
    learner, replay = fresh_learner(), filled_replay()
    for number in range(5):
        update(learner, replay, 16, number)
    ours, alpha = as_ours(learner), learner.alpha.value
    positions = np.random.RandomState(11).choice(70, 16)
    torch.manual_seed(11)
    noise = torch.randn(16, 1), torch.randn(16, 1)
    rows = replay[positions]
    empty = torch.zeros(1, 16, 0)
    batch = TransitionBatch(
        states=torch.tensor(rows.obs)[None],
        skills=torch.tensor(rows.act)[None],
        td_rewards=torch.tensor(rows.rew, dtype=torch.float32)[None, :, None],
        td_discounts=0.99 * (1 - torch.tensor(rows.terminated, dtype=torch.float32))[None, :, None],
        td_states=torch.tensor(rows.obs_next)[None],
        prior=Gaussian(empty, empty),
        td_prior=Gaussian(empty, empty),
        task_embeddings=empty,
        views=empty,
        td_views=empty,
    )
    coefficients = torch.tensor([[alpha]])
    targets = td_target(ours, batch, coefficients, noise[0][None], math.inf)
    errors = critic_errors(ours, batch, targets)
    errors.sum().backward()

    # Plain gradient steps of size 1 on theirs, so that the way the critics moved is the gradient.
    critics = (learner.critic, learner.critic2)
    for critic, optimizer in zip(critics, (learner.critic_optim, learner.critic2_optim), strict=True):
        optimizer._optim = torch.optim.SGD(critic.parameters(), lr=1.0)
    before = as_ours(learner).critics.state_dict()
    stats = update(learner, replay, 16, 11)  # its seed draws these positions and this noise
    after = as_ours(learner).critics.state_dict()
    assert float(errors.detach().mean()) == pytest.approx(stats["critic_loss"], rel=1e-4)
    for name, parameter in ours.critics.named_parameters():
        assert parameter.grad is not None
        moved = before[name] - after[name]
        torch.testing.assert_close(parameter.grad, moved, rtol=1e-3, atol=1e-5)

    # The policy loss sees the critics just updated: take those over.
    ours.critics.load_state_dict(after)
    losses, divergence = policy_loss(ours, batch, coefficients, noise[1][None])
    assert float(losses.detach()) == pytest.approx(stats["policy_loss"], rel=1e-4)
    losses.sum().backward()
    actor = learner.policy.actor
    theirs = [m for part in (actor.preprocess, actor.mu, actor.sigma) for m in part.modules()]
    gradients = [m.weight.grad for m in theirs if isinstance(m, torch.nn.Linear)]
    for layer, gradient in zip(ours.policy.layers, [*gradients[:2], torch.cat(gradients[2:])], strict=True):
        own = layer.get_parameter("weight").grad
        assert own is not None
        torch.testing.assert_close(own[0].T, gradient, rtol=1e-3, atol=1e-6)
    # alpha rises where the policy is more certain than its target says, by both.
    rises = stats["coefficient"] > alpha
    assert rises == bool(divergence.mean() > -CONFIG.target_entropy_per_action_dim)


def test_alpha_starts_where_asked_and_is_tuned_to_minus_dim_a() -> None:
    """AutoAlpha's gradient by hand: d/d log alpha of -log alpha (target - entropy)."""
    distribution = task_distribution("maze")
    torch.manual_seed(0)
    alpha = make_learner(CONFIG, distribution, "cpu").alpha
    assert alpha.value == pytest.approx(0.1)
    entropies = torch.tensor([-3.0, -1.5])
    alpha.update(entropies)
    assert float(alpha._log_alpha.grad) == pytest.approx(-(-2.0 - entropies).mean())


def test_sigma_is_clamped_as_ours_is() -> None:
    from tianshou.utils.net.continuous import SIGMA_MAX, SIGMA_MIN

    from algorithms.policy_heads import MAX_LOG_SIGMA, MIN_LOG_SIGMA

    assert (SIGMA_MIN, SIGMA_MAX) == (MIN_LOG_SIGMA, MAX_LOG_SIGMA)


# -- exact resume ----------------------------------------------------------------------------------------


def test_tianshous_own_state_lacks_the_optimiser_of_alpha() -> None:
    """What makes ``alpha_optimizer`` necessary. When this fails, tianshou has been mended."""
    learner = fresh_learner()
    state = learner.state_dict()
    assert len(state["_optimizers"]) == 3, "policy and two critics"
    assert any("alpha" in name for name in state)
    saved = {id(parameter) for optimizer in learner._optimizers for parameter in optimizer._module.parameters()}
    assert id(learner.alpha._log_alpha) not in saved


def test_without_that_optimiser_a_resumed_alpha_goes_another_way(tmp_path: Path) -> None:
    def alphas(keep_optimizer: bool) -> list[float]:
        learner, replay = fresh_learner(), filled_replay()
        for number in range(5):
            update(learner, replay, 16, number)
        state = through_disk({"learner": learner.state_dict(), "alpha": learner.alpha._optim.state_dict()}, tmp_path)
        again = fresh_learner()
        again.load_state_dict(dict(state["learner"]))
        if keep_optimizer:
            again.alpha._optim.load_state_dict(state["alpha"])
        for number in range(5, 8):
            update(again, replay, 16, number)
            update(learner, replay, 16, number)
        return [learner.alpha.value, again.alpha.value]

    torch.manual_seed(1)
    whole, resumed = alphas(keep_optimizer=True)
    assert resumed == whole
    torch.manual_seed(1)
    whole, resumed = alphas(keep_optimizer=False)
    assert resumed != whole


@pytest.mark.parametrize("advances", [0, 1, 2, 3, 4, 6])
def test_a_resumed_stage_ends_bit_for_bit_the_same(advances: int, tmp_path: Path, monkeypatch: Any) -> None:
    """Before anything, between updates of either task, and right after the first task was finished."""
    monkeypatch.setattr(TianshouAdaptation, "MAX_UPDATES_PER_ADVANCE", 4)
    whole = TianshouAdaptation(CONFIG, context())
    rows = [row for _ in range(advances) for row in whole.advance().episodes]
    state = through_disk(whole.state_dict(), tmp_path)
    torch.manual_seed(99)
    np.random.seed(99)
    resumed = TianshouAdaptation(CONFIG, context())
    resumed.load_state_dict(state)
    assert differences(state, resumed.state_dict()) == []
    expected, found = rows + advance_to_end(whole), rows + advance_to_end(resumed)
    assert found == expected
    assert differences(whole.state_dict(), resumed.state_dict()) == []


def test_a_seed_fixes_the_stage_and_another_seed_differs() -> None:
    def rows(seed: int, disturbance: int) -> list[Any]:
        torch.manual_seed(disturbance)
        stage = TianshouAdaptation(CONFIG, context(seed))
        return advance_to_end(stage), stage.state_dict()["finished_policies"]  # type: ignore[return-value]

    first, again, other = rows(0, 1), rows(0, 2), rows(1, 1)
    assert first[0] == again[0]
    assert differences(first[1], again[1]) == []
    assert differences(first[1], other[1]) != []


def test_the_stage_leaves_torchs_global_generator_alone() -> None:
    stage = TianshouAdaptation(CONFIG, context())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    while not stage.finished:
        stage.advance()
    assert torch.equal(torch.get_rng_state(), before)


# -- the stage -------------------------------------------------------------------------------------------


def test_tasks_are_learned_one_after_another_with_updates_after_each_episode() -> None:
    stage = TianshouAdaptation(CONFIG, context())
    rows, updates = [], []
    while not stage.finished:
        report = stage.advance()
        rows += report.episodes
        updates.append(int(report.metrics.get("updates", 0)))
    assert [(row.task, row.episode) for row in rows] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert [row.length for row in rows] == [1, 1, 1, 60, 60, 60]
    assert [row.env_steps for row in rows] == [1, 2, 3, 60, 120, 180]
    assert [row.success for row in rows] == [True] * 3 + [False] * 3
    assert updates == [0, 0, 0, 7, 14, 21], "no update before the replay can fill a batch"
    assert stage.progress.done == stage.progress.total == 6


def test_the_artefact_can_act(tmp_path: Path) -> None:
    distribution = short_maze(goals=(FAR_GOAL, NEAR_GOAL))
    stage = TianshouAdaptation(CONFIG, stage_context(distribution, {}))
    while not stage.finished:
        stage.advance()
    assert stage.write_artefact(tmp_path) == {"tasks": 2}
    learners = load_tensors(tmp_path / ADAPTED_FILE)["learners"]
    assert set(learners) == {0, 1}
    assert differences(learners[0], learners[1]) != []
    two = play_adapted(CONFIG, stage_context(distribution, {}), PlayRequest(tmp_path, 0, 2, 0))
    (one,) = play_adapted(CONFIG, stage_context(distribution, {}), PlayRequest(tmp_path, 0, 1, 0))
    assert np.array_equal(one.observations, two[0].observations)
    assert [played.length for played in two] == [60, 60]


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 0), ("batch_size", 101), ("n_step", 0), ("target_entropy_per_action_dim", 1e6)]
)
def test_absurd_configurations_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(CONFIG, **{field: value}).validate()  # type: ignore[arg-type]
    CONFIG.validate()


def test_settings_are_those_of_sac() -> None:
    """A cross-check of the same budget: every preset of ours, less the aids that tianshou lacks."""
    from algorithms.sac import ALGORITHM as SAC

    assert set(ALGORITHM.presets) == set(SAC.presets)
    for pair, values in ALGORITHM.presets.items():
        missing = {name: value for name, value in SAC.presets[pair].items() if name not in values}
        assert set(missing) <= {
            "adapt.rewarded_fraction", "adapt.rewarded_capacity", "adapt.clip_targets",
            "adapt.actor_critic.standardise_states", "adapt.actor_critic.zero_initial_values",
        }  # fmt: skip
        assert values.items() <= SAC.presets[pair].items()


@pytest.mark.slow
def test_it_overfits_a_tiny_problem() -> None:
    """One transition that terminates with reward 3: both critics learn 3 there, wherever they started."""
    learner, replay = fresh_learner(learning_rate=1e-2), make_replay(100)
    one = episode(1, terminates=True)
    one.rewards[:] = 3.0
    for _ in range(16):
        add_episode(replay, one)
    for number in range(300):
        update(learner, replay, 16, number)
    for critic in (learner.critic, learner.critic2):
        assert float(critic(one.states, one.skills).detach()) == pytest.approx(3.0, abs=0.02)
