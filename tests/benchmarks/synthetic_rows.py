"""Episode rows of a whole study, made up: learning curves with noise between runs, tasks and episodes."""

from __future__ import annotations

import numpy as np
import pandas as pd

SCORE_RANGES = ((0.0, 1.0), (0.0, 4.0))
"""Of the domains in turn: a success and a count of completed subtasks."""


def synthetic_rows(
    algorithms: int = 8, domains: int = 2, tasks: int = 10, seeds: int = 5, episodes: int = 500, seed: int = 0
) -> pd.DataFrame:
    """Rows as ``tests.statistics_helpers.group_episodes`` takes them: by default 400,000.

    Every return is a whole number in the domain's range. Better algorithms (of lower number) learn faster and further.
    """
    rng = np.random.default_rng(seed)
    shape = (domains, algorithms, seeds, tasks, episodes)
    final = np.linspace(0.95, 0.4, algorithms)[None, :, None, None, None]
    speed = np.geomspace(20, 200, algorithms)[None, :, None, None, None]
    luck = 0.05 * rng.standard_normal((domains, algorithms, seeds, 1, 1))
    difficulty = 0.2 * rng.standard_normal((domains, 1, 1, tasks, 1))
    chance = np.clip(final * (1 - np.exp(-np.arange(episodes) / speed)) + luck + difficulty, 0, 1)
    best = np.array([int(SCORE_RANGES[domain % 2][1]) for domain in range(domains)])
    score = rng.binomial(best[:, None, None, None, None], chance).astype(float)
    index = [axis.ravel() for axis in np.indices(shape, sparse=False)]
    domain, algorithm, run, task, episode = index
    names = {
        "env": np.array([f"domain-{number}" for number in range(domains)]),
        "label": np.array([f"algorithm-{number}" for number in range(algorithms)]),
        "task_name": np.array([f"task-{number}" for number in range(tasks)]),
    }
    runs = [f"{label}-{env}-s{s}" for env in names["env"] for label in names["label"] for s in range(seeds)]
    return pd.DataFrame(
        {
            "run": np.array(runs, dtype=object)[(domain * algorithms + algorithm) * seeds + run],
            "env": names["env"].astype(object)[domain],
            "label": names["label"].astype(object)[algorithm],
            "preset": "quick",
            "seed": run,
            "phase": np.where(episode < 20, "explore", "adapt"),
            "task": task,
            "task_name": names["task_name"].astype(object)[task],
            "episode": episode,
            "return": score.ravel(),
            "status": "ok",
        }
    )
