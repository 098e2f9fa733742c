"""The convolutional encoder of views against convolutions written out in numpy, and its folded form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from algorithms.view_encoder import VIEW_FEATURES, ConvEncoder, FoldedConvEncoder, on_pixels
from tests.algorithm_helpers import randomise_batch_norms

Array = NDArray[np.float64]


def make_encoder(channels: int = 6, side: int = 32) -> ConvEncoder:
    torch.manual_seed(0)
    encoder = ConvEncoder(channels, side)
    randomise_batch_norms(encoder)
    return encoder.eval()


def random_views(count: int, channels: int = 6, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def array(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy()


def convolve(inputs: Array, convolution: nn.Module, stride: int, padding: int) -> Array:
    """(B, C, H, W) by one output pixel at a time."""
    weight, bias = array(convolution.weight), array(convolution.bias)  # type: ignore[arg-type]
    padded = np.pad(inputs, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    side = (padded.shape[2] - weight.shape[2]) // stride + 1
    output = np.zeros((len(inputs), len(weight), side, side))
    for row in range(side):
        for column in range(side):
            patch = padded[:, :, row * stride :, column * stride :][:, :, : weight.shape[2], : weight.shape[3]]
            output[:, :, row, column] = np.einsum("bchw,ochw->bo", patch, weight) + bias
    return output


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.2 * x)


def normalise(x: Array, norm: nn.Module) -> Array:
    mean, variance, weight, bias = (
        array(part)[:, None, None]
        for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias)  # type: ignore[arg-type]
    )
    return np.asarray((x - mean) / np.sqrt(variance + 1e-5) * weight + bias)


def test_features_equal_convolutions_in_numpy() -> None:
    """8, 16 and 32 channels of 4x4 kernels at stride 2; batch norm on the inner two; pixels from -1 to 1."""
    encoder, views = make_encoder(), random_views(3)
    assert [tuple(c.weight.shape) for c in encoder.convolutions] == [(8, 6, 4, 4), (16, 8, 4, 4), (32, 16, 4, 4)]  # type: ignore[union-attr, operator, arg-type]
    pixels = np.pad(array(views), ((0, 0), (0, 0), (1, 1), (1, 1))) / 127.5 - 1  # black beyond the edge
    hidden = leaky(convolve(pixels, encoder.convolutions[0], 2, 0))
    for convolution, norm in zip(list(encoder.convolutions)[1:], encoder.norms, strict=True):
        hidden = leaky(normalise(convolve(hidden, convolution, 2, 1), norm))
    expected = convolve(hidden, encoder.head, 1, 0)[:, :, 0, 0]
    features = encoder(views)
    assert features.shape == (3, VIEW_FEATURES)
    np.testing.assert_allclose(array(features), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_an_older_frame_may_be_given_as_its_difference_from_the_newest(frames: int) -> None:
    encoder, views = make_encoder(3 * frames), random_views(4, 3 * frames)
    pixels = np.pad(array(views), ((0, 0), (0, 0), (1, 1), (1, 1))) / 127.5 - 1
    given = [pixels[:, :3], *(5 * (pixels[:, :3] - pixels[:, 3 * k : 3 * k + 3]) for k in range(1, frames))]
    expected = convolve(np.concatenate(given, axis=1), encoder.convolutions[0], 2, 0)
    first = encoder.convolutions[0]
    weight, bias = on_pixels(first.weight, first.bias, 5.0)  # type: ignore[arg-type]
    shown = nn.functional.conv2d(views.float(), weight, bias, 2, 1)
    np.testing.assert_allclose(array(shown), expected, rtol=1e-4, atol=1e-4)


def test_the_gain_of_differences_acts_in_both_forms() -> None:
    encoder, views = make_encoder(), random_views(4)
    without = encoder(views)
    encoder.difference_gain = 3.0
    assert not torch.allclose(encoder(views), without)
    torch.testing.assert_close(FoldedConvEncoder(encoder)(views).clone(), encoder(views).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 7])
def test_folded_it_is_the_same_without_gradient(batch: int) -> None:
    encoder, views = make_encoder(), random_views(batch)
    folded = FoldedConvEncoder(encoder)(views)
    assert not folded.requires_grad
    torch.testing.assert_close(folded.clone(), encoder(views).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "channels"), [(8, [8]), (16, [8, 16]), (64, [8, 16, 32, 64])])
def test_channels_double_at_each_halving(side: int, channels: list[int]) -> None:
    encoder = make_encoder(3, side)
    assert [len(convolution.weight) for convolution in encoder.convolutions] == channels  # type: ignore[arg-type]
    assert encoder(random_views(2, 3, side)).shape == (2, VIEW_FEATURES)


@pytest.mark.parametrize("side", [0, 4, 12, 33])
def test_other_sizes_are_refused(side: int) -> None:
    with pytest.raises(ValueError, match=f"views are {side} pixels to a side; valid: 8, 16, 32"):
        ConvEncoder(6, side)
