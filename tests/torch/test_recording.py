"""Losses that are hard to follow: the clipped sum equals the loop over examples, or is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as it is called everywhere

from keras_dp import clipping
from keras_dp.backend.torch.clipping import assemble
from keras_dp.backend.torch.clipping.recording import UnrecordedError
from keras_dp.clip_rules import Clip, Flat

SIZE = 5


def weights():
    torch.manual_seed(0)
    return [torch.randn(4, 4), torch.randn(4)]


def rows():
    torch.manual_seed(1)
    return torch.randn(SIZE, 3, 4)


def written_into(p, x):
    y = x @ p[0]
    y.mul_(2.0)
    y.add_(p[1])
    y *= p[1]
    return torch.tanh(y).sum()


def used_again_after_it_was_written_into(p, x):
    x = torch.sin(x)
    y = x @ p[0]
    x.mul_(3.0)
    return (y * x + p[1]).square().sum()


def two_sides(p, x):
    return torch.tanh(x @ p[0] + F.linear(x, p[0]) + torch.einsum("td,dk->tk", x, p[0])).sum()


def equation_backwards(p, x):
    return torch.sin(torch.einsum("kd,td->tk", p[0], x) + x @ p[0] * p[1]).sum()


def scaled_weight(p, x):
    kernel = p[0].clone()
    kernel.mul_(p[1])
    return torch.tanh(x @ kernel + p[1]).sum()


def looked_up_and_tied(p, x):
    ids = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    return torch.tanh(F.embedding(ids, p[0]) @ p[0].T + p[1]).square().sum()


def joined_with_a_weight(p, x):
    return torch.sin(torch.cat([p[1][None], x]) @ p[0]).sum()


def put_into_a_buffer(p, x):
    buffer = torch.zeros(3, 4)
    buffer[0] = p[1]
    return torch.tanh(x @ p[0] + buffer).sum()


def of_weights_alone(p, x):
    return x.sum() * 0.1 + p[0].square().sum() + (p[1] * x).sum()


def with_control_flow(p, x):
    return (x @ p[0]).square().sum() if x.sum() > 0 else (x * p[1]).square().sum()


def with_a_stopped_gradient(p, x):
    return torch.tanh(x @ p[0].detach() + x @ p[0] + p[1].detach()).sum()


def unused(p, x):
    x @ p[0]
    return (x * p[1]).sum()


def nested(p, x):
    return torch.vmap(lambda row: torch.tanh(row @ p[0]).sum())(x).sum()


LOSSES = [
    value for value in list(globals().values()) if getattr(value, "__module__", "") == __name__
]
LOSSES = [loss for loss in LOSSES if loss not in (weights, rows)]
NOT_RECORDED = {"used_again_after_it_was_written_into", "put_into_a_buffer", "with_control_flow"}
NOT_RECORDED |= {"nested"}


def loop(loss, clip_norm):
    """The clipped sum and the norms, one example at a time."""
    total, norms = [torch.zeros(4, 4), torch.zeros(4)], []
    for x in rows():
        p = [w.requires_grad_() for w in weights()]
        grads = torch.autograd.grad(loss(p, x), p, allow_unused=True)
        grads = [torch.zeros_like(w) if g is None else g for g, w in zip(grads, p, strict=True)]
        norm = sum(g.square().sum() for g in grads).sqrt()
        norms.append(norm.item())
        factor = min(1.0, clip_norm / norm.item())
        total = [t + factor * g for t, g in zip(total, grads, strict=True)]
    return total, norms


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("method", ["auto", "vmap"])
def test_clipped_sum_equals_the_loop_over_examples(loss, method):
    _, norms = loop(loss, 1.0)
    expected, _ = loop(loss, float(np.median(norms)))
    f = clipping.clipped_sum(loss, clip_norm=float(np.median(norms)), method=method)
    result = f(weights(), rows())
    np.testing.assert_allclose(result.norms, norms, rtol=1e-5)
    for actual, right in zip(result.grads, expected, strict=True):
        np.testing.assert_allclose(actual, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_what_cannot_be_recorded_is_noticed_and_nothing_else(loss):
    clip = Clip(Flat(), 1.0, (0, 1))

    def with_aux(p, x):
        return loss(p, x), None

    def run():
        return assemble.clipped_sum(with_aux, weights(), rows(), torch.ones(SIZE), clip)

    if loss.__name__ in NOT_RECORDED:
        with pytest.raises((UnrecordedError, RuntimeError), match=r"."):
            run()
    else:
        run()
