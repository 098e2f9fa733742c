"""Are the image maze's goals within reach of a skill model? What a policy reaches that knows the way.

    python results/studies/skill_reach.py runs/artefacts/skills-<hash> --env image-maze-full --choices 4

In each state ``--choices`` skills are drawn from the skill prior, each is carried out, and the one that ends nearest to
the goal, by the shortest path, is kept. Choosing the best of k differs from the prior by at most ln k - (k - 1) / k
nats (the KL of best-of-k sampling), so a policy this close to the prior does as well. With ``--choices 1`` nothing is
chosen: the prior wanders. No learning, no reward: where this fails, skills are what is missing; where it succeeds and
learning does not, finding the skill is. Takes half a minute.

Axes: T goal (as often as it is tried), C choice, N = T C lane.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from algorithms.networks import torch_generator
from algorithms.rollout import LowLevelPolicy
from algorithms.skill_model import SkillModel, load_skill_model
from envs.image_maze.tasks import PATH_LENGTHS, START_CELL, goals_of
from envs.image_maze.views import HAS_PREVIOUS, OBSERVATION_DIM, PREVIOUS_POSITION
from envs.image_maze.world import START_POSITION
from envs.maze.layout import Layout, reference_layout
from envs.maze.physics import CELL_CENTRE_OFFSET, PointMassBatch
from envs.maze.planner import Cell, path_length_map
from envs.maze.world import EPISODE_ENV_STEPS, SUCCESS_RADIUS
from envs.registry import task_distribution


def distances(lengths: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far (in cells) the goals of ``lengths`` (N, X, Y), path length maps, are from ``positions`` (N, 2): (N,).

    Through the best of the nine cells around the particle, so that moves within a cell count too.
    """
    places = positions - CELL_CENTRE_OFFSET
    nearest = np.floor(places + 0.5).astype(np.int64)
    shortest = np.full(len(places), math.inf)
    for offset in np.ndindex(3, 3):
        cells = np.clip(nearest + np.array(offset) - 1, 0, np.array(lengths.shape[1:]) - 1)
        through = lengths[np.arange(len(places)), cells[:, 0], cells[:, 1]] + np.hypot(*(places - cells).T)
        shortest = np.minimum(shortest, through)
    return shortest


@torch.no_grad()
def env_steps_to_goals(
    model: SkillModel, layout: Layout, goals: list[Cell], choices: int, seed: int
) -> NDArray[np.int64]:
    """After how many env_steps, in whole skills, each goal is reached: (T,); -1 where it is not in an episode."""
    generator, low_level = torch_generator(seed, "skill reach"), LowLevelPolicy(model)
    skill_length = model.config.skill_length
    physics = PointMassBatch(layout, len(goals) * choices)
    lengths_to = {goal: path_length_map(layout, goal) for goal in set(goals)}
    lengths = np.repeat([lengths_to[goal] for goal in goals], choices, axis=0)
    targets = np.repeat(np.array(goals, dtype=np.float64), choices, axis=0)
    rows = np.zeros((len(targets), OBSERVATION_DIM), dtype=np.float32)  # as ImageMazeWorld observes
    rows[:, :2] = START_POSITION
    reached = np.full(len(goals), -1)
    for skill in range(EPISODE_ENV_STEPS // skill_length):
        physics.reset(rows[:, :2].astype(np.float64), rows[:, 2:4].astype(np.float64))
        seen = low_level.see(torch.from_numpy(rows))
        noise = torch.randn((len(rows), model.config.latent_dim), generator=generator)
        low_level.begin(model.skill_prior(seen).sample(noise), seen)
        hit = np.zeros(len(rows), dtype=bool)
        for env_step in range(skill_length):
            physics.controls[:] = low_level.act(seen).numpy().clip(-1.0, 1.0)
            rows[:, PREVIOUS_POSITION], rows[:, HAS_PREVIOUS] = physics.positions, 1.0
            physics.step()
            rows[:, :2], rows[:, 2:4] = physics.positions, physics.velocities
            hit |= np.hypot(*(physics.positions - targets).T) <= SUCCESS_RADIUS
            if env_step + 1 < skill_length:
                seen = low_level.see(torch.from_numpy(rows))
        ends = distances(lengths, physics.positions).reshape(len(goals), choices)
        kept = np.arange(len(goals)) * choices + ends.argmin(axis=1)
        reached[(reached < 0) & hit[kept]] = (skill + 1) * skill_length
        rows = np.repeat(rows[kept], choices, axis=0)
        if (reached >= 0).all():
            break
    return reached


def main(arguments: Sequence[str] | None = None) -> None:
    """Print how often each target goal is reached. ``arguments``: the command line's; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("skills", type=Path, help="a skills artefact that was learned for the image maze")
    parser.add_argument("--env", choices=tuple(PATH_LENGTHS), default="image-maze", help="whose target goals")
    parser.add_argument("--choices", type=int, default=4, help="skills drawn in each state, 1 or more (default: 4)")
    parser.add_argument("--tries", type=int, default=5, help="episodes for each goal (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in ("choices", "tries"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; valid: 1 or more")
    try:
        model = load_skill_model(options.skills, views=task_distribution(options.env).views)
    except (OSError, ValueError) as error:
        parser.error(f"no skills of the image maze in {options.skills}: {error}")
    torch.set_num_threads(1)
    layout, goals = reference_layout(40), list(goals_of(options.env)[1])
    reached = env_steps_to_goals(model, layout, goals * options.tries, options.choices, options.seed)
    tries = reached.reshape(options.tries, len(goals)).T
    from_start = path_length_map(layout, START_CELL)
    for goal, env_steps in sorted(zip(goals, tries, strict=True), key=lambda pair: from_start[pair[0]]):
        successes = env_steps[env_steps >= 0]
        after = f", after {np.median(successes):.0f} env_steps (median)" if len(successes) else ""
        print(f"goal {goal}, {from_start[goal]:.1f} cells away: reached in {len(successes)} of {len(tries[0])}{after}")
    print(f"success {(reached >= 0).mean():.2f}, best of {options.choices} by path length")


if __name__ == "__main__":
    main()
