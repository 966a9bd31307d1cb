"""Bad input gets a clear error at once, and nothing is lost."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.optimizers import DPSGD
from tests.kinds import L, tiny, tiny_data


def batch_norm_model(trainable=True, kind=L.BatchNormalization):
    inputs = keras.Input((4,))
    layer = kind(name="stats")
    layer.trainable = trainable
    model = keras_dp.DPModel(inputs, L.Dense(3)(layer(inputs)))
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    return model, layer


class Counter(L.Layer):
    """Remembers the mean of what it saw, as a custom statistics layer would."""

    def build(self, shape):
        self.seen = self.add_weight(shape=(), trainable=False, initializer="zeros", name="seen")

    def call(self, x):
        self.seen.assign(keras.ops.mean(x))
        return x


@pytest.mark.parametrize("kind", [L.BatchNormalization, Counter])
def test_state_that_takes_up_data_is_refused_by_the_layers_name(kind):
    model, _ = batch_norm_model(kind=kind)
    before = model.get_weights()
    for train in (model.fit, model.train_on_batch):
        message = rf"'stats' \({kind.__name__}\).*trainable = False.*replace"
        with pytest.raises(keras_dp.NotPrivateError, match=message):
            train(*tiny_data())
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert model.ledger.updates == 0


def test_a_nested_batch_normalization_is_refused_even_when_called_with_training_false():
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, L.BatchNormalization(name="deep")(inner_in), name="backbone")
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(3)(inner(inputs, training=False)))
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    with pytest.raises(keras_dp.NotPrivateError, match=r"'deep' \(BatchNormalization\)"):
        model.fit(*tiny_data(), verbose=0)


def test_a_frozen_batch_normalization_trains_and_keeps_its_statistics():
    model, layer = batch_norm_model(trainable=False)
    before = [v.numpy() for v in layer.variables]
    model.fit(*tiny_data(), verbose=0)
    for variable, old in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_unfreezing_after_a_fit_is_noticed():
    model, layer = batch_norm_model(trainable=False)
    model.fit(*tiny_data(), verbose=0)
    layer.trainable = True
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    with pytest.raises(keras_dp.NotPrivateError, match="'stats'"):
        model.fit(*tiny_data(), verbose=0)


class StepCounter(L.Layer):
    """Counts calls: state that depends on no data."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), trainable=False, initializer="zeros", name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


def test_state_that_depends_on_no_data_advances_once_an_update():
    model, layer = batch_norm_model(kind=StepCounter)
    model.fit(*tiny_data(), batch_size=20, verbose=0)
    assert float(layer.calls.numpy()) == 5


@pytest.mark.parametrize("optimizer", ["adam", keras.optimizers.SGD(), None])
def test_a_plain_optimizer_is_refused(optimizer):
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(3)(inputs))
    with pytest.raises(keras_dp.NotPrivateError, match=r"must be a DP optimizer.*Received: "):
        model.compile(optimizer, loss="mse")


def test_an_optimizer_exchanged_after_compile_is_refused():
    model = tiny()
    model.optimizer = keras.optimizers.SGD()
    with pytest.raises(keras_dp.NotPrivateError, match="must be a DP optimizer"):
        model.fit(*tiny_data(), verbose=0)


def test_training_without_compile_is_refused():
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(3)(inputs))
    with pytest.raises(ValueError, match="Call `compile"):
        model.fit(*tiny_data())


@pytest.mark.parametrize("method", ["train_step", "make_train_function"])
def test_a_class_that_replaces_the_private_step_is_refused(method):
    model_class = type("Custom", (keras_dp.DPModel,), {method: lambda self, *_: None})
    inputs = keras.Input((4,))
    model = model_class(inputs, L.Dense(3)(inputs))
    with pytest.raises(keras_dp.NotPrivateError, match=rf"Custom\.{method}.*compute_loss"):
        model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")


def test_the_step_and_the_train_function_work_for_fit_only():
    model = tiny()
    x, y = tiny_data()
    with pytest.raises(keras_dp.NotPrivateError, match="drawn and accounted for"):
        model.train_step(([], [], [], []), (x, y))
    model.make_train_function()
    with pytest.raises(keras_dp.NotPrivateError, match="by `fit` and `train_on_batch` only"):
        model.train_function(([], [], [], []), iter([(x, y)]))


@pytest.mark.parametrize(
    ("compiling", "message"),
    [
        ({"sampling": "magic"}, "sampling.*'full_batch', 'poisson'.*'magic'"),
        ({"budget": (3.0, 1e-5)}, "budget.*keras_dp.Budget"),
        ({"microbatch_size": 0}, "microbatch_size.*at least 1.*0"),
        ({"microbatch_size": 2.5}, "microbatch_size.*2.5"),
    ],
)
def test_bad_settings_of_compile_are_refused_at_once(compiling, message):
    with pytest.raises(ValueError, match=message):
        tiny(**compiling)


@pytest.mark.parametrize(
    ("fitting", "message"),
    [
        ({"batch_size": 101}, "at most the number of training examples, 100.*101"),
        ({"batch_size": 0}, "batch_size.*at least 1.*0"),
        ({"batch_size": 2.5}, "batch_size.*2.5"),
        ({"steps_per_epoch": 0}, "steps_per_epoch.*at least 1.*0"),
        ({"shuffle": False}, "shuffle=False.*drawn at random"),
        ({"validation_split": 1.5}, "validation_split.*1.5"),
    ],
)
def test_bad_arguments_of_fit_are_refused_before_the_first_update(fitting, message):
    model = tiny()
    with pytest.raises(ValueError, match=message):
        model.fit(*tiny_data(), verbose=0, **fitting)
    assert model.ledger.updates == 0


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((0, 4)), np.zeros((0, 3)), "at least one example"),
        (np.zeros((5, 4)), np.zeros((6, 3)), r"same number of examples.*x: \[5\], y: \[6\]"),
    ],
)
def test_bad_data_are_refused(x, y, message):
    model = tiny()
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match=message):
        model.train_on_batch(x, y)
    assert model.ledger.updates == 0


def test_a_generator_is_refused_with_what_to_use_instead():
    model = tiny()
    with pytest.raises(keras_dp.NotPrivateError, match=r"read at any position.*NumPy arrays"):
        model.fit(row for row in range(3))
    assert model.ledger.updates == 0


def test_noise_that_is_neither_given_nor_to_be_calibrated_is_refused():
    model = tiny(optimizer=DPSGD(0.1))
    with pytest.raises(ValueError, match="calibrated from the model's budget, and there is none"):
        model.fit(*tiny_data(), verbose=0)
    model = tiny(optimizer=DPSGD(0.1), budget=keras_dp.Budget(3.0, 1e-3))
    with pytest.raises(ValueError, match="calibrated at the first `fit`"):
        model.train_on_batch(*tiny_data())


def test_a_delta_of_one_over_n_or_more_is_warned_of():
    model = tiny(budget=keras_dp.Budget(3.0, 0.01), optimizer=DPSGD(0.1))
    with pytest.warns(UserWarning, match=r"delta=0.01 is at least one over the number.*100"):
        model.fit(*tiny_data(), batch_size=20, verbose=0)


@pytest.mark.parametrize(
    ("epsilon", "delta", "accountant", "message"),
    [
        (0.0, 1e-5, "pld", "epsilon.*above 0.*0.0"),
        (-1.0, 1e-5, "pld", "epsilon.*-1.0"),
        (float("inf"), 1e-5, "pld", "epsilon.*inf"),
        (1.0, 0.0, "pld", "delta.*between 0 and 1.*0.0"),
        (1.0, 1.0, "pld", "delta.*1.0"),
        (1.0, 1e-5, "magic", "accountant.*'pld', 'rdp', 'rdp_classic'.*'magic'"),
    ],
)
def test_impossible_budgets_are_refused(epsilon, delta, accountant, message):
    with pytest.raises(ValueError, match=message):
        keras_dp.Budget(epsilon, delta, accountant)


def test_an_output_without_a_batch_axis_is_refused():
    inputs = keras.Input((4,))
    pooled = keras.ops.sum(L.Dense(3)(inputs), axis=0)
    model = keras_dp.DPModel(inputs, pooled)
    model.compile(
        DPSGD(0.1, noise_multiplier=1.0),
        loss=lambda y_true, y_pred: keras.ops.mean(y_pred),
        metrics=["mae"],
    )
    with pytest.raises(ValueError, match="must have a batch axis"):
        model.fit(*tiny_data(), verbose=0)
