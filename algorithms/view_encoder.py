"""The convolutional encoder of views: what the skill model sees of an image, as 32 numbers.

SPiRL's image encoder (Pertsch et al. 2020, arXiv 2010.11944; released code, image maze): 4x4 convolutions of stride 2,
from 8 channels doubling at each, until 4x4 pixels are left, then one 4x4 convolution to the features; LeakyReLU(0.2),
batch norm but for the first and the last; pixels in [-1, 1]. For 32x32 pixels that is 8, 16 and 32 channels. Beyond the
edge of the image lies black here (SPiRL: the middle grey, 0).

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
PIXEL_SCALE = 2 / 255
"""uint8 p becomes p * 2 / 255 - 1, in [-1, 1]."""


def on_pixels(weight: Tensor, bias: Tensor, difference_gain: float) -> tuple[Tensor, Tensor]:
    """The first convolution's weight and bias, (out, C, k, k) and (out,), as they apply to pixels of 0 to 255.

    What they apply to in [-1, 1] is the newest frame and each older one, or, with a ``difference_gain``, so many times
    what the newest has more than the older. That is linear, so it costs nothing to have the weights do it; beyond the
    edge lie pixels of 0.
    """
    newest, older = weight[:, :FRAME_CHANNELS], weight[:, FRAME_CHANNELS:]
    if not difference_gain:
        return PIXEL_SCALE * weight, bias - weight.sum((1, 2, 3))
    differences = difference_gain * older.unflatten(1, (-1, FRAME_CHANNELS))
    whole = torch.cat([newest + differences.sum(1), -differences.flatten(1, 2)], dim=1)
    return PIXEL_SCALE * whole, bias - newest.sum((1, 2, 3))


def as_floats(views: Tensor) -> Tensor:
    """uint8 -> float32, channels last in memory, where convolutions are fastest; done once, it costs nothing again."""
    return views.to(torch.float32, memory_format=torch.channels_last)


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
        hidden = F.leaky_relu_(F.conv2d(as_floats(views), *self._first(), STRIDE, PADDING), NEGATIVE_SLOPE)
        for convolution, norm in zip(self.convolutions[1:], self.norms, strict=True):
            hidden = F.leaky_relu_(norm(convolution(hidden)), NEGATIVE_SLOPE)
        features: Tensor = self.head(hidden)
        return features.flatten(1)

    def _first(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the first convolution on pixels."""
        convolution = self.convolutions[0]
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        return on_pixels(convolution.weight, convolution.bias, self.difference_gain)

    @torch.no_grad()
    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """The network in evaluation mode as [(weight, bias)], on pixels: batch norm folded into each convolution."""
        layers = [self._first()]
        for convolution, norm in zip((*self.convolutions[1:], self.head), (*self.norms, None), strict=True):
            assert isinstance(convolution, nn.Conv2d)
            weight, bias = convolution.weight.detach(), convolution.bias
            assert bias is not None
            if norm is not None:
                assert isinstance(norm, nn.BatchNorm2d)
                assert norm.running_var is not None
                assert norm.running_mean is not None
                scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                weight, bias = weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias
            layers.append((weight, bias))
        return [
            (weight.detach().contiguous(memory_format=torch.channels_last), bias.detach().clone())
            for weight, bias in layers
        ]


class FoldedConvEncoder:
    """A frozen ``ConvEncoder`` for acting: no gradients, batch norm folded away."""

    def __init__(self, network: ConvEncoder) -> None:
        self._layers = network.folded()

    @torch.inference_mode()
    def __call__(self, views: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> (B, F)"""
        hidden = as_floats(views)
        for weight, bias in self._layers[:-1]:
            hidden = F.leaky_relu_(F.conv2d(hidden, weight, bias, STRIDE, PADDING), NEGATIVE_SLOPE)
        weight, bias = self._layers[-1]
        return hidden.flatten(1) @ weight.flatten(1).t() + bias
