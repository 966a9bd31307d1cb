"""The draws have the law that the accountant composes."""

import keras
import numpy as np
import pytest
from scipy import stats

from keras_dp import sampling
from keras_dp.sampling.base import update_rng


def draws(count, batch_size, dataset_size, seed=0):
    sampler = sampling.Poisson()
    return [
        sampler.draw(update_rng(seed, update), batch_size, dataset_size)[0].indices
        for update in range(count)
    ]


def test_poisson_takes_every_example_with_the_same_probability_and_independently():
    """Against theory, and with the power to reject 2/3 and 3/2 of the probability."""
    rounds, n, batch_size = 4000, 50, 10
    taken = np.zeros((rounds, n), bool)
    for row, indices in zip(taken, draws(rounds, batch_size, n), strict=True):
        assert len(np.unique(indices)) == len(indices)
        row[indices] = True

    def rejected(q):
        counts = taken.sum(0)
        statistic = ((counts - rounds * q) ** 2 / (rounds * q * (1 - q))).sum()
        return stats.chi2.sf(statistic, n) < 1e-4

    assert not rejected(batch_size / n)
    assert rejected(batch_size / n * 2 / 3)
    assert rejected(batch_size / n * 3 / 2)
    correlations = np.corrcoef(taken.T)[np.triu_indices(n, 1)]
    assert np.abs(correlations).max() < 6 / np.sqrt(rounds)
    sizes = taken.sum(1)
    assert stats.chisquare(*_binned(sizes, stats.binom(n, batch_size / n), rounds)).pvalue > 1e-4


def _binned(sizes, law, rounds):
    edges = np.arange(5, 16)
    observed = [np.sum(sizes <= edges[0])]
    observed += [np.sum(sizes == k) for k in edges[1:]] + [np.sum(sizes > edges[-1])]
    expected = [law.cdf(edges[0]), *law.pmf(edges[1:]), law.sf(edges[-1])]
    return np.array(observed), np.array(expected) * rounds


def test_poisson_draws_can_be_empty():
    sizes = {len(indices) for indices in draws(200, 1, 100)}
    assert 0 in sizes
    assert max(sizes) > 1


def test_draws_without_a_seed_differ_whatever_global_seeds_are_set():
    found = set()
    for _ in range(20):
        keras.utils.set_random_seed(0)
        found.add(tuple(sampling.Poisson().draw(update_rng(None, 0), 50, 1000)[0].indices))
    assert len(found) == 20


def test_a_seed_repeats_the_draw_of_an_update_and_no_other():
    first, second = draws(2, 50, 1000, seed=3)
    again, _ = draws(2, 50, 1000, seed=3)
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(second)


def test_full_batch_takes_all_in_order():
    (drawn,) = sampling.FullBatch().draw(update_rng(0, 0), 7, 7)
    np.testing.assert_array_equal(drawn.indices, np.arange(7))


@pytest.mark.parametrize(
    ("sampler", "batch_size", "message"),
    [
        (sampling.Poisson(), 11, "at most the number of training examples, 10.*batch_size=11"),
        (sampling.FullBatch(), 9, "whole data set.*set it to 10.*batch_size=9"),
    ],
)
def test_impossible_batches_are_refused(sampler, batch_size, message):
    with pytest.raises(ValueError, match=message):
        sampler.check(batch_size, 10)


def test_samplers_are_found_by_name_and_unknown_names_listed():
    assert isinstance(sampling.resolve("poisson"), sampling.Poisson)
    given = sampling.FullBatch()
    assert sampling.resolve(given) is given
    assert repr(given) == "keras_dp.sampling.FullBatch()"
    with pytest.raises(ValueError, match=r"sampling.*'full_batch', 'poisson'.*'magic'"):
        sampling.resolve("magic")
