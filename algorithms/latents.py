"""What a learned latent space looks like, kept for pictures: some of its points, and what each of them stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from algorithms.stage import LATENTS_FILE


def save_latents(folder: Path, latents: Tensor, values: Tensor, what: str, value_name: str) -> None:
    """``LATENTS_FILE``: ``latents`` (K, Z) with a number each, ``values`` (K,), and texts that say what they are."""
    np.savez_compressed(
        folder / LATENTS_FILE,
        latents=latents.detach().cpu().numpy().astype(np.float32),
        value=values.detach().cpu().numpy().astype(np.float32),
        what=np.array(what),
        value_name=np.array(value_name),
    )
