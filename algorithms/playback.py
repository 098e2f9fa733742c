"""Acting with a learner that ``adapt`` left: what its last policy does on its task, observed at every env_step.

Skills are sampled, as in training. An episode is keyed by (seed, task, episode) and collected alone, so that it is the
same however many others are asked for.
"""

from __future__ import annotations

import torch

from algorithms.adaptation import ADAPTED_FILE
from algorithms.files import load_tensors
from algorithms.networks import torch_generator
from algorithms.regularized_sac import FrozenPolicies, NetworkConfig, SkillActorCritic
from algorithms.rollout import EpisodeKey, EpisodeNoise, collect_episodes
from algorithms.skill_space import SkillSpace
from algorithms.stage import PlayedEpisode, PlayRequest, StageContext
from algorithms.transitions import StateInputs


def play_skill_policy(
    actor_critic: NetworkConfig, space: SkillSpace, context: StageContext, request: PlayRequest
) -> list[PlayedEpisode]:
    """Episodes of the learner of ``request.task`` in an artefact of ``Adaptation``."""
    distribution, device = context.task_distribution, context.device
    latent_dim = space.latent_dim
    learner = load_tensors(request.artefact / ADAPTED_FILE)["learners"][request.task]
    embedding = learner["task_embedding"].to(device)
    generator = torch_generator(request.seed, "play", "init")  # of no effect: every weight that acts is replaced
    state_dim, feature_dim = space.state_dims(distribution)
    networks = SkillActorCritic(actor_critic, state_dim, latent_dim, len(embedding), 1, generator, feature_dim).to(
        device
    )
    for parameter, saved in zip(networks.policy.parameters(), learner["policy"], strict=True):
        parameter.data[0] = saved
    max_skills = space.max_skills(distribution.episode_env_steps)
    played = []
    for index in range(request.episodes):
        key: EpisodeKey = (request.seed, "play", request.task, index)
        noise = EpisodeNoise([key], max_skills, latent_dim)
        inputs = StateInputs(space.prior, actor_critic.standardise_states, device)
        policy = FrozenPolicies(networks, embedding[None], inputs, space.prior, noise)
        world = distribution.make_world(1, threads=context.threads)
        task = distribution.target_tasks[request.task]
        with torch.inference_mode():
            (episode,) = collect_episodes(world, [task], [key], policy, space.low_level_policy, record_paths=True)
        assert episode.path is not None
        played.append(PlayedEpisode(episode.path, episode.episode_return))
    return played
