"""The skills stage against the oracle: eight updates in float64, to 1e-10 relative (``oracle/skills.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from algorithms.skill_model import SkillConfig, SkillModel
from algorithms.skills import SkillTraining
from tests.algorithm_helpers import maze_trajectories, short_maze, stage_context, write_trajectories
from tests.oracle import skills as eq

FIXTURE = Path(__file__).parent / "oracle" / "fixtures" / "skill_updates.npz"
CONFIG = SkillConfig(
    skill_length=eq.STEPS, latent_dim=eq.SKILL, hidden_dim=eq.HIDDEN, encoder_output_dim=eq.NARROW,
    decoder_layers=eq.BLOCKS, prior_layers=eq.BLOCKS, kl_weight=eq.KL_WEIGHT, learning_rate=eq.RATE,
    clipped_updates=eq.CLIPPED_UPDATES, initial_gradient_norm=eq.CLIP, passes=eq.UPDATES, batch_size=64,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def load(prefix: str) -> dict[str, Tensor]:
    with np.load(FIXTURE, allow_pickle=False) as file:
        return {n.removeprefix(prefix): torch.from_numpy(file[n]) for n in file.files if n.startswith(prefix)}


def ours(model: SkillModel) -> dict[str, Tensor]:
    """Parameters and running statistics under the transcription's names."""
    encoder = model.encoder
    cell = dict(encoder.cell.named_parameters())
    found = {
        "w.q.x.W": cell["weight_ih_l0"], "w.q.x.b": cell["bias_ih_l0"],
        "w.q.h.W": cell["weight_hh_l0"], "w.q.h.b": cell["bias_hh_l0"],
    }  # fmt: skip
    layers = {"q.in": encoder.input, "q.narrow": encoder.output, "q.out": encoder.head}
    for name, network in (("pi", model.decoder), ("p", model.prior)):
        layers |= {f"{name}.in": network.input, f"{name}.out": network.head}  # type: ignore[dict-item]
        for block, (linear, norm) in enumerate(zip(network.linears, network.norms, strict=True)):  # type: ignore[arg-type]
            at = f"{name}.{block}"
            found |= {f"w.{at}.W": linear.weight, f"w.{at}.g": norm.weight, f"w.{at}.s": norm.bias}
            found |= {f"stat.{at}.mean": norm.running_mean, f"stat.{at}.var": norm.running_var}
    for name, layer in layers.items():
        found |= {f"w.{name}.W": layer.weight, f"w.{name}.b": layer.bias}
    return found


def test_the_fixture_is_what_the_transcription_makes_of_its_inputs() -> None:
    outputs = eq.train(load("in."))
    expected = load("out.")
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value, rtol=1e-11, atol=1e-14)


def test_the_fixture_shows_what_could_be_forgotten() -> None:
    """Gradients that are cut and ones that are not; updates before and after RAdam trusts its second moments."""
    losses = load("out.")["losses"]
    assert losses.shape == (eq.UPDATES, 4)
    torch.testing.assert_close(losses[:, 3], losses[:, 0] + eq.KL_WEIGHT * losses[:, 1] + losses[:, 2])
    before, after = load("in."), load("out.")
    moved = {name: float((after[name] - before[name]).abs().max()) for name in after if name.startswith("w.")}
    assert min(moved.values()) > 1e-4, "every weight learns"
    assert eq.CLIPPED_UPDATES < 6 <= eq.UPDATES, "RAdam rectifies from its sixth update on"


def test_eight_updates_of_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_trajectories(tmp_path, maze_trajectories(24))
    stage = SkillTraining(CONFIG, stage_context(short_maze(), {"data": data}))
    stage.model = SkillModel(CONFIG, eq.STATE, eq.ACTION).train()
    stage.optimizer = torch.optim.RAdam(stage.model.parameters(), lr=eq.RATE, foreach=True)
    inputs, expected = load("in."), load("out.")
    with torch.no_grad():
        for name, parameter in ours(stage.model).items():
            parameter.copy_(inputs[name])
    batches = iter(zip(inputs["states"], inputs["actions"], inputs["noise"], strict=True))
    monkeypatch.setattr(stage, "_batch", lambda: next(batches))
    told = []
    for _ in range(eq.UPDATES):
        losses = stage._update()
        told.append(torch.stack([losses.reconstruction, losses.encoder_kl, losses.prior, losses.total]).detach())  # type: ignore[attr-defined]
    found = {"losses": torch.stack(told)} | ours(stage.model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = float((found[name].detach() - value).abs().max() / value.abs().max())
        assert found[name].dtype == torch.float64
        assert error <= 1e-10, f"{name}: relative error {error:.1e}"
