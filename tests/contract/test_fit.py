"""What Keras' `fit` takes, `DPModel.fit` takes; a step is an update."""

import keras
import numpy as np

from keras_dp.optimizers import DPSGD
from tests.kinds import crossentropy, make, tiny, tiny_data


class Recorder(keras.callbacks.Callback):
    """Counts what callbacks are told."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs = 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)


def test_an_epoch_is_round_n_over_batch_updates():
    """Where n is no multiple, where 1 / (1 / n) is not n, and where epochs are left out."""
    model, updates = tiny(), 0
    for size, batch_size, epochs, expected in [(100, 30, 3, 9), (93, 1, 1, 93), (105, 1, 1, 105)]:
        recorder = Recorder()
        settings = {"batch_size": batch_size, "epochs": epochs, "verbose": 0}
        model.fit(*tiny_data(size), callbacks=[recorder], **settings)
        updates += expected
        assert (recorder.batches, recorder.epochs) == (expected, list(range(epochs)))
        assert model.ledger.updates == int(model.optimizer.iterations) == updates
    model.fit(*tiny_data(), batch_size=20, epochs=3, initial_epoch=2, steps_per_epoch=4, verbose=0)
    assert model.ledger.updates == updates + 4


def test_steps_per_execution_makes_every_update_and_counts_it():
    def trained(steps):
        optimizer = DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.0, seed=1)
        model, recorder = tiny(optimizer=optimizer, steps_per_execution=steps), Recorder()
        model.set_weights([np.ones((4, 3)), np.zeros(3)])
        model.fit(*tiny_data(), batch_size=20, callbacks=[recorder], verbose=0)
        return model, recorder.batches

    model, batches = trained(2)
    assert (model.ledger.updates, batches) == (5, 3)
    for ours, theirs in zip(model.get_weights(), trained(1)[0].get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_history_has_the_names_and_values_of_keras_and_held_out_data_are_not_counted():
    """A model that does not move: every epoch shows what `evaluate` shows."""
    model = tiny(optimizer=DPSGD(0.0, noise_multiplier=1.0), metrics=["mae"], sampling="full_batch")
    x, y = tiny_data()
    history = model.fit(
        x[:50], y[:50], epochs=2, validation_data=(x[50:], y[50:]), verbose=0
    ).history
    assert set(history) == {"loss", "mae", "val_loss", "val_mae"}
    assert model.ledger.updates == 2
    seen = dict(zip(("loss", "mae"), model.evaluate(x[:50], y[:50], verbose=0), strict=True))
    kept = dict(zip(("loss", "mae"), model.evaluate(x[50:], y[50:], verbose=0), strict=True))
    plain = keras.Model(model.inputs, model.outputs)
    np.testing.assert_allclose(model.predict(x, verbose=0), plain.predict(x, verbose=0), rtol=1e-5)
    for name in seen:
        np.testing.assert_allclose(history[name], [seen[name]] * 2, rtol=1e-5)
        np.testing.assert_allclose(history[f"val_{name}"], [kept[name]] * 2, rtol=1e-5)


def test_validation_split_trains_on_the_first_part_only():
    model = tiny()
    x, y = tiny_data()
    history = model.fit(x, y, batch_size=10, validation_split=0.2, verbose=0).history
    (release,) = model.ledger.releases
    assert (release.plan.dataset_size, release.updates) == (80, 8)
    np.testing.assert_allclose(
        history["val_loss"], [model.evaluate(x[80:], y[80:], verbose=0)], rtol=1e-5
    )


def test_metrics_are_those_of_keras_on_the_same_examples():
    """Weighted and not, of two outputs, stateful ones too, in microbatches."""
    case = make("dict_inputs_two_outputs")
    top = keras.metrics.SparseTopKCategoricalAccuracy(2)
    compiling = {
        "loss": case.loss,
        "metrics": {"kind": ["accuracy", top], "size": ["mae"]},
        "weighted_metrics": {"kind": ["accuracy"]},
    }
    case.plain.compile(keras.optimizers.SGD(0.0), **compiling)
    optimizer = DPSGD(0.0, noise_multiplier=0.0)
    case.private.compile(optimizer, sampling="full_batch", microbatch_size=9, **compiling)
    rng = np.random.default_rng(1)
    weights = {"kind": rng.uniform(size=24), "size": rng.uniform(size=24)}
    expected = case.plain.train_on_batch(case.x, case.y, weights, return_dict=True)
    ours = case.private.fit(case.x, case.y, sample_weight=weights, verbose=0).history
    assert set(ours) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], [value], rtol=1e-5, err_msg=name)


def test_class_weight_equals_sample_weight():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    y, weights, found = np.arange(60) % 3, np.array([1.0, 5.0, 0.2]), []
    model = tiny(
        optimizer=DPSGD(0.1, noise_multiplier=0.0), loss=crossentropy(), sampling="full_batch"
    )
    for given in ({"class_weight": {1: 5.0, 2: 0.2}}, {"sample_weight": weights[y]}, {}):
        model.set_weights([np.ones((4, 3)), np.zeros(3)])
        model.fit(x, y, verbose=0, **given)
        found.append(np.array(model.get_weights()[0]))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 1e-4


def test_a_learning_rate_of_an_epoch_holds_in_its_updates():
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0 if epoch else 0.1)
    model, seen = tiny(), []
    recorder = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(np.array(model.get_weights()[0]))
    )
    model.fit(*tiny_data(), batch_size=50, epochs=3, callbacks=[rates, recorder], verbose=0)
    assert float(model.optimizer.learning_rate) == 0.0
    np.testing.assert_array_equal(seen[0], seen[2])
    assert np.abs(seen[0]).max() > 0


def test_train_on_batch_gives_the_results_of_keras():
    model = tiny(optimizer=DPSGD(0.1, noise_multiplier=1.0), metrics=["mae"])
    x, y = tiny_data(10)
    expected = model.evaluate(x, y, return_dict=True, verbose=0)
    results = model.train_on_batch(x, y, return_dict=True)
    assert set(results) == set(expected) == {"loss", "mae"}
    for name, value in expected.items():
        np.testing.assert_allclose(results[name], value, rtol=1e-5)
    assert model.privacy_spent(1e-3).sampling == "given"
