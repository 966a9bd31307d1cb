"""Discrete noise through `fit`: what is released, recorded, stated and saved."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from scipy import stats

import keras_dp
from keras_dp import noise, step
from keras_dp.accounting import Ledger
from keras_dp.auditing.recording import copied_settings
from keras_dp.backend.jax.noise import discrete
from keras_dp.clipping import AdaptiveQuantile
from keras_dp.plan import LATTICE, PrivacyPlan
from keras_dp.private_metrics import PrivateMetrics

SIGNIFICANCE = 1e-6
PLAN = PrivacyPlan(
    sampling="poisson",
    batch_size=20,
    dataset_size=100,
    clip_norm=2.0,
    noise_multiplier=1.5,
    noise="discrete_gaussian",
    dimension=10**8,
)


def linear_model(units, kind="discrete_gaussian", optimizer=keras_dp.optimizers.DPSGD, **settings):
    inputs = keras.Input((4,))
    layer = keras.layers.Dense(units, use_bias=False, kernel_initializer="zeros")
    model = keras_dp.DPModel(inputs, layer(inputs))
    settings = {"clip_norm": 0.5, "noise_multiplier": 2.0, **settings}
    model.compile(optimizer(1.0, noise=kind, **settings), loss=lambda y_true, y_pred: 0.0 * y_pred)
    return model, layer


def trained(model, size=64, **settings):
    model.fit(np.ones((size, 4), "float32"), np.zeros((size, 1)), verbose=0, **settings)
    return model


@pytest.mark.parametrize("on_device", [False, True])
def test_an_update_releases_lattice_points_with_noise_of_the_promised_scale(on_device, monkeypatch):
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: on_device)
    model, layer = linear_model(40_000, seed=1)
    samples = []
    for _ in range(2):
        layer.kernel.assign(np.zeros((4, 40_000)))
        trained(model, batch_size=16, steps_per_epoch=1)
        samples.append(-16 * np.asarray(layer.kernel).ravel())
    (plan, _), *others = model.privacy_statement(1e-5).releases
    assert not others
    assert plan.noise == "discrete_gaussian"
    assert plan.dimension == 160_000
    points = samples[0].astype(float) / float(discrete.lattice(plan.noise_stddev).step)
    np.testing.assert_array_equal(points, np.round(points))
    for sample in samples:
        assert stats.kstest(sample / plan.noise_stddev, "norm").pvalue > SIGNIFICANCE
        for wrong in (2 / 3, 3 / 2):
            scaled = sample / (plan.noise_stddev * wrong)
            assert stats.kstest(scaled, "norm").pvalue < SIGNIFICANCE
    assert abs(np.corrcoef(*samples)[0, 1]) < 5 / math.sqrt(samples[0].size)


def test_noise_is_raised_by_what_rounding_can_cost():
    raised = PLAN.raised_noise_multiplier
    assert raised > 1.5
    assert 1 / raised + math.sqrt(PLAN.dimension) / LATTICE == pytest.approx(1 / 1.5, rel=1e-12)
    assert PLAN.noise_stddev == 2.0 * raised
    assert raised < 1.5 * 1.0005  # hardly, even for a hundred million weights
    assert dataclasses.replace(PLAN, noise="gaussian", dimension=None).noise_stddev == 3.0
    for unraised in (0.0, math.inf):
        plan = dataclasses.replace(PLAN, noise_multiplier=unraised)
        assert plan.raised_noise_multiplier == unraised


def test_the_mechanism_of_an_update_is_that_of_the_plan():
    model, _ = linear_model(10_000, noise_multiplier=1000.0)
    seen = []
    model.fit(
        np.ones((64, 4), "float32"),
        np.zeros((64, 1)),
        batch_size=16,
        steps_per_epoch=1,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda *_, **__: seen.append(model.active_run.mechanism())
            )
        ],
    )
    ((plan, _),) = model.privacy_statement(1e-5).releases
    assert seen[0].noise_multiplier * seen[0].clip_norm == np.float32(plan.noise_stddev)
    assert plan.noise_stddev > 1.005 * 1000 * 0.5
    assert seen[0].key.nbytes == 32


def test_noise_that_rounding_leaves_no_room_for_is_refused():
    model, layer = linear_model(25, noise_multiplier=float(LATTICE))
    with pytest.raises(
        ValueError, match=r"must be smaller with noise='discrete_gaussian'.*100 numbers"
    ):
        trained(model)
    assert model.ledger.updates == 0
    assert not np.asarray(layer.kernel).any()


def test_without_noise_the_update_is_that_of_float32():
    kernels = []
    for kind in ("gaussian", "discrete_gaussian"):
        model, layer = linear_model(3, kind, noise_multiplier=0.0)
        model.compile(model.optimizer, loss="mse", sampling="full_batch")
        layer.kernel.assign(np.ones((4, 3)))
        trained(model)
        kernels.append(np.asarray(layer.kernel))
    np.testing.assert_array_equal(*kernels)
    assert np.all(kernels[0] != 1)


def test_all_that_an_update_releases_is_on_its_lattice_with_noise_of_its_own_scale():
    """Sum, count and metrics: 1,500 updates of two weights."""
    rule, metrics = AdaptiveQuantile(), PrivateMetrics(noise_stddev=0.7)

    @jax.jit
    def released(key):
        mechanism = step.Mechanism(np.float32(1), np.float32(7), np.float32(64), key)
        sums = [jnp.zeros(2), jnp.float32(12.3), jnp.full(1, -3.21)]
        found = step.privatize(rule, sums, mechanism, 1.0, metrics, "discrete_gaussian")
        noisy, excess, shares = found
        return jnp.concatenate([noisy.values[0][:1] * 64, excess[None], shares * 64])

    updates = range(1500)
    draws = np.array([released(noise.noise_key(5, u, "discrete_gaussian")) for u in updates])
    laws = zip(draws.T, (0.0, 12.3, -3.21), (7.0, 3.2, 0.7), strict=True)
    for sample, mean, stddev in laws:
        points = sample.astype(float) / float(discrete.lattice(stddev).step)
        np.testing.assert_array_equal(points, np.round(points))
        assert stats.kstest((sample - mean) / stddev, "norm").pvalue > SIGNIFICANCE
        for wrong in (2 / 3, 3 / 2):
            scaled = (sample - mean) / (stddev * wrong)
            assert stats.kstest(scaled, "norm").pvalue < SIGNIFICANCE


def test_sum_count_metrics_and_all_their_rounding_cost_one_noise_multiplier():
    """In units of its noise an example moves each part by its bound and a step a number."""
    rule, metrics = AdaptiveQuantile(), PrivateMetrics(noise_stddev=5000.0)
    plan = dataclasses.replace(
        PLAN, dimension=10**8 + 2, noise_multiplier=1000.0, batch_size=10**5, dataset_size=10**6
    )
    left = metrics.left_for_gradients(plan.raised_noise_multiplier, plan.batch_size)
    left = rule.sum_noise_multiplier(left, plan.batch_size)
    count = rule.count_noise(plan.batch_size)
    moved = [
        1 / left + math.sqrt(10**8) / LATTICE,
        1 / (2 * count) + 1 / LATTICE,
        1 / (2 * metrics.noise_stddev) + 1 / LATTICE,
    ]
    assert 0.95 / 1000 < math.hypot(*moved) <= 1 / 1000
    unrounded = math.hypot(1 / left, 1 / (2 * count), 1 / (2 * metrics.noise_stddev))
    assert unrounded == pytest.approx(1 / plan.raised_noise_multiplier)


def test_the_plan_counts_every_number_that_is_released():
    model, _ = linear_model(25, clipping="adaptive", noise_multiplier=0.5)
    model.compile(model.optimizer, loss="mse", private_metrics=PrivateMetrics())
    trained(model, batch_size=16, steps_per_epoch=1)
    (release,) = model.ledger.releases
    released = step.start(model, [v.value for v in model.trainable_variables])
    assert release.plan.dimension == sum(total.size for total in released) == 102


def test_a_resumed_run_goes_on_with_noise_of_its_own(tmp_path):
    """Without data in the gradient, the weights are sums of noise."""

    def going_on(model, updates):
        optimizer = keras_dp.optimizers.DPSGD(
            1.0, noise_multiplier=2.0, noise="discrete_gaussian", seed=4
        )
        model.compile(optimizer, loss="mse")
        kernels = [np.zeros((4, 5000))]
        for _ in range(updates):
            x = np.zeros((64, 4), "float32")
            model.fit(x, np.zeros((64, 1)), batch_size=16, steps_per_epoch=1, verbose=0)
            kernels.append(np.asarray(model.get_weights()[0]))
        return kernels

    *_, before, whole = going_on(linear_model(5000)[0], 3)
    model, _ = linear_model(5000)
    first, second = np.diff(going_on(model, 2), axis=0)
    model.save(tmp_path / "model.keras")
    resumed = going_on(keras.saving.load_model(tmp_path / "model.keras"), 1)[1]
    np.testing.assert_array_equal(resumed, whole)
    third = whole - before
    for one, other in ((first, second), (first, third), (second, third)):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / math.sqrt(one.size)
        assert np.count_nonzero(one == other) < 10


@pytest.mark.parametrize(
    "kinds", [["gaussian"], ["discrete_gaussian"], ["discrete_gaussian", "gaussian"], []]
)
def test_the_statement_speaks_of_floating_point_attacks_only_after_float32_noise(kinds):
    ledger = Ledger()
    for kind in kinds:
        dimension = 7 if kind == "discrete_gaussian" else None
        ledger.record(dataclasses.replace(PLAN, noise=kind, dimension=dimension))
    statement = keras_dp.accounting.build_statement(ledger, 1e-5, group_sizes=())
    said = "Attacks on floating-point noise" in str(statement)
    assert said == ("gaussian" in kinds)
    assert said == any("floating-point" in line for line in statement.to_dict()["not_covered"])
    assert ("discrete on a lattice" in " ".join(str(statement).split())) == (
        "discrete_gaussian" in kinds
    )


def test_discrete_noise_costs_the_same_epsilon():
    spent = {}
    for kind in ("gaussian", "discrete_gaussian"):
        ledger = Ledger()
        ledger.record(dataclasses.replace(PLAN, noise=kind))
        spent[kind] = keras_dp.accounting.privacy_spent(ledger, 1e-5).epsilon
    assert spent["gaussian"] == spent["discrete_gaussian"]


def test_the_kind_of_noise_goes_with_the_ledger_and_old_ledgers_are_of_float32():
    ledger = Ledger()
    ledger.record(PLAN)
    config = ledger.get_config()
    assert Ledger.from_config(config).releases[0].plan == PLAN
    plan = config["releases"][0]["plan"]
    del plan["noise"], plan["dimension"]
    assert Ledger.from_config(config).releases[0].plan.noise == "gaussian"
    for wrong in ({"noise": "laplace"}, {"noise": "discrete_gaussian", "dimension": None}):
        broken = {**config, "releases": [{**config["releases"][0], "plan": {**plan, **wrong}}]}
        with pytest.raises(ValueError, match=r"release must hold.*`(noise|dimension)` must be"):
            Ledger.from_config(broken)


def test_the_kind_of_noise_is_saved_with_the_model(tmp_path):
    model, _ = linear_model(3)
    trained(model, batch_size=8)
    model.compile(model.optimizer, loss="mse")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.noise == "discrete_gaussian"
    assert loaded.ledger.releases[0].plan.noise == "discrete_gaussian"
    assert copied_settings(model.optimizer)["noise"] == "discrete_gaussian"  # of an audit
    wrapped = keras_dp.optimizers.DPOptimizer("sgd", noise="discrete_gaussian")
    config = wrapped.get_config()
    assert type(wrapped).from_config(config).get_config() == config
    assert keras_dp.optimizers.DPOptimizer("sgd").noise == "gaussian"


@pytest.mark.parametrize("wrong", ["float32", "Gaussian", None, 32])
def test_an_unknown_kind_of_noise_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=r"`noise` must be one of 'discrete_gaussian', 'gaussian'"):
        keras_dp.optimizers.DPAdam(noise=wrong)
    with pytest.raises(ValueError, match=r"`noise` must be one of 'discrete_gaussian', 'gaussian'"):
        noise.add_noise([jnp.zeros(2)], noise.noise_key(0, 0), 1.0, wrong)
