"""What Keras' `fit` takes, `DPModel.fit` takes; a step is an update."""

import itertools

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.optimizers import DPSGD
from tests.kinds import L, crossentropy, make, tiny, tiny_data

pytestmark = pytest.mark.usefixtures("unoptimized")


class Recorder(keras.callbacks.Callback):
    """Counts batches and reads weights as they are seen by callbacks."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs, self.logs = 0, 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.logs.append(dict(logs))


@pytest.mark.parametrize(
    ("size", "batch_size", "epochs", "updates"),
    [(100, 20, 2, 10), (100, 30, 3, 9), (93, 1, 1, 93), (99, 1, 1, 99), (105, 1, 1, 105)],
)
def test_an_epoch_is_round_n_over_batch_updates(size, batch_size, epochs, updates):
    model, recorder = tiny(), Recorder()
    model.fit(
        *tiny_data(size),
        batch_size=batch_size,
        epochs=epochs,
        callbacks=[recorder],
        verbose=0,
    )
    assert recorder.batches == updates
    assert model.ledger.updates == updates
    assert int(model.optimizer.updates) == updates
    assert int(model.optimizer.iterations) == updates


def test_batch_size_defaults_are_those_of_keras():
    x, y = tiny_data(320)
    model = tiny()
    model.fit(x, y, verbose=0)
    assert model.ledger.updates == 10
    model.fit(x, y, steps_per_epoch=4, verbose=0)
    assert [r.plan.batch_size for r in model.ledger.releases] == [32, 80]


def test_steps_per_epoch_gives_the_updates_of_an_epoch():
    model = tiny()
    model.fit(*tiny_data(), batch_size=10, steps_per_epoch=3, epochs=2, verbose=0)
    assert model.ledger.updates == 6


def test_initial_epoch_leaves_out_the_epochs_before():
    model = tiny()
    model.fit(*tiny_data(), batch_size=20, epochs=3, initial_epoch=2, verbose=0)
    assert model.ledger.updates == 5
    model.fit(*tiny_data(), batch_size=20, epochs=2, initial_epoch=2, verbose=0)
    assert model.ledger.updates == 5


def test_steps_per_execution_makes_every_update_and_counts_it():
    model, recorder = tiny(steps_per_execution=2), Recorder()
    model.fit(*tiny_data(), batch_size=20, epochs=1, callbacks=[recorder], verbose=0)
    assert model.ledger.updates == 5
    assert recorder.batches == 3


def test_validation_split_trains_on_the_first_part_only():
    model = tiny()
    x, y = tiny_data()
    history = model.fit(x, y, batch_size=10, validation_split=0.2, verbose=0).history
    (release,) = model.ledger.releases
    assert release.plan.dataset_size == 80
    assert release.updates == 8
    expected = model.evaluate(x[80:], y[80:], verbose=0)
    np.testing.assert_allclose(history["val_loss"], [expected], rtol=1e-5)


def test_validation_data_are_evaluated_and_not_counted():
    model = tiny(metrics=["mae"])
    x, y = tiny_data()
    history = model.fit(
        x[:50], y[:50], batch_size=10, epochs=2, validation_data=(x[50:], y[50:]), verbose=0
    ).history
    assert set(history) == {"loss", "mae", "val_loss", "val_mae"}
    assert model.ledger.updates == 10
    assert model.predict(x, verbose=0).shape == (100, 3)


def test_class_weight_equals_sample_weight():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
    y = np.arange(60) % 3
    weights = np.array([1.0, 5.0, 0.2])
    results = []
    for arguments in (
        {"class_weight": {1: 5.0, 2: 0.2}},
        {"sample_weight": weights[y]},
        {},
    ):
        model = tiny(optimizer=DPSGD(0.1, noise_multiplier=1.0, seed=1), loss=crossentropy())
        model.set_weights([np.zeros((4, 3)), np.zeros(3)])
        model.fit(x, y, batch_size=20, verbose=0, **arguments)
        results.append(model.get_weights()[0])
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)
    assert np.abs(results[0] - results[2]).max() > 1e-3


def test_the_sum_is_divided_by_the_declared_batch_size_not_by_the_number_drawn():
    """One gradient of norm 1 for every example: the step length tells the divisor."""
    inputs = keras.Input((1,))
    layer = L.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras_dp.DPModel(inputs, layer(inputs))
    model.compile(
        DPSGD(1.0, clip_norm=1.0, noise_multiplier=0.0), loss=lambda y_true, y_pred: -y_pred
    )
    steps = []
    for _ in range(30):
        layer.kernel.assign(np.zeros((1, 1)))
        model.fit(np.ones((40, 1)), np.ones((40, 1)), batch_size=10, steps_per_epoch=1, verbose=0)
        steps.append(float(layer.kernel.numpy()[0, 0]) * 10)
    assert all(abs(step - round(step)) < 1e-4 for step in steps)  # drawn / 10
    assert len({round(step) for step in steps}) > 3
    assert 7 < np.mean(steps) < 13


def test_an_empty_draw_is_a_noisy_counted_update():
    model = tiny(metrics=["mae"], optimizer=DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.0, seed=0))
    model.set_weights([np.zeros((4, 3)), np.zeros(3)])
    seen = []
    original = keras_dp.run.PrivateRun.draw

    def draw(self):
        batch = original(self)
        seen.append(len(batch.indices))
        return batch

    weights = [model.get_weights()[0]]

    class Weights(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.jax_state_sync()
            weights.append(self.model.get_weights()[0])

    keras_dp.run.PrivateRun.draw = draw
    try:
        model.fit(*tiny_data(), batch_size=1, steps_per_epoch=20, callbacks=[Weights()], verbose=0)
    finally:
        keras_dp.run.PrivateRun.draw = original
    assert 0 in seen
    assert model.ledger.updates == 20
    for old, new, count in zip(weights, weights[1:], seen, strict=False):
        moved = np.abs(new - old)
        assert moved.min() > 0, f"no noise in an update of {count} examples"


@pytest.mark.parametrize("on_device", [False, True])
def test_dropout_masks_differ_between_examples_and_updates(on_device, monkeypatch):
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: on_device)
    inputs = keras.Input((64,))
    layer = L.Dense(1, use_bias=False, kernel_initializer="zeros")
    dropout = L.Dropout(0.5, seed=1)
    model = keras_dp.DPModel(inputs, layer(dropout(inputs)))
    masks = []

    def loss_fn(y_true, y_pred):
        return -y_pred

    model.compile(
        DPSGD(1.0, clip_norm=1e6, noise_multiplier=0.0),
        loss=loss_fn,
        sampling="full_batch",
        microbatch_size=2,
    )
    # One-hot rows would show one mask each; with n equal rows the kernel sums their masks.
    for _ in range(2):
        layer.kernel.assign(np.zeros((64, 1)))
        model.fit(np.ones((8, 64)), np.zeros((8, 1)), verbose=0)
        masks.append(layer.kernel.numpy()[:, 0] * 8 / 2)
    kept = np.round(masks[0])
    np.testing.assert_allclose(masks[0], kept, atol=1e-4)
    assert kept.min() + 8 - kept.max() > 0
    assert len(np.unique(kept)) > 3, "every example has the same mask"
    assert (np.round(masks[1]) != kept).any(), "the state of dropout does not advance"


def test_masked_positions_and_other_examples_lengths_do_not_change_an_example():
    """Keras normalises a masked loss over the batch; here each example counts alone."""
    case = make("recurrent_with_embedding")
    case.private.compile(
        DPSGD(1.0, clip_norm=1e6, noise_multiplier=0.0), loss=case.loss, sampling="full_batch"
    )
    start = case.private.get_weights()

    def moved(rows):
        case.private.set_weights(start)
        case.private.fit(case.x[rows], case.y[rows], verbose=0)
        return [
            (old - new) * len(rows)
            for old, new in zip(start, case.private.get_weights(), strict=True)
        ]

    together = moved([0, 1])
    alone = [a + b for a, b in zip(moved([0]), moved([1]), strict=True)]
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_train_on_batch_makes_one_update_accounted_without_amplification():
    model = tiny(metrics=["mae"])
    x, y = tiny_data()
    results = model.train_on_batch(x[:10], y[:10], return_dict=True)
    assert set(results) == {"loss", "mae"}
    assert model.privacy_spent(1e-3).updates == 1
    assert model.privacy_spent(1e-3).sampling == "given"
    alone = keras_dp.accounting.epsilon(
        noise_multiplier=1.0,
        batch_size=100,
        dataset_size=100,
        updates=1,
        delta=1e-3,
        sampling="full_batch",
    )
    assert model.privacy_spent(1e-3).epsilon == pytest.approx(alone)


def test_nan_and_inf_examples_add_nothing():
    x, y = tiny_data(40)
    dirty_x, dirty_y = x.copy(), y.copy()
    dirty_x[3], dirty_x[20, 1], dirty_y[30] = np.nan, np.inf, -np.inf
    good = np.setdiff1d(np.arange(40), [3, 20, 30])
    weights = np.zeros(40)
    weights[good] = 1.0

    def train(x, y, sample_weight=None):
        model = tiny(
            optimizer=DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.0, seed=1),
            sampling="full_batch",
        )
        model.set_weights([np.ones((4, 3)), np.zeros(3)])
        model.fit(x, y, sample_weight=sample_weight, verbose=0)
        return model.get_weights()

    for ours, theirs in zip(train(dirty_x, dirty_y), train(x, y, weights), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_learning_rate_callback_works_on_epochs_of_updates():
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 if epoch == 0 else 0.0)
    model = tiny()
    model.fit(*tiny_data(), batch_size=50, epochs=2, callbacks=[rates], verbose=0)
    assert float(model.optimizer.learning_rate) == 0.0


def test_a_seed_repeats_a_whole_run_and_no_seed_does_not():
    def train(seed):
        model = tiny(optimizer=DPSGD(0.1, noise_multiplier=1.0, seed=seed))
        model.set_weights([np.ones((4, 3)), np.zeros(3)])
        keras.utils.set_random_seed(0)
        model.fit(*tiny_data(), batch_size=20, verbose=0)
        return model.get_weights()[0]

    np.testing.assert_array_equal(train(4), train(4))
    assert np.abs(train(4) - train(5)).max() > 1e-4
    assert np.abs(train(None) - train(None)).max() > 1e-4


def test_a_second_fit_with_the_same_seed_repeats_neither_noise_nor_batches():
    model = tiny(optimizer=DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.0, seed=4))
    moves = []
    for _ in range(2):
        model.set_weights([np.ones((4, 3)), np.zeros(3)])
        model.fit(*tiny_data(), batch_size=20, steps_per_epoch=1, verbose=0)
        moves.append(model.get_weights()[0])
    assert np.abs(moves[0] - moves[1]).max() > 1e-4


def test_a_run_compiles_each_piece_once(caplog):
    import logging

    import jax

    model = tiny(microbatch_size=4)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        model.fit(*tiny_data(), batch_size=10, epochs=3, verbose=0)
    compiled = [r.getMessage() for r in caplog.records if "_accumulate_step" in r.getMessage()]
    assert sum("Compiling" in message for message in compiled) == 1


def test_a_failing_update_leaves_weights_and_state_in_place(monkeypatch):
    model = tiny()
    before = model.get_weights()

    def fail(self, batch):
        raise OSError("the disk went away")

    monkeypatch.setattr(keras_dp.run.PrivateRun, "microbatches", fail)
    with pytest.raises(OSError, match="the disk went away"):
        model.fit(*tiny_data(), batch_size=20, verbose=0)
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert model.ledger.updates == 1  # counted before it was tried
    monkeypatch.undo()
    model.fit(*tiny_data(), batch_size=20, verbose=0)
    assert model.ledger.updates == 6


@pytest.mark.parametrize("on_device", [False, True])
def test_every_example_enters_an_update_once_at_most(on_device, monkeypatch):
    """One draw for an update, then cut: one-hot examples show how often each took part."""
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: on_device)
    size = 60
    inputs = keras.Input((size,))
    layer = L.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras_dp.DPModel(inputs, layer(inputs))
    model.compile(
        DPSGD(1.0, clip_norm=10.0, noise_multiplier=0.0),
        loss=lambda y_true, y_pred: -y_pred,
        microbatch_size=4,
    )
    taken = []
    for _ in range(5):
        layer.kernel.assign(np.zeros((size, 1)))
        model.fit(np.eye(size), np.zeros((size, 1)), batch_size=30, steps_per_epoch=1, verbose=0)
        taken.append(layer.kernel.numpy()[:, 0] * 30)
    for counts in taken:
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
        assert set(np.round(counts)) <= {0.0, 1.0}
        assert 8 < counts.sum() < 52  # missed once in 1e8
    assert any((a != b).any() for a, b in itertools.pairwise(taken))


def test_a_draw_larger_than_expected_still_fits_on_the_device():
    """The loop on the device has a fixed capacity; a larger draw doubles it."""
    model = tiny(microbatch_size=4)
    source = keras_dp.sampling.ArraySource(*tiny_data())
    model._prepare(source)
    sampler = keras_dp.sampling.Poisson()
    run = keras_dp.planning.plan_run(model, source, sampler, 2, model._guard)
    usual = run.columns(keras_dp.types.SampledBatch(np.arange(2)))
    largest = run.columns(keras_dp.types.SampledBatch(np.arange(90)))
    assert usual.data[0].shape[:2] == (4, 3)
    assert largest.data[0].shape[:2] == (4, 24)
    assert (usual.valid, largest.valid) == (2, 90)
    # Example j * 4 + i of the draw sits in row i of microbatch j.
    np.testing.assert_array_equal(largest.data[0][3, 5], source.take(np.array([23]))[0][0])


@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_a_layer_that_the_model_never_calls_does_no_harm(method):
    class Partly(keras_dp.DPModel):
        def __init__(self):
            super().__init__()
            self.called, self.never_called = L.Dense(3), L.Dense(7)

        def call(self, x):
            return self.called(x)

    model = Partly()
    model.compile(DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.0), loss="mse")
    getattr(model, method)(*tiny_data())
    assert model.ledger.updates > 0
    assert not model.never_called.built
