"""SAC through tianshou: the baseline ``sac`` by an independent implementation, to check ours against.

Haarnoja et al. 2018 (arXiv 1812.05905) as implemented by tianshou 2 (Weng et al. 2022, JMLR 23-267):

    max E [ r(s, a) + alpha H(pi(. given s)) ],   alpha tuned to the target entropy -dim(A)

tianshou's are the networks and how they start, log-probabilities, losses, alpha and its update, target networks, the
replay buffer, n-step returns, optimisers. Ours are the worlds, the roll-outs, the calendar of updates and the seeds.

Stages: adapt. Target tasks are learned one after another.

Differences from ``sac.py``, all of them tianshou's
- Each critic has an optimiser of its own.
- log(1 - tanh(u)^2 + epsilon) instead of a stable form, so a saturated action's log-probability is bounded.
- No ``rewarded_fraction``, ``rewarded_capacity`` and ``clip_targets``, no scaled states and no critics that start at 0:
  ``quick`` lacks these aids here.

Exact resume. tianshou's own checkpoint is not enough for it: the state of ``AutoAlpha`` lacks its optimiser, and the
replay buffer's generator is not part of any. Here alpha's optimiser is saved too, and every update seeds its own draws.

Axes: B batch, T transition, D feature, A action feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from algorithms.adaptation import ADAPTED_FILE
from algorithms.adaptation_config import SacSettings
from algorithms.episode_log import EpisodeLog
from algorithms.files import load_tensors, save_tensors
from algorithms.networks import torch_generator
from algorithms.primitive_presets import SAC_TIANSHOU_PRESETS
from algorithms.ranges import require_between
from algorithms.rollout import EpisodeKey, EpisodeNoise, PrimitiveActions, SkillEpisode, collect_episodes
from algorithms.stage import (
    Algorithm,
    CrossCheck,
    PlayedEpisode,
    PlayRequest,
    Progress,
    Stage,
    StageContext,
    StageReport,
    StageSpec,
    TimedWork,
)
from envs.core import TaskDistribution
from envs.randomness import key_to_integer

COLUMNS = ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next")
"""Of tianshou's replay buffer."""


@dataclass(frozen=True)
class TianshouNetworksConfig:
    """Shape of policy and critics."""

    hidden_dim: int = 256
    """Width (SAC: 256)."""
    hidden_layers: int = 2
    """Hidden layers (SAC: 2)."""

    def validate(self) -> None:
        require_between(self, (1, 10_000), "hidden_dim", "hidden_layers")


@dataclass(frozen=True)
class SacTianshouConfig(SacSettings):
    """Soft actor-critic from scratch on each target task, by tianshou."""

    actor_critic: TianshouNetworksConfig = field(default_factory=TianshouNetworksConfig)
    """The policy and critics."""


# -- what tianshou provides ------------------------------------------------------------------------


def make_policy(config: TianshouNetworksConfig, distribution: TaskDistribution) -> Any:
    """A fresh ``SACPolicy``; weights from torch's global generator."""
    from tianshou.algorithm.modelfree.sac import SACPolicy
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import ContinuousActorProbabilistic

    hidden = [config.hidden_dim] * config.hidden_layers
    trunk = Net(state_shape=(distribution.observation_dim,), hidden_sizes=hidden)
    action_shape = (distribution.action_dim,)
    actor = ContinuousActorProbabilistic(
        preprocess_net=trunk, action_shape=action_shape, unbounded=True, conditioned_sigma=True
    )
    return SACPolicy(actor=actor, action_space=gym.spaces.Box(-1.0, 1.0, action_shape))


def make_learner(config: SacTianshouConfig, distribution: TaskDistribution, device: str) -> Any:
    """A fresh ``SAC`` on ``device``."""
    from tianshou.algorithm.modelfree.sac import SAC, AutoAlpha
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import ContinuousCritic

    shapes = {"state_shape": (distribution.observation_dim,), "action_shape": (distribution.action_dim,)}
    hidden = [config.actor_critic.hidden_dim] * config.actor_critic.hidden_layers
    critics = [
        ContinuousCritic(preprocess_net=Net(**shapes, hidden_sizes=hidden, concat=True)).to(device) for _ in range(2)
    ]
    optimizer = AdamOptimizerFactory(lr=config.learning_rate)
    alpha = AutoAlpha(
        target_entropy=config.target_entropy_per_action_dim * distribution.action_dim,
        log_alpha=math.log(config.initial_coefficient),
        optim=AdamOptimizerFactory(lr=config.coefficient_learning_rate),
    )
    return SAC(
        policy=make_policy(config.actor_critic, distribution).to(device),
        policy_optim=optimizer,
        critic=critics[0],
        critic_optim=optimizer,
        critic2=critics[1],
        tau=config.target_rate,
        gamma=config.discount,
        alpha=alpha.to(device),
        n_step_return_horizon=config.n_step,
    )


def make_replay(capacity: int) -> Any:
    """An empty ``ReplayBuffer``."""
    from tianshou.data import ReplayBuffer

    return ReplayBuffer(capacity)


def add_episode(replay: Any, episode: SkillEpisode) -> None:
    """Append an episode; its last transition is terminated or, where the time limit cut it, truncated."""
    from tianshou.data import Batch

    arrays = [
        part.numpy() for part in (episode.states, episode.skills, episode.rewards, episode.dones, episode.next_states)
    ]
    last = len(arrays[0]) - 1
    for index, (state, action, reward, done, next_state) in enumerate(zip(*arrays, strict=True)):
        terminated = bool(done[0])
        replay.add(
            Batch(
                obs=state, act=action, rew=float(reward[0]), terminated=terminated,
                truncated=index == last and not terminated, obs_next=next_state, info={},
            )
        )  # fmt: skip


def replay_state(replay: Any) -> dict[str, Any]:
    """What is stored, and where the next transition goes. Between episodes, so none is open."""
    size = len(replay)
    columns = {name: torch.from_numpy(np.array(getattr(replay, name)[:size])) for name in COLUMNS if size}
    return {"columns": columns, "insertion_index": int(replay._insertion_idx), "last_index": int(replay.last_index[0])}


def load_replay_state(replay: Any, state: Mapping[str, Any]) -> None:
    """The counterpart of ``replay_state``, on an empty buffer."""
    from tianshou.data import Batch

    if not state["columns"]:
        return
    full = {}
    for name, column in state["columns"].items():
        values = column.numpy()
        full[name] = np.zeros((replay.maxsize, *values.shape[1:]), values.dtype)
        full[name][: len(values)] = values
    replay.set_batch(Batch(**full, info=Batch()))
    replay._size = len(values)
    replay._insertion_idx = replay._ep_start_idx = state["insertion_index"]
    replay.last_index = np.array([state["last_index"]])


def update(learner: Any, replay: Any, batch_size: int, seed: int) -> dict[str, float]:
    """One update, whose draws ``seed`` fixes: positions in the replay, then actions by torch's global generator."""
    from tianshou.utils.torch_utils import policy_within_training_step

    replay._random_state = np.random.RandomState(seed % 2**32)
    torch.manual_seed(seed)
    with policy_within_training_step(learner.policy):
        stats = learner.update(buffer=replay, sample_size=batch_size)
    return {
        "critic_loss": (stats.critic1_loss + stats.critic2_loss) / 2,
        "policy_loss": stats.actor_loss,
        "coefficient": stats.alpha,
    }


class ActingPolicy:
    """The policy's samples, by the noise of each lane's episode."""

    def __init__(self, policy: nn.Module, noise: EpisodeNoise, device: str) -> None:
        self._actor, self._noise, self._device = policy.get_submodule("actor"), noise, device

    @torch.inference_mode()
    def __call__(self, states: Tensor, lanes: NDArray[np.int64], env_step: int) -> Tensor:
        """States (L, D) of the active lanes -> actions (L, A)."""
        (mean, sigma), _ = self._actor(states.to(self._device))
        action: Tensor = torch.tanh(mean + sigma * self._noise(lanes, env_step).to(self._device))
        return action


# -- stage -----------------------------------------------------------------------------------------


class TianshouAdaptation(Stage):
    """Episode rows and a learned policy for each target task."""

    MAX_UPDATES_PER_ADVANCE = 50

    def __init__(self, config: SacTianshouConfig, context: StageContext) -> None:
        self.config, self.context = config, context
        self.distribution = context.task_distribution
        self.log = EpisodeLog(self.distribution.score_range[1])
        self.finished_policies: dict[int, dict[str, Tensor]] = {}
        self._begin_task()

    def _begin_task(self) -> None:
        """A fresh learner for the first task that has none yet."""
        self.owed_updates = self.updates = 0
        if self.finished:
            return
        self.task = self.context.target_tasks[len(self.finished_policies)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator(self.context.seed, "adapt", "init", self.task).initial_seed())
            self.learner = make_learner(self.config, self.distribution, self.context.device)
        self.replay = make_replay(self.config.replay_capacity)

    @property
    def progress(self) -> Progress:
        return Progress(
            done=self.log.total,
            total=self.config.episodes * len(self.context.target_tasks),
            unit="episodes",
            success=self.log.success,
        )

    @property
    def finished(self) -> bool:
        return len(self.finished_policies) == len(self.context.target_tasks)

    def advance(self) -> StageReport:
        rows, metrics = [], {}
        if not self.owed_updates:
            episode = self._act(self.log.count(self.task))
            rows.append(self.log.row("adapt", self.task, episode))
            add_episode(self.replay, episode)
            if len(self.replay) >= self.config.batch_size:
                self.owed_updates = self.config.updates_after(len(episode.states))
        count = min(self.owed_updates, self.MAX_UPDATES_PER_ADVANCE)
        with torch.random.fork_rng(devices=[]):
            for _ in range(count):
                metrics = self._update() | {"updates": float(self.updates)}
        self.owed_updates -= count
        if not self.owed_updates and self.log.episodes[self.task] >= self.config.episodes:
            policy = self.learner.policy.state_dict()
            self.finished_policies[self.task] = {name: value.cpu().clone() for name, value in policy.items()}
            self._begin_task()
        return StageReport(rows, metrics)

    def _act(self, number: int) -> SkillEpisode:
        """Episode ``number`` of the task."""
        key: EpisodeKey = (self.context.seed, "adapt", self.task, number)
        return act(self.distribution, self.context, self.learner.policy, self.task, key)

    def _update(self) -> dict[str, float]:
        seed = key_to_integer(self.context.seed, "adapt", "update", self.task, self.updates) & (2**63 - 1)
        self.updates += 1
        return update(self.learner, self.replay, self.config.batch_size, seed)

    # -- state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "log": self.log.state_dict(),
            "finished_policies": dict(self.finished_policies),
            "owed_updates": self.owed_updates,
            "updates": self.updates,
        }
        if not self.finished:
            state["learner"] = self.learner.state_dict()
            state["alpha_optimizer"] = self.learner.alpha._optim.state_dict()
            state["replay"] = replay_state(self.replay)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.log.load_state_dict(state["log"])
        self.finished_policies = dict(state["finished_policies"])
        self._begin_task()
        self.owed_updates, self.updates = state["owed_updates"], state["updates"]
        if not self.finished:
            self.learner.load_state_dict(dict(state["learner"]))  # which takes its optimisers out of what it is given
            self.learner.alpha._optim.load_state_dict(state["alpha_optimizer"])
            load_replay_state(self.replay, state["replay"])

    def write_artefact(self, folder: Path) -> dict[str, Any]:
        save_tensors(folder / ADAPTED_FILE, {"learners": self.finished_policies})
        return {"tasks": len(self.finished_policies)}

    # -- speed ---------------------------------------------------------------------------------

    def timed_work(self) -> Sequence[TimedWork]:
        """An episode of the first task; an update."""
        generator = torch_generator(self.context.seed, "profile")
        transitions = min(self.config.replay_capacity, 20_000)
        states = torch.rand((transitions + 1, self.distribution.observation_dim), generator=generator)
        column = torch.rand((transitions, 1), generator=generator)
        actions = torch.rand((transitions, self.distribution.action_dim), generator=generator) * 2 - 1
        noise = SkillEpisode(states[:-1], actions, column, torch.zeros_like(column), states[1:], transitions, 0.0)
        add_episode(self.replay, noise)

        def timed_update() -> int:
            self._update()
            return 1

        return (
            TimedWork("roll-out", "env_steps", lambda: self._act(0).length),
            TimedWork("update", "updates", timed_update),
        )


def act(
    distribution: TaskDistribution,
    context: StageContext,
    policy: nn.Module,
    task: int,
    key: EpisodeKey,
    record_path: bool = False,
) -> SkillEpisode:
    """One episode of a target task."""
    noise = EpisodeNoise([key], distribution.episode_env_steps, distribution.action_dim)
    (episode,) = collect_episodes(
        distribution.make_world(1, threads=context.threads),
        [distribution.target_tasks[task]],
        [key],
        ActingPolicy(policy, noise, context.device),
        PrimitiveActions(distribution.action_dim),
        record_paths=record_path,
    )
    return episode


def play_adapted(config: SacTianshouConfig, context: StageContext, request: PlayRequest) -> list[PlayedEpisode]:
    policy = make_policy(config.actor_critic, context.task_distribution).to(context.device)
    policy.load_state_dict(load_tensors(request.artefact / ADAPTED_FILE)["learners"][request.task])
    played = []
    for index in range(request.episodes):
        key: EpisodeKey = (request.seed, "play", request.task, index)
        episode = act(context.task_distribution, context, policy, request.task, key, record_path=True)
        assert episode.path is not None
        played.append(PlayedEpisode(episode.path, episode.episode_return))
    return played


ALGORITHM = Algorithm(
    name="sac-tianshou",
    title="SAC by tianshou (Weng et al. 2022): an independent check of sac",
    stages=(
        StageSpec(
            name="adapt",
            config_class=SacTianshouConfig,
            factory=TianshouAdaptation,
            inputs=(),
            tasks="target",
            implementation="sac_tianshou/2",
            play=play_adapted,
        ),
    ),
    presets=SAC_TIANSHOU_PRESETS,
    cross_check=CrossCheck("sac", "adapt", ({"batch_size": "256"}, {"batch_size": "4096"})),
)
