"""Rows of episodes as they come: numbered within their task, env_steps added up, exact after a resume."""

from __future__ import annotations

import torch

from algorithms.episode_log import EpisodeLog
from algorithms.rollout import SkillEpisode
from algorithms.stage import EpisodeRow


def episode(length: int, episode_return: float) -> SkillEpisode:
    empty = torch.zeros(0, 1)
    return SkillEpisode(empty, empty, empty, empty, empty, length, episode_return)


def test_log_counts_episodes_and_env_steps_of_each_task() -> None:
    log = EpisodeLog(1.0)
    log.row("explore", 3, episode(10, 0.0))
    log.row("explore", 5, episode(7, 0.0))
    again = EpisodeLog(1.0)
    again.load_state_dict(log.state_dict())
    for each in (log, again):
        assert each.row("adapt", 3, episode(4, 1.0)) == EpisodeRow("adapt", 3, 1, 14, 1.0, True, 4)
        assert each.row("adapt", 5, episode(1, 0.5)) == EpisodeRow("adapt", 5, 1, 8, 0.5, False, 1)


def test_success_is_the_share_of_tasks_whose_last_episode_was_one() -> None:
    log = EpisodeLog(1.0)
    assert (log.success, log.total, log.count(4)) == (None, 0, 0)
    for task, score in ((4, 1.0), (4, 0.0), (9, 0.0), (9, 1.0), (2, 0.5)):
        log.row("adapt", task, episode(1, score))
    assert (log.success, log.total, log.count(4)) == (1 / 3, 5, 2)


def test_a_state_is_a_copy() -> None:
    log = EpisodeLog(1.0)
    state = log.state_dict()
    log.row("adapt", 0, episode(1, 1.0))
    assert state == {"episodes": {}, "env_steps": {}, "last_success": {}}


def test_lists_of_older_checkpoints_are_read_by_task_and_other_entries_passed_over() -> None:
    log = EpisodeLog(1.0)
    log.load_state_dict({"episodes": [2, 0, 5], "env_steps": [20, 0, 50], "learner": "of no interest"})
    assert log.row("meta_train_prior", 2, episode(7, 0.0)) == EpisodeRow("meta_train_prior", 2, 5, 57, 0.0, False, 7)
    assert (log.count(0), log.count(1)) == (2, 0)
