"""Replay against the plainest models: dicts, deques and loops."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from algorithms.replay import MultiTaskReplay, PackedFields

FIELDS = PackedFields({"states": 2, "rewards": 1, "serial": 1})
LARGEST_UNIFORM = 1 - 2.0**-24
"""The largest number that ``torch.rand`` returns."""

Additions = list[tuple[int, int]]
TASKS = 3
additions_strategy = st.lists(st.tuples(st.integers(0, TASKS - 1), st.integers(1, 23)), max_size=12)
uniform_strategy = st.one_of(st.just(0.0), st.just(LARGEST_UNIFORM), st.floats(0, LARGEST_UNIFORM, width=32))


def transitions(task: int, first_serial: int, count: int, rewarded: bool = False) -> Tensor:
    """Rows that say which task they belong to and which one they are."""
    serial = torch.arange(first_serial, first_serial + count, dtype=torch.float32)
    reward = torch.full((count,), float(rewarded))
    return FIELDS.pack(
        {
            "states": torch.stack([torch.full((count,), float(task)), serial / 2], dim=1),
            "rewards": reward[:, None],
            "serial": serial[:, None],
        }
    )


def filled_replay(
    additions: Additions, capacity: int, rewarded_every: int = 0
) -> tuple[MultiTaskReplay, list[deque[int]]]:
    """A replay and its model: the serial numbers each task should still hold, oldest first."""
    replay = MultiTaskReplay(TASKS, capacity, FIELDS)
    model: list[deque[int]] = [deque(maxlen=capacity) for _ in range(TASKS)]
    added = [0] * TASKS
    for task, count in additions:
        rows = transitions(task, added[task], count)
        if rewarded_every:
            serial = rows[:, FIELDS.slices["serial"]]
            rows[:, FIELDS.slices["rewards"]] = (serial % rewarded_every == 0).float()
        replay.add(task, rows)
        model[task].extend(range(added[task], added[task] + count))
        added[task] += count
    return replay, model


def serials(rows: Tensor) -> Tensor:
    return rows[..., FIELDS.slices["serial"]].squeeze(-1).long()


# -- packed fields -------------------------------------------------------------------------------


def test_packed_fields_lay_columns_side_by_side_in_their_order() -> None:
    columns = {"rewards": torch.tensor([[3.0]]), "serial": torch.tensor([[4.0]]), "states": torch.tensor([[1.0, 2.0]])}
    row = FIELDS.pack(columns)
    assert FIELDS.dim == 4
    assert row.tolist() == [[1.0, 2.0, 3.0, 4.0]], "the order is that of the fields, not that of the columns"
    assert {name: column.tolist() for name, column in FIELDS.unpack(row).items()} == {
        "states": [[1.0, 2.0]],
        "rewards": [[3.0]],
        "serial": [[4.0]],
    }


def test_unpacked_columns_are_views() -> None:
    rows = torch.zeros(5, 7, FIELDS.dim)
    FIELDS.unpack(rows)["rewards"].fill_(1.0)
    assert rows.sum((0, 1)).tolist() == [0.0, 0.0, 35.0, 0.0]


def test_through_counts_the_leading_columns() -> None:
    assert [FIELDS.through(name) for name in ("states", "rewards", "serial")] == [2, 3, 4]


# -- ring ------------------------------------------------------------------------------------------


@given(additions_strategy, st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_ring_holds_the_last_transitions_as_a_deque_does(additions: Additions, capacity: int) -> None:
    """Also where one addition is larger than the whole ring."""
    replay, model = filled_replay(additions, capacity)
    for task in range(TASKS):
        kept = list(model[task])
        assert int(replay.sizes[task]) == len(kept)
        assert int(replay.added[task]) == sum(count for added_to, count in additions if added_to == task)
        stored = replay.rows[task, : len(kept)]
        assert sorted(serials(stored).tolist()) == kept
        assert stored[:, 0].tolist() == [float(task)] * len(kept)
        for serial in kept:  # a transition's place is its serial number modulo the capacity
            assert int(serials(replay.rows[task, serial % capacity])) == serial


def test_adding_to_one_task_leaves_the_others_alone() -> None:
    replay, _ = filled_replay([(0, 3), (2, 4)], 5)
    before = replay.rows[[0, 2]].clone()
    replay.add(1, transitions(1, 0, 9))
    assert torch.equal(replay.rows[[0, 2]], before)
    assert replay.sizes.tolist() == [3, 5, 4]


# -- drawing ---------------------------------------------------------------------------------------


@given(st.integers(1, 30_000), st.lists(uniform_strategy, min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_draws_never_leave_the_filled_part_however_it_rounds(size: int, uniform: list[float]) -> None:
    """In float32 a product just below ``size`` may round up to it."""
    replay = MultiTaskReplay(1, 40_000, FIELDS)
    replay.sizes[0] = size
    positions = replay.draw_uniform(torch.tensor([0]), torch.tensor([uniform]))
    assert 0 <= int(positions.min()) <= int(positions.max()) < size


def test_draws_are_uniform_over_the_filled_part() -> None:
    """An even grid of numbers hits every transition equally often."""
    replay, _ = filled_replay([(0, 5), (1, 40)], capacity=8)
    uniform = (torch.arange(40)[None].repeat(2, 1) + 0.5) / 40
    positions = replay.draw_uniform(torch.tensor([0, 1]), uniform)
    assert torch.bincount(positions[0]).tolist() == [8] * 5
    assert torch.bincount(positions[1]).tolist() == [5] * 8


def test_drawing_from_an_empty_task_names_it() -> None:
    replay, _ = filled_replay([(0, 5)], capacity=8)
    with pytest.raises(ValueError, match="task 2 has no transitions"):
        replay.draw_uniform(torch.tensor([0, 2]), torch.zeros(2, 3))


@given(additions_strategy, st.integers(1, 20), st.integers(0, 6), st.integers(2, 9), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_stratified_draws_begin_with_rewarded_transitions_where_there_are_any(
    additions: Additions, capacity: int, rewarded: int, rewarded_every: int, seed: int
) -> None:
    replay, model = filled_replay(additions, capacity, rewarded_every)
    tasks = torch.tensor([task for task in range(TASKS) if model[task]] * 2)
    if len(tasks) == 0:
        return
    uniform = torch.rand((len(tasks), 6), generator=torch.Generator().manual_seed(seed))
    uniform[:, 0] = LARGEST_UNIFORM
    positions = replay.draw_stratified(tasks, uniform, rewarded)
    plain = replay.draw_uniform(tasks, uniform)
    assert torch.equal(positions[:, rewarded:], plain[:, rewarded:])
    for row, task in enumerate(tasks.tolist()):
        drawn = serials(replay.gather(tasks[row : row + 1], positions[row : row + 1]))[0].tolist()
        assert set(drawn) <= set(model[task])
        if any(serial % rewarded_every == 0 for serial in model[task]):
            assert all(serial % rewarded_every == 0 for serial in drawn[:rewarded])
        else:
            assert torch.equal(positions[row], plain[row])


def test_stratified_draws_reach_every_rewarded_transition_equally_often() -> None:
    replay, _ = filled_replay([(0, 11), (1, 3)], capacity=20, rewarded_every=3)
    uniform = (torch.arange(24)[None].repeat(2, 1) + 0.5) / 24
    positions = replay.draw_stratified(torch.tensor([0, 1]), uniform, 24)
    drawn = [serials(replay.rows[task, positions[task]]).tolist() for task in (0, 1)]
    assert {serial: drawn[0].count(serial) for serial in set(drawn[0])} == dict.fromkeys((0, 3, 6, 9), 6)
    assert set(drawn[1]) == {0}


def rewarded_places(replay: MultiTaskReplay, task: int) -> list[int]:
    """What an even grid of draws reaches."""
    count = int(replay.rewarded_counts[task])
    grid = (torch.arange(max(1, count))[None] + 0.5) / max(1, count)
    return [place for place in replay.draw_rewarded(torch.tensor([task]), grid)[0].tolist() if place >= 0]


@given(additions_strategy, st.integers(1, 20), st.integers(1, 9), st.integers(0, 5), st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_index_of_rewarded_transitions_is_what_a_search_finds(
    additions: Additions, capacity: int, rewarded_every: int, rewarded_capacity: int, resumed: bool
) -> None:
    """After every addition: those in the ring by place, or, where it has none left, the last ones that it overwrote."""
    replay = MultiTaskReplay(TASKS, capacity, FIELDS, rewarded_capacity=rewarded_capacity)
    added: list[list[int]] = [[] for _ in range(TASKS)]
    for task, count in additions:
        first = len(added[task])
        rows = transitions(task, first, count)
        rows[:, FIELDS.slices["rewards"]] = (rows[:, FIELDS.slices["serial"]] % rewarded_every == 0).float()
        replay.add(task, rows)
        added[task] += range(first, first + count)
        if resumed:
            state = replay.state_dict()
            replay = MultiTaskReplay(TASKS, capacity, FIELDS, rewarded_capacity=rewarded_capacity)
            replay.load_state_dict(state)
        for each in range(TASKS):
            in_ring = [serial for serial in added[each][-capacity:] if serial % rewarded_every == 0]
            gone = [serial for serial in added[each][:-capacity] if serial % rewarded_every == 0]
            outlived = gone[len(gone) - min(len(gone), rewarded_capacity) :]
            places = rewarded_places(replay, each)
            assert len(places) == int(replay.rewarded_counts[each]) == len(in_ring or outlived)
            found = serials(replay.gather(torch.tensor([each]), torch.tensor([places]).long()))[0].tolist()
            assert sorted(found) == (in_ring or outlived)
            if in_ring:
                assert places == sorted(places) == sorted(serial % capacity for serial in in_ring)
            assert bool((replay.rows[each, places, 0] == each).all())


def test_an_addition_looks_at_what_is_new_alone() -> None:
    """Not at the whole column again: rewards that were written behind the replay's back stay unknown to it."""
    replay = MultiTaskReplay(1, 1000, FIELDS)
    replay.add(0, transitions(0, 0, 900))
    replay.rows[0, 5, FIELDS.slices["rewards"]] = 1.0
    replay.add(0, transitions(0, 900, 3, rewarded=True))
    assert rewarded_places(replay, 0) == [900, 901, 902]
    replay.find_rewarded()
    assert rewarded_places(replay, 0) == [5, 900, 901, 902]


def test_a_reward_that_the_ring_forgot_is_still_drawn_for_batches_and_contexts() -> None:
    """Two rewarded transitions among the first, then ten rings full of others, in both tasks; task 1 never had any."""
    forgetful, replay = (MultiTaskReplay(2, 8, FIELDS, rewarded_capacity=kept) for kept in (0, 3))
    for each in (forgetful, replay):
        each.add(0, transitions(0, 0, 2, rewarded=True))
        for task in (0, 1):
            each.add(task, transitions(task, 2, 80))
    tasks, uniform = torch.tensor([0, 1]), torch.tensor([[0.0, 0.7, 0.4], [0.0, 0.7, 0.4]])
    for draw in (replay.draw_stratified(tasks, uniform, 2), replay.draw_rewarded_first(tasks, uniform, 3)):
        rewards = FIELDS.unpack(replay.gather(tasks, draw))["rewards"][..., 0]
        assert rewards[0, 0] == 1.0
        assert not rewards[1].any()
    stratified = serials(replay.gather(tasks, replay.draw_stratified(tasks, uniform, 2)))
    assert stratified[0, :2].tolist() == [0, 1], "one draw below a half, one above"
    for draw in (forgetful.draw_stratified(tasks, uniform, 2), forgetful.draw_rewarded_first(tasks, uniform, 3)):
        assert not FIELDS.unpack(forgetful.gather(tasks, draw))["rewards"].any()
    replay.keep([1, 0])
    assert replay.rewarded_counts.tolist() == [0, 2]
    replay.add(1, transitions(0, 90, 1, rewarded=True))
    assert replay.rewarded_counts.tolist() == [0, 1], "a fresh one in the ring is all that is drawn"


def test_a_context_with_rewards_of_its_own_is_left_as_it_was_drawn() -> None:
    replay = MultiTaskReplay(1, 10, FIELDS, rewarded_capacity=3)
    replay.add(0, transitions(0, 0, 9))
    replay.add(0, transitions(0, 9, 1, rewarded=True))
    drawn = replay.draw_rewarded_first(torch.tensor([0]), torch.tensor([[0.0, 0.3, 0.95, 0.5]]), 3)
    assert drawn.tolist() == [[9, 0, 3]]
    lacking = replay.draw_rewarded_first(torch.tensor([0]), torch.tensor([[0.0, 0.3, 0.5]]), 3)
    assert lacking.tolist() == [[9, 3, 5]]


def test_rewarded_draws_never_leave_their_task_however_they_round() -> None:
    """Tasks with different numbers of them: a draw just below 1 is the last of its own."""
    replay, _ = filled_replay([(0, 9), (1, 3), (2, 20)], capacity=20, rewarded_every=3)
    positions = replay.draw_rewarded(torch.tensor([0, 1, 2]), torch.full((3, 1), LARGEST_UNIFORM))
    assert positions.flatten().tolist() == [6, 0, 18]


def test_another_column_may_say_what_is_rewarded() -> None:
    """TD targets may look several skills ahead: then those that lead to a reward count, too."""
    replay = MultiTaskReplay(1, 10, FIELDS, reward_field="serial")
    replay.add(0, transitions(0, 0, 4))
    assert rewarded_places(replay, 0) == [1, 2, 3], "serial 0 is no reward"
    first = replay.draw_rewarded_first(torch.tensor([0]), torch.tensor([[0.0, 0.3, 0.0, 0.9]]), 3)
    assert first.tolist() == [[1, 3, 0]]


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_rewarded_first_keeps_the_rewarded_of_what_was_drawn(kept: int, rewarded_every: int, seed: int) -> None:
    """It chooses among the drawn: as many rewarded ones as fit, then others, each in the order they were drawn."""
    replay, _ = filled_replay([(0, 9), (1, 14), (2, 1)], capacity=10, rewarded_every=rewarded_every)
    tasks = torch.tensor([0, 1, 2, 1])
    uniform = torch.rand((4, 12), generator=torch.Generator().manual_seed(seed))
    positions = replay.draw_rewarded_first(tasks, uniform, kept)
    drawn = replay.draw_uniform(tasks, uniform)
    assert positions.shape == (4, kept)
    for row, task in enumerate(tasks.tolist()):
        rewards = replay.rows[task, :, FIELDS.slices["rewards"]].squeeze(-1)
        candidates = drawn[row].tolist()
        expected = [p for p in candidates if rewards[p] > 0] + [p for p in candidates if rewards[p] == 0]
        assert positions[row].tolist() == expected[:kept]


def test_gather_equals_a_loop_over_tasks_and_positions() -> None:
    replay, _ = filled_replay([(0, 9), (1, 14), (2, 5)], capacity=10)
    tasks = torch.tensor([2, 0, 0, 1])
    positions = torch.tensor([[0, 4, 4], [8, 0, 1], [2, 2, 2], [9, 9, 0]])
    rows = replay.gather(tasks, positions).numpy()
    expected = np.array(
        [[replay.rows[task, place].tolist() for place in positions[row]] for row, task in enumerate(tasks.tolist())]
    )
    assert np.array_equal(rows, expected.astype(np.float32))


# -- state and keep --------------------------------------------------------------------------------


@given(additions_strategy, additions_strategy, st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_a_replay_goes_on_from_its_state(before: Additions, after: Additions, capacity: int) -> None:
    replay, _ = filled_replay(before, capacity)
    restored = MultiTaskReplay(TASKS, capacity, FIELDS)
    restored.add(1, transitions(1, 50, capacity))  # what it held before has to go
    restored.load_state_dict(replay.state_dict())
    for one in (replay, restored):
        for task, count in after:
            one.add(task, transitions(task, int(one.added[task]), count))
    assert torch.equal(replay.rows, restored.rows)
    assert torch.equal(replay.sizes, restored.sizes)
    assert torch.equal(replay.added, restored.added)


def test_state_is_a_copy_of_the_filled_part_only() -> None:
    """A checkpoint of paper size would otherwise be hundreds of megabytes of zeros."""
    replay, _ = filled_replay([(0, 3), (1, 2)], capacity=1000)
    state = replay.state_dict()
    assert state["rows"].shape == (TASKS, 3, FIELDS.dim)
    assert state["rows"].untyped_storage().nbytes() == TASKS * 3 * FIELDS.dim * 4
    replay.add(0, transitions(0, 90, 1000))
    assert int(serials(state["rows"][0]).max()) == 2
    assert state["sizes"].tolist() == [3, 2, 0]


def test_an_empty_replay_has_a_state() -> None:
    replay = MultiTaskReplay(TASKS, 5, FIELDS)
    restored = MultiTaskReplay(TASKS, 5, FIELDS)
    restored.load_state_dict(replay.state_dict())
    restored.add(2, transitions(2, 0, 7))
    assert restored.sizes.tolist() == [0, 0, 5]


@pytest.mark.parametrize("kept", [[0, 2], [2, 0], [1], [0, 1, 2], []])
def test_keep_drops_all_other_tasks(kept: list[int]) -> None:
    replay, model = filled_replay([(0, 3), (1, 12), (2, 6)], capacity=7)
    replay.keep(kept)
    assert replay.rows.shape == (len(kept), 7, FIELDS.dim)
    for place, task in enumerate(kept):
        size = int(replay.sizes[place])
        assert sorted(serials(replay.rows[place, :size]).tolist()) == list(model[task])
    if kept:  # and goes on where it was
        replay.add(0, transitions(kept[0], 99, 1))
        serial = int(serials(replay.rows[0, (len(model[kept[0]]) if kept[0] != 1 else 12) % 7]))
        assert serial == 99
    assert replay.state_dict()["rows"].shape[0] == len(kept)
