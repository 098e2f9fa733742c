"""Studies that ship beside the results: what they measure is known on small cases."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from algorithms.files import save_tensors
from algorithms.skill_model import SKILL_MODEL_FILE, SkillConfig, SkillModel
from algorithms.skill_reach import env_steps_to_goals
from envs.image_maze.tasks import goals_of, make_reach
from envs.maze.layout import reference_layout
from envs.maze.physics import CELL_CENTRE_OFFSET
from envs.maze.planner import path_length_map
from envs.maze.reach import LANDMARKS, distances, landmarks
from envs.maze.tasks import goal_task
from envs.registry import task_distribution
from results.studies import skill_reach
from tests.conftest import ROOT

PAGE = ROOT / "envs" / "image_maze" / "README.md"
LAYOUT = reference_layout(40)
CONFIG = SkillConfig(skill_length=10, latent_dim=3, hidden_dim=8, decoder_layers=2, prior_layers=2)


def random_pushes() -> SkillModel:
    """Nothing was learned: whatever is seen, a skill pushes in some direction that depends on z alone."""
    torch.manual_seed(0)
    model = SkillModel(CONFIG, 7, 2, task_distribution("image-maze").views)
    first, *_, last = [module for module in model.decoder.modules() if isinstance(module, torch.nn.Linear)]
    first.weight.data[:, : model.seen_dim] = 0.0
    first.weight.data *= 5.0
    last.weight.data *= 5.0
    last.bias.data.zero_()
    return model.eval().requires_grad_(False)


def test_distances_are_those_of_the_way_and_not_of_the_straight_line() -> None:
    goal = (18, 33)
    lengths = path_length_map(LAYOUT, goal)
    cells = np.array([(18, 33), (17, 33), (10, 24)])
    told = distances(np.stack([lengths] * 3), cells + CELL_CENTRE_OFFSET)
    assert told.tolist() == pytest.approx([0.0, 1.0, lengths[10, 24]])
    assert told[2] > 1.5 * np.hypot(8, 9)
    between = distances(lengths[None], np.array([[17.75, 33.0]]) + CELL_CENTRE_OFFSET)
    assert between.tolist() == pytest.approx([0.25])


def test_who_chooses_arrives_and_who_does_not_wanders() -> None:
    model, tasks = random_pushes(), [goal_task(goal) for goal in [(11, 26), (10, 21)] * 3]

    def reached(choices: int, seed: int) -> list[int]:
        return env_steps_to_goals(model, make_reach(LAYOUT, tasks, choices), seed).tolist()

    chosen, wandering = reached(8, seed=0), reached(1, seed=0)
    assert all(env_steps > 0 and env_steps % 10 == 0 for env_steps in chosen)
    assert sum(env_steps < 0 for env_steps in wandering) >= len(tasks) / 2
    assert chosen == reached(8, seed=0)
    assert chosen != reached(8, seed=1)


@pytest.mark.parametrize("env", ["maze", "maze-10", "image-maze", "image-maze-full"])
def test_landmarks_are_places_of_the_maze_that_no_task_chose(env: str) -> None:
    distribution = task_distribution(env)
    assert distribution.make_reach is not None
    reach = distribution.make_reach(None, 3)
    assert len(reach.env_steps_to_goal) == LANDMARKS
    assert reach.observations.shape == (3 * LANDMARKS, distribution.observation_dim)
    twenty, forty = (landmarks(reference_layout(size), (10.0, 10.0)) for size in (20, 40))
    assert len({*twenty}) == len({*forty}) == LANDMARKS
    assert all(reference_layout(20).is_free(x, y) and np.hypot(x - 10, y - 10) > 2 for x, y in twenty)


def test_lanes_go_on_from_the_nearest_of_them() -> None:
    """Three lanes pushed apart, the goal to the north: all three then stand where the one that went north did."""
    reach = make_reach(LAYOUT, [goal_task((10, 26))], 3)
    pushes = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=np.float32)
    for _ in range(10):
        reach.step(pushes)
    north = reach.observations[1].copy()
    assert north[1] > reach.observations[2, 1] + 0.1
    reach.keep_nearest()
    assert np.array_equal(reach.observations, np.repeat(north[None], 3, axis=0))
    first = reach.step(np.zeros((3, 2), dtype=np.float32)).copy()
    assert np.array_equal(first[0], first[2]), "the simulation is there, too"
    assert first[0, 4:6].tolist() == north[:2].tolist(), "and says where it was"


def test_the_image_mazes_page_measures_a_skills_artefact_goal_by_goal(tmp_path: Path) -> None:
    state = {"config": asdict(CONFIG), "observation_dim": 7, "action_dim": 2, "model": random_pushes().state_dict()}
    save_tensors(tmp_path / SKILL_MODEL_FILE, state)
    (command,) = re.findall(r"^python (results/studies/.*)$", PAGE.read_text(), flags=re.MULTILINE)
    words = [str(tmp_path) if word.endswith("skills-HASH") else word for word in shlex.split(command)]
    assert str(tmp_path) in words and words[words.index("--env") + 1] == "image-maze-full"
    quickly = ["--choices", "1", "--tries", "1"]
    made = subprocess.run([sys.executable, *words, *quickly], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = made.stdout.splitlines()
    goals = goals_of("image-maze-full")[1]
    assert [line.split(":")[0] for line in lines[:-1]] == [f"goal-{x}-{y}" for x, y in goals]
    assert all(": reached in 0 of 1" in line or ": reached in 1 of 1, after " in line for line in lines[:-1])
    assert lines[-1].startswith("success 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no skills of image-maze in nowhere"),
        (["nowhere", "--choices", "0"], "--choices is 0; valid: 1 or more"),
        (["nowhere", "--tries", "-1"], "--tries is -1; valid: 1 or more"),
        (["nowhere", "--env", "kitchen"], "invalid choice: 'kitchen'"),
    ],
)
def test_bad_input_is_refused_by_name(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as caught:
        skill_reach.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
