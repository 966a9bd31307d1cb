"""`clipped_sum` for any function of the backend's tensors, against closed formulas."""

import keras
import numpy as np
import pytest

from keras_dp import clipping
from tests.contract import oracle

METHODS = ("auto", "vmap")
X = (np.geomspace(0.1, 10, 6)[:, None] * np.random.default_rng(0).normal(size=(6, 5))).astype(
    "float32"
)


def linear(params, x):
    """A loss whose gradient is the example itself, in two leaves."""
    loss = keras.ops.sum(params["a"] * x[:3]) + keras.ops.sum(params["b"] * x[3:])
    return loss, {"first": x[0]}


def values(**arrays):
    return {name: keras.ops.convert_to_tensor(array) for name, array in arrays.items()}


def clip(batch, mask=None, params=None, loss=linear, **settings):
    params = params or values(a=np.zeros(3, "float32"), b=np.zeros(2, "float32"))
    settings = {"clip_norm": 0.7, **settings}
    batch = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
    found = clipping.clipped_sum(loss, **settings)(params, batch, mask)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, found._asdict())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rule", sorted(oracle.FACTORS))
def test_a_linear_loss_gives_the_sum_of_scaled_examples(rule, method):
    bound = 1.0 if rule == "automatic" else 0.7
    found = clip(X, clip_norm=bound, clipping=rule, method=method)
    (expected,) = oracle.clipped_sum([[x] for x in X.astype(np.float64)], bound, rule)
    np.testing.assert_allclose(found["grads"]["a"], expected[:3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["grads"]["b"], expected[3:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["norms"], np.linalg.norm(X, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["losses"], 0, atol=1e-6)
    np.testing.assert_array_equal(found["aux"]["first"], X[:, 0])


@pytest.mark.parametrize("method", METHODS)
def test_per_layer_clips_each_layer_to_its_share(method):
    expected = oracle.clipped_by_layer([[x[:3], x[3:]] for x in X.astype(np.float64)], 0.7, "ab")
    found = clip(X, clipping="per_layer", method=method)["grads"]
    np.testing.assert_allclose(found["a"], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found["b"], expected[1], rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_masked_and_infinite_examples_add_nothing(method):
    dirty = X.copy()
    dirty[1], dirty[2, 4] = np.nan, np.inf
    found = clip(dirty, np.array([1, 0, 1, 1, 0, 1]), method=method)["grads"]
    (expected,) = oracle.clipped_sum([[x] for x in X[[0, 3, 5]].astype(np.float64)], 0.7)
    np.testing.assert_allclose(found["a"], expected[:3], rtol=1e-5)
    np.testing.assert_allclose(found["b"], expected[3:], rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_that_is_used_twice_adds_up_before_the_norm(method):
    """The gradient of (w a)(w b) with respect to w is 2 w a b."""

    def twice(params, x):
        return params["w"] * x[0] * params["w"] * x[1]

    found = clip(X, params=values(w=np.float32(3)), loss=twice, method=method)
    each = 2 * 3 * X[:, 0] * X[:, 1]
    np.testing.assert_allclose(found["norms"], np.abs(each), rtol=1e-5)
    expected = np.sum(np.clip(each, -0.7, 0.7))
    np.testing.assert_allclose(found["grads"]["w"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_norm": 0.0}, "`clip_norm`.*above 0.*0.0"),
        ({"method": "magic"}, "`method` must be one of"),
        ({"clipping": "magic"}, "`clipping` must be one of"),
        ({"mask": np.ones(5)}, r"`mask` must have shape \(6,\).*\(5,\)"),
        ({"loss": lambda params, x: params["a"]}, "must return a scalar loss"),
        ({"params": {"a": np.zeros(3, "int32")}}, "floating point.*int32"),
        ({"layers": ["one"], "clipping": "per_layer"}, "`layers` must have one entry"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    if "params" in settings:
        settings = {**settings, "params": values(**settings["params"])}
    with pytest.raises(ValueError, match=message):
        clip(X, **settings)


def test_an_empty_batch_gives_zeros():
    found = clip(X[:0])
    np.testing.assert_array_equal(found["grads"]["a"], np.zeros(3))
    assert found["norms"].shape == (0,)
