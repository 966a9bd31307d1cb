"""From plan to event: the registry of samplings."""

import dp_accounting
import pytest

from keras_dp import accounting
from keras_dp.accounting import events
from tests.accounting.published import plan


def test_poisson_is_a_sampled_gaussian_at_the_declared_rate():
    expected = dp_accounting.PoissonSampledDpEvent(0.25, dp_accounting.GaussianDpEvent(1.5))
    found = accounting.event(plan(batch_size=25, dataset_size=100, noise_multiplier=1.5))
    assert found == expected


@pytest.mark.parametrize(("sampling", "batch_size"), [("given", 25), ("full_batch", 100)])
def test_other_samplings_are_plain_gaussians(sampling, batch_size):
    found = accounting.event(plan(sampling=sampling, batch_size=batch_size, dataset_size=100))
    assert found == dp_accounting.GaussianDpEvent(1.0)


def test_equal_events_are_equal_whatever_the_clip_norm():
    assert accounting.event(plan(clip_norm=0.1)) == accounting.event(plan(clip_norm=9.0))


def test_the_names_are_those_of_the_registry():
    assert set(accounting.SAMPLINGS) == {
        "balls_in_bins",
        "full_batch",
        "given",
        "poisson",
        "poisson_stream",
        "shuffle",
        "stream",
        "truncated_poisson",
    }


def test_a_registered_sampling_is_known_at_once():
    @events.register("test_only", wording="drawn from {dataset_size}")
    def build(plan):
        return dp_accounting.GaussianDpEvent(plan.noise_multiplier)

    try:
        assert "test_only" in accounting.SAMPLINGS
        assert accounting.event(plan(sampling="test_only")) == dp_accounting.GaussianDpEvent(1.0)
        assert events.wording(plan(sampling="test_only")) == "drawn from 1000"
    finally:
        del events._REGISTRY["test_only"]


def test_a_sampling_without_renyi_analysis_is_counted_by_pld_and_refused_by_rdp():
    @events.register("test_only", wording="truncated")
    def build(plan):
        return dp_accounting.TruncatedSubsampledGaussianDpEvent(1000, 0.064, 100, 5.0)

    releases = (accounting.Release(plan(sampling="test_only"), 10, "a"),)
    try:
        truncated = accounting.spent(releases, 1e-5)
        with pytest.raises(ValueError, match="Use accountant='pld'"):
            accounting.spent(releases, 1e-5, "rdp")
    finally:
        del events._REGISTRY["test_only"]
    whole = accounting.spent((accounting.Release(plan(noise_multiplier=5.0), 10, "a"),), 1e-5)
    assert truncated > 0.9 * whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "uniform"}, "`sampling` must be one of .*Received: 'uniform'"),
        ({"clip_norm": 0.0}, "`clip_norm` must be a finite number above 0"),
        ({"batch_size": 2000}, "`batch_size` must be at most `dataset_size`.*smaller batch"),
        ({"sampling": "full_batch"}, "Set batch_size to the number of examples, or use"),
    ],
)
def test_a_plan_that_does_not_add_up_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        accounting.event(plan(**changes))
