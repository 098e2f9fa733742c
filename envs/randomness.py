"""Keyed randomness: what is drawn depends on a key, never on how many draws came before.

A generator is made from ``(seed, *key)``, for example ``(seed, "adapt", task, episode)``. Two lanes that
hold the same episode draw the same numbers whatever the number of lanes, threads or interruptions.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


def key_to_integer(seed: int, *key: int | str, bits: int = 64) -> int:
    """An integer of ``bits`` bits that is a pure function of ``(seed, *key)`` (BLAKE2b of its text)."""
    text = "/".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=bits // 8).digest(), "little")


class _PhiloxKey(ISeedSequence):
    """Hands Philox its 128-bit key. ``Philox(key=...)`` is the same stream but first asks the system for entropy."""

    def __init__(self, key: int) -> None:
        self._words = np.array([key & (2**64 - 1), key >> 64], dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray[Any, Any]:
        return self._words


def keyed_rng(seed: int, *key: int | str) -> np.random.Generator:
    """A counter-based (Philox) generator for ``(seed, *key)``."""
    philox_key = _PhiloxKey(key_to_integer(seed, *key, bits=128))
    return np.random.Generator(np.random.Philox(philox_key))  # type: ignore[arg-type]  # numpy's stub is too narrow
