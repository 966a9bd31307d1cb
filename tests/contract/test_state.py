"""Training state: what an update changes, what a refused one leaves, and what is measured."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import backend, step
from keras_dp.optimizers import DPSGD, DPAdam, DPOptimizer
from keras_dp.types import NoisyGradient
from tests.kinds import L

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 12)
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def tiny(optimizer=None, regularizer=None, metrics=("accuracy",), **compiling):
    inputs = keras.Input((4,))
    x = L.Dropout(0.2, seed=1)(
        L.Dense(5, activation="tanh", kernel_regularizer=regularizer)(inputs)
    )
    model = keras_dp.DPModel(inputs, L.Dense(3)(x))
    optimizer = optimizer or DPAdam(0.01, noise_multiplier=1.0)
    settings = {"sampling": "full_batch", "microbatch_size": 5, **compiling}
    model.compile(optimizer, loss=CROSSENTROPY, metrics=list(metrics), **settings)
    return model


def everything(model):
    held = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in held]


def tensors(*arrays):
    return [keras.ops.convert_to_tensor(a) for a in arrays]


def numbers(values):
    return [np.array(keras.ops.convert_to_numpy(value)) for value in values]


@pytest.mark.parametrize("place", ["draw", "accumulate", "finish"])
def test_an_update_that_fails_changes_nothing_and_is_counted(place, monkeypatch):
    model = tiny(run_eagerly=True)
    model.fit(X, Y, verbose=0)
    before = everything(model)

    def failing(*arguments, **settings):
        raise OSError("on the way")

    with monkeypatch.context() as patch:
        owner = keras_dp.run.PrivateRun if place == "draw" else step
        patch.setattr(owner, place, failing)
        model.make_train_function(force=True)
        with pytest.raises(OSError, match="on the way"):
            model.train_on_batch(X, Y)
    metrics = {variable.path for variable in model.metrics_variables}
    for variable, old in zip([*model.variables, *model.optimizer.variables], before, strict=True):
        if variable.path not in metrics:
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable.value), old)
    assert model.ledger.updates == 2
    model.make_train_function(force=True)
    model.train_on_batch(X, Y)
    assert model.ledger.updates == 3
    assert int(model.optimizer.updates) == 2


def test_an_update_moves_weights_seeds_counters_and_metrics():
    model = tiny()
    model.fit(X, Y, verbose=0)
    before = everything(model)
    model.fit(X, Y, verbose=0)
    same = [np.array_equal(a, b) for a, b in zip(before, everything(model), strict=True)]
    names = [variable.path for variable in [*model.variables, *model.optimizer.variables]]
    still = {name for name, stayed in zip(names, same, strict=True) if stayed}
    assert all("learning_rate" in name or "accuracy" in name or "count" in name for name in still)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.1, amsgrad=True, weight_decay=0.01),
    "adamw": lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.1, 5)),
    "ema": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.1, centered=True, momentum=0.5),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adadelta": lambda: keras.optimizers.Adadelta(0.1),
    "adamax": lambda: keras.optimizers.Adamax(0.1),
    "nadam": lambda: keras.optimizers.Nadam(0.1),
    "lion": lambda: keras.optimizers.Lion(0.1, clipnorm=0.5),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1),
    "lamb": lambda: keras.optimizers.Lamb(0.1),
    "adafactor": lambda: keras.optimizers.Adafactor(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_moves_given_values_as_keras_moves_variables_and_nothing_else(name):
    rng = np.random.default_rng(0)
    shapes = [(3, 2), (2,), ()]
    start = [rng.normal(size=shape).astype("float32") for shape in shapes]
    grads = [[rng.normal(size=s).astype("float32") for s in shapes] for _ in range(4)]
    plain = OPTIMIZERS[name]()
    variables = [keras.Variable(value) for value in start]
    plain.build(variables)
    private = DPOptimizer(OPTIMIZERS[name](), noise_multiplier=1.0)
    private.serve_private_model()
    others = [keras.Variable(value) for value in start]
    private.build(others)
    weights, state = tensors(*start), [keras.ops.copy(v.value) for v in private.variables]
    at_first = numbers([*state, *(v.value for v in others)])
    for of_one in grads:
        plain.apply(tensors(*of_one), variables)
        given = numbers([*weights, *state])
        handed = weights, state
        weights, state = private.stateless_apply(state, NoisyGradient(tensors(*of_one)), weights)
        for old, same in zip(given, numbers([*handed[0], *handed[1]]), strict=True):
            np.testing.assert_array_equal(old, same)
    own = len(private.variables) - len(plain.variables)
    expected = numbers(v.value for v in [*variables, *plain.variables])
    for found, value in zip(numbers([*weights, *state[own:]]), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
    held = numbers(v.value for v in [*private.variables, *others])
    for old, same in zip(at_first, held, strict=True):
        np.testing.assert_array_equal(old, same)


def results(model, rng, rows=6):
    y = rng.integers(0, 3, rows)
    return {
        "x": keras.ops.convert_to_tensor(rng.normal(size=(rows, 4)).astype("float32")),
        "y": keras.ops.convert_to_tensor(y),
        "sample_weight": None,
        "y_pred": keras.ops.convert_to_tensor(rng.normal(size=(rows, 3)).astype("float32")),
        "losses": keras.ops.convert_to_tensor(rng.normal(size=rows).astype("float32")),
        "metrics": [keras.ops.zeros((rows, *v.shape)) for v in model.metrics_variables],
    }


@pytest.mark.parametrize("valid", [0, 1, 4, 6])
def test_metrics_are_keras_own_on_the_examples_that_are_there(valid):
    model = tiny(metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")])
    model.fit(X, Y, verbose=0)
    found = results(model, np.random.default_rng(valid))
    metrics = [keras.ops.zeros_like(v.value) for v in model.metrics_variables]
    measured = backend.measure(model, metrics, found, np.int32(valid), keras.ops.full((), 0.25))
    shown = {name: float(value) for name, value in backend.report(model, measured).items()}
    y, y_pred, losses = (numbers([found[k]])[0][:valid] for k in ("y", "y_pred", "losses"))
    ranks = (y_pred > y_pred[np.arange(valid), y][:, None]).sum(axis=1)
    expected = {"accuracy": np.mean(ranks < 1) if valid else 0.0}
    expected |= {"top": np.mean(ranks < 2) if valid else 0.0}
    expected |= {"loss": losses.mean() + 0.25 if valid else 0.0}
    assert shown == pytest.approx(expected, rel=1e-5)


def test_private_metrics_are_sums_of_cut_values_of_the_rows_that_count():
    shown = keras_dp.PrivateMetrics(
        metrics={"accuracy": keras.metrics.sparse_categorical_accuracy}, bounds={"loss": (-1, 3)}
    )
    model = tiny(private_metrics=shown, metrics=())
    found = results(model, np.random.default_rng(0))
    losses = np.array([0.5, -7.0, 9.0, np.nan, 1.0, 2.0], "float32")
    found["losses"] = keras.ops.convert_to_tensor(losses)
    used = np.array([True, True, True, True, True, False])
    sums = numbers([backend.observe(model, found, keras.ops.convert_to_tensor(used))])[0]
    right = np.argmax(numbers([found["y_pred"]])[0], 1) == numbers([found["y"]])[0]
    cut = (np.array([0.5, -1, 3, 1]) + 1) / 4 - 0.5  # without the one that is no number
    np.testing.assert_allclose(sums, [cut.sum(), (right[:5] - 0.5).sum()], rtol=1e-6)


def test_regularizers_have_their_closed_form_gradient():
    model = tiny(regularizer=keras.regularizers.L2(0.1))
    params = [v.value for v in model.trainable_variables]
    penalty, gradient = backend.regularization_gradient(model, params)
    kernel, *others = numbers(params)
    assert float(penalty) == pytest.approx(0.1 * np.sum(kernel**2), rel=1e-5)
    found, *rest = numbers(gradient)
    np.testing.assert_allclose(found, 0.2 * kernel, rtol=1e-5)
    for zero, value in zip(rest, others, strict=True):
        np.testing.assert_array_equal(zero, np.zeros_like(value))


def test_the_losses_of_examples_are_those_that_evaluate_gives_for_each():
    model = tiny(regularizer=keras.regularizers.L2(0.1), metrics=())
    plain = keras.models.clone_model(keras.Model(model.inputs, model.outputs))
    plain.set_weights(model.get_weights())
    plain.compile(loss=CROSSENTROPY)
    for made, penalty in ((plain, 0.1 * float(np.sum(model.get_weights()[0] ** 2))), (model, 0)):
        found = backend.example_losses(made, (X, Y, None))
        logits = plain.predict(X, verbose=0).astype(np.float64)
        expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(12), Y] + penalty
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_views_are_of_their_own_example_view_and_update_whatever_the_batch():
    made = keras_dp.augmentation.Augmentation(L.GaussianNoise(1.0), 2)
    rows = np.zeros((3, 50), "float32")
    backend.settle_views(made, rows)
    positions, key = np.arange(3), np.arange(2, dtype=np.uint32)
    views = np.asarray(numbers([backend.make_views(made, rows, positions, key)])[0])
    assert views.shape == (3, 2, 50)
    assert len(np.unique(views)) == views.size
    (alone,) = numbers([backend.make_views(made, rows[1:2], positions[1:2], key)])
    np.testing.assert_array_equal(alone[0], views[1])
    (later,) = numbers([backend.make_views(made, rows, positions, key + np.uint32(1))])
    assert not np.isin(later, views).any()


def test_inference_is_that_of_predict_and_changes_nothing():
    model = tiny()
    before = everything(model)
    run = backend.compile_inference(lambda x: model(x, training=False), model.variables)
    (found,) = numbers([run(X)])
    np.testing.assert_allclose(found, model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
    for old, new in zip(before, everything(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert backend.inference_size(model, model.variables, X) == 1024


def test_momentum_goes_on_where_the_last_fit_ended():
    """With no noise and examples that are all clipped away, steps are momentum alone."""
    model = tiny(DPSGD(1.0, momentum=0.5, noise_multiplier=0.0, clip_norm=1.0), run_eagerly=True)
    kernel = model.trainable_variables[0]
    model.fit(X, Y, verbose=0)
    momentum = np.array(model.optimizer.inner_optimizer.momentums[0].numpy())
    before = np.array(kernel.numpy())
    model.optimizer.learning_rate = 0.0
    model.fit(X, Y, verbose=0)
    np.testing.assert_allclose(kernel.numpy() - before, 0.5 * momentum, rtol=1e-5, atol=1e-7)
