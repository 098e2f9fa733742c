"""Best of k: what a policy reaches that knows which skill of the prior leads nearest (``envs.core.Reach``).

In each state k skills are drawn from the skill prior, each is carried out, and the one that ends nearest is kept. With
k = 1 nothing is chosen: the prior wanders. No learning, no reward, no task.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from algorithms.networks import torch_generator
from algorithms.rollout import LowLevelPolicy
from algorithms.skill_model import SkillModel
from envs.core import Reach


@torch.no_grad()
def env_steps_to_goals(model: SkillModel, reach: Reach, seed: int) -> NDArray[np.int64]:
    """After how many env_steps, in whole skills, each place is reached: (T,); -1 where it is not in an episode."""
    generator, low_level = torch_generator(seed, "skill reach"), LowLevelPolicy(model)
    for _ in range(reach.episode_env_steps // model.config.skill_length):
        seen = low_level.see(torch.from_numpy(reach.observations))
        noise = torch.randn((len(seen), model.config.latent_dim), generator=generator)
        low_level.begin(model.skill_prior(seen).sample(noise), seen)
        for env_step in range(model.config.skill_length):
            if env_step > 0:
                seen = low_level.see(torch.from_numpy(reach.observations))
            reach.step(low_level.act(seen).numpy())
        reach.keep_nearest()
        if (reach.env_steps_to_goal >= 0).all():
            break
    return reach.env_steps_to_goal
