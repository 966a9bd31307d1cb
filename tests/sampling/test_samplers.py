"""The draws have the law that the accountant composes."""

import keras
import numpy as np
import pytest
from scipy import stats

from keras_dp import sampling
from keras_dp.accounting import events
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


def test_truncated_poisson_keeps_a_random_part_of_a_larger_draw():
    """Sizes follow the truncated Binomial law, and no example is preferred."""
    sampler, rounds, n, batch_size = sampling.TruncatedPoisson(largest_batch=11), 4000, 50, 10
    taken = np.zeros((rounds, n), bool)
    for update, row in enumerate(taken):
        (batch,) = sampler.draw(update_rng(0, update), batch_size, n)
        assert len(np.unique(batch.indices)) == len(batch.indices) <= 11
        row[batch.indices] = True
    law = stats.binom(n, batch_size / n)
    sizes = np.bincount(taken.sum(1), minlength=12)
    expected = rounds * np.append(law.pmf(np.arange(11)), law.sf(10))
    assert stats.chisquare(sizes[4:], _lumped(expected, 4), sum_check=False).pvalue > 1e-4
    share = np.sum(expected * np.arange(12)) / (rounds * n)
    statistic = ((taken.sum(0) - rounds * share) ** 2 / (rounds * share * (1 - share))).sum()
    assert stats.chi2.sf(statistic, n) > 1e-4


def _lumped(expected, first):
    return np.append(expected[: first + 1].sum(), expected[first + 1 :])


def test_balls_in_bins_places_each_example_once_uniformly_and_independently():
    rounds, n, batch_size = 2000, 40, 10
    places = np.zeros((rounds, n), int)
    for epoch, row in enumerate(places):
        batches = sampling.BallsInBins().draw(update_rng(0, epoch), batch_size, n)
        assert len(batches) == 4
        assert sorted(np.concatenate([batch.indices for batch in batches])) == list(range(n))
        for place, batch in enumerate(batches):
            row[batch.indices] = place
    counts = np.array([np.bincount(column, minlength=4) for column in places.T])
    assert stats.chisquare(counts.ravel(), np.full(4 * n, rounds / 4)).pvalue > 1e-4
    together = (places[:, :1] == places[:, 1:]).mean(0)  # 1/4 when independent
    assert np.abs(together - 1 / 4).max() < 5 * np.sqrt(3 / 16 / rounds)
    sizes = np.bincount((places == 0).sum(1), minlength=n + 1)
    law = rounds * stats.binom(n, 1 / 4).pmf(np.arange(n + 1))
    assert stats.chisquare(sizes[5:16], law[5:16], sum_check=False).pvalue > 1e-4


@pytest.mark.parametrize(("n", "sizes"), [(40, [10] * 4), (44, [10] * 4), (36, [10, 10, 10, 6])])
def test_shuffled_batches_have_one_size_and_share_no_example(n, sizes):
    batches = sampling.Shuffle().draw(update_rng(0, 0), 10, n)
    assert [len(batch.indices) for batch in batches] == sizes
    seen = np.concatenate([batch.indices for batch in batches])
    assert len(np.unique(seen)) == len(seen)
    (first, *_), (again, *_) = (
        sampling.Shuffle().draw(update_rng(0, epoch), 10, n) for epoch in (1, 2)
    )
    assert set(first.indices) != set(again.indices)


@pytest.mark.parametrize("scheme", sampling.SAMPLERS.values())
def test_a_sampler_is_rebuilt_from_its_configuration(scheme):
    sampler = scheme()
    rebuilt = sampling.resolve(sampler.get_config())
    assert type(rebuilt) is scheme
    assert rebuilt.get_config() == sampler.get_config()
    assert repr(sampler).startswith(f"keras_dp.sampling.{scheme.__name__}(")


@pytest.mark.parametrize("scheme", sampling.SAMPLERS.values())
def test_an_epoch_is_drawn_as_a_whole_where_it_is_accounted_for_as_a_whole(scheme):
    size = 40 if scheme is sampling.FullBatch else 10
    batches = scheme().draw(update_rng(0, 0), size, 40)
    assert (len(batches) > 1) == events.once_an_epoch(scheme.name)


@pytest.mark.parametrize(
    ("sampler", "batch_size", "message"),
    [
        (sampling.TruncatedPoisson(), 11, "at most the number of training examples, 10"),
        (sampling.TruncatedPoisson(4), 5, "`largest_batch` must be at least `batch_size`.*=4.*=5"),
        (sampling.BallsInBins(), 11, "at most the number of training examples, 10"),
        (sampling.Shuffle(), 11, "at most the number of training examples, 10"),
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
    with pytest.raises(ValueError, match="`largest_batch` must be a whole number"):
        sampling.TruncatedPoisson(largest_batch=0)
    with pytest.raises(ValueError, match=r"sampling.*'full_batch', 'poisson', .*'magic'"):
        sampling.resolve("magic")
