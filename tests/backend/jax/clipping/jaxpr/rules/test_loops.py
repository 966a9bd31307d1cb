"""Weights in loops and branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from tests.backend.jax.clipping.jaxpr.rules.checks import agree, convolve, draws, problem, wave

SEEDS = st.integers(0, 2**31)
TURNS = st.integers(1, 5)
SHAPES = {"w": (3, 3), "u": (2, 3), "b": (3,), "h": (3,)}
DATA = {"xs": (4, 2), "h": (3,), "c": ()}


def cell(p, hidden, x):
    return jnp.tanh(hidden @ p["w"] + x @ p["u"] + p["b"])


def run(p, xs, start, **settings):
    """Return all states of a plain recurrent network."""

    def turn(hidden, x):
        hidden = cell(p, hidden, x)
        return hidden, hidden

    return lax.scan(turn, start, xs, **settings)[1]


@draws(2)
@given(SEEDS, TURNS, st.booleans(), st.sampled_from([1, 2, True]), st.booleans())
def test_a_recurrent_network_agrees(seed, turns, reverse, unroll, last):
    def loss(p, e):
        states = run(p, e["xs"], jnp.zeros(3), reverse=reverse, unroll=unroll)
        return wave(states[0 if reverse else -1]) if last else wave(states)

    agree(loss, *problem(seed, SHAPES, {"xs": (turns, 2)}))


def nested(p, e):
    def outer(hidden, x):
        def inner(hidden, part):
            return jnp.tanh(hidden @ p["w"] + part * p["b"]), part * p["u"][0]

        hidden, parts = lax.scan(inner, hidden, x, reverse=True)
        return hidden + x @ p["u"], (hidden, parts)

    return wave(lax.scan(outer, e["h"], e["xs"])[1][1]) + wave(lax.scan(outer, e["h"], e["xs"])[0])


def reshaped_inside(p, e):
    def turn(hidden, x):
        return jnp.tanh(p["w"].T.reshape(3, 3) @ hidden + x @ p["u"][:, ::-1]), x @ p["w"][1:]

    return wave(lax.scan(turn, e["h"], e["xs"])[1])


def computed_inside(p, e):
    def turn(hidden, x):
        return jnp.tanh(hidden @ (p["w"] / jnp.linalg.norm(p["w"])) + x @ p["u"] ** 2), hidden

    return wave(lax.scan(turn, e["h"], e["xs"])[1])


def from_start_to_end(p, e):
    return wave(run(p, e["xs"], p["h"])) + wave(p["h"] * e["h"])


def carried_along(p, e):
    """The weight itself is the carry, and changes with the data."""

    def turn(weight, x):
        return weight * (1 + 0.1 * x[0]), x @ weight[:2]

    return wave(lax.scan(turn, p["w"], e["xs"])[1])


def carried_unchanged(p, e):
    def turn(carry, x):
        hidden, weight = carry
        return (jnp.tanh(hidden @ weight + x @ p["u"]), weight), hidden

    (_, weight), states = lax.scan(turn, (e["h"], p["w"]), e["xs"])
    return wave(states) + wave(e["h"] @ weight)


def swapped_carry(p, e):
    def turn(carry, x):
        first, second = carry
        return (second, first), x[0] * first

    (first, _), rows = lax.scan(turn, (p["h"], p["b"]), e["xs"])
    return wave(rows) + wave(first * e["h"])


def returned_by_turns(p, e):
    def turn(hidden, x):
        return cell(p, hidden, x), (p["b"], p["w"] * 2.0)

    hidden, (rows, squares) = lax.scan(turn, e["h"], e["xs"])
    return wave(rows * e["xs"][:, :1]) + wave(e["h"] @ squares) + wave(hidden)


def becomes_the_carry(p, e):
    def turn(hidden, x):
        return p["b"], hidden * x[0]

    hidden, rows = lax.scan(turn, e["h"], e["xs"])
    return wave(rows) + wave(hidden * e["c"])


def in_and_out(p, e):
    return wave(run(p, e["xs"], e["h"]) @ p["w"].T) * wave(e["h"] @ p["w"]) + wave(p["b"] * e["h"])


def hoisted(p, e):
    """What a turn computes from data that every turn sees alike."""

    def turn(hidden, x):
        return jnp.tanh(hidden @ p["w"] + e["h"] @ p["w"].T) + p["b"], x @ p["u"] + e["h"] @ p["w"]

    return wave(lax.scan(turn, e["h"], e["xs"])[1])


def two_loops(p, e):
    forth, back = (run(p, e["xs"], e["h"], reverse=r) for r in (False, True))
    return wave(forth * back)


def counted(p, e):
    return wave(lax.fori_loop(0, 3, lambda i, h: cell(p, h, e["xs"][i]), e["h"]))


def counted_along_weights(p, e):
    return wave(lax.fori_loop(0, 3, lambda i, h: jnp.sin(h * p["w"][i]) + p["b"], e["h"]))


def mapped(p, e):
    return wave(lax.map(lambda x: jnp.sin(x @ p["u"] + p["b"]) @ p["w"], e["xs"]))


def mapped_by_vmap(p, e):
    return wave(jax.vmap(lambda x, u: jnp.sin(x @ p["u"]) * u, (0, None))(e["xs"], p["b"]))


def nothing_to_do(p, e):
    return wave(run(p, e["xs"][:0], e["h"])) + wave(e["h"] @ p["w"])


def nothing_to_do_in_a_loop(p, e):
    def turn(hidden, x):
        states = run(p, jnp.zeros((0, 2)) + x, hidden)
        return cell(p, hidden, x) + jnp.sum(states), hidden

    return wave(lax.scan(turn, e["h"], e["xs"])[1])


def a_loop_with_images(p, e):
    """Convolutions and look-ups in turns."""

    def turn(hidden, x):
        image = convolve(jnp.outer(hidden, x)[None], p["k"], 1)
        row = p["w"][jnp.where(x[0] > 0, 1, 2)]
        return jnp.tanh(image[0, :, 0] + row), hidden

    return wave(lax.scan(turn, e["h"], e["xs"])[1])


def without_weights(p, e):
    """A loop that nobody knows the length of, on data alone."""
    count = lax.while_loop(lambda n: n < jnp.abs(e["c"]), lambda n: 2 * n + 0.5, jnp.float32(0.1))
    return wave(lax.stop_gradient(count) * (e["h"] @ p["w"]))


def branches(p, e):
    def yes(h):
        return jnp.sin(h @ p["w"]) + p["b"]

    return wave(lax.cond(e["c"] > 0, yes, lambda h: h * p["b"], e["h"])) + wave(e["h"] @ p["w"])


def branches_on_weights(p, e):
    pick = lax.cond(p["b"][0] > 0, lambda w: w, lambda w: 2.0 * w.T, p["w"])
    return wave(e["h"] @ pick) + wave(e["h"] @ p["w"])


def switches(p, e):
    ways = [lambda h: h @ p["w"], lambda h: h * p["b"], lambda h: 0.0 * h, lambda h: p["h"]]
    return wave(lax.switch((jnp.abs(e["c"]) * 10).astype(int) % 4, ways, e["h"]))


def branches_in_a_loop(p, e):
    def turn(hidden, x):
        ways = (lambda h: jnp.tanh(h @ p["w"]), lambda h: h * p["b"])
        return lax.cond(x[0] > 0, *ways, hidden), x @ p["u"]

    hidden, rows = lax.scan(turn, e["h"], e["xs"])
    return wave(hidden) + wave(rows)


def cumulative(p, e):
    return wave(lax.associative_scan(jnp.multiply, 1 + 0.1 * e["xs"] @ p["u"] + p["b"]))


def checkpointed_turns(p, e):
    turn = jax.checkpoint(lambda hidden, x: (cell(p, hidden, x), hidden @ p["w"]))
    return wave(lax.scan(turn, e["h"], e["xs"])[1])


FORMS = [
    nested,
    reshaped_inside,
    computed_inside,
    from_start_to_end,
    carried_along,
    carried_unchanged,
    swapped_carry,
    returned_by_turns,
    becomes_the_carry,
    in_and_out,
    hoisted,
    two_loops,
    counted,
    counted_along_weights,
    mapped,
    mapped_by_vmap,
    nothing_to_do,
    nothing_to_do_in_a_loop,
    a_loop_with_images,
    without_weights,
    branches,
    branches_on_weights,
    switches,
    branches_in_a_loop,
    cumulative,
    checkpointed_turns,
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@draws(1)
@given(SEEDS)
def test_a_loop_or_branch_agrees(form, seed):
    agree(form, *problem(seed, SHAPES | {"k": (2, 2, 1)}, DATA))


@pytest.mark.parametrize("mixed", [False, True])
@draws(2)
@given(SEEDS, TURNS, st.booleans())
def test_a_loop_over_stacked_weights_agrees(mixed, seed, layers, reverse):
    def loss(p, e):
        def turn(hidden, slices):
            weight, bias = slices[:2]
            hidden = jnp.tanh(hidden @ weight + bias + (p["skip"] @ hidden if mixed else 0.0))
            return hidden, hidden + (slices[2] if mixed else 0.0)

        xs = (p["w"], p["b"], *((e["xs"],) if mixed else ()))
        return wave(lax.scan(turn, e["h"], xs, reverse=reverse)[1])

    shapes = {"w": (layers, 3, 3), "b": (layers, 3), "skip": (3, 3)}
    agree(loss, *problem(seed, shapes, {"h": (3,), "xs": (layers, 3)}))


@draws(2)
@given(SEEDS, st.integers(1, 3))
def test_a_loop_over_positions_and_layers_agrees(seed, positions):
    def loss(p, e):
        def layer(hidden, weight):
            return run({**p, "w": weight}, e["xs"], hidden)[-1], hidden

        return wave(lax.scan(layer, e["h"], p["stack"])[1]) + wave(e["h"] @ p["stack"][0])

    shapes = {"stack": (2, 3, 3), "u": (2, 3), "b": (3,)}
    agree(loss, *problem(seed, shapes, {"h": (3,), "xs": (positions, 2)}))


@draws(1)
@given(SEEDS)
def test_a_long_loop_agrees(seed):
    def loss(p, e):
        return wave(run(p, e["xs"], jnp.zeros(3))[::7])

    params, batch = problem(seed, SHAPES, {"xs": (80, 2)})
    agree(loss, {name: np.float32(0.3) * w for name, w in params.items()}, batch)
