"""The convolutional encoder of views: what the skill model sees of an image, as 32 numbers.

SPiRL's image encoder (Pertsch et al. 2020, arXiv 2010.11944; released code, image maze): 4x4 convolutions of stride 2,
from 8 channels doubling at each, until 4x4 pixels are left, then one 4x4 convolution to the features; LeakyReLU(0.2),
batch norm but for the first and the last; pixels in [-1, 1]. For 32x32 pixels that is 8, 16 and 32 channels.

Axes: B batch, C channel, H and W pixel, F feature.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VIEW_FEATURES = 32
"""F (SPiRL: 32)."""
FIRST_CHANNELS = 8
"""Channels of the first convolution (SPiRL: 8)."""
KERNEL, STRIDE, PADDING = 4, 2, 1
SMALLEST_SIDE = 4
"""Pixels to a side that the last convolution covers at once."""
NEGATIVE_SLOPE = 0.2


FRAME_CHANNELS = 3
"""Of one frame (RGB); a view stacks frames, newest first."""


def scaled_pixels(views: Tensor, difference_gain: float = 0.0) -> Tensor:
    """uint8 (B, C, H, W) -> float32 in [-1, 1], channels last in memory, where convolutions are fastest.

    With a ``difference_gain`` each older frame is replaced by so many times what the newest has more than it.
    """
    pixels = views.to(torch.float32, memory_format=torch.channels_last).mul_(2 / 255).sub_(1)
    if difference_gain:
        newest, older = pixels[:, :FRAME_CHANNELS], pixels[:, FRAME_CHANNELS:].unflatten(1, (-1, FRAME_CHANNELS))
        pixels[:, FRAME_CHANNELS:] = difference_gain * (newest.unsqueeze(1) - older).flatten(1, 2)
    return pixels


class ConvEncoder(nn.Module):
    """Views (B, C, H, W) uint8 -> features (B, F)."""

    def __init__(self, channels: int, side: int, difference_gain: float = 0.0) -> None:
        """Raises ``ValueError`` for a side that halving does not bring to 4 pixels."""
        super().__init__()
        self.difference_gain = difference_gain
        halvings = (side // SMALLEST_SIDE).bit_length() - 1
        if halvings < 1 or SMALLEST_SIDE << halvings != side:
            raise ValueError(f"views are {side} pixels to a side; valid: 8, 16, 32, 64, ...")
        widths = [channels, *(FIRST_CHANNELS << stage for stage in range(halvings))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, KERNEL, STRIDE, PADDING) for a, b in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[2:])
        self.head = nn.Conv2d(widths[-1], VIEW_FEATURES, SMALLEST_SIDE)

    def forward(self, views: Tensor) -> Tensor:
        hidden = scaled_pixels(views, self.difference_gain)
        for convolution, norm in zip(self.convolutions, (None, *self.norms), strict=True):
            hidden = convolution(hidden)
            hidden = F.leaky_relu(hidden if norm is None else norm(hidden), NEGATIVE_SLOPE)
        features: Tensor = self.head(hidden)
        return features.flatten(1)

    @torch.no_grad()
    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """The network in evaluation mode as [(weight, bias)]: batch norm folded into each convolution."""
        layers = []
        for convolution, norm in zip((*self.convolutions, self.head), (None, *self.norms, None), strict=True):
            assert isinstance(convolution, nn.Conv2d)
            weight, bias = convolution.weight.detach(), convolution.bias
            assert bias is not None
            if norm is not None:
                assert isinstance(norm, nn.BatchNorm2d)
                assert norm.running_var is not None
                assert norm.running_mean is not None
                scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                weight, bias = weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias
            layers.append((weight.contiguous(memory_format=torch.channels_last), bias.detach().clone()))
        return layers


class FoldedConvEncoder:
    """A frozen ``ConvEncoder`` for acting: no gradients, batch norm folded away."""

    def __init__(self, network: ConvEncoder) -> None:
        self._layers, self._difference_gain = network.folded(), network.difference_gain

    @torch.inference_mode()
    def __call__(self, views: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> (B, F)"""
        hidden = scaled_pixels(views, self._difference_gain)
        for weight, bias in self._layers[:-1]:
            hidden = F.leaky_relu_(F.conv2d(hidden, weight, bias, STRIDE, PADDING), NEGATIVE_SLOPE)
        weight, bias = self._layers[-1]
        return hidden.flatten(1) @ weight.flatten(1).t() + bias
