"""Paths of chosen episodes and points of latent spaces, as stages keep them for pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from algorithms.episode_paths import LONGEST_PATH, EpisodePaths
from algorithms.latents import save_latents
from algorithms.rollout import SkillEpisode


def episode(states: torch.Tensor) -> SkillEpisode:
    """An episode of T' = len(states) - 1 choices."""
    column = torch.zeros(len(states) - 1, 1)
    return SkillEpisode(states[:-1], column, column, column, states[1:], len(states) - 1, 0.0)


def test_a_path_is_every_state_at_which_something_was_chosen_and_the_last(tmp_path: Path) -> None:
    paths = EpisodePaths()
    first, second = torch.rand(4, 3), torch.rand(2, 3)
    paths.keep(7, 20, episode(second))
    paths.keep(7, 0, episode(first))
    paths.write(tmp_path)
    with np.load(tmp_path / "paths.npz") as content:
        assert content["task"].tolist() == [7, 7]
        assert content["episode"].tolist() == [0, 20]
        assert content["ends"].tolist() == [4, 6]
        np.testing.assert_array_equal(content["states"], torch.cat([first, second]).numpy())


def test_a_long_path_is_thinned_evenly_and_keeps_its_ends(tmp_path: Path) -> None:
    paths = EpisodePaths()
    paths.keep(0, 0, episode(torch.arange(2001.0)[:, None]))
    paths.write(tmp_path)
    with np.load(tmp_path / "paths.npz") as content:
        states = content["states"][:, 0]
    assert len(states) == LONGEST_PATH and (states[0], states[-1]) == (0, 2000)
    assert set(np.diff(states)) <= {10.0, 11.0}


def test_a_resumed_log_writes_the_same_file(tmp_path: Path) -> None:
    one, two = EpisodePaths(), EpisodePaths()
    states = torch.rand(5, 2)
    one.keep(3, 100, episode(states))
    states.zero_()  # what is kept must not be a view of a buffer
    two.load_state_dict(one.state_dict())
    for name, paths in (("one", one), ("two", two)):
        (tmp_path / name).mkdir()
        paths.write(tmp_path / name)
    assert (tmp_path / "one" / "paths.npz").read_bytes() == (tmp_path / "two" / "paths.npz").read_bytes()
    with np.load(tmp_path / "one" / "paths.npz") as content:
        assert content["states"].any()


def test_a_stage_that_kept_nothing_writes_nothing(tmp_path: Path) -> None:
    EpisodePaths().write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_latents_are_kept_with_what_they_stand_for(tmp_path: Path) -> None:
    save_latents(tmp_path, torch.eye(3), torch.arange(3), "three points", "index")
    with np.load(tmp_path / "latents.npz", allow_pickle=False) as content:
        np.testing.assert_array_equal(content["latents"], np.eye(3, dtype=np.float32))
        assert content["value"].tolist() == [0, 1, 2]
        assert (str(content["what"]), str(content["value_name"])) == ("three points", "index")
    with pytest.raises(FileNotFoundError):
        save_latents(tmp_path / "absent", torch.eye(2), torch.arange(2), "", "")
