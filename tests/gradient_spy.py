"""Which parameters each loss of a stage reaches, seen while the stage does its real updates."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch import Tensor, nn

from algorithms.regularized_sac import DualCoefficients
from algorithms.stage import Stage

PARTS = (
    (r"^meta\.", "meta-trained learner"),
    (r"target_critics\.|critic2?_old\.|_target\.", "target critics"),
    (r"critics\.|critic2?\.", "critics"),
    (r"networks\.policy\.|policy\.actor\.", "policy"),
    (r"encoder_coefficients\.raw", "encoder coefficients"),
    (r"coefficients?\.raw|alpha\.", "alpha"),
    (r"learner\.encoder\.", "task encoder"),
    (r"(model|space\.prior)\.encoder\.", "skill encoder"),
    (r"(model|space\.prior)\.decoder\.", "skill decoder"),
    (r"(model|space\.prior)\.prior\.", "skill prior"),
    (r"(model|space\.prior)\.(layers|log_sigma)", "behaviour policy"),
    (r"^policy\.(layers|log_sigma)", "policy"),
)
"""What a parameter belongs to, by where it stands in its stage: the first that fits."""


def parameters_of(holder: Any, prefix: str = "") -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters that a stage holds, its frozen ones too, with where they stand in it."""
    for name, value in vars(holder).items():
        if isinstance(value, nn.Module):
            yield from value.named_parameters(f"{prefix}{name}")
        elif dataclasses.is_dataclass(value) and not hasattr(value, "validate"):
            yield from parameters_of(value, f"{prefix}{name}.")


def parts_of(stage: Stage) -> dict[str, list[nn.Parameter]]:
    """Parameters by the part that they belong to. One that belongs to none is an error: say in ``PARTS`` what it is."""
    parts: dict[str, list[nn.Parameter]] = {}
    seen: set[int] = set()
    for path, parameter in parameters_of(stage):
        if id(parameter) not in seen and not path.startswith(("inputs.", "context.")):
            seen.add(id(parameter))
            part = next((part for pattern, part in PARTS if re.search(pattern, path)), None)
            assert part is not None, f"{type(stage).__name__}.{path}"
            parts.setdefault(part, []).append(parameter)
    return parts


def reached_by(parts: dict[str, list[nn.Parameter]], backward: Callable[[], Any], also_zero: bool = False) -> set[str]:
    """Parts with a gradient after ``backward``, and none before it; ``also_zero``: a gradient of 0 counts.

    (A coefficient that may only grow has one where its divergence is below the target.)
    """
    for parameters in parts.values():
        for parameter in parameters:
            parameter.grad = None
    backward()
    return {
        part
        for part, parameters in parts.items()
        if any(parameter.grad is not None and (also_zero or bool(parameter.grad.any())) for parameter in parameters)
    }


def spy_on(stage: Stage, monkeypatch: pytest.MonkeyPatch, most_updates: int) -> list[set[str]]:
    """What each backward pass and each dual step of the stage's update reaches, in the order in which they come.

    Everything is opened to gradients, so that only the losses keep them away. A part counts as reached where it is in
    any of the first ``most_updates`` updates: at the very start some gradients are 0.
    """
    parts = parts_of(stage)
    for parameters in parts.values():
        for parameter in parameters:
            parameter.requires_grad_()
    reached: dict[tuple[tuple[str, int], ...], set[str]] = {}
    counts: dict[tuple[tuple[str, int], ...], int] = {}

    def note(call: Callable[[], Any], also_zero: bool = False) -> None:
        site = call_site()
        reached.setdefault(site, set()).update(reached_by(parts, call, also_zero))
        counts[site] = counts.get(site, 0) + 1

    real_backward, real_dual = Tensor.backward, DualCoefficients.update
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "backward", lambda loss, *args, **kw: note(lambda: real_backward(loss, *args, **kw)))
        patch.setattr(DualCoefficients, "update", lambda group, excess: note(lambda: real_dual(group, excess), True))
        while not stage.finished and min(counts.values(), default=0) < most_updates:
            stage.advance()
    return list(reached.values())


def call_site() -> tuple[tuple[str, int], ...]:
    """Lines of the project's own code that led here."""
    lines = []
    frame = sys._getframe(3)
    while frame.f_back is not None and frame.f_code.co_name != "advance":
        lines.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(lines)
