"""Tensors on disk: written to a temporary name, synced and renamed; read without running code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class DamagedFileError(ValueError):
    """A file of tensors is missing, truncated or not ours."""


def save_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """Write a mapping of tensors, numbers, strings and containers of these, atomically."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what ``save_tensors`` wrote, to the CPU; a damaged or foreign file raises ``DamagedFileError``."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise nearly anything; all of it means one thing here
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise DamagedFileError(f"{path} cannot be read ({type(error).__name__}: {reason})") from error
    if not isinstance(state, dict):
        raise DamagedFileError(f"{path} holds a {type(state).__name__}, not a mapping of tensors")
    return state
