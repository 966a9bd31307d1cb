"""Matrix products of weights and data, in every arrangement of axes."""

import math

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from tests.backend.jax.clipping.jaxpr.rules.checks import agree, draws, problem, wave

SEEDS = st.integers(0, 2**31)
SIZES = st.integers(1, 4)


@draws(4)
@given(SEEDS, st.lists(SIZES, max_size=3), SIZES, SIZES, st.booleans())
def test_a_product_agrees_for_any_number_of_position_axes(seed, positions, inputs, outputs, first):
    def loss(p, e):
        if first:
            x_axis = (len(positions),)
            return wave(lax.dot_general(p["w"], e["x"], (((0,), x_axis), ((), ()))))
        return wave(e["x"] @ p["w"])

    agree(loss, *problem(seed, {"w": (inputs, outputs)}, {"x": (*positions, inputs)}))


EINSUMS = [
    "htd,hde->hte",
    "bhtd,hde->bhte",
    "td,hde->the",
    "thd,hde->te",
    "thd,hdef->tef",
    "tabc,cbd->tad",
    "te,ed->ted",
    "td,td->t",
    "td,d->t",
    "d,d->",
    "a,b->ab",
    "ab,cd->acbd",
    "bsghd,gde->bhsge",
    "t,td->d",
    "ted,ted->te",
]


@pytest.mark.parametrize("spec", EINSUMS)
@draws(1)
@given(SEEDS, st.booleans(), st.data())
def test_an_einsum_agrees(spec, seed, weight_first, data):
    operands, out = spec.split("->")
    x_axes, w_axes = operands.split(",")
    sizes = {letter: data.draw(st.integers(2, 4), letter) for letter in sorted({*x_axes, *w_axes})}
    shapes = [tuple(sizes[letter] for letter in axes) for axes in (x_axes, w_axes)]
    swapped = f"{w_axes},{x_axes}->{out}"

    def loss(p, e):
        if weight_first:
            return wave(jnp.einsum(swapped, p["w"], e["x"]))
        return wave(jnp.einsum(spec, e["x"], p["w"]))

    agree(loss, *problem(seed, {"w": shapes[1]}, {"x": shapes[0]}))


@draws(4)
@given(SEEDS, st.data())
def test_a_dot_general_with_any_dimension_numbers_agrees(seed, data):
    counts = [data.draw(st.integers(0, 2)) for _ in range(4)]
    shared = [data.draw(SIZES) for _ in range(counts[0] + counts[1])]
    shapes, places = [], []
    for free in counts[2:]:
        sizes = [*shared, *(data.draw(SIZES) for _ in range(free))]
        order = data.draw(st.permutations(range(len(sizes))))
        shapes.append(tuple(sizes[i] for i in order))
        places.append([order.index(i) for i in range(len(shared))])
    batch, contracted = ([p[: counts[0]] for p in places], [p[counts[0] :] for p in places])
    first = data.draw(st.booleans(), "weight first")

    def loss(p, e):
        pair = (p["w"], e["x"]) if first else (e["x"], p["w"])
        step = 1 if first else -1
        return wave(lax.dot_general(*pair, (contracted[::step], batch[::step])))

    agree(loss, *problem(seed, {"w": shapes[0]}, {"x": shapes[1]}))


VIEWS = {
    "transposed": lambda w: w.T,
    "reshaped": lambda w: w.reshape(w.shape[1], w.shape[0]),
    "flattened": lambda w: w.reshape(-1),
    "sliced": lambda w: w[1:, :2],
    "sliced with a step": lambda w: w[::2, 1:],
    "reversed": lambda w: w[::-1, ::-1],
    "a row": lambda w: w[1],
    "a column, as a matrix": lambda w: w[:, 1:2],
    "split": lambda w: jnp.split(w, [1, 3], axis=1)[1],
    "a part of a part": lambda w: w[1:].T[1:, :1],
    "sliced after a transposed reshape": lambda w: w.T.reshape(-1, w.shape[1])[1:],
    "with new axes": lambda w: w[None, :, None, 1:][0, :, 0],
    "repeated": lambda w: jnp.repeat(w, 2, axis=0),
    "tiled": lambda w: jnp.tile(w, (2, 2)),
    "padded": lambda w: jnp.pad(w, 1),
    "joined with itself": lambda w: jnp.concatenate([w, w[:, :1]], axis=1),
    "its triangle": jnp.tril,
    "its diagonal": jnp.diag,
    "divided by its sum": lambda w: w / jnp.sum(jnp.abs(w)),
    "times itself": lambda w: w @ w.T,
    "squared": lambda w: w * w,
}


@pytest.mark.parametrize("view", VIEWS)
@draws(1)
@given(SEEDS, st.integers(3, 4), st.integers(4, 5), st.integers(2, 3))
def test_a_product_agrees_when_the_weight_was_changed_before(view, seed, rows, columns, positions):
    shape = VIEWS[view](jnp.zeros((rows, columns))).shape
    x_shape = (positions, shape[0]) if positions else (shape[0],)
    params, batch = problem(seed, {"w": (rows, columns)}, {"x": x_shape})
    agree(lambda p, e: wave(e["x"] @ VIEWS[view](p["w"])), params, batch)


@draws(2)
@given(SEEDS, st.integers(1, 4), st.booleans())
def test_a_product_in_bfloat16_agrees(seed, positions, weights_are):
    def loss(p, e):
        out = e["x"].astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16)
        return jnp.sum(out.astype(jnp.float32) * e["y"])

    params, batch = problem(seed, {"w": (3, 4)}, {"x": (positions, 3), "y": (positions, 4)})
    if weights_are:
        params["w"] = params["w"].astype(jnp.bfloat16)
    agree(loss, params, batch, rtol=1e-2)


@draws(1)
@given(SEEDS)
def test_a_bfloat16_product_that_is_summed_in_float32_agrees(seed):
    def loss(p, e):
        x, w = e["x"].astype(jnp.bfloat16), p["w"].astype(jnp.bfloat16)
        return wave(jnp.matmul(x, w, preferred_element_type=jnp.float32))

    agree(loss, *problem(seed, {"w": (3, 4)}, {"x": (5, 3)}), rtol=1e-2)


TWICE = {
    "in a row": lambda w, x, y: (x @ w) @ w,
    "there and back": lambda w, x, y: jnp.tanh(x @ w) @ w.T,
    "back and there": lambda w, x, y: (w @ (w.T @ x[0])) + y @ w,
    "on as many positions": lambda w, x, y: jnp.sum(x @ w) * jnp.sum(jnp.sin(x) @ w),
    "on more positions": lambda w, x, y: jnp.sum(x @ w) + jnp.sum(jnp.sin(y @ w)),
    "transposed on more": lambda w, x, y: jnp.sum(x @ w) * jnp.sum(jnp.sin(y @ w.T)),
    "three times": lambda w, x, y: jnp.sum(jnp.tanh(x @ w) @ w.T @ w) + jnp.sum(jnp.sin(y @ w)),
    "and its power": lambda w, x, y: x @ w + x @ (w @ w),
    "and by entry": lambda w, x, y: x @ w + w[0] * x,
    "disjoint slices": lambda w, x, y: x[:, :1] @ w[:1] + jnp.sin(x[:, 1:] @ w[1:]),
    "overlapping slices": lambda w, x, y: x[:, 1:] @ w[1:] + jnp.sin(x[:, :-1] @ w[:-1]),
    "a slice and all": lambda w, x, y: x @ w + jnp.sum(jnp.sin(x[:, 1:] @ w[1:])),
    "equal slices": lambda w, x, y: jnp.sum(x[:, 1:] @ w[1:]) * jnp.sum(jnp.sin(y[:, :-1] @ w[1:])),
    "equal slices, transposed": lambda w, x, y: (
        jnp.sum(x[:, 1:] @ w[1:]) * jnp.sum(jnp.sin(y @ w[1:].T))
    ),
    "blocks of columns": lambda w, x, y: (
        jnp.sum(x @ w[:, :1]) * jnp.sum(jnp.sin(y @ w[:, 1:])) + jnp.sum(x @ w.T)
    ),
    "one row, two ways": lambda w, x, y: jnp.sin(x @ w[0]) + x @ w.reshape(-1)[: len(w)],
    "reversed": lambda w, x, y: x @ w + jnp.sin(x @ w[::-1]),
    "reversed, disjoint": lambda w, x, y: x[:, :1] @ w[::-1][:1] + jnp.sin(x[:, :1] @ w[:1]),
    "as heads": lambda w, x, y: (
        x @ w + jnp.einsum("hd,thd->th", w, jnp.sin(x)[:, :, None] * jnp.cos(x)[:, None])
    ),
    "as its transposed reshape": lambda w, x, y: x @ w + jnp.sin(x @ w.T.reshape(w.shape)),
    "with merged axes": lambda w, x, y: (
        jnp.sum(x @ w) * jnp.sum(jnp.sin(jnp.outer(x[0], y[0]).reshape(-1) @ w.reshape(-1)))
    ),
}


@pytest.mark.parametrize("use", TWICE)
@draws(1)
@given(SEEDS, st.integers(3, 4), st.integers(2, 3), st.integers(3, 4))
def test_a_weight_that_is_used_twice_agrees(use, seed, width, few, many):
    shapes = {"x": (few, width), "y": (many, width)}
    params, batch = problem(seed, {"w": (width, width)}, shapes)
    agree(lambda p, e: wave(0.3 * TWICE[use](p["w"], e["x"], e["y"])), params, batch)


@draws(2)
@given(SEEDS, SIZES, st.integers(2, 4))
def test_an_expert_weight_that_is_used_twice_agrees(seed, positions, width):
    def loss(p, e):
        hidden = jnp.einsum("htd,hde->hte", e["x"], p["w"])
        again = jnp.einsum("htd,hed->hte", jnp.sin(hidden), p["w"])
        return wave(again) + wave(jnp.einsum("td,hde->the", e["x"][0], p["w"]))

    agree(loss, *problem(seed, {"w": (2, width, width)}, {"x": (2, positions, width)}))


@pytest.mark.parametrize(("positions", "width"), [(40, 2), (3, 64), (40, 1), (1, 64)])
@pytest.mark.parametrize("tied", [False, True])
@draws(1)
@given(SEEDS)
def test_long_sequences_and_wide_layers_agree(positions, width, tied, seed):
    def loss(p, e):
        hidden = jnp.tanh(e["x"] @ p["w"] / math.sqrt(width))
        return wave(hidden @ (p["w"].T if tied else p["v"]) + hidden)

    shapes = {"w": (width, width), "v": (width, width)}
    agree(loss, *problem(seed, shapes, {"x": (positions, width)}))


@draws(2)
@given(SEEDS, SIZES, st.integers(2, 4))
def test_a_kronecker_product_of_two_weights_agrees(seed, positions, width):
    def loss(p, e):
        return wave(e["x"] @ jnp.kron(p["a"], p["b"]))

    shapes = {"a": (width, 2), "b": (2, width)}
    agree(loss, *problem(seed, shapes, {"x": (positions, 2 * width)}))


@draws(2)
@given(SEEDS, st.sampled_from([(1, 1), (1, 4), (4, 1)]), st.integers(1, 3))
def test_weights_with_axes_of_size_one_agree_when_used_twice(seed, shape, positions):
    def loss(p, e):
        hidden = jnp.sin(e["x"] @ p["w"])
        return wave(hidden @ p["w"].T) + wave(e["x"] @ p["w"].reshape(shape)[:, 0])

    agree(loss, *problem(seed, {"w": shape}, {"x": (positions, shape[0])}))


@draws(2)
@given(SEEDS, st.sampled_from([(0, 3), (3, 0), (0, 0)]), st.sampled_from([(), (2,), (0,)]))
def test_empty_weights_and_empty_data_agree(seed, shape, positions):
    def loss(p, e):
        return wave(e["x"] @ p["w"]) + wave(e["y"] @ p["v"])

    shapes = {"x": (*positions, shape[0]), "y": (3,)}
    agree(loss, *problem(seed, {"w": shape, "v": (3, 2)}, shapes))
