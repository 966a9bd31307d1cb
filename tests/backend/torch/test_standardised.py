"""Standardised kernels: the closed form equals gradients that are taken back one by one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as it is called everywhere

from keras_dp import clipping
from keras_dp.backend.torch.clipping import assemble, standardised
from keras_dp.backend.torch.clipping.standardised import Standardised
from keras_dp.clip_rules import Clip, Flat

OTHERS = (0, 1, 2)


def weight_standardised(kernel, gain):
    """The weight standardisation of De et al. 2022, with a gain for each output channel."""
    centred = kernel - kernel.mean(OTHERS, keepdim=True)
    variance = kernel.var(OTHERS, keepdim=True, correction=0)
    return centred * torch.rsqrt(variance * kernel[..., 0].numel() + 1e-4) * gain


def by_standard_deviation(kernel, gain):
    centred = kernel - kernel.mean(OTHERS)
    return centred / (1e-3 + kernel.std(OTHERS)) * torch.exp(gain) + 0.3 * gain


def by_norm(kernel, gain):
    """Weight normalisation."""
    return kernel * (gain / torch.sqrt((kernel**2).sum(OTHERS) + 1e-6))


def centred(kernel, gain):
    return kernel - kernel.mean(OTHERS) + 0.0 * gain


def by_largest(kernel, gain):
    """Scaled by the largest entry: its derivative has a part at that entry."""
    return kernel / kernel.abs().amax(OTHERS) * gain


def by_input_channel(kernel, gain):
    """Scaled along the wrong axis."""
    return kernel / (kernel**2).sum((0, 1, 3), keepdim=True).sqrt() * gain


def by_cubes(kernel, gain):
    return kernel / (1.0 + (kernel.abs() ** 3).sum(OTHERS)) * gain


def over_all_channels(kernel, gain):
    """Channels that share their mean and variance."""
    return (kernel - kernel.mean()) / kernel.std() * gain


def across_channels(kernel, gain):
    """A channel's scale is made of the next channel's gain and norm."""
    return kernel * torch.roll(gain / (kernel**2).sum(OTHERS).sqrt(), 1)


def slightly_bent(kernel, gain):
    return weight_standardised(kernel + 1e-3 * kernel**3, gain)


CLOSED = (weight_standardised, by_standard_deviation, by_norm, centred)
OPEN = (by_largest, by_input_channel, by_cubes, over_all_channels, across_channels, slightly_bent)


def problem(transform, channels=(8, 12), size=6, stride=1, groups=1):
    """A loss with a convolution whose kernel is transformed, its weights, and five examples."""
    draw = torch.Generator().manual_seed(3)
    shape = (3, 3, channels[0] // groups, channels[1])
    kernel = 0.1 + torch.randn(shape, generator=draw)
    weights = [kernel, *(torch.randn(channels[1], generator=draw) for _ in range(2))]
    images = torch.randn(5, channels[0], size, size, generator=draw)

    def loss(p, image):
        kernel = transform(p[0], p[1]).permute(3, 2, 0, 1)
        y = F.conv2d(image[None], kernel, stride=stride, padding=1, groups=groups)
        return (0.1 * (y + p[2][:, None, None])).tanh().square().sum()

    return loss, weights, images


def used(loss, weights, images):
    """Where the weights are used, with the form that is taken."""
    leaves = [w.clone().requires_grad_() for w in weights]
    record = assemble.Record(leaves)
    losses, _ = assemble.run(record, lambda p, x: (loss(p, x), None), leaves, images)
    return [use for piece in assemble.take_apart(record, losses, leaves) for use in piece.uses]


def agree(loss, weights, images, rule="flat", layers=None):
    mask = torch.tensor([1.0, 1, 0, 1, 1])
    actual, expected = (
        clipping.clipped_sum(loss, clip_norm=0.5, clipping=rule, layers=layers, method=method)(
            weights, images, mask
        )
        for method in ("auto", "vmap")
    )
    np.testing.assert_allclose(actual.norms, expected.norms, rtol=1e-5)
    for a, e in zip(actual.grads, expected.grads, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-6)


SHAPES = {
    "written out": {},
    "Gram matrices": {"channels": (48, 40), "size": 3},
    "groups": {"groups": 4},
    "strides": {"stride": 2},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("transform", CLOSED, ids=lambda t: t.__name__)
def test_the_closed_form_equals_the_loop_over_examples(transform, shape):
    case = problem(transform, **shape)
    assert any(isinstance(use, Standardised) for use in used(*case))
    agree(*case)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("transform", OPEN, ids=lambda t: t.__name__)
def test_kernels_of_another_form_are_taken_back_one_by_one(transform, shape):
    case = problem(transform, **shape)
    assert not any(isinstance(use, Standardised) for use in used(*case))
    agree(*case)


def test_kernel_and_gain_may_be_clipped_by_themselves():
    agree(*problem(weight_standardised), rule="per_layer", layers=["a", "b", "c"])


def test_a_kernel_of_equal_entries_has_norms_too():
    loss, weights, images = problem(centred)
    agree(loss, [torch.full_like(weights[0], 0.5), *weights[1:]], images)


def test_a_kernel_that_is_used_twice_is_taken_back_from_both():
    once, weights, images = problem(weight_standardised, channels=(8, 8))

    def loss(p, image):
        return once(p, image) + once(p, image.flip(1)) + (p[0] * image.mean()).square().sum()

    agree(loss, weights, images)


def test_a_gradient_that_standardisation_takes_away_is_not_lost_to_rounding():
    def loss(p, image):
        kernel = weight_standardised(p[0], p[1]).permute(3, 2, 0, 1)
        return (F.conv2d(torch.ones_like(image)[None], kernel) * image.sum()).sum() + p[2].sum()

    _, weights, images = problem(weight_standardised)
    clip = Clip(Flat(), 1.0, (0, 1, 2))
    sums = assemble.clipped_sum(
        lambda p, x: (loss(p, x), None), weights, images, torch.ones(5), clip
    )
    assert all(torch.isfinite(g).all() for g in sums.grads)
    whole = torch.sqrt(sum(g.square().sum() for g in sums.grads))
    assert whole <= 5 * (1 + 1e-4)


def test_looking_at_a_form_leaves_the_random_numbers_of_the_user_alone():
    before = torch.random.get_rng_state()
    agree(*problem(weight_standardised))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_form_that_is_believed_unseen_is_noticed(monkeypatch):
    monkeypatch.setattr(standardised, "TOLERANCE", 1e9)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        agree(*problem(across_channels))
