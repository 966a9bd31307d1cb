"""Forward accounting, against closed forms and against what any upper bound must obey."""

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dp import accounting
from keras_dp.accounting import Release, pld, rdp
from keras_dp.accounting.composition import composition_of
from tests.accounting.published import plan

ACCOUNTANTS = pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
FEW = settings(max_examples=5, deadline=None, derandomize=True)
RATES = st.tuples(st.integers(1, 500), st.integers(500, 1000))
USUAL = {"noise_multiplier": 1.0, "batch_size": 10, "dataset_size": 1000, "delta": 1e-5}


def normal_cdf(value):
    return math.erfc(-value / math.sqrt(2)) / 2


def gaussian_delta(noise, epsilon):
    """Return the exact delta of one Gaussian mechanism (Balle and Wang, 2018)."""
    up, down = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
    return normal_cdf(up) - math.exp(epsilon) * normal_cdf(down)


def sampled_delta(noise, rate, epsilon):
    """Return the exact delta of one Poisson-sampled Gaussian when one example is removed."""
    edge = noise**2 * math.log((math.exp(epsilon) - 1 + rate) / rate) + 0.5
    with_example = (1 - rate) * normal_cdf(-edge / noise) + rate * normal_cdf((1 - edge) / noise)
    return with_example - math.exp(epsilon) * normal_cdf(-edge / noise)


@FEW
@given(noise=st.floats(0.3, 8), updates=st.integers(1, 300), exponent=st.floats(-8, -3))
def test_without_sampling_pld_is_the_gaussian_mechanism_from_above(noise, updates, exponent):
    delta = 10**exponent
    found = accounting.epsilon(
        **{**USUAL, "noise_multiplier": noise, "delta": delta}, updates=updates, sampling="given"
    )
    whole = noise / math.sqrt(updates)
    if found < 100:
        assert gaussian_delta(whole, found) <= delta * (1 + 1e-6)
    if 0.01 < found < 30:
        assert gaussian_delta(whole, 0.999 * found) > delta


@FEW
@given(noise=st.floats(0.5, 5), rate=RATES, exponent=st.floats(-8, -3))
def test_one_sampled_update_by_pld_is_its_exact_epsilon_from_above(noise, rate, exponent):
    delta, (batch_size, dataset_size) = 10**exponent, rate
    found = accounting.epsilon(
        noise_multiplier=noise,
        batch_size=batch_size,
        dataset_size=dataset_size,
        updates=1,
        delta=delta,
    )
    if found > 0.01:
        assert sampled_delta(noise, batch_size / dataset_size, found) <= delta * (1 + 1e-6)
        assert sampled_delta(noise, batch_size / dataset_size, 0.998 * found) > delta


def test_many_composed_updates_stay_above_the_exact_epsilon():
    """Sampling everything is a Gaussian mechanism, but it is composed on the grid."""
    count, noise = 10_000, 400.0
    found = accounting.epsilon(
        noise_multiplier=noise, batch_size=9, dataset_size=9, updates=count, delta=1e-9
    )
    assert gaussian_delta(noise / math.sqrt(count), found) <= 1e-9
    assert gaussian_delta(noise / math.sqrt(count), 0.999 * found) > 1e-9


@FEW
@given(
    accountant=st.sampled_from(accounting.ACCOUNTANTS),
    noise=st.floats(0.7, 20),
    updates=st.integers(1, 20_000),
    rate=RATES,
    more=st.floats(1.01, 3),
)
def test_epsilon_falls_with_noise_and_delta_and_grows_with_updates(
    accountant, noise, updates, rate, more
):
    def epsilon(noise=noise, updates=updates, delta=1e-6):
        batch_size, dataset_size = rate
        return accounting.epsilon(
            noise_multiplier=noise,
            batch_size=batch_size,
            dataset_size=dataset_size,
            updates=updates,
            delta=delta,
            accountant=accountant,
        )

    usual = epsilon() * (1 + 1e-9)
    assert epsilon(noise=noise * more) <= usual
    assert epsilon(delta=1e-6 * more) <= usual
    assert epsilon(updates=math.ceil(updates * more)) * (1 + 1e-9) >= epsilon()


@ACCOUNTANTS
def test_nothing_released_costs_nothing(accountant):
    assert accounting.spent((), 1e-5, accountant) == 0.0


@ACCOUNTANTS
@pytest.mark.parametrize("noise", [0, 0.0, 1e-9, 1e-200])
def test_without_noise_epsilon_is_infinite(accountant, noise):
    private, bare = Release(plan(), 5, "a"), Release(plan(noise_multiplier=noise), 1, "b")
    assert accounting.spent((private, bare), 1e-5, accountant) == math.inf


@ACCOUNTANTS
def test_order_and_cut_of_the_releases_do_not_matter(accountant):
    def epsilon(*parts):
        releases = [Release(plan(noise_multiplier=noise), count, "x") for noise, count in parts]
        return accounting.spent(releases, 1e-5, accountant)

    whole = epsilon((1.0, 70), (2.0, 100))
    assert epsilon((2.0, 60), (1.0, 50), (2.0, 40), (1.0, 20)) == whole
    assert whole > epsilon((1.0, 70))
    assert whole > epsilon((2.0, 100))


@ACCOUNTANTS
def test_clip_norm_and_seed_do_not_change_epsilon(accountant):
    one, other = Release(plan(), 50, "a"), Release(plan(clip_norm=7.0, seeded=True), 50, "b")
    whole = Release(plan(), 100, "c")
    found = accounting.spent((one, other), 1e-5, accountant)
    assert found == accounting.spent((whole,), 1e-5, accountant)


@ACCOUNTANTS
def test_full_batch_and_given_batches_are_not_amplified(accountant):
    settings = {**USUAL, "updates": 20, "accountant": accountant}
    given_batches = accounting.epsilon(**settings, sampling="given")
    full = accounting.epsilon(**{**settings, "batch_size": 1000}, sampling="full_batch")
    assert given_batches == full
    assert given_batches > 3 * accounting.epsilon(**settings)


@pytest.mark.parametrize("noise", [0.4, 1.0, 30.0, 2000.0])
@pytest.mark.parametrize("updates", [1, 1000, 200_000])
def test_pld_is_never_above_rdp_which_is_never_above_rdp_classic(noise, updates):
    settings = {**USUAL, "noise_multiplier": noise, "updates": updates}
    tight, newer, older = (
        accounting.epsilon(**settings, accountant=name) for name in ("pld", "rdp", "rdp_classic")
    )
    assert 0 <= tight <= newer <= older


@pytest.mark.parametrize("n", [93, 99, 105])
def test_whole_epochs_of_single_examples_are_counted_in_whole_numbers(n):
    """`int(1 / (1 / n))` is not n for these."""
    settings = {"noise_multiplier": 2.0, "batch_size": 1, "dataset_size": n, "delta": 1e-3}
    spent = accounting.epsilon(**settings, updates=n)
    assert accounting.updates(**settings, epsilon=spent) == n


@pytest.mark.parametrize(
    ("noise", "updates"),
    [(1e-5, 10), (1e-3, 10**6), (0.05, 1000), (0.3, 10**5), (1e3, 10**12), (1e300, 1), (3, 10**7)],
)
@pytest.mark.parametrize("batch_size", [1, 500, 1000])
def test_extreme_settings_are_answered_by_an_upper_bound_and_on_a_short_grid(
    noise, updates, batch_size, monkeypatch
):
    sizes = []
    compose = pld.PLDAccountant.compose

    def composed(self, *arguments):
        compose(self, *arguments)
        sizes.append(max(self._pld._pmf_remove.size, self._pld._pmf_add.size))

    monkeypatch.setattr(pld.PLDAccountant, "compose", composed)
    settings = {**USUAL, "noise_multiplier": noise, "batch_size": batch_size, "updates": updates}
    found = accounting.epsilon(**settings)
    assert 0 <= found <= accounting.epsilon(**settings, accountant="rdp") < math.inf
    assert max(sizes, default=0) < 2**20


def test_renyi_divergences_stay_positive_where_rounding_makes_them_negative():
    tiny = Release(plan(noise_multiplier=1e6, batch_size=1, dataset_size=10_000), 1000, "a")
    curve = rdp.curve(composition_of((tiny,)))
    assert np.all(curve.divergences >= 1000 * 1e-13)
    assert curve.classic_epsilon(1e-5) > 0


def test_orders_that_do_not_converge_are_left_out_without_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        found = accounting.epsilon(
            noise_multiplier=3.0,
            batch_size=1,
            dataset_size=2,
            updates=10,
            delta=1e-5,
            accountant="rdp",
        )
    assert math.isfinite(found)
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "magic"}, "`sampling` must be one of .*'full_batch', 'given', 'poisson'"),
        ({"sampling": "truncated_poisson", "largest_batch": 0}, "`largest_batch` must be a whole"),
        ({"accountant": "prv"}, "`accountant` must be one of 'pld', 'rdp', 'rdp_classic'"),
        ({"batch_size": 1001}, r"`batch_size` must be at most `dataset_size`.*1001.*1000"),
        ({"batch_size": 0}, "`batch_size` must be a whole number"),
        ({"batch_size": 10.0}, "`batch_size` must be a whole number"),
        ({"dataset_size": True}, "`dataset_size` must be a whole number"),
        ({"updates": 0}, "`updates` must be a whole number of at least 1. Received: 0"),
        ({"updates": 1.5}, "`updates` must be a whole number"),
        ({"updates": 10**30}, r"`updates` must be at most 2\*\*53"),
        ({"delta": 0.0}, "`delta` must lie strictly between 0 and 1"),
        ({"delta": 1.0}, "`delta` must lie strictly between 0 and 1"),
        ({"delta": "1e-5"}, "`delta` must be strictly between 0 and 1"),
        ({"noise_multiplier": -1.0}, "`noise_multiplier` must be a finite number of at least 0"),
        ({"noise_multiplier": math.nan}, "`noise_multiplier` must be a finite number"),
        ({"sampling": "full_batch"}, "`batch_size` must equal `dataset_size`"),
        ({"rdp_orders": [2.0]}, "`rdp_orders` must be left out when accountant='pld'"),
        ({"accountant": "rdp", "rdp_orders": []}, "`rdp_orders` must be numbers above 1"),
        ({"accountant": "rdp", "rdp_orders": [1.0, 2.0]}, "must be numbers above 1"),
        ({"accountant": "rdp", "rdp_orders": ["two"]}, "`rdp_orders` must be"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        accounting.epsilon(**{**USUAL, "updates": 10, **changes})


def test_one_order_gives_the_textbook_epsilon():
    found = accounting.epsilon(
        **USUAL, updates=3, sampling="given", accountant="rdp_classic", rdp_orders=[5]
    )
    assert found == pytest.approx(3 * 5 / 2 + math.log(1e5) / 4)


def test_truncation_that_hardly_happens_costs_next_to_nothing():
    """Also for a high rate and few updates, where low Renyi orders are left out."""
    settings = {"noise_multiplier": 1.3, "batch_size": 10, "dataset_size": 40, "delta": 1e-3}
    for updates in (1, 4, 100):
        truncated = accounting.epsilon(
            sampling="truncated_poisson", largest_batch=30, updates=updates, **settings
        )
        poisson = accounting.epsilon(updates=updates, **settings)
        assert poisson <= truncated <= 1.001 * poisson
