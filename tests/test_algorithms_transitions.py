"""Stored transitions: what an episode is packed into, what unpacking gives back, and TD targets n skills ahead."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.rollout import SkillEpisode
from algorithms.transitions import CONTEXT_LAST_FIELD, StateInputs, TransitionBatch, n_step_returns, transition_fields
from tests.algorithm_helpers import standardising_skill_model

STATE_DIM, LATENT_DIM = 4, 2


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_a_context_transition_is_the_leading_columns_without_prior_and_target() -> None:
    fields = transition_fields(STATE_DIM, LATENT_DIM, 2 * LATENT_DIM)
    context = ["states", "skills", "rewards", "dones", "next_states"]
    assert list(fields.slices)[:5] == context
    assert fields.through(CONTEXT_LAST_FIELD) == STATE_DIM + LATENT_DIM + 1 + 1 + STATE_DIM


def make_episode(transitions: int, terminates: bool) -> SkillEpisode:
    dones = torch.zeros(transitions, 1)
    dones[-1] = float(terminates)
    states = torch.randn(transitions + 1, STATE_DIM)
    return SkillEpisode(
        states=states[:-1],
        skills=torch.randn(transitions, LATENT_DIM),
        rewards=torch.randn(transitions, 1),
        dones=dones,
        next_states=states[1:],
        length=10 * transitions,
        episode_return=0.0,
    )


@pytest.mark.parametrize("standardise", [False, True])
def test_an_episode_packed_and_unpacked_is_itself_with_its_prior(standardise: bool) -> None:
    """Networks may see standardised states; the prior standardises by itself and is given raw ones."""
    model, episode = standardising_skill_model(LATENT_DIM), make_episode(5, terminates=True)
    fields = transition_fields(STATE_DIM, LATENT_DIM, 2 * LATENT_DIM)
    rows = StateInputs(model, standardise).pack(fields, episode, discount=0.99, n_step=1)
    mean, sigma = (model.state_mean, model.state_sigma) if standardise else (torch.zeros(4), torch.ones(4))
    columns = fields.unpack(rows)
    for name in ("skills", "rewards", "dones"):
        assert torch.equal(columns[name], getattr(episode, name))
    torch.testing.assert_close(columns["next_states"], (episode.next_states - mean) / sigma)

    batch = TransitionBatch.from_rows(fields, rows[None], torch.zeros(1, 5, 0))
    torch.testing.assert_close(batch.states[0], (episode.states - mean) / sigma)
    torch.testing.assert_close(batch.td_states[0], (episode.next_states - mean) / sigma)
    assert torch.equal(batch.td_rewards[0], episode.rewards)
    assert batch.td_discounts.flatten().tolist() == pytest.approx([0.99, 0.99, 0.99, 0.99, 0.0])
    for stored, states in ((batch.prior, episode.states), (batch.td_prior, episode.next_states)):
        prior = model.skill_prior(states)
        assert torch.equal(stored.mean[0], prior.mean)
        assert torch.equal(stored.sigma[0], prior.sigma)


def test_episodes_are_packed_on_the_device_of_the_model() -> None:
    """Worlds and episodes live on the CPU. ``meta`` stands for a GPU: it refuses a CPU tensor beside its own."""
    fields, episode = transition_fields(STATE_DIM, LATENT_DIM, 2 * LATENT_DIM), make_episode(5, terminates=True)
    rows = StateInputs(standardising_skill_model(LATENT_DIM).to("meta"), True, "meta").pack(
        fields, episode, discount=0.99, n_step=1
    )
    assert rows.device.type == "meta"
    assert rows.shape == (5, fields.dim)


@pytest.mark.parametrize(
    ("terminates", "td_discounts"),
    # Two skills ahead; the last transition has only one. Truncation bootstraps, termination does not.
    [(False, [0.81, 0.81, 0.81, 0.9]), (True, [0.81, 0.81, 0.0, 0.0])],
)
def test_two_skills_ahead_by_hand(terminates: bool, td_discounts: list[float]) -> None:
    rewards, dones = torch.tensor([[1.0], [2.0], [4.0], [8.0]]), torch.zeros(4, 1)
    dones[-1] = float(terminates)
    returns, discounts, last = n_step_returns(rewards, dones, discount=0.9, n_step=2)
    assert returns[:, 0].tolist() == pytest.approx([1 + 1.8, 2 + 3.6, 4 + 7.2, 8])
    assert discounts[:, 0].tolist() == pytest.approx(td_discounts)
    assert last.tolist() == [1, 2, 3, 3]


@given(st.integers(1, 12), st.integers(1, 20), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_any_number_of_skills_ahead_equals_a_loop(transitions: int, n_step: int, terminates: bool, seed: int) -> None:
    rewards = torch.randn((transitions, 1), generator=torch.Generator().manual_seed(seed))
    dones = torch.zeros(transitions, 1)
    dones[-1] = float(terminates)
    returns, discounts, last = n_step_returns(rewards, dones, 0.95, n_step)
    for start in range(transitions):
        ahead = range(start, min(start + n_step, transitions))
        expected = sum(0.95 ** (index - start) * float(rewards[index]) for index in ahead)
        assert float(returns[start]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert int(last[start]) == ahead[-1]
        ended = terminates and ahead[-1] == transitions - 1
        assert float(discounts[start]) == pytest.approx(0.0 if ended else 0.95 ** len(ahead), rel=1e-5)


def test_states_of_the_target_are_those_at_its_end() -> None:
    model, episode = standardising_skill_model(LATENT_DIM), make_episode(4, terminates=False)
    fields = transition_fields(STATE_DIM, LATENT_DIM, 2 * LATENT_DIM)
    columns = fields.unpack(StateInputs(model, False).pack(fields, episode, discount=0.9, n_step=3))
    ends = episode.next_states[[2, 3, 3, 3]]
    assert torch.equal(columns["td_states"], ends)
    assert torch.equal(columns["td_prior"], torch.cat(model.skill_prior(ends), dim=1))
    assert torch.equal(columns["next_states"], episode.next_states), "what a context sees stays one skill"
