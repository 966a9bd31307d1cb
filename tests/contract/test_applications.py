"""Backbones with new heads, heads on features, and solvers, against loops and formulas."""

import keras
import numpy as np
import pytest

from keras_dp.applications import Classifier, Head, LeastSquares, extract_features
from tests.applications.backbones import (
    CLASSES,
    IMAGES,
    SIZE,
    TOKENS,
    Y,
    compiled,
    moved,
    nested,
    values,
    with_batch_norm,
)
from tests.applications.solvers.observing import observe
from tests.contract import oracle
from tests.contract.released import has_law
from tests.kinds import Case, crossentropy

CLIP_NORM = 0.3


@pytest.mark.parametrize("mode", ["head", "all"])
def test_an_update_of_a_classifier_equals_the_loop_and_nothing_frozen_moves(mode):
    model = compiled(Classifier(nested(), CLASSES, trainable=mode, head_init=0.5), CLIP_NORM)
    model.build(TOKENS.shape)
    inputs = keras.Input(TOKENS.shape[1:])
    plain = keras.Model(inputs, model(inputs))
    grads = oracle.gradients(Case(plain, model, TOKENS, Y, crossentropy()))
    before = values(model)
    trained = [variable.path for variable in plain.trainable_variables]
    model.fit(TOKENS, Y, epochs=1, verbose=0)
    after = values(model)
    expected = oracle.clipped_sum(grads, CLIP_NORM)
    for path, total in zip(trained, expected, strict=True):
        np.testing.assert_allclose(
            (before[path] - after[path]) * SIZE, total, rtol=1e-3, atol=2e-5, err_msg=path
        )
    assert moved(model, before) == set(trained)


def test_statistics_of_batch_normalization_stay_and_are_those_of_inference():
    model = compiled(Classifier(with_batch_norm(), CLASSES, head_init=1.0), noise_multiplier=1.0)
    features = np.mean(model.backbone.predict(IMAGES, verbose=0), axis=(1, 2))
    logits = keras.ops.convert_to_numpy(model(IMAGES, training=True))
    np.testing.assert_allclose(logits, features @ model.head.kernel.numpy(), rtol=1e-4, atol=1e-5)
    before = values(model)
    model.fit(IMAGES, Y, epochs=2, verbose=0)
    assert moved(model, before) == {"head/kernel", "head/bias"}


def test_a_classifier_is_saved_and_loaded_with_its_count(tmp_path):
    model = compiled(Classifier(nested(), CLASSES, trainable="bias"), noise_multiplier=0.5)
    model.fit(TOKENS, Y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(TOKENS, verbose=0), model.predict(TOKENS, verbose=0), atol=1e-6
    )
    assert loaded.ledger.updates == 2
    assert [v.path for v in loaded.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]


def test_the_first_update_of_a_head_is_the_closed_form():
    """At zero weights the gradient of an example is (p - one_hot(y)) times its features and 1."""
    x = np.random.default_rng(0).normal(size=(SIZE, 5)).astype("float32")
    head = Head(CLASSES)
    compiled(head, clip_norm=0.8).fit(x, Y, epochs=1, verbose=0)
    errors = 1 / CLASSES - np.eye(CLASSES)[Y]
    grads = np.hstack([x, np.ones((SIZE, 1))])[:, :, None] * errors[:, None, :]
    norms = np.sqrt((grads**2).sum((1, 2)))
    clipped = (grads * np.minimum(1, 0.8 / norms)[:, None, None]).mean(0)
    np.testing.assert_allclose(head.dense.kernel.numpy(), -clipped[:-1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(head.dense.bias.numpy(), -clipped[-1], rtol=1e-4, atol=1e-6)


def test_features_are_those_of_predict_in_batches_of_any_size():
    backbone = with_batch_norm()
    expected = np.mean(backbone.predict(IMAGES, verbose=0), axis=(1, 2))
    for batch_size in (3, 100):
        found = extract_features(backbone, IMAGES, Y, batch_size=batch_size, verbose=0)
        np.testing.assert_allclose(found.x, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.y, Y)


def test_least_squares_without_noise_is_the_closed_form():
    """Ridge regressions of each class on clipped features: weight 1 on its own, alpha on all."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.integers(3, size=60)
    solver = LeastSquares(noise_multiplier=0.0, clip_norm=1.5, alpha=0.7, regularization=3.0)
    found = solver.fit(x, y, num_classes=3).kernel.numpy()
    x = x * np.minimum(1, 1.5 / np.linalg.norm(x, axis=1, keepdims=True))
    for k in range(3):
        own = x[y == k]
        system = own.T @ own + 0.7 * x.T @ x + 3.0 * np.eye(4)
        np.testing.assert_allclose(found[:, k], np.linalg.solve(system, own.sum(0)), atol=2e-6)


def test_every_release_of_a_solver_has_noise_of_its_sensitivity_and_is_counted():
    rng = np.random.default_rng(0)
    solver = LeastSquares(clip_norm=0.5, noise_multiplier=3.0)
    seen = observe(solver, rng.normal(size=(24, 200)), np.arange(24) % 3, 3)
    bounds = {"class sums": 0.5, "second moments": 0.25, "second moments of each class": 0.25}
    assert {part.release[0] for part in seen} == set(bounds)
    for name, bound in bounds.items():
        noise = [part.noise for part in seen if part.release[0] == name]
        assert has_law(np.concatenate(noise), 3.0 * bound)
    assert solver.ledger.updates == solver.releases == 3
