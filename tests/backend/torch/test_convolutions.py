"""Convolutions of every kind: the clipped sum equals the loop over examples."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as it is called everywhere

from keras_dp import clipping
from keras_dp.backend.torch.clipping import rules

CALLS = (F.conv1d, F.conv2d, F.conv3d)
SETTINGS = list(itertools.product((1, 3), (1, 2), (0, 1), (1, 2), (1, 2, 4), ((4, 8), (24, 16))))
IDS = [
    f"kernel{k}-stride{s}-padding{p}-dilation{d}-groups{g}-channels{c[0]}"
    for k, s, p, d, g, c in SETTINGS
]


def agree(axes, kernel, stride, padding, dilation, groups, channels):
    draw = torch.Generator().manual_seed(0)
    shape = channels[1], channels[0] // groups, *[kernel] * axes
    weights = [0.3 * torch.randn(shape, generator=draw), torch.randn(channels[1], generator=draw)]
    x = torch.randn(3, channels[0], *[7 - axes] * axes, generator=draw)

    def loss(p, one):
        y = CALLS[axes - 1](one[None], p[0], p[1], stride, padding, dilation, groups)
        return torch.tanh(y).square().sum()

    actual, expected = (
        clipping.clipped_sum(loss, clip_norm=1.0, method=method)(
            weights, x, torch.tensor([1.0, 0.0, 1.0])
        )
        for method in ("auto", "vmap")
    )
    np.testing.assert_allclose(actual.norms, expected.norms, rtol=1e-5)
    for a, e in zip(actual.grads, expected.grads, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
@pytest.mark.parametrize("axes", [1, 2])
def test_kernels_gradients_equal_the_loop_over_examples(axes, settings):
    kernel, _, padding, dilation, *_ = settings
    if dilation * (kernel - 1) + 1 > 7 - axes + 2 * padding:
        settings = (kernel, settings[1], dilation, *settings[3:])
    agree(axes, *settings)


@pytest.mark.parametrize("settings", SETTINGS[::5], ids=IDS[::5])
def test_in_three_dimensions_too(settings):
    agree(3, settings[0], settings[1], 2, *settings[3:])


@pytest.mark.parametrize("groups", [1, 4])
def test_gradients_that_are_not_kept_are_summed_once_more(groups, monkeypatch):
    monkeypatch.setattr(rules, "WRITTEN_OUT", 1)
    agree(2, 3, 1, 1, 1, groups, (4, 8))
