"""Every clip rule: its formula, its sensitivity, and that the noise follows it."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from scipy import stats

import keras_dp
from keras_dp import clipping
from keras_dp.clipping import AdaptiveQuantile, Automatic

pytestmark = pytest.mark.usefixtures("unoptimized")

RULES = sorted(clipping.CLIP_RULES)
SIGNIFICANCE = 1e-10
FORMULAS = {
    "flat": lambda norm, bound: min(1, bound / norm),
    "unit_norm": lambda norm, bound: min(1 / bound, 1 / norm),
    "automatic": lambda norm, bound: 1 / (norm + 0.01),
    "adaptive": lambda norm, bound: min(1, bound / norm),
}


def loss(params, x):
    return jnp.vdot(params["a"], x[:3]) + jnp.vdot(params["b"], x[3:])


PARAMS = {"a": jnp.zeros(3), "b": jnp.zeros(2)}


def gradients(scale, size=50, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=(size, 5))).astype("float32")


def bound_for(rule):
    return 1.0 if rule == "automatic" else 0.7


@pytest.mark.parametrize("method", sorted(clipping.METHODS))
@pytest.mark.parametrize("scale", [0.01, 0.3, 10.0])
@pytest.mark.parametrize("rule", sorted(FORMULAS))
def test_a_gradient_is_multiplied_with_the_rules_factor(rule, scale, method):
    for x in gradients(scale, 5):
        clip = clipping.clipped_sum(loss, clip_norm=bound_for(rule), clipping=rule, method=method)
        result = clip(PARAMS, x[None])
        factor = FORMULAS[rule](np.linalg.norm(x), bound_for(rule))
        np.testing.assert_allclose(result.grads["a"], factor * x[:3], rtol=1e-5)
        np.testing.assert_allclose(result.grads["b"], factor * x[3:], rtol=1e-5)


@pytest.mark.parametrize("method", sorted(clipping.METHODS))
def test_per_layer_clips_each_layer_to_its_share(method):
    x = np.array([3.0, 4.0, 0.0, 0.1, 0.0], "float32")
    clip = clipping.clipped_sum(loss, clip_norm=2.0, clipping="per_layer", method=method)
    grads = clip(PARAMS, x[None]).grads
    np.testing.assert_allclose(grads["a"], x[:3] * np.sqrt(2) / 5, rtol=1e-6)
    np.testing.assert_allclose(grads["b"], x[3:], rtol=1e-6)


@pytest.mark.parametrize("method", sorted(clipping.METHODS))
def test_leaves_of_one_layer_are_clipped_together(method):
    x = gradients(10.0, 1)
    apart, together = (
        clipping.clipped_sum(
            loss, clip_norm=2.0, clipping="per_layer", layers=layers, method=method
        )(PARAMS, x)
        for layers in (None, ["same", "same"])
    )
    flat = clipping.clipped_sum(loss, clip_norm=2.0, method=method)(PARAMS, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), together[0], flat[0])
    assert not np.allclose(apart.grads["a"], flat.grads["a"])


@pytest.mark.parametrize("rule", RULES)
def test_one_example_adds_the_sensitivity_at_most_and_nearly_that_if_it_is_large(rule):
    bound = bound_for(rule)
    clip = jax.jit(clipping.clipped_sum(loss, clip_norm=bound, clipping=rule))
    sensitivity = clipping.resolve(rule).sensitivity(bound)
    added = []
    for scale in (1e-3, 0.1, 1.0, 1e3):
        for x in gradients(scale, 10):
            grads = clip(PARAMS, x[None]).grads
            added.append(np.sqrt(sum(np.sum(np.square(g)) for g in grads.values())))
    assert max(added) <= sensitivity * (1 + 1e-5)
    assert max(added) >= 0.99 * sensitivity


@pytest.mark.parametrize("method", sorted(clipping.METHODS))
@pytest.mark.parametrize("rule", RULES)
def test_an_example_that_is_not_finite_adds_nothing_under_any_rule(rule, method):
    x = gradients(1.0, 4)
    clip = clipping.clipped_sum(loss, clip_norm=bound_for(rule), clipping=rule, method=method)
    clean = clip(PARAMS, x, np.array([1, 0, 1, 1]))
    x[1, 4] = np.nan
    dirty = clip(PARAMS, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), clean[0], dirty[0])


def model_of(rule, noise_multiplier, clip_norm=1.0, **compiling):
    layer = keras.layers.Dense(20_000, use_bias=False, kernel_initializer="zeros")
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, layer(inputs))
    optimizer = keras_dp.optimizers.DPSGD(
        1.0, clip_norm=clip_norm, noise_multiplier=noise_multiplier, clipping=rule
    )
    model.compile(optimizer, loss=lambda y_true, y_pred: 0.0 * y_pred, **compiling)
    return model, layer


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_the_noise_of_an_update_follows_the_rules_sensitivity(rule, on_device, monkeypatch):
    """The test must also tell the right scale from 2/3 and 3/2 of it."""
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: on_device)
    clip_norm = 1.0 if rule == "automatic" else 0.5
    model, layer = model_of(rule, 1.5, clip_norm)
    model.fit(np.ones((200, 4), "float32"), np.zeros((200, 1)), batch_size=100, steps_per_epoch=1)
    made = clipping.resolve(rule)
    scale = made.sum_noise_multiplier(1.5, 100) * made.sensitivity(clip_norm) / 100
    sample = np.asarray(layer.kernel).ravel()
    assert stats.kstest(sample / scale, "norm").pvalue > SIGNIFICANCE
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(sample / (wrong * scale), "norm").pvalue < SIGNIFICANCE


def follow(norms, rule, clip_norm, updates, batch_size):
    """The adaptive clip norm without noise, by the paper's formula."""
    path = [clip_norm]
    for _ in range(updates):
        share = np.mean(norms <= path[-1]) * len(norms) / batch_size
        missing = 0.5 * (1 - len(norms) / batch_size)  # each absent example counts neither way
        path.append(path[-1] * np.exp(-rule.learning_rate * (share + missing - rule.quantile)))
    return path


@pytest.mark.parametrize("microbatch_size", [8, 64])
@pytest.mark.parametrize("on_device", [False, True])
def test_an_adaptive_clip_norm_follows_the_quantile(on_device, microbatch_size, monkeypatch):
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: on_device)
    rule = AdaptiveQuantile(quantile=0.3, learning_rate=0.5, count_stddev=1e-6)
    x = np.random.default_rng(0).exponential(size=(40, 1)).astype("float32")
    inputs = keras.Input((1,))
    model = keras_dp.DPModel(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    optimizer = keras_dp.optimizers.DPSGD(0.0, clip_norm=5.0, noise_multiplier=0.0, clipping=rule)
    model.compile(
        optimizer,
        loss=lambda y_true, y_pred: y_pred,
        sampling="full_batch",
        microbatch_size=microbatch_size,
    )
    model.fit(x, np.zeros((40, 1)), epochs=20, verbose=0)
    expected = follow(x[:, 0], rule, 5.0, 20, 40)[-1]
    values = [variable.value for variable in optimizer.variables]
    np.testing.assert_allclose(optimizer.present_clip_norm(values, None), expected, rtol=1e-4)
    assert np.mean(x < expected) == pytest.approx(0.3, abs=0.1)


def test_sum_and_count_together_cost_what_the_noise_multiplier_says():
    """A Gaussian release of both has the multiplier (a^-2 + b^-2)^(-1/2): Andrew et al."""
    rule = AdaptiveQuantile(count_stddev=3.0)
    for_sum, for_count = rule.sum_noise_multiplier(1.1, 64), 3.0 / 0.5
    assert for_sum > 1.1
    assert (for_sum**-2 + for_count**-2) ** -0.5 == pytest.approx(1.1)


def test_the_count_is_noised_by_its_own_scale():
    @jax.jit
    def excess(key):
        mechanism = keras_dp.step.Mechanism(np.float32(1), np.float32(7), np.float32(60), key)
        sums = [jnp.zeros(2), jnp.zeros(())]
        return keras_dp.step.privatize(AdaptiveQuantile(), sums, mechanism, 1.0)[1]

    draws = [float(excess(keras_dp.noise.noise_key(5, update))) for update in range(2000)]
    assert stats.kstest(np.array(draws) / 3.0, "norm").pvalue > SIGNIFICANCE
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(np.array(draws) / (3.0 * wrong), "norm").pvalue < SIGNIFICANCE


def test_an_adaptive_clip_norm_is_saved_with_the_model(tmp_path):
    model, _ = model_of(AdaptiveQuantile(quantile=0.9), 0.5, 3.0)
    model.fit(np.ones((50, 4), "float32"), np.zeros((50, 1)), batch_size=20, verbose=0)
    path = tmp_path / "model.keras"
    values = [variable.value for variable in model.optimizer.variables]
    before = float(model.optimizer.present_clip_norm(values, None))
    assert before != 3.0
    optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
    assert optimizer.clip_rule == AdaptiveQuantile(quantile=0.9)
    model.compile(model.optimizer, loss="mse")
    model.save(path)
    loaded = keras.saving.load_model(path).optimizer
    values = [variable.value for variable in loaded.variables]
    assert loaded.clip_rule == AdaptiveQuantile(quantile=0.9)
    assert float(loaded.present_clip_norm(values, None)) == before


def test_the_statement_names_the_clip_rule():
    model, _ = model_of("unit_norm", 4.0, 0.1)
    model.fit(np.ones((50, 4), "float32"), np.zeros((50, 1)), batch_size=20, verbose=0)
    text = " ".join(str(model.privacy_statement(1e-5)).split())
    assert "clip rule unit_norm" in text
    assert "standard deviation 4 on the sum" in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Automatic(gamma=0.0), "gamma.*above 0.*0.0"),
        (lambda: AdaptiveQuantile(quantile=1.0), "quantile.*1.0"),
        (lambda: AdaptiveQuantile(learning_rate=-1.0), "learning_rate.*-1.0"),
        (lambda: AdaptiveQuantile(count_stddev=0.0), "count_stddev.*0.0"),
        (
            lambda: AdaptiveQuantile(count_stddev=0.5).sum_noise_multiplier(1.1, 8),
            "count_stddev.*half the noise multiplier.*0.5.*1.1",
        ),
        (
            lambda: keras_dp.optimizers.DPSGD(0.1, clip_norm=0.5, clipping="automatic"),
            "clip_norm.*no effect.*0.5",
        ),
        (lambda: keras_dp.optimizers.DPSGD(0.1, clipping="magic"), "clipping.*'flat'.*'magic'"),
        (
            lambda: clipping.clipped_sum(loss, clip_norm=1.0, layers=["a"])(PARAMS, gradients(1.0)),
            "layers.*2 leaves.*Received 1",
        ),
    ],
)
def test_bad_settings_of_a_rule_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("train", ["fit", "train_on_batch"])
def test_a_count_that_costs_more_than_the_budget_is_refused_before_training(train):
    model, layer = model_of(AdaptiveQuantile(count_stddev=0.1), 1.0)
    with pytest.raises(ValueError, match="count_stddev"):
        getattr(model, train)(np.ones((50, 4), "float32"), np.zeros((50, 1)))
    assert model.ledger.updates == 0
    assert not np.any(layer.kernel)
