"""What cannot be private is refused before the first update, by name, and changes nothing."""

import contextlib

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import NotPrivateError
from keras_dp.optimizers import DPSGD
from tests.kinds import L, tiny, tiny_data


@contextlib.contextmanager
def refused(model, error, message):
    """Expect a refusal that leaves the weights and the ledger as they are."""
    before = [np.array(w) for w in model.get_weights()]
    with pytest.raises(error, match=message):
        yield
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert getattr(model, "ledger", None) is None or model.ledger.updates == 0


class Counter(L.Layer):
    """Remembers the mean of what it saw, as a custom layer of statistics would."""

    def build(self, shape):
        self.seen = self.add_weight(shape=(), trainable=False, initializer="zeros", name="seen")

    def call(self, x):
        self.seen.assign(keras.ops.mean(x))
        return x


class StepCounter(L.Layer):
    """Counts calls: state that depends on no data."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), trainable=False, initializer="zeros", name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


def with_layer(layer, **calling):
    """A model with the layer inside of a nested model."""
    inside = keras.Input((4,))
    block = keras.Model(inside, layer(inside), name="block")
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(3)(block(inputs, **calling)))
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    return model


@pytest.mark.parametrize("train", ["fit", "train_on_batch"])
@pytest.mark.parametrize("kind", [L.BatchNormalization, Counter])
def test_state_that_takes_up_data_is_refused_by_the_layers_name(kind, train):
    model = with_layer(kind(name="stats"))
    message = rf"'stats' \({kind.__name__}\).*trainable = False.*replace"
    with refused(model, NotPrivateError, message):
        getattr(model, train)(*tiny_data())


def test_batch_normalization_called_with_training_false_is_refused_too():
    model = with_layer(L.BatchNormalization(name="stats"), training=False)
    with refused(model, NotPrivateError, r"'stats' \(BatchNormalization\)"):
        model.fit(*tiny_data(), verbose=0)


def test_a_frozen_batch_normalization_keeps_its_statistics_and_unfreezing_is_noticed():
    layer = L.BatchNormalization(name="stats", trainable=False)
    model = with_layer(layer)
    before = [np.array(v.numpy()) for v in layer.variables]
    model.fit(*tiny_data(40), verbose=0)
    for variable, old in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)
    layer.trainable = True
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    with pytest.raises(NotPrivateError, match="'stats'"):
        model.fit(*tiny_data(), verbose=0)


def test_state_that_depends_on_no_data_advances_once_an_update():
    layer = StepCounter()
    model = with_layer(layer)
    model.fit(*tiny_data(), batch_size=20, verbose=0)
    assert float(layer.calls.numpy()) == 5


@pytest.mark.parametrize("optimizer", ["adam", keras.optimizers.SGD()])
def test_a_plain_optimizer_is_refused(optimizer):
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(3)(inputs))
    with refused(model, NotPrivateError, "must be a DP optimizer.*Received: "):
        model.compile(optimizer, loss="mse")


def test_an_optimizer_exchanged_after_compile_is_refused():
    model = tiny()
    model.optimizer = keras.optimizers.SGD()
    with refused(model, NotPrivateError, "must be a DP optimizer"):
        model.fit(*tiny_data(), verbose=0)


def test_a_private_optimizer_in_a_plain_model_is_refused():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    with refused(model, NotPrivateError, "Train with `keras_dp.DPModel`"):
        model.fit(*tiny_data(), verbose=0)


def test_training_without_compile_is_refused():
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(3)(inputs))
    with refused(model, ValueError, "Call `compile"):
        model.fit(*tiny_data())


@pytest.mark.parametrize("method", ["train_step", "make_train_function"])
def test_a_class_that_replaces_the_private_step_is_refused(method):
    model_class = type("Custom", (keras_dp.DPModel,), {method: lambda self, *_: None})
    inputs = keras.Input((4,))
    model = model_class(inputs, L.Dense(3)(inputs))
    with refused(model, NotPrivateError, rf"Custom\.{method}.*compute_loss"):
        model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")


def test_a_model_with_a_train_step_of_its_own_is_not_made_private():
    own = type("Own", (keras.Model,), {"train_step": lambda self, *_: None})
    with pytest.raises(NotPrivateError, match=r"Own\.train_step.*Derive the class"):
        keras_dp.make_private(own())


def test_a_model_that_was_fitted_and_made_private_clips_from_then_on():
    x, y = (100 * part for part in tiny_data(20))
    plain = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    plain.compile(keras.optimizers.SGD(1e-6), "mse")
    plain.fit(x, y, verbose=0)
    model = keras_dp.make_private(plain)
    model.compile(DPSGD(1.0, clip_norm=0.1, noise_multiplier=0.0), "mse", sampling="full_batch")
    before = [np.array(w) for w in plain.get_weights()]
    model.fit(x, y, verbose=0)
    moved = [new - old for new, old in zip(plain.get_weights(), before, strict=True)]
    assert 0 < np.sqrt(sum(np.sum(part**2) for part in moved)) <= 0.1 * (1 + 1e-4)


def test_the_train_step_refuses_ordinary_data():
    model = tiny()
    with refused(model, NotPrivateError, "drawn and accounted for"):
        model.train_step(([], [], [], []), tiny_data())


@pytest.mark.parametrize(
    ("compiling", "message"),
    [
        ({"sampling": "magic"}, "sampling.*'full_batch', 'poisson'.*'magic'"),
        ({"budget": (3.0, 1e-5)}, "budget.*keras_dp.Budget"),
        ({"microbatch_size": 0}, "microbatch_size.*at least 1.*0"),
        ({"augmentations": 2}, "`augmentations` counts the views"),
    ],
)
def test_bad_settings_of_compile_are_refused_at_once(compiling, message):
    with pytest.raises(ValueError, match=message):
        tiny(**compiling)


@pytest.mark.parametrize(
    ("fitting", "message"),
    [
        ({"batch_size": 101}, "at most the number of training examples, 100.*101"),
        ({"batch_size": 2.5}, "batch_size.*2.5"),
        ({"steps_per_epoch": 0}, "steps_per_epoch.*at least 1.*0"),
        ({"shuffle": False}, "shuffle=False.*drawn at random"),
        ({"validation_split": 1.5}, "validation_split.*1.5"),
    ],
)
def test_bad_arguments_of_fit_are_refused(fitting, message):
    model = tiny()
    with refused(model, ValueError, message):
        model.fit(*tiny_data(), verbose=0, **fitting)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.zeros((0, 4)), np.zeros((0, 3))), "at least one example"),
        ((np.zeros((5, 4)), np.zeros((6, 3))), r"same number of examples.*x: \[5\], y: \[6\]"),
        ((np.zeros((5, 4)),), "compiled with a loss, which needs targets"),
        (([0.5, 1.5],), "Turn lists of numbers into NumPy arrays"),
    ],
)
def test_bad_data_are_refused(data, message):
    model = tiny()
    with refused(model, ValueError, message):
        model.fit(*data, verbose=0)
    with refused(model, ValueError, message):
        model.train_on_batch(*data)


def test_a_generator_is_refused_with_what_to_use_instead():
    model = tiny()
    with refused(model, NotPrivateError, r"read at any position.*NumPy arrays"):
        model.fit(row for row in range(3))


def test_noise_that_is_neither_given_nor_to_be_calibrated_is_refused():
    model = tiny(optimizer=DPSGD(0.1))
    with refused(model, ValueError, "calibrated from the model's budget, and there is none"):
        model.fit(*tiny_data(), verbose=0)


def test_an_output_without_a_batch_axis_is_refused():
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, keras.ops.sum(L.Dense(3)(inputs), axis=0))
    model.compile(
        DPSGD(0.1, noise_multiplier=1.0),
        loss=lambda y_true, y_pred: keras.ops.mean(y_pred),
        metrics=["mae"],
    )
    with refused(model, ValueError, "must have a batch axis"):
        model.fit(*tiny_data(), verbose=0)


def test_an_augmentation_that_mixes_examples_is_refused():
    with pytest.raises(NotPrivateError, match="MixUp"):
        tiny(augmentation=L.MixUp())
