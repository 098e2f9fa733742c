"""Are a maze's goals within reach of a skill model? What a policy reaches that knows the way.

    python results/studies/skill_reach.py runs/artefacts/skills-<hash> --env image-maze-full --choices 4

In each state ``--choices`` skills are drawn from the skill prior, each is carried out, and the one that ends nearest to
the goal, by the shortest path, is kept. Choosing the best of k differs from the prior by at most ln k - (k - 1) / k
nats (the KL of best-of-k sampling), so a policy this close to the prior does as well. With ``--choices 1`` nothing is
chosen: the prior wanders. No learning, no reward: where this fails, skills are what is missing; where it succeeds and
learning does not, finding the skill is. Takes half a minute. (A skills artefact's own figures, ``reach_best_of_...`` in
its manifest, are of places that no task distribution chose.)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from algorithms.skill_model import load_skill_model
from algorithms.skill_reach import env_steps_to_goals
from envs.registry import task_distribution, task_distribution_names

MAZES = tuple(name for name in task_distribution_names() if "maze" in name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print how often each goal is reached. ``arguments``: the command line's; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("skills", type=Path, help="a skills artefact that was learned for this world")
    parser.add_argument("--env", choices=MAZES, default="image-maze", help="whose goals")
    parser.add_argument("--on", choices=("target", "validation"), default="target", help="which of them")
    parser.add_argument("--choices", type=int, default=4, help="skills drawn in each state, 1 or more (default: 4)")
    parser.add_argument("--tries", type=int, default=5, help="episodes for each goal (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in ("choices", "tries"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; valid: 1 or more")
    distribution = task_distribution(options.env)
    try:
        model = load_skill_model(options.skills, views=distribution.views)
    except (OSError, ValueError) as error:
        parser.error(f"no skills of {options.env} in {options.skills}: {error}")
    torch.set_num_threads(1)
    tasks = distribution.tasks_of(options.on)
    assert distribution.make_reach is not None
    reached = env_steps_to_goals(model, distribution.make_reach(tasks * options.tries, options.choices), options.seed)
    for task, env_steps in zip(tasks, reached.reshape(options.tries, len(tasks)).T, strict=True):
        successes = env_steps[env_steps >= 0]
        after = f", after {np.median(successes):.0f} env_steps (median)" if len(successes) else ""
        print(f"{task.name}: reached in {len(successes)} of {len(env_steps)}{after}")
    print(f"success {(reached >= 0).mean():.2f}, best of {options.choices} by path length")


if __name__ == "__main__":
    main()
