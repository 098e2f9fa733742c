"""Cross-entropy search around the skill prior: which constant shift of all skills earns most on a target task?

Rubinstein 1999, "The Cross-Entropy Method for Combinatorial and Continuous Optimization", on the frozen skills that
SPiRL and SiMPL stand on; no network is trained. In each generation, for each target task,

    d_i ~ N(mean, deviation^2)           episode i acts with z ~ p(z given s) shifted by d_i, for its whole length
    mean, deviation <- of the elites     the d_i of the episodes with the highest returns

Stages: data -> skills -> adapt. Axes: N target task, E episode of a generation, Z skill.
"""

from dataclasses import dataclass

import torch

from algorithms.episode_log import EpisodeLog
from algorithms.files import load_tensors, save_tensors
from algorithms.networks import torch_generator
from algorithms.presets import SKILL_PRESETS
from algorithms.ranges import COUNT, require_between
from algorithms.rollout import EpisodeNoise, collect_episodes
from algorithms.skill_space import learned_skills
from algorithms.skills import SKILLS_STAGE
from algorithms.stage import Algorithm, PlayedEpisode, Progress, Stage, StageReport, StageSpec

FILE = "shifts.pt"


@dataclass(frozen=True)
class SearchConfig:
    """The search, on each target task by itself."""

    generations: int = 10
    """Generations (ours)."""
    population: int = 20
    """Episodes of each (ours)."""
    elites: int = 5
    """Episodes of each whose shifts are kept (ours)."""
    initial_deviation: float = 1.0
    """Of the shifts at the start, in units of z (ours: that of the prior over z)."""

    def validate(self):
        require_between(self, COUNT, "generations", "population")
        require_between(self, (1, self.population), "elites")
        require_between(self, (1e-6, 100.0), "initial_deviation")


class SkillSearch(Stage):
    """skills -> episode rows, and the best shift of each target task."""

    def __init__(self, config, context):
        self.config, self.context, self.space = config, context, learned_skills(context)
        self.log = EpisodeLog(context.task_distribution.score_range[1])
        self.mean = torch.zeros(len(context.target_tasks), self.space.latent_dim)
        self.deviation = torch.full_like(self.mean, config.initial_deviation)
        self.generations = 0

    @property
    def progress(self):
        return Progress(self.generations, self.config.generations, "generations", self.log.success)

    def advance(self):
        """One generation of all target tasks, side by side."""
        targets, population = self.context.target_tasks, self.config.population
        first = self.generations * population
        keys = [(self.context.seed, "adapt", task, first + i) for task in targets for i in range(population)]
        normal = torch.stack([torch.randn(self.space.latent_dim, generator=torch_generator(*key)) for key in keys])
        spread = normal.view(len(targets), population, -1) * self.deviation[:, None]
        shifts = self.mean[:, None] + spread  # (N, E, Z)
        episodes = act(self.context, self.space, shifts.flatten(0, 1), keys)
        rows = [self.log.row("adapt", key[2], episode) for key, episode in zip(keys, episodes, strict=True)]

        returns = torch.tensor([episode.episode_return for episode in episodes]).view(len(targets), population)
        best = returns.argsort(dim=1, descending=True, stable=True)[:, : self.config.elites, None]
        elites = shifts.gather(1, best.expand(-1, -1, shifts.shape[2]))
        told_apart = (returns.amax(1) > returns.amin(1))[:, None]  # where all earn alike nothing can be learned
        self.mean = torch.where(told_apart, elites.mean(1), self.mean)
        self.deviation = torch.where(told_apart, elites.std(1, correction=0), self.deviation)
        self.generations += 1
        return StageReport(rows, {"deviation": float(self.deviation.mean())})

    def state_dict(self):
        counters = {"generations": self.generations, "log": self.log.state_dict()}
        return counters | {"mean": self.mean.clone(), "deviation": self.deviation.clone()}

    def load_state_dict(self, state):
        self.generations, self.mean, self.deviation = state["generations"], state["mean"], state["deviation"]
        self.log.load_state_dict(state["log"])

    def write_artefact(self, folder):
        shifts = dict(zip(self.context.target_tasks, self.mean, strict=True))
        save_tensors(folder / FILE, {"shifts": {task: shift.clone() for task, shift in shifts.items()}})
        return {"last_success": self.log.success}


def act(context, space, shifts, keys, record_paths=False):
    """One episode per key (seed, what for, target task, number), with skills shifted by ``shifts`` (keys, Z)."""
    distribution = context.task_distribution
    noise = EpisodeNoise(keys, space.max_skills(distribution.episode_env_steps), space.latent_dim)

    @torch.inference_mode()
    def choose_skills(states, lanes, skill_index):
        prior = space.prior.skill_prior(states.to(context.device))
        return prior.sample(noise(lanes, skill_index).to(context.device)).cpu() + shifts[torch.from_numpy(lanes)]

    world = distribution.make_world(len(keys), context.threads)
    tasks = [distribution.target_tasks[key[2]] for key in keys]
    return collect_episodes(world, tasks, keys, choose_skills, space.low_level_policy, record_paths)


def play(config, context, request):
    """Episodes with the shift that was found, for ``bench play``."""
    shift = load_tensors(request.artefact / FILE)["shifts"][request.task]
    keys = [(request.seed, "play", request.task, index) for index in range(request.episodes)]
    played = [act(context, learned_skills(context), shift[None], [key], record_paths=True)[0] for key in keys]
    return [PlayedEpisode(episode.path, episode.episode_return) for episode in played]


SMOKE = {"adapt.generations": 2, "adapt.population": 3, "adapt.elites": 1}
ALGORITHM = Algorithm(
    name="skill-search",
    title="Cross-entropy search around the skill prior",
    stages=(
        SKILLS_STAGE,
        StageSpec("adapt", SearchConfig, SkillSearch, ("skills",), "target", "skill_search/1", play),
    ),
    presets={pair: {**skills, **(SMOKE if pair[1] == "smoke" else {})} for pair, skills in SKILL_PRESETS.items()},
)
