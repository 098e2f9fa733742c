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
from envs.image_maze.tasks import goals_of
from envs.maze.layout import reference_layout
from envs.maze.physics import CELL_CENTRE_OFFSET
from envs.maze.planner import path_length_map
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
    told = skill_reach.distances(np.stack([lengths] * 3), cells + CELL_CENTRE_OFFSET)
    assert told.tolist() == pytest.approx([0.0, 1.0, lengths[10, 24]])
    assert told[2] > 1.5 * np.hypot(8, 9)
    between = skill_reach.distances(lengths[None], np.array([[17.75, 33.0]]) + CELL_CENTRE_OFFSET)
    assert between.tolist() == pytest.approx([0.25])


def test_who_chooses_arrives_and_who_does_not_wanders() -> None:
    model, goals = random_pushes(), [(11, 26), (10, 21)] * 3
    chosen = skill_reach.env_steps_to_goals(model, LAYOUT, goals, 8, seed=0)
    wandering = skill_reach.env_steps_to_goals(model, LAYOUT, goals, 1, seed=0)
    assert (chosen > 0).all() and (chosen % 10 == 0).all()
    assert (wandering < 0).sum() >= len(goals) / 2
    assert np.array_equal(chosen, skill_reach.env_steps_to_goals(model, LAYOUT, goals, 8, seed=0))
    assert not np.array_equal(chosen, skill_reach.env_steps_to_goals(model, LAYOUT, goals, 8, seed=1))


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
    lengths = path_length_map(LAYOUT, skill_reach.START_CELL)
    nearest = min(goals, key=lambda goal: float(lengths[goal]))
    assert len(lines) == len(goals) + 1
    assert lines[0].startswith(f"goal {nearest}, {lengths[nearest]:.1f} cells away: reached in ")
    assert lines[-1].startswith("success 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no skills of the image maze in nowhere"),
        (["nowhere", "--choices", "0"], "--choices is 0; valid: 1 or more"),
        (["nowhere", "--tries", "-1"], "--tries is -1; valid: 1 or more"),
        (["nowhere", "--env", "maze"], "invalid choice: 'maze'"),
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
