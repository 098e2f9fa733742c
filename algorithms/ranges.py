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
LOG_SIGMA = (-20.0, 10.0)
"""Logarithm of a Gaussian's deviation: beyond it float32 has no use for the density."""


def require_between(config: Any, valid: tuple[float, float], *names: str) -> None:
    """Raise ``ValueError`` for the first of these fields that lies outside ``valid`` (both ends included)."""
    low, high = valid
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; valid is {low:,} to {high:,}")


def require_log_sigma_clamp(config: Any) -> None:
    """Raise ``ValueError`` unless ``min_log_sigma`` is below ``max_log_sigma`` and both are sensible."""
    require_between(config, LOG_SIGMA, "min_log_sigma", "max_log_sigma")
    if config.min_log_sigma >= config.max_log_sigma:
        raise ValueError(
            f"min_log_sigma is {config.min_log_sigma}; valid is below max_log_sigma {config.max_log_sigma}"
        )
