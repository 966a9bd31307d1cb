"""Who takes part in an update: by the stated law, and once at most."""

import functools

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import sampling
from tests import trained
from tests.contract.released import Noise, Taken, has_law
from tests.standins import Batches, DatasetV2, Examples
from tests.trained import BATCH, BATCHES, SIZE, X, Y, assert_same_weights


def test_poisson_takes_every_example_with_its_rate_once_at_most():
    """40 updates on 60 examples; counts within five deviations, told from those of other rates."""
    size, rate, updates = 60, 1 / 3, 40
    taken = Taken(size, microbatch_size=4)
    drawn = np.array([taken.fit(round(size * rate), 1) for _ in range(updates)])
    assert set(np.unique(drawn)) == {0, 1}

    def deviations(rate):
        return (drawn.sum() - drawn.size * rate) / np.sqrt(drawn.size * rate * (1 - rate))

    assert abs(deviations(rate)) < 5
    assert all(abs(deviations(rate * wrong)) > 5 for wrong in (2 / 3, 3 / 2))
    sizes = drawn.sum(axis=1)  # independent draws: their number varies as a binomial one
    assert 0.3 < sizes.var() / (size * rate * (1 - rate)) < 2
    assert len(np.unique(drawn, axis=0)) == updates


@pytest.mark.parametrize("scheme", ["balls_in_bins", "shuffle"])
def test_each_example_enters_one_update_of_an_epoch(scheme):
    taken = Taken(40, scheme, microbatch_size=4)
    np.testing.assert_array_equal(taken.fit(8, 5), 1)
    part = taken.fit(8, 2)
    assert set(part) == {0, 1}
    assert any((taken.fit(8, 2) != part).any() for _ in range(2))


def test_a_full_batch_takes_all_examples_in_every_update():
    np.testing.assert_array_equal(Taken(10, "full_batch").fit(10, 3), 3)


def test_a_truncated_batch_is_never_larger_than_declared():
    taken = Taken(40, sampling.TruncatedPoisson(largest_batch=10))
    sizes = [taken.fit(10, 1).sum() for _ in range(25)]
    assert max(sizes) == 10  # in half of the updates
    assert min(sizes) < 10


def test_an_empty_draw_is_a_noisy_counted_update():
    """At a rate of one in a hundred, nobody is drawn in one of three updates."""
    made = Noise(units=500, seed=0)
    made.size, made.batch_size = 100, 1
    draw, drawn = sampling.Poisson.draw, []

    class Recording(sampling.Poisson):
        def draw(self, *arguments):
            batches = draw(self, *arguments)
            drawn.extend(len(batch.indices) for batch in batches)
            return batches

    made.model.sampler = Recording()
    found = [made.update()[0] for _ in range(25)]
    assert drawn.count(0) > 2 and len(drawn) == 25
    assert all(has_law(one, 1.0) for one in found)
    assert made.model.ledger.updates == 25


def test_the_sum_is_divided_by_the_declared_batch_size():
    """`Taken` multiplies with it: any other divisor would give no whole numbers."""
    taken = Taken(40)
    counts = [taken.fit(10, 1).sum() for _ in range(20)]
    assert len(set(counts)) > 3
    assert 7 < np.mean(counts) < 13


def test_a_streams_batches_are_updates_in_their_order():
    one_by_one = trained.model()
    for x, y in BATCHES:
        one_by_one.train_on_batch(x, y)
    streamed = trained.model(sampling.Stream(dataset_size=SIZE))
    streamed.fit(DatasetV2(BATCHES), verbose=0)
    assert_same_weights(streamed, one_by_one)
    assert streamed.ledger.releases[0].plan.sampling == "stream"


KINDS = {
    "PyDataset": lambda: (Batches(X, Y, batch_size=BATCH),),
    "examples": lambda: (Examples(X, Y),),
    "tensors": lambda: (keras.ops.convert_to_tensor(X), Y),
}


@functools.cache
def on_arrays():
    return trained.trained(X, Y, epochs=1)


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_data_give_the_update_of_equal_arrays(kind):
    assert_same_weights(trained.trained(*KINDS[kind](), epochs=1), on_arrays())


def test_epsilon_is_that_of_the_sampling():
    for scheme in ("poisson", "shuffle"):
        made = trained.model(scheme)
        made.fit(X, Y, batch_size=BATCH, verbose=0)
        spent = made.privacy_spent(delta=1e-3)
        assert (spent.updates, spent.sampling) == (5, scheme)
        assert spent.epsilon == keras_dp.accounting.epsilon(
            noise_multiplier=0.5,
            batch_size=BATCH,
            dataset_size=SIZE,
            updates=5,
            delta=1e-3,
            sampling=scheme,
        )
