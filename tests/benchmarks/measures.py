"""What the benchmarks share: timing, closed-loop stepping, one paper-sized SiMPL update.

Wall time is what a user waits for; on a machine that does other work too, CPU time is the steadier figure.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from algorithms.rollout import EpisodeNoise, LowLevelPolicy, collect_episodes, max_skills_per_episode
from algorithms.simpl import SimplLearner, SimplMetaTrainConfig
from algorithms.skill_model import SkillConfig, SkillModel
from bench.plan import RunRequest, plan_run
from bench.process import restart_with_environment
from envs.core import Task, TaskDistribution, World
from envs.registry import task_distribution


@dataclass(frozen=True)
class Timing:
    """Over repetitions: medians, and the fastest, which other work on the machine slowed least."""

    wall_seconds: float
    fastest_seconds: float
    """Wall time too."""
    cpu_seconds: float
    """Of this process, all of its threads."""
    load: float
    """Processes that wanted to run, over the last minute, this one included."""

    def rate(self, count: int, unit: str) -> str:
        """``count`` per second, with the CPU time of each."""
        cpu = f"{1e3 * self.cpu_seconds / count:.4g} ms of CPU time each"
        fastest = f"fastest {count / self.fastest_seconds:,.0f}"
        return f"{count / self.wall_seconds:,.0f} {unit}/s ({fastest}; {cpu}; load {self.load:.1f})"

    def duration(self) -> str:
        cpu = f"{self.cpu_seconds:.3g} s of CPU time"
        return f"{self.wall_seconds:.3g} s (fastest {self.fastest_seconds:.3g} s; {cpu}; load {self.load:.1f})"


def time_of(work: Callable[[], object], repetitions: int) -> Timing:
    """Time ``work``, after one run that only warms up."""
    walls, cpus = [], []
    for _ in range(repetitions + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Timing(statistics.median(walls[1:]), min(walls[1:]), statistics.median(cpus[1:]), os.getloadavg()[0])


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


def print_updates(env: str, repetitions: int) -> None:
    """Seconds of one SiMPL meta-training update at the setting of preset ``paper``."""
    distribution = task_distribution(env)
    configs = plan_run(RunRequest("simpl", env, "paper")).configs
    latent_dim = configs["skills"].latent_dim
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for bf16 in (False, True):
            config: SimplMetaTrainConfig = replace(configs["meta_train"], bf16=bf16)
            task_count = len(distribution.train_tasks)
            learner = SimplLearner(config, distribution.observation_dim, latent_dim, task_count, seed=0)
            learner.make_optimizers()
            sets = config.small_context_tasks + config.large_context_tasks
            rows = torch.rand(sets, config.transitions_per_task, learner.fields.dim) + 0.1
            contexts = (
                torch.randn(config.small_context_tasks, config.small_context, learner.context_dim),
                torch.randn(config.large_context_tasks, config.large_context, learner.context_dim),
            )
            noise_dim = learner.latent_dim + config.task_embedding_dim
            noise = torch.randn(2, sets * config.transitions_per_task, noise_dim)
            tasks = torch.arange(sets) % task_count
            timing = time_of(lambda: learner.update(rows, contexts, tasks, noise), repetitions)  # noqa: B023
            setting = f"{env}'s paper setting, {'bf16' if bf16 else 'fp32'}, {plural(threads, 'thread')}"
            print(f"SiMPL update, {setting}: {timing.duration()}", flush=True)
    torch.set_num_threads(1)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def run_benchmarks(known: Mapping[str, Callable[[], None]]) -> None:
    """Run those named on the command line, or all, in a process set up as ``bench run`` sets it up."""
    restart_with_environment(2)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name in sys.argv[1:] or known:
        known[name]()
