"""What the benchmarks share: closed-loop stepping, and a process set up as ``bench run`` sets it up."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from algorithms.rollout import EpisodeNoise, LowLevelPolicy, collect_episodes, max_skills_per_episode
from algorithms.skill_model import SkillConfig, SkillModel
from bench.process import restart_with_environment
from bench.timing import time_of
from envs.core import Task, TaskDistribution, World
from envs.trajectories import Trajectories


class ClosedLoop:
    """Episodes of random skills: low-level policy every env_step, skill prior every 10, transitions recorded.

    The networks are untrained, so choose a ``task`` that they cannot solve: episodes then run to the time limit.
    """

    def __init__(
        self, distribution: TaskDistribution, task: Task, lanes: int, threads: int, skills: SkillConfig
    ) -> None:
        self.world: World = distribution.make_world(lanes, threads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # other skills meet other contacts, which may cost 20 % more or less
            self.model = SkillModel(skills, distribution.observation_dim, distribution.action_dim)
        self.model.eval().requires_grad_(False)
        self.low_level_policy = LowLevelPolicy(self.model)
        self.tasks = [task] * lanes
        self.keys: list[tuple[int, str, int]] = [(0, "benchmark", lane) for lane in range(lanes)]
        self.noise = EpisodeNoise(
            self.keys, max_skills_per_episode(distribution.episode_env_steps, skills.skill_length), skills.latent_dim
        )
        self.env_steps = 0
        """Of the last ``collect``, summed over lanes."""

    @torch.inference_mode()
    def collect(self) -> None:
        """One episode in every lane."""
        episodes = collect_episodes(
            self.world,
            self.tasks,
            self.keys,
            lambda states, active, skill: self.model.skill_prior(states).sample(self.noise(active, skill)),
            self.low_level_policy,
        )
        self.env_steps = sum(episode.length for episode in episodes)


def print_stepping(loop: ClosedLoop, threads: int, repetitions: int) -> None:
    timing = time_of(loop.collect, repetitions)
    rate = timing.rate(loop.env_steps, "env_steps")
    print(f"closed loop, {len(loop.tasks)} lanes, {plural(threads, 'thread')}: {rate}", flush=True)


def time_offline_data(distribution: TaskDistribution) -> None:
    """Seconds to build and write the offline data of preset ``paper``, how much that is, and the size of its file."""
    source = distribution.data_source
    assert source is not None
    config = source.config_class(**distribution.data_presets["paper"])

    def work() -> None:
        chunks = [source.build_chunk(config, index, 1) for index in range(source.num_chunks(config))]
        trajectories = Trajectories.concatenate(chunks)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trajectories.hdf5"
            trajectories.save_hdf5(path)
            size = path.stat().st_size / 1e6
        print(
            f"  {len(trajectories.episode_ends):,} trajectories of {trajectories.lengths.mean():.0f} env_steps, "
            f"{len(trajectories.observations):,} transitions, {size:.0f} MB"
        )

    print(f"offline data, paper: {time_of(work, 1).duration()} on one thread")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def run_benchmarks(known: Mapping[str, Callable[[], None]]) -> None:
    """Run those named on the command line, or all, in a process set up as ``bench run`` sets it up."""
    restart_with_environment(2)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name in sys.argv[1:] or known:
        known[name]()
