"""Losses that are hard to follow: the clipped sum equals the loop over examples, or is refused."""

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as it is called everywhere

import keras_dp
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


def tied_by_a_linear_call(p, x):
    ids = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    return torch.sin(F.linear(F.embedding(ids, p[0]) + p[1], p[0])).square().sum()


def looked_up_and_multiplied_by_rows(p, x):
    ids = (x[:, 0] > 0).long()
    return torch.sin(F.embedding(ids, p[0]) + x @ p[0]).sum() + (x * p[1]).sum()


def joined_with_a_weight(p, x):
    return torch.sin(torch.cat([p[1][None], x]) @ p[0]).sum()


def written_into_its_example(p, x):
    x.mul_(2.0)
    return torch.tanh(x @ p[0] + p[1]).sum()


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


def recurrent(p, x):
    state = torch.zeros(1, 4)
    for row in x:
        state = torch.tanh(state @ p[0] + row + p[1])
    return state.square().sum()


def first_state_of_ones(p, x):
    return (torch.tanh(F.linear(torch.ones(4), p[0], p[1]) + x) @ p[0]).sin().sum()


def nested(p, x):
    return torch.vmap(lambda row: torch.tanh(row @ p[0]).sum())(x).sum()


LOSSES = (
    written_into,
    written_into_its_example,
    two_sides,
    equation_backwards,
    scaled_weight,
    looked_up_and_tied,
    tied_by_a_linear_call,
    looked_up_and_multiplied_by_rows,
    joined_with_a_weight,
    put_into_a_buffer,
    of_weights_alone,
    with_control_flow,
    with_a_stopped_gradient,
    unused,
    recurrent,
    first_state_of_ones,
    nested,
)
NOT_RECORDED = (written_into, put_into_a_buffer, with_control_flow, nested)
RECORDED = [loss for loss in LOSSES if loss not in NOT_RECORDED]


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


@pytest.mark.parametrize("method", ["auto", "vmap"])
@pytest.mark.parametrize("kind", [torch.Tensor.numpy, torch.clone], ids=["numpy", "torch"])
def test_a_loss_that_writes_into_its_example_leaves_the_batch_as_it_was(kind, method):
    batch = kind(rows())
    compute = clipping.clipped_sum(written_into_its_example, clip_norm=1.0, method=method)
    first = compute(weights(), batch)
    np.testing.assert_array_equal(batch, rows())
    for actual, expected in zip(compute(weights(), batch).grads, first.grads, strict=True):
        assert torch.equal(actual, expected)


def test_a_loss_in_float16_that_is_tried_again_sees_its_example_as_it_was():
    def loss(p, x):
        x.mul_(2.0)
        return (1e4 * (x.half() @ p[0].half()).float()).sum()

    single = [2e4 * x.sum(0).norm().item() * 2.0 for x in rows()]  # of a (4, 4) matrix of columns
    result = clipping.clipped_sum(loss, clip_norm=1.0, loss_scale=1024.0)(weights(), rows())
    np.testing.assert_allclose(result.norms, single, rtol=1e-2)


def run(loss):
    clip = Clip(Flat(), 1.0, (0, 1))
    mask = torch.ones(SIZE)
    return assemble.clipped_sum(lambda p, x: (loss(p, x), None), weights(), rows(), mask, clip)


@pytest.mark.parametrize("loss", NOT_RECORDED, ids=lambda loss: loss.__name__)
def test_what_cannot_be_recorded_is_noticed(loss):
    with pytest.raises((UnrecordedError, RuntimeError), match=r"met data|in-place|flow|vmap"):
        run(loss)


@pytest.mark.parametrize("loss", RECORDED, ids=lambda loss: loss.__name__)
def test_all_else_is_recorded(loss):
    run(loss)


def test_data_that_are_written_into_after_a_site_read_them_are_noticed():
    def loss(p, x):
        x = torch.sin(x)
        y = torch.tanh(x @ p[0].detach() + (x * p[1]))
        x.mul_(3.0)
        return y.sum() + p[0].sum() * x.sum()

    with pytest.raises((UnrecordedError, RuntimeError), match=r"written into|modified by"):
        run(loss)


def with_control_flow_of_all(p, x):
    return (x @ p[0]).square().sum() if (x @ p[0] + p[1]).sum() > 0 else (x * p[1]).sum()


def test_a_loss_that_runs_for_one_example_after_the_other_is_warned_of_once(recwarn):
    compute = clipping.clipped_sum(with_control_flow_of_all, clip_norm=1.0)
    with pytest.warns(UserWarning, match=r"one example after the other.*flow"):
        first = compute(weights(), rows())
    recwarn.clear()
    second = compute(weights(), rows())
    assert not [w for w in recwarn if "one example after the other" in str(w.message)]
    for actual, expected in zip(second.grads, first.grads, strict=True):
        assert torch.equal(actual, expected)


def test_a_loss_that_cannot_be_recorded_is_not_tried_again(monkeypatch):
    tried = []

    def not_covered(*arguments):
        tried.append(arguments)
        raise UnrecordedError("a reason")

    monkeypatch.setattr(assemble, "clipped_sum", not_covered)
    compute = clipping.clipped_sum(two_sides, clip_norm=1.0)
    with pytest.warns(UserWarning, match="UnrecordedError: a reason"):
        compute(weights(), rows())
    compute(weights(), rows())
    assert len(tried) == 1


class Branching(keras.layers.Layer):
    def call(self, x):
        return 2 * x if x.is_meta or x.sum() > 0 else x


def test_fit_names_the_layer_that_makes_it_slow_once(recwarn):
    layers = [keras.Input((4,)), Branching(name="branching"), keras.layers.Dense(2)]
    model = keras_dp.DPSequential(layers)
    optimizer = keras_dp.optimizers.DPSGD(0.5, clip_norm=1.0, noise_multiplier=1.0, seed=1)
    model.compile(optimizer, "mse", microbatch_size=4)
    for _ in range(2):
        model.fit(np.ones((32, 4)), np.ones((32, 2)), batch_size=16, verbose=0)
    said = [str(w.message) for w in recwarn if "one example after the other" in str(w.message)]
    assert len(said) == 1
    assert "In 'branching': " in said[0] and "control flow" in said[0]
    assert "keras_dp.clipping.explain" in said[0]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("no more"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_lack_of_memory_is_not_answered_by_the_slow_way(error, monkeypatch):
    def lacking(*arguments):
        raise error

    monkeypatch.setattr(assemble, "clipped_sum", lacking)
    with pytest.raises(type(error), match=r"memory|no more"):
        clipping.clipped_sum(two_sides, clip_norm=1.0)(weights(), rows())


def test_an_error_of_the_loss_itself_comes_out_as_it_is(recwarn):
    def wrong(p, x):
        raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        clipping.clipped_sum(wrong, clip_norm=1.0)(weights(), rows())
    assert not [w for w in recwarn if "one example after the other" in str(w.message)]
