"""`make_private`, and the ways to make a private model."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.optimizers import DPSGD
from tests.kinds import KINDS, L, make, tiny, tiny_data


def assert_trains_shared_weights(original, private, case):
    for ours, theirs in zip(private.variables, original.variables, strict=True):
        assert ours is theirs
    before = original.get_weights()
    private.compile(DPSGD(0.1, noise_multiplier=1.0), loss=case.loss)
    private.fit(case.x, case.y, batch_size=8, verbose=0)
    moved = [np.abs(a - b).max() for a, b in zip(original.get_weights(), before, strict=True)]
    assert max(moved) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_private_model_shares_the_weights_and_leaves_the_class_alone(kind):
    case = make(kind)
    original = case.plain
    attributes = {name: getattr(type(original), name) for name in ("fit", "train_step", "compile")}
    private = keras_dp.make_private(original)
    assert isinstance(private, keras_dp.DPModel)
    assert not isinstance(original, keras_dp.DPModel)
    assert_trains_shared_weights(original, private, case)
    expected = original.predict(case.x, verbose=0)
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        private.predict(case.x, verbose=0),
        expected,
    )
    for name, attribute in attributes.items():
        assert getattr(type(original), name) is attribute


def test_a_model_that_was_fitted_trains_privately_from_the_next_step_on():
    """The cached train function of the first fit is not used again."""
    case = make("sequential_mlp")
    case.plain.compile("sgd", loss=case.loss)
    case.plain.fit(case.x, case.y, verbose=0)
    private = keras_dp.make_private(case.plain)
    private.compile(DPSGD(1.0, clip_norm=1e-6, noise_multiplier=0.0), loss=case.loss)
    before = private.get_weights()
    private.fit(case.x, case.y, batch_size=8, verbose=0)
    for new, old in zip(private.get_weights(), before, strict=True):
        assert np.abs(new - old).max() <= 24 * 1e-6  # clipped to nearly nothing
    assert private.ledger.updates == 3


def test_private_models_of_one_original_share_one_ledger():
    case = make("functional_cnn")
    for count in (3, 6):
        private = keras_dp.make_private(case.plain)
        private.compile(DPSGD(0.1, noise_multiplier=1.0), loss=case.loss)
        private.fit(case.x, case.y, batch_size=8, verbose=0)
        assert private.ledger.updates == count


def test_a_private_model_is_returned_as_it_is():
    model = tiny()
    assert keras_dp.make_private(model) is model


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"must be a keras\.Model.*Dense"):
        keras_dp.make_private(L.Dense(1))


@pytest.mark.parametrize("method", ["train_step", "compute_loss", "compute_metrics"])
def test_a_class_with_a_step_loss_or_metrics_of_its_own_is_refused(method):
    cls = type("Custom", (keras.Model,), {method: lambda self, *_, **__: None})
    with pytest.raises(keras_dp.NotPrivateError, match=rf"Custom\.{method}.*keras_dp\.DPModel"):
        keras_dp.make_private(cls())


def test_a_sequential_model_that_is_not_built_yet_becomes_private():
    original = keras.Sequential([L.Dense(5), L.Dropout(0.2), L.Dense(3)])
    private = keras_dp.make_private(original)
    private.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    private.fit(*tiny_data(), verbose=0)
    assert len(original.get_weights()) == len(private.get_weights())
    assert private.layers[0] is original.layers[0]


class Head(keras_dp.DPModel):
    """A functional model made in a subclass's constructor."""

    def __init__(self, units=3, **kwargs):
        inputs = keras.Input((4,))
        super().__init__(inputs, L.Dense(units)(inputs), **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units}


class DeeperHead(Head):
    """A subclass of the subclass."""


class Plain(keras_dp.DPModel):
    """A subclassed model, made after functional ones."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize("cls", [DeeperHead, Head, Plain])
def test_functional_and_subclassed_forms_do_not_disturb_each_other(cls):
    model = cls()
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    model.fit(*tiny_data(), verbose=0)
    assert model.ledger.updates == 3
    assert [layer.name.split("_")[0] for layer in model.layers][-1] == "dense"
    assert keras_dp.DPModel.__bases__[1] is keras.Model


def test_a_custom_loss_method_is_called_for_one_example_at_a_time():
    sizes = []

    class Custom(keras_dp.DPModel):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            sizes.append(x.shape[0])
            return keras.ops.mean((y - y_pred) ** 2)

    inputs = keras.Input((4,))
    model = Custom(inputs, L.Dense(3)(inputs))
    model.compile(DPSGD(0.1, noise_multiplier=1.0))
    model.fit(*tiny_data(), verbose=0)
    assert set(sizes[1:]) == {1}


def test_sequential_models_grow_and_shrink_as_in_keras():
    model = keras_dp.DPSequential(name="stack")
    model.add(keras.Input((4,)))
    model.add(L.Dense(5))
    model.add(L.Dense(3))
    removed = model.pop()
    assert removed.units == 3
    assert [layer.units for layer in model.layers] == [5]
    assert model.outputs[0].shape == (None, 5)
    assert model.inputs[0].shape == (None, 4)
    assert model.name == "stack"
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    model.fit(*tiny_data(units=5), verbose=0)
    assert model.predict(np.ones((2, 4)), verbose=0).shape == (2, 5)


def test_summary_shows_the_private_settings(capsys):
    model = tiny(budget=keras_dp.Budget(2.0, 1e-4))
    model.summary()
    shown = capsys.readouterr().out
    assert "DPSGD, clip norm 1, noise multiplier 1" in shown
    assert "Budget(epsilon=2.0, delta=0.0001" in shown
    lines = []
    inputs = keras.Input((4,))
    keras_dp.DPModel(inputs, L.Dense(3)(inputs)).summary(print_fn=lines.append)
    assert lines[-1] == "Private training: not compiled"
    tiny(optimizer=DPSGD(0.1, noise="discrete_gaussian")).summary(print_fn=lines.append)
    assert "noise multiplier to be calibrated (discrete_gaussian), sampling" in lines[-1]
    tiny(optimizer=DPSGD(0.1)).summary(print_fn=lines.append)
    assert "to be calibrated" in lines[-1]
