"""Canaries are planted by coins alone, and each acts on a weight of its own."""

import numpy as np
import pytest
from scipy.stats import binom

from keras_dp.auditing import canaries as planting
from keras_dp.auditing.canaries import LEFT_OUT, REAL
from keras_dp.sampling import ArraySource

SHAPES = [(4, 6), (6,), (2, 3, 5)]


def source(size=40):
    rng = np.random.default_rng(0)
    return ArraySource(rng.normal(size=(size, 3)), rng.integers(0, 5, size))


def planted(seed=0, count=30):
    rng = np.random.default_rng(seed)
    coordinates = planting.choose_coordinates(SHAPES, [12, 6, 12], rng)
    coins = planting.toss(seed, 0, count)
    return coordinates, planting.plant_gradients(source(), coordinates, coins, rng)


def test_coins_are_fair_and_come_from_the_operating_system_without_a_seed():
    tosses = [planting.toss(None, 0, 2000) for _ in range(2)]
    for coins in tosses:
        assert abs(coins.sum() - 1000) < 6 * 2000**0.5 / 2
    assert binom.ppf(1e-9, 2000, 0.5) < (tosses[0] != tosses[1]).sum()


def test_coins_of_a_seed_repeat_and_those_of_other_runs_and_purposes_are_unrelated():
    first = planting.toss(7, 0, 2000)
    np.testing.assert_array_equal(first, planting.toss(7, 0, 2000))
    for other in (planting.toss(7, 1, 2000), planting.toss(8, 0, 2000)):
        assert abs((first != other).sum() - 1000) < 5 * 2000**0.5 / 2
    places = planting.generator(7, "places", 0).random(2000) < 0.5
    assert abs((first != places).sum() - 1000) < 5 * 2000**0.5 / 2


@pytest.mark.parametrize(
    ("sizes", "count", "shares"),
    [
        ([100, 10], 20, [10, 10]),
        ([100, 10], 60, [50, 10]),
        ([100, 10, 1], 31, [20, 10, 1]),
        ([5, 5, 5], 15, [5, 5, 5]),
        ([7, 0, 3], 8, [5, 0, 3]),
        ([50, 50], 5, [2, 3]),
    ],
)
def test_canaries_are_spread_evenly_until_small_variables_are_full(sizes, count, shares):
    found = planting.spread(sizes, count)
    assert sum(found) == count
    assert all(share <= size for share, size in zip(found, sizes, strict=True))
    assert sorted(found) == sorted(shares)


def test_no_two_canaries_share_a_weight():
    coordinates, _ = planted()
    triples = np.stack([coordinates.variables, coordinates.rows, coordinates.columns], 1)
    assert len(np.unique(triples, axis=0)) == 30
    for variable, shape in enumerate(SHAPES):
        rows, columns = planting.matrix_shape(shape)
        here = coordinates.variables == variable
        assert rows * columns == np.prod(shape)
        assert (coordinates.rows[here] < rows).all()
        assert (coordinates.columns[here] < columns).all()


def test_examples_stay_and_canaries_that_are_left_out_keep_an_empty_place():
    coordinates, data = planted()
    kinds = data.x["canary"]
    assert len(kinds) == 70
    ordinary = kinds[:, 0] == REAL
    assert ordinary.sum() == 40
    expected = source()
    order = np.argsort(data.x["x"][ordinary][:, 0])
    known = np.argsort(expected.x[:, 0])
    np.testing.assert_allclose(data.x["x"][ordinary][order], expected.x[known], rtol=1e-6)
    np.testing.assert_array_equal(data.y[ordinary][order], expected.y[known])
    at = kinds[data.places]
    assert (at[~data.included, 0] == LEFT_OUT).all()
    wanted = np.stack([coordinates.variables, coordinates.rows, coordinates.columns], 1)
    np.testing.assert_array_equal(at[data.included], wanted[data.included])


def test_what_is_planted_besides_the_coins_does_not_depend_on_them():
    rng = lambda: np.random.default_rng(3)  # noqa: E731
    coordinates = planting.choose_coordinates(SHAPES, [12, 6, 12], rng())
    all_in = planting.plant_gradients(source(), coordinates, np.ones(30, bool), rng())
    none_in = planting.plant_gradients(source(), coordinates, np.zeros(30, bool), rng())
    np.testing.assert_array_equal(all_in.places, none_in.places)
    np.testing.assert_array_equal(all_in.x["x"], none_in.x["x"])
    np.testing.assert_array_equal(all_in.y, none_in.y)


def test_input_canaries_have_the_targets_of_another_example():
    data = planting.plant_inputs(source(), np.arange(30) % 2 == 0, np.random.default_rng(0))
    known = source()
    labels = {tuple(np.float32(x)): y for x, y in zip(known.x, known.y, strict=True)}
    true = np.array([labels[tuple(x)] for x in data.x["x"]])
    wrong = true != data.y
    assert wrong[data.places].mean() > 0.9
    others = np.setdiff1d(np.arange(70), data.places)
    assert not wrong[others].any()
    kinds = data.x["canary"][data.places, 0]
    np.testing.assert_array_equal(kinds, np.where(data.included, REAL, LEFT_OUT))
