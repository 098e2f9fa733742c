"""Acting with what ``adapt`` left: the learner's own weights, observed at every env_step, fixed by the seed alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from algorithms.adaptation import ADAPTED_FILE
from algorithms.files import load_tensors, save_tensors
from algorithms.playback import play_skill_policy
from algorithms.regularized_sac import ActorCriticConfig
from algorithms.rollout import LowLevelPolicy, collect_episodes
from algorithms.skill_space import learned_skills
from algorithms.stage import PlayedEpisode, PlayRequest
from envs.randomness import keyed_rng
from tests.algorithm_helpers import (
    FAR_GOAL,
    NEAR_GOAL,
    START_GOAL,
    short_maze,
    stage_context,
    tiny_skill_model,
    write_skills,
)

MAZE = short_maze(60, [START_GOAL, NEAR_GOAL, FAR_GOAL])
NEVER = 2
"""The goal that is never reached: its episodes take all 60 env_steps."""
NETWORKS = ActorCriticConfig(hidden_dim=8, hidden_layers=1, standardise_states=True, sigma_parametrization="exp")
EMBEDDING_DIM, LATENT_DIM = 2, 3


@pytest.fixture(scope="module")
def skills(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_skills(tmp_path_factory.mktemp("skills"))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact with random learners of all three tasks, whose policies are far from the prior."""
    folder = tmp_path_factory.mktemp("adapted")
    save_tensors(folder / ADAPTED_FILE, {"learners": {task: random_learner(task) for task in range(3)}})
    return folder


def random_learner(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    dims = (4 + EMBEDDING_DIM, 8, 2 * LATENT_DIM)
    shapes = [shape for before, after in pairwise(dims) for shape in ((before, after), (1, after))]
    policy = [0.4 * torch.randn(shape, generator=generator) for shape in shapes]
    return {"policy": policy, "critics": [], "task_embedding": torch.tensor([1.5, -2.0]), "coefficient": 0.1}


def play(skills: Path, adapted: Path, episodes: int, seed: int = 0, task: int = NEVER) -> list[PlayedEpisode]:
    context = stage_context(MAZE, {"skills": skills})
    return play_skill_policy(NETWORKS, learned_skills(context), context, PlayRequest(adapted, task, episodes, seed))


def naive_path(adapted: Path, seed: int, task: int, episode: int) -> NDArray[np.float32]:
    """The same episode with the policy written out: mean + residual, sigma * exp(residual), keyed noise."""
    learner = load_tensors(adapted / ADAPTED_FILE)["learners"][task]
    weight_0, bias_0, weight_1, bias_1 = learner["policy"]
    model = tiny_skill_model()
    key = (seed, "play", task, episode)
    noise = torch.from_numpy(keyed_rng(*key, "skills").standard_normal((6, LATENT_DIM), np.float32))

    def policy(states: Tensor, lanes: NDArray[np.int64], skill_index: int) -> Tensor:
        prior = model.skill_prior(states)
        seen = (states - model.state_mean) / model.state_sigma
        hidden = torch.relu(torch.cat([seen, learner["task_embedding"][None]], 1) @ weight_0 + bias_0)
        mean, sigma = (hidden @ weight_1 + bias_1).chunk(2, 1)
        return prior.mean + mean + prior.sigma * sigma.exp() * noise[skill_index]

    with torch.inference_mode():
        (path,) = collect_episodes(
            MAZE.make_world(1), [MAZE.target_tasks[task]], [key], policy, LowLevelPolicy(model), record_paths=True
        )
    assert path.path is not None
    return path.path


def test_the_learner_acts_as_its_saved_weights_say(skills: Path, adapted: Path) -> None:
    for episode, played in enumerate(play(skills, adapted, 2, seed=5)):
        assert played.observations.shape == (61, 4)
        np.testing.assert_allclose(played.observations, naive_path(adapted, 5, NEVER, episode), atol=1e-3)


def test_an_episode_ends_where_its_task_does(skills: Path, adapted: Path) -> None:
    """The goal at the start is reached by the first env_step."""
    (episode,) = play(skills, adapted, 1, task=0)
    assert (episode.length, episode.episode_return) == (1, 1.0)
    assert len(episode.observations) == 2
