"""Measured speed of the maze: closed-loop stepping, offline data, one paper-sized SiMPL update. Not a test.

    make benchmark          # or: python -m tests.benchmarks.maze [stepping|data|update ...]

Run it on a quiet machine. Timings are wall-clock medians; the first repetition only warms up.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from algorithms.regularized_sac import ActorCriticConfig
from algorithms.rollout import EpisodeNoise, LowLevelPolicy, collect_episodes
from algorithms.simpl import SimplLearner, SimplMetaTrainConfig
from algorithms.skill_model import SkillConfig, SkillModel
from bench.process import restart_with_environment
from envs.core import Task
from envs.registry import task_distribution

LANES = (40, 256)
UNREACHABLE = Task("far", {"goal": [1, 1]})
"""So that episodes run to the time limit: an untrained policy does not get there."""


def seconds_of(work: Callable[[], object], repetitions: int) -> float:
    times = []
    for _ in range(repetitions + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def stepping() -> None:
    """env_steps/s in closed loop: low-level policy every env_step, skill prior every 10, transitions recorded."""
    distribution = task_distribution("maze")
    model = SkillModel(SkillConfig(), 4, 2).eval().requires_grad_(False)
    low_level_policy = LowLevelPolicy(model)
    for lanes in LANES:
        world = distribution.make_world(lanes)
        keys = [(0, "benchmark", lane) for lane in range(lanes)]
        noise = EpisodeNoise(keys, 200, 10)
        counted: list[int] = []

        def work(world=world, keys=keys, noise=noise, counted=counted, lanes=lanes) -> None:  # type: ignore[no-untyped-def]
            with torch.inference_mode():
                episodes = collect_episodes(
                    world,
                    [UNREACHABLE] * lanes,
                    keys,
                    lambda states, active, skill: model.skill_prior(states).sample(noise(active, skill)),
                    low_level_policy,
                )
            counted[:] = [sum(episode.length for episode in episodes)]

        seconds = seconds_of(work, 5)
        print(f"closed loop, {lanes} lanes, 1 thread: {counted[0] / seconds:,.0f} env_steps/s")


def data() -> None:
    """Seconds to build and write the offline data of preset ``paper``."""
    distribution = task_distribution("maze")
    source = distribution.data_source
    assert source is not None
    config = source.config_class(**distribution.data_presets["paper"])
    from envs.trajectories import Trajectories

    def work() -> None:
        chunks = [source.build_chunk(config, index, 1) for index in range(source.num_chunks(config))]
        trajectories = Trajectories.concatenate(chunks)
        with tempfile.TemporaryDirectory() as folder:
            trajectories.save_hdf5(Path(folder) / "trajectories.hdf5")
        print(f"  {len(trajectories.episode_ends):,} trajectories, {len(trajectories.observations):,} transitions")

    print(f"offline data, paper: {seconds_of(work, 1):.1f} s on one thread")


def update() -> None:
    """Seconds of one SiMPL meta-training update at the paper's maze setting (preset ``paper``)."""
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for bf16 in (False, True):
            config = SimplMetaTrainConfig(bf16=bf16, actor_critic=ActorCriticConfig())
            learner = SimplLearner(config, observation_dim=4, latent_dim=10, task_count=40, seed=0)
            learner.make_optimizers()
            sets = config.small_context_tasks + config.large_context_tasks
            rows = torch.rand(sets, config.transitions_per_task, learner.fields.dim) + 0.1
            contexts = (
                torch.randn(config.small_context_tasks, config.small_context, learner.context_dim),
                torch.randn(config.large_context_tasks, config.large_context, learner.context_dim),
            )
            noise_dim = learner.latent_dim + config.task_embedding_dim
            noise = torch.randn(2, sets * config.transitions_per_task, noise_dim)
            tasks = torch.arange(sets)
            seconds = seconds_of(lambda: learner.update(rows, contexts, tasks, noise), 4)  # noqa: B023
            precision = "bf16" if bf16 else "fp32"
            print(f"SiMPL update, paper's maze setting, {precision}, {threads} threads: {seconds:.2f} s")
    torch.set_num_threads(1)


def main() -> None:
    restart_with_environment(2)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    known = {"stepping": stepping, "data": data, "update": update}
    for name in sys.argv[1:] or known:
        known[name]()


if __name__ == "__main__":
    main()
