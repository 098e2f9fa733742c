"""The skill encoder q(z given s, a): SPiRL's recurrent network over the env_steps of a skill.

Pertsch, Lee, Lim 2020 (arXiv 2010.11944), released code, closed loop: at each env_step action and state go through a
linear layer into an LSTM cell; its last output goes through two more linear layers, the first of them narrow on the
maze. Both biases of the forget gates start at 1; everything else starts as torch's layers do.

There is nothing between the first layer and the cell's input weights, so their product is applied instead of one after
the other: the same function, with a quarter less work in an update.

Axes: B batch, K env_steps of a skill, I what is seen of a state and an action, H hidden, Z latent dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SkillEncoder(nn.Module):
    """(B, K, I) -> the posterior's (mean, log sigma) side by side, (B, 2 Z)."""

    def __init__(self, in_dim: int, hidden_dim: int, output_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.input = nn.Linear(in_dim, hidden_dim)
        self.cell = nn.LSTM(hidden_dim, hidden_dim, batch_first=True)
        self.output = nn.Linear(hidden_dim, output_dim)
        self.head = nn.Linear(output_dim, 2 * latent_dim)
        forget = slice(hidden_dim, 2 * hidden_dim)  # torch's order of gates: input, forget, cell, output
        with torch.no_grad():
            for name, parameter in self.cell.named_parameters():
                if name.startswith("bias"):
                    parameter[forget] = 1.0

    def forward(self, steps: Tensor) -> Tensor:
        into_cell, recurrent, bias, recurrent_bias = self.cell.parameters()
        folded = [
            into_cell @ self.input.weight,
            recurrent,
            torch.addmv(bias, into_cell, self.input.bias),
            recurrent_bias,
        ]
        start = steps.new_zeros((1, len(steps), recurrent.shape[1]))
        outputs, _, _ = torch.lstm(steps, (start, start), folded, True, 1, 0.0, self.training, False, True)
        posterior: Tensor = self.head(self.output(outputs[:, -1]))
        return posterior
