"""Attention of all examples in one call equals attention of one example after the other."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as it is called everywhere

from keras_dp.backend.torch.clipping.attention import attention

BATCH, WINDOWS, HEADS, LENGTH, WIDTH = 3, 2, 4, 5, 8


def values(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def inputs():
    shape = BATCH, WINDOWS, HEADS, LENGTH, WIDTH
    return [values(*shape) * scale for scale in (0.5, 1.0, 2.0)]


def compare(call, *tensors, in_dims=0):
    """Values and gradients of the call under `torch.vmap` and of PyTorch's for each example."""
    leaves = [t.clone().requires_grad_() for t in tensors[:3]]
    found = torch.vmap(lambda *each: call(attention, *each), in_dims)(*leaves, *tensors[3:])
    axes = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(tensors)
    expected = torch.stack(
        [
            call(
                F.scaled_dot_product_attention,
                *(
                    t if axis is None else t.select(axis, i)
                    for t, axis in zip((*leaves, *tensors[3:]), axes, strict=True)
                ),
            )
            for i in range(BATCH)
        ]
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = (torch.autograd.grad(y.square().sum(), leaves) for y in (found, expected))
    for actual, right in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, right, rtol=1e-4, atol=1e-5)


def test_queries_keys_and_values_of_each_example():
    compare(lambda attend, q, k, v: attend(q, k, v), *inputs())


def test_masks_scales_and_causal_order():
    compare(lambda attend, q, k, v: attend(q, k, v, is_causal=True, scale=0.3), *inputs())
    mask = values(BATCH, 1, 1, LENGTH, LENGTH)
    compare(lambda attend, q, k, v, m: attend(q, k, v, m), *inputs(), mask)
    compare(lambda attend, q, k, v, m: attend(q, k, v, attn_mask=m > 0), *inputs(), mask.abs())
    of_heads = values(HEADS, LENGTH, LENGTH)
    compare(lambda attend, q, k, v: attend(query=q, key=k, value=v, attn_mask=of_heads), *inputs())


def test_queries_that_all_examples_share():
    query, key, value = inputs()
    compare(lambda attend, q, k, v: attend(q, k, v), query[0], key, value, in_dims=(None, 0, 0))


def test_examples_along_another_axis():
    query, key, value = inputs()
    compare(
        lambda attend, q, k, v: attend(q, k, v), query.movedim(0, 2), key, value, in_dims=(2, 0, 0)
    )


def test_other_shapes_are_left_to_vmap():
    query, key, value = (t[:, 0] for t in inputs())
    compare(lambda attend, q, k, v: attend(q, k, v), query, key, value)


def test_dropout_draws_for_each_example_by_itself():
    ones = torch.ones(BATCH, 1, HEADS, 64, WIDTH)
    found = torch.vmap(lambda q: attention(q, q, q, dropout_p=0.5), randomness="different")(ones)
    assert not torch.equal(found[0], found[1])


def test_without_vmap_it_is_pytorchs_own():
    query, key, value = (t[0] for t in inputs())
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attention(query, key, value), expected)


def test_what_vmap_would_call_for_each_example_is_called_once(recwarn):
    torch._C._functorch._set_vmap_fallback_warning_enabled(True)
    try:
        torch.vmap(attention)(*inputs())
    finally:
        torch._C._functorch._set_vmap_fallback_warning_enabled(False)
    assert not [w for w in recwarn if "batching rule" in str(w.message)]
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(lambda q: attention(q, q, q, dropout_p=0.5))(inputs()[0])
