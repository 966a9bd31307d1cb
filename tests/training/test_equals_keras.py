"""Without clip and noise a private update is a Keras update; with a clip it is the loop's."""

import functools
import itertools
from unittest import mock

import jax
import keras
import numpy as np
import pytest

import keras_dp
from tests.kinds import KINDS, SIZE, make

pytestmark = pytest.mark.usefixtures("unoptimized")

OPTIMIZERS = {
    "SGD": (
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda **dp: keras_dp.optimizers.DPSGD(0.1, momentum=0.9, nesterov=True, **dp),
    ),
    # The usual epsilon of Adam, 1e-7, divides rounding errors of tiny gradients by themselves.
    "Adam": (
        lambda: keras.optimizers.Adam(0.01, epsilon=1e-3),
        lambda **dp: keras_dp.optimizers.DPAdam(0.01, epsilon=1e-3, **dp),
    ),
    "AdamW": (
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, epsilon=1e-3),
        lambda **dp: keras_dp.optimizers.DPAdamW(0.01, weight_decay=0.1, epsilon=1e-3, **dp),
    ),
}


# Every kind and every optimizer: what an optimizer does depends on no kind.
@pytest.mark.parametrize(
    ("kind", "optimizer"), list(zip(KINDS, itertools.cycle(OPTIMIZERS), strict=False))
)
def test_update_without_clip_and_noise_equals_keras(kind, optimizer):
    case = make(kind)
    plain, private = OPTIMIZERS[optimizer]
    case.plain.compile(plain(), loss=case.loss)
    case.private.compile(
        private(clip_norm=1e6, noise_multiplier=0.0),
        loss=case.loss,
        sampling="full_batch",
        microbatch_size=7,
    )
    for _ in range(2):
        expected = case.plain.train_on_batch(case.x, case.y, case.sample_weight, return_dict=True)[
            "loss"
        ]
        history = case.private.fit(
            case.x, case.y, sample_weight=case.sample_weight, epochs=1, verbose=0
        )
        np.testing.assert_allclose(history.history["loss"], [expected], rtol=1e-5)
    for ours, theirs in zip(case.private.get_weights(), case.plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def clipped_loop(case, clip_norm):
    """Sum the clipped gradients of the plain Keras model, one example at a time."""
    model = case.plain
    model.compile("sgd", loss=case.loss)
    model.optimizer.build(model.trainable_variables)
    model.evaluate(case.x, case.y, verbose=0)  # builds the compiled loss
    params = [v.value for v in model.trainable_variables]

    def loss(params, x, y, weight):
        value, _ = model.compute_loss_and_updates(
            params,
            [v.value for v in model.non_trainable_variables],
            [v.value for v in model.metrics_variables],
            x,
            y,
            weight,
            training=True,
            optimizer_variables=[v.value for v in model.optimizer.variables],
        )
        return value

    gradient = jax.jit(jax.grad(loss))
    total = [np.zeros(p.shape) for p in params]
    for i in range(SIZE):
        one = keras.tree.map_structure(lambda a, i=i: a[i : i + 1], (case.x, case.y))
        weight = None if case.sample_weight is None else case.sample_weight[i : i + 1]
        grads = [np.asarray(g, np.float64) for g in gradient(params, *one, weight)]
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        total = [t + g * min(1, clip_norm / norm) for t, g in zip(total, grads, strict=True)]
    return total


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "functional_cnn"])
@pytest.mark.parametrize("on_device", [False, True])
def test_clipped_update_equals_the_loop_over_examples(kind, on_device, monkeypatch):
    """`functional_cnn` has a weight regularizer, which plain Keras cannot keep out of the clip."""
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: on_device)
    case = make(kind)
    clip_norm = 0.3
    before = [v.numpy() for v in case.private.trainable_variables]
    case.private.compile(
        keras_dp.optimizers.DPSGD(1.0, clip_norm=clip_norm, noise_multiplier=0.0),
        loss=case.loss,
        sampling="full_batch",
        microbatch_size=5,
    )
    case.private.fit(case.x, case.y, sample_weight=case.sample_weight, epochs=1, verbose=0)
    expected = clipped_loop(case, clip_norm)
    for variable, old, total in zip(
        case.private.trainable_variables, before, expected, strict=True
    ):
        moved = (old - variable.numpy()) * SIZE
        np.testing.assert_allclose(moved, total, rtol=1e-3, atol=2e-5)


@functools.cache
def trained_in_microbatches(size, on_device):
    case = make("functional_cnn")
    case.private.compile(
        keras_dp.optimizers.DPSGD(0.5, clip_norm=0.2, noise_multiplier=1.0, seed=3),
        loss=case.loss,
        metrics=["accuracy"],
        microbatch_size=size,
    )
    with mock.patch.object(keras_dp.backend, "loops_on_device", lambda: on_device):
        history = case.private.fit(case.x, case.y, batch_size=10, epochs=3, verbose=0).history
    return case.private.get_weights(), history


@pytest.mark.parametrize("microbatch_size", [1, 6, 24, 64])
@pytest.mark.parametrize("on_device", [False, True])
def test_the_cut_into_microbatches_changes_nothing(microbatch_size, on_device):
    weights, history = trained_in_microbatches(microbatch_size, on_device)
    expected_weights, expected_history = trained_in_microbatches(10, False)
    for ours, theirs in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for name, values in expected_history.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)


def test_run_eagerly_gives_the_compiled_update():
    def train(run_eagerly):
        case = make("sequential_mlp")
        case.private.compile(
            keras_dp.optimizers.DPSGD(0.5, clip_norm=0.2, noise_multiplier=1.0, seed=3),
            loss=case.loss,
            metrics=["accuracy"],
            run_eagerly=run_eagerly,
        )
        history = case.private.fit(case.x, case.y, batch_size=10, epochs=1, verbose=0).history
        return case.private.get_weights(), history

    eager, eager_history = train(True)
    compiled, history = train(False)
    for ours, theirs in zip(eager, compiled, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(eager_history["accuracy"], history["accuracy"])


def test_metrics_are_those_of_keras_on_the_same_examples():
    case = make("dict_inputs_two_outputs")
    metrics = {
        "kind": ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)],
        "size": ["mae"],
    }
    weighted = {"kind": ["accuracy"]}
    arguments = {"loss": case.loss, "metrics": metrics, "weighted_metrics": weighted}
    case.plain.compile(keras.optimizers.SGD(0.0), **arguments)
    case.private.compile(
        keras_dp.optimizers.DPSGD(0.0, noise_multiplier=0.0),
        sampling="full_batch",
        microbatch_size=9,
        **arguments,
    )
    rng = np.random.default_rng(1)
    weights = {"kind": rng.uniform(size=SIZE), "size": rng.uniform(size=SIZE)}
    expected = case.plain.train_on_batch(case.x, case.y, weights, return_dict=True)
    ours = case.private.fit(case.x, case.y, sample_weight=weights, verbose=0).history
    assert set(ours) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], [value], rtol=1e-5, err_msg=name)


def test_masked_sequences_give_keras_loss_and_metrics_when_lengths_are_equal():
    """Equal lengths: Keras' average over all valid positions is the average over examples."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, (SIZE, 5))
    tokens[:, 3:] = 0
    y = rng.integers(0, 4, (SIZE, 5))

    def build(cls):
        inputs = keras.Input((5,), dtype="int32")
        hidden = keras.layers.Embedding(9, 6, mask_zero=True)(inputs)
        return cls(inputs, keras.layers.Dense(4)(hidden))

    keras.utils.set_random_seed(0)  # one in a million weights would put two classes level
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain, private = build(keras.Model), build(keras_dp.DPModel)
    private.set_weights(plain.get_weights())
    plain.compile(keras.optimizers.SGD(0.5), loss=loss, metrics=["accuracy"])
    private.compile(
        keras_dp.optimizers.DPSGD(0.5, clip_norm=1e6, noise_multiplier=0.0),
        loss=loss,
        metrics=["accuracy"],
        sampling="full_batch",
        microbatch_size=7,
    )
    expected = plain.train_on_batch(tokens, y, return_dict=True)
    ours = private.fit(tokens, y, verbose=0).history
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], [value], rtol=1e-5, err_msg=name)
    for a, b in zip(private.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
