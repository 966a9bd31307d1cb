"""Look-ups of rows in a table of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from tests.backend.jax.clipping.jaxpr.rules.checks import agree, draws, normal, wave

SEEDS = st.integers(0, 2**31)
ROWS = st.integers(1, 6)


def tables(seed, params, ids, low, high, data=None):
    """Return random tables and a batch of ids from `low` to below `high`, with some data."""
    rng = np.random.default_rng(seed)
    batch = {"ids": rng.integers(low, high, size=(4, *ids)).astype("int32")}
    batch |= {name: normal(rng, (4, *shape)) for name, shape in (data or {}).items()}
    return {name: normal(rng, shape) for name, shape in params.items()}, batch


def weigh(rows):
    """Return a loss that tells positions apart, and to which NaN rows mean nothing."""
    rows = jnp.nan_to_num(rows)
    scale = jnp.cos(jnp.arange(rows.size)).reshape(rows.shape)
    return jnp.sum(jnp.sin(rows) * scale)


@pytest.mark.parametrize("mode", [None, "fill", "clip", "wrap"])
@draws(2)
@given(
    SEEDS, ROWS, st.lists(st.integers(1, 4), max_size=2), st.lists(st.integers(1, 3), max_size=2)
)
def test_take_agrees_even_with_ids_out_of_bounds(mode, seed, rows, ids, features):
    def loss(p, e):
        return weigh(jnp.take(p["table"], e["ids"], axis=0, mode=mode))

    agree(loss, *tables(seed, {"table": (rows, *features)}, ids, -2 * rows, 3 * rows))


@pytest.mark.parametrize("mode", [None, "fill", "clip", "promise_in_bounds"])
@draws(2)
@given(SEEDS, ROWS, st.lists(st.integers(1, 4), max_size=2))
def test_indexing_agrees(mode, seed, rows, ids):
    def loss(p, e):
        return weigh(p["table"].at[e["ids"]].get(mode=mode))

    inside = mode == "promise_in_bounds"
    bounds = (0, rows) if inside else (-rows - 2, rows + 3)
    agree(loss, *tables(seed, {"table": (rows, 3)}, ids, *bounds))


@draws(2)
@given(SEEDS, ROWS)
def test_rows_out_of_bounds_that_a_where_hides_agree(seed, rows):
    def loss(p, e):
        found = jnp.take(p["table"], e["ids"], axis=0, mode="fill")
        return wave(jnp.where(e["ids"][:, None] < rows, found, 0.0))

    agree(loss, *tables(seed, {"table": (rows, 3)}, (5,), 0, 2 * rows))


@draws(2)
@given(SEEDS, st.integers(1, 3))
def test_repeated_ids_agree(seed, rows):
    def loss(p, e):
        return weigh(p["table"][e["ids"]])

    agree(loss, *tables(seed, {"table": (rows, 2)}, (9,), 0, rows))


@pytest.mark.parametrize(("dtype", "rows"), [("int8", 100), ("uint8", 300), ("int16", 4)])
@draws(1)
@given(SEEDS, st.booleans())
def test_ids_of_small_integer_types_agree(dtype, rows, seed, take):
    def loss(p, e):
        return weigh(jnp.take(p["table"], e["ids"], axis=0) if take else p["table"][e["ids"]])

    params, batch = tables(seed, {"table": (rows, 2)}, (6,), 0, min(rows, 120))
    agree(loss, params, {"ids": batch["ids"].astype(dtype)})


@pytest.mark.parametrize("mode", ["fill", "clip"])
@draws(1)
@given(SEEDS, st.sampled_from([3, 1000]))
def test_long_sequences_agree(mode, seed, rows):
    def loss(p, e):
        return weigh(jnp.take(p["table"], e["ids"], axis=0, mode=mode))

    agree(loss, *tables(seed, {"table": (rows, 2)}, (600,), -2, rows + 2))


@pytest.mark.parametrize(("positions", "width"), [(3, 16), (12, 2)])
@draws(1)
@given(SEEDS)
def test_a_table_that_is_the_output_projection_too_agrees(positions, width, seed):
    def loss(p, e):
        hidden = jnp.tanh(jnp.take(p["table"], e["ids"], axis=0, mode="clip") @ p["w"])
        return jnp.sum(jax.nn.log_softmax(hidden @ p["table"].T)[:, 0])

    shapes = {"table": (5, width), "w": (width, width)}
    agree(loss, *tables(seed, shapes, (positions,), -1, 7))


@draws(1)
@given(SEEDS)
def test_a_scaled_table_and_its_own_projection_agree(seed):
    def loss(p, e):
        hidden = jnp.nan_to_num(jnp.take(p["table"], e["ids"], axis=0)) * 1.7
        return wave(jnp.tanh(hidden) @ p["table"].T) + wave(e["x"] @ p["table"])

    agree(loss, *tables(seed, {"table": (5, 3)}, (4,), 0, 8, {"x": (2, 5)}))


@draws(2)
@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_a_table_that_two_look_ups_use_agrees(seed, few, many, joined):
    def loss(p, e):
        first, second = e["ids"][:few], e["ids"][few:]
        if joined:
            return weigh(p["table"][first]) * weigh(p["table"][second])
        other = jnp.take(p["table"], second, axis=0, mode="clip")
        return weigh(p["table"][first]) + weigh(other)

    agree(loss, *tables(seed, {"table": (4, 2)}, (few + many,), 0, 5))


@draws(2)
@given(SEEDS, st.integers(1, 4))
def test_a_table_that_is_looked_up_in_long_and_short_agrees(seed, few):
    def loss(p, e):
        rows = p["table"][e["ids"]]
        return weigh(rows[:600]) + weigh(p["table"][e["ids"][:few]]) + wave(e["x"] @ p["table"])

    agree(loss, *tables(seed, {"table": (4, 2)}, (600,), 0, 4, {"x": (2, 4)}))


@draws(2)
@given(SEEDS, st.integers(1, 4), st.booleans())
def test_a_table_of_positions_agrees(seed, positions, sliced):
    def loss(p, e):
        ids = jnp.arange(positions)
        places = p["places"][:positions] if sliced else jnp.take(p["places"], ids, axis=0)
        return weigh(p["table"][e["ids"]] * places + places)

    shapes = {"table": (4, 2), "places": (6, 2)}
    agree(loss, *tables(seed, shapes, (positions,), 0, 4))


@draws(2)
@given(SEEDS, st.integers(1, 4), st.booleans())
def test_a_table_that_data_and_constants_look_up_agrees(seed, positions, first):
    def loss(p, e):
        own = p["table"][0 if first else 1]
        return weigh(p["table"][e["ids"]] + own) + wave(e["x"] * own)

    agree(loss, *tables(seed, {"table": (4, 2)}, (positions,), 0, 4, {"x": (2,)}))


@draws(2)
@given(SEEDS, st.integers(1, 2), st.sampled_from(["fill", "clip"]))
def test_a_look_up_along_another_axis_agrees(seed, axis, mode):
    def loss(p, e):
        return weigh(jnp.take(p["table"], e["ids"], axis=axis, mode=mode))

    agree(loss, *tables(seed, {"table": (2, 3, 4)}, (3,), 0, 6))


ODD = {
    "take_along_axis": lambda t, ids: jnp.take_along_axis(t, ids[:, None] % 4, axis=0),
    "take_along_axis of columns": lambda t, ids: jnp.take_along_axis(t, ids[None] % 3, axis=1),
    "dynamic_slice": lambda t, ids: lax.dynamic_slice(t, (ids[0], 1), (2, 2)),
    "dynamic_index_in_dim": lambda t, ids: lax.dynamic_index_in_dim(t, ids[0], 0),
    "one_hot": lambda t, ids: jax.nn.one_hot(ids, 4) @ t,
    "single entries": lambda t, ids: t[ids, ids[::-1]],
    "one row": lambda t, ids: t[ids[0]],
    "one row and one column": lambda t, ids: t[ids[0], ids[1]],
    "a row and a part of it": lambda t, ids: t[ids, 1:],
    "of its transpose": lambda t, ids: t.T[ids],
    "of a part": lambda t, ids: t[1:][ids],
    "of a column": lambda t, ids: t[:, 0][ids],
    "of two parts": lambda t, ids: t[:2][ids] + t[2:][ids],
    "of overlapping parts": lambda t, ids: t[:3][ids] + jnp.sin(t[1:][ids]),
    "of its reshape": lambda t, ids: t.reshape(2, 6)[ids],
    "of all but the padding": lambda t, ids: t.at[0].set(0.0)[ids],
    "through vmap": lambda t, ids: jax.vmap(lambda i: t[i])(ids),
    "with a batched table": lambda t, ids: jax.vmap(lambda row, i: row[i])(t, ids[:4] % 3),
    "added to by scatter": lambda t, ids: t.at[ids].add(1.0) * t,
    "in bfloat16": lambda t, ids: t[ids].astype(jnp.bfloat16).astype(jnp.float32),
}


@pytest.mark.parametrize("form", ODD)
@draws(1)
@given(SEEDS)
def test_another_form_of_look_up_agrees(form, seed):
    params, batch = tables(seed, {"table": (4, 3)}, (4,), -1, 5)
    rtol = 1e-2 if "bfloat16" in form else 1e-5
    agree(lambda p, e: weigh(ODD[form](p["table"], e["ids"])), params, batch, rtol)


@draws(1)
@given(SEEDS)
def test_ids_that_depend_on_weights_agree(seed):
    def loss(p, e):
        ids = jnp.argmax(e["x"] @ p["w"], axis=-1)
        return weigh(p["table"][ids] * e["x"]) + weigh(p["w"][e["ids"]])

    agree(loss, *tables(seed, {"table": (4, 3), "w": (3, 4)}, (2,), 0, 3, {"x": (2, 3)}))
