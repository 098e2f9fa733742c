"""Scores of different task distributions on one scale: 0 for the skill prior alone, 1 for the highest possible.

What the prior alone earns was measured when its skills were learned, and stands in the manifest of that stage
(``prior_rollout_mean_return``). Where no run has it, 0 is the lowest possible score, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.statistics.intervals import Estimate

PRIOR_RETURN = "prior_rollout_mean_return"


@dataclass(frozen=True)
class Scale:
    """Of one task distribution at one preset."""

    zero: float
    one: float
    """The highest possible return."""
    artefacts: int
    """As many skill models ``zero`` is the mean of; 0: it is the lowest possible return."""

    def of(self, score: float) -> float:
        """A score on the scale; below 0 where the prior alone does better."""
        return (score - self.zero) / (self.one - self.zero)

    def of_estimate(self, estimate: Estimate) -> Estimate:
        """The same with its interval."""
        low, high = (None if end is None else self.of(end) for end in (estimate.low, estimate.high))
        return Estimate(self.of(estimate.point), low, high, estimate.note)


def scale_of(records: Iterable[Mapping[str, Any]], score_range: tuple[float, float] | None) -> Scale | None:
    """The scale of runs (their ``run.json``) on one task distribution; None where its score range is not known."""
    if score_range is None:
        return None
    found: dict[str, float] = {}
    for record in records:
        for stage in record.get("stages", ()):
            metrics = (stage.get("manifest") or {}).get("metrics") or {}
            if isinstance(metrics.get(PRIOR_RETURN), int | float):
                found[str(stage.get("artefact"))] = float(metrics[PRIOR_RETURN])
    low, high = score_range
    zero = sum(found.values()) / len(found) if found else low
    return Scale(zero, high, len(found)) if zero < high else Scale(low, high, 0)
