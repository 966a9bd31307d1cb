"""One private update is the sum of single examples' clipped gradients, whatever the model."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import backend, keys
from keras_dp.optimizers import DPSGD
from tests import kinds
from tests.contract import models, oracle
from tests.contract.models import SIZE, full_batch, moved, trained_weights
from tests.kinds import Case, L, crossentropy

RULES = sorted(keras_dp.clipping.CLIP_RULES)


def assert_close(ours, theirs, rtol=1e-3, atol=2e-5):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def step(clip_norm, **settings):
    """A step that takes the clipped sum itself."""
    return DPSGD(1.0, clip_norm=clip_norm, **{"noise_multiplier": 0.0, **settings})


def update(case, clip_norm, **settings):
    """Make one update without noise and return the sum that it took."""
    compiling = settings.pop("compiling", {})
    before = trained_weights(case.private)
    full_batch(case.private, step(clip_norm, **settings), case.loss, **compiling)
    case.private.fit(case.x, case.y, sample_weight=case.sample_weight, verbose=0)
    return moved(before, case.private)


def linear(units=3, seed=0):
    """Two layers, small and quick to compile, with examples of very different gradients."""

    def build(cls):
        inputs = keras.Input((4,))
        return cls(inputs, L.Dense(units)(L.Dense(5, activation="tanh")(inputs)))

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SIZE, 4)) * np.geomspace(0.1, 10, SIZE)[:, None]
    case = Case(
        build(keras.Model),
        build(keras_dp.DPModel),
        x.astype("float32"),
        rng.normal(size=(SIZE, units)).astype("float32"),
        "mse",
    )
    case.private.set_weights(case.plain.get_weights())
    return case


@pytest.mark.parametrize("name", models.NAMES)
def test_an_update_is_the_sum_of_single_clipped_gradients(name):
    """The clip norm is in the middle: some gradients are scaled down and some are not."""
    case = models.make(name)
    grads = oracle.gradients(case)
    clip_norm = float(np.median(oracle.norms(grads)))
    state = [variable.numpy() for variable in case.private.non_trainable_variables]
    assert_close(update(case, clip_norm), oracle.clipped_sum(grads, clip_norm))
    for variable, old in zip(case.private.non_trainable_variables, state, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


@pytest.mark.parametrize("rule", RULES)
def test_every_clip_rule_scales_by_its_formula(rule):
    case = linear()
    grads = oracle.gradients(case)
    bound = 1.0 if rule == "automatic" else float(np.median(oracle.norms(grads)))
    if rule == "per_layer":
        layers = [v.path.rpartition("/")[0] for v in case.private.trainable_variables]
        expected = oracle.clipped_by_layer(grads, bound, layers)
    else:
        expected = oracle.clipped_sum(grads, bound, rule)
    assert_close(update(case, bound, clipping=rule), expected)


@pytest.mark.parametrize("name", ["functional_cnn", "dict_inputs_two_outputs"])
def test_without_clip_and_noise_an_update_is_one_of_keras(name):
    """A weight regularizer counts once and outside of the clip; outputs have weights each."""
    case = kinds.make(name)
    rng = np.random.default_rng(1)
    weights = {"kind": rng.uniform(size=24), "size": rng.uniform(size=24)}
    weights = weights if name == "dict_inputs_two_outputs" else None
    case.plain.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=case.loss)
    optimizer = DPSGD(0.1, momentum=0.9, clip_norm=1e6, noise_multiplier=0.0)
    full_batch(case.private, optimizer, case.loss, microbatch_size=9)
    for _ in range(2):
        expected = case.plain.train_on_batch(case.x, case.y, weights, return_dict=True)
        ours = case.private.fit(case.x, case.y, sample_weight=weights, verbose=0).history
        np.testing.assert_allclose(ours["loss"], [expected["loss"]], rtol=1e-5)
    assert_close(case.private.get_weights(), case.plain.get_weights(), rtol=0, atol=1e-5)


def test_a_weight_regularizer_is_no_part_of_the_clipped_gradient():
    """Examples whose gradients are clipped to nearly nothing leave the regularizer's alone."""
    inputs = keras.Input((4,))
    regularizer = keras.regularizers.L2(0.1)
    model = keras_dp.DPModel(inputs, L.Dense(3, kernel_regularizer=regularizer)(inputs))
    x, y = kinds.tiny_data(SIZE)
    before = trained_weights(model)
    full_batch(model, step(1e-6), "mse").fit(x, y, verbose=0)
    np.testing.assert_allclose(before[0] - trained_weights(model)[0], 0.2 * before[0], atol=1e-5)


def dropped_out(microbatch_size):
    """Weights and logs of a seeded run with dropout and Poisson batches of any size."""
    inputs = keras.Input((4,))
    outputs = L.Dense(3)(L.Dropout(0.5, seed=1)(inputs))
    model = keras_dp.DPModel(inputs, outputs)
    model.set_weights([np.ones((4, 3)), np.zeros(3), *model.get_weights()[2:]])
    optimizer = DPSGD(0.5, clip_norm=0.4, noise_multiplier=0.5, clipping="adaptive", seed=3)
    model.compile(optimizer, loss="mse", metrics=["mae"], microbatch_size=microbatch_size)
    history = model.fit(*kinds.tiny_data(40), batch_size=8, epochs=2, verbose=0).history
    return model.get_weights()[:2], history


def test_the_cut_into_microbatches_changes_nothing():
    expected, expected_history = dropped_out(3)
    for size in (1, 64):
        weights, history = dropped_out(size)
        assert_close(weights, expected, rtol=0, atol=1e-5)
        for name, values in expected_history.items():
            np.testing.assert_allclose(history[name], values, rtol=1e-5)


def test_run_eagerly_gives_the_compiled_update():
    x, y = kinds.tiny_data(SIZE)
    found = []
    for eager in (False, True):
        model = kinds.tiny(
            optimizer=DPSGD(0.5, clip_norm=0.7, noise_multiplier=0.5, seed=2),
            sampling="full_batch",
            microbatch_size=8,
            run_eagerly=eager,
        )
        model.set_weights([np.ones((4, 3)), np.zeros(3)])
        model.fit(x, y, verbose=0)
        found.append(model.get_weights())
    assert_close(*found, rtol=0, atol=1e-6)


def test_examples_that_are_not_finite_add_nothing():
    case = linear()
    grads = oracle.gradients(case)
    for dirty, where in ((np.nan, 0), (np.inf, 3)):
        case.x[where, 1] = dirty
    case.y[5] = -np.inf
    good = [grads[i] for i in (1, 2, 4, 6)]
    assert_close(update(case, 0.3), oracle.clipped_sum(good, 0.3))


@pytest.mark.parametrize("scale", [1e-2, 1e8])
def test_one_example_moves_the_sum_by_the_clip_norm_at_most(scale):
    case = linear()
    case.x[3] *= scale
    clip_norm = 0.05
    with_it = update(case, clip_norm)
    case.private.set_weights(case.plain.get_weights())
    case.sample_weight = np.ones(SIZE, "float32")
    case.sample_weight[3] = 0
    without = update(case, clip_norm)
    change = oracle.norm([a - b for a, b in zip(with_it, without, strict=True)])
    assert 0.9 * clip_norm < change <= clip_norm * (1 + 1e-3)  # float32 weights hold the rest


def test_a_loss_sees_one_example_at_a_time():
    """Centred on its batch, a prediction that is alone is zero whatever the weights are."""

    def centred(y_true, y_pred):
        return keras.ops.square(y_true - y_pred + keras.ops.mean(y_pred, axis=0))

    case = linear(1)
    case.loss = centred
    total = update(case, 1.0)
    np.testing.assert_allclose(oracle.norm(total), 0.0, atol=1e-5)


def test_dropout_masks_differ_between_examples_and_updates():
    """With equal examples the kernel sums their masks."""
    inputs = keras.Input((64,))
    layer = L.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras_dp.DPModel(inputs, layer(L.Dropout(0.5, seed=1)(inputs)))
    full_batch(model, step(1e6), lambda y_true, y_pred: -y_pred)
    masks = []
    for _ in range(2):
        layer.kernel.assign(np.zeros((64, 1)))
        model.fit(np.ones((8, 64)), np.zeros((8, 1)), verbose=0)
        masks.append(layer.kernel.numpy()[:, 0] * 8 / 2)
    kept = np.round(masks[0])
    np.testing.assert_allclose(masks[0], kept, atol=1e-4)
    assert len(np.unique(kept)) > 3, "every example has the same mask"
    assert abs(kept.mean() - 4) < 1.1  # six standard errors
    assert (np.round(masks[1]) != kept).any(), "the state of dropout does not advance"


def test_an_adaptive_clip_norm_follows_the_quantile_of_the_norms():
    """Andrew et al. 2021: multiplied with exp(-rate (share of norms below - quantile))."""
    inputs = keras.Input((1,))
    model = keras_dp.DPModel(inputs, L.Dense(1, use_bias=False)(inputs))
    rule = keras_dp.clipping.AdaptiveQuantile(quantile=0.3, learning_rate=0.5, count_stddev=1e-6)
    optimizer = DPSGD(0.0, clip_norm=5.0, noise_multiplier=0.0, clipping=rule)
    full_batch(model, optimizer, lambda y_true, y_pred: y_pred)
    norms = np.random.default_rng(0).exponential(size=40)
    expected = 5.0
    for _ in range(6):
        model.fit(norms[:, None].astype("float32"), np.zeros((40, 1)), verbose=0)
        expected *= np.exp(-0.5 * (np.mean(norms <= expected) - 0.3))
        (found,) = [v for v in optimizer.variables if v.name == "clip_norm"]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def jitter(x, seed):
    """A view of an example."""
    return x * (1 + keras.random.normal(x.shape, seed=seed))


def test_augmented_updates_clip_the_mean_gradient_of_an_examples_views():
    views, clip_norm = 4, 0.3
    case = linear()
    before = trained_weights(case.private)
    compiling = {"augmentation": jitter, "augmentations": views}
    full_batch(case.private, step(clip_norm, seed=3), case.loss, **compiling)
    case.private.fit(case.x, case.y, verbose=0)
    key = np.frombuffer(keys.update_key(3, "views", 1, 8), np.uint32)
    made = backend.make_views(case.private.view_maker, case.x, np.arange(SIZE), key)
    made = keras.ops.convert_to_numpy(made)
    assert made.shape == (SIZE, views, 4)
    assert len(np.unique(made)) > 0.9 * made.size
    grads = oracle.gradients(
        Case(case.plain, None, made.reshape(-1, 4), np.repeat(case.y, views, 0), case.loss)
    )
    means = [
        [np.mean(parts, axis=0) for parts in zip(*grads[i : i + views], strict=True)]
        for i in range(0, len(grads), views)
    ]
    assert_close(moved(before, case.private), oracle.clipped_sum(means, clip_norm))


def test_an_output_of_integers_beside_the_loss_does_no_harm():
    def build(cls):
        inputs = keras.Input((4,))
        logits = L.Dense(3, name="logits")(inputs)
        return cls(inputs, {"logits": logits, "best": keras.ops.argmax(logits, axis=-1)})

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(SIZE, 4)).astype("float32"), rng.integers(0, 3, SIZE)
    y = {"logits": y, "best": y}
    loss = {"logits": crossentropy(), "best": None}
    case = Case(build(keras.Model), build(keras_dp.DPModel), x, y, loss)
    case.private.set_weights(case.plain.get_weights())
    grads = oracle.gradients(case)
    assert_close(update(case, 0.5), oracle.clipped_sum(grads, 0.5))
