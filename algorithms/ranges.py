"""Checks of configuration values: each names the field, its value and what is valid."""

from __future__ import annotations

from typing import Any

COUNT = (1, 10**7)
"""Sizes and budgets: anything larger is a typing error."""
FRACTION = (0.0, 1.0)
RATE = (1e-12, 1.0)
"""Learning rates, smoothing, discounts: above 0, at most 1."""
WEIGHT = (1e-12, 1e6)
"""Coefficients and scales: above 0."""


def require_between(config: Any, valid: tuple[float, float], *names: str) -> None:
    """Raise ``ValueError`` for the first of these fields that lies outside ``valid`` (both ends included)."""
    low, high = valid
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; valid is {low:,} to {high:,}")
