"""Keyed randomness."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from envs.randomness import key_to_integer, keyed_rng

KEYS = st.lists(st.integers() | st.text(max_size=5), max_size=3)


@given(seed=st.integers(0, 2**63), key=KEYS)
def test_the_stream_is_philox_with_that_key(seed: int, key: list[int | str]) -> None:
    philox = np.random.Philox(key=key_to_integer(seed, *key, bits=128))
    np.testing.assert_array_equal(keyed_rng(seed, *key).random(3), np.random.Generator(philox).random(3))


def test_keys_of_different_types_and_order_differ() -> None:
    draws = {keyed_rng(*key).random() for key in ((0,), (0, 1), (0, "1"), (1, 0), (0, "a", 1), (0, 1, "a"))}
    assert len(draws) == 6


def test_the_stream_is_pinned() -> None:
    """Shipped results depend on it: a change of this number is a change of every result."""
    assert keyed_rng(0, "pinned").integers(2**32) == 1311118265
