"""What training shows: exact metrics, which are mentioned, or noised ones, which are charged."""

import warnings

import keras
import numpy as np
import pytest
from scipy import stats

import keras_dp
from keras_dp import PrivateMetrics, watching
from keras_dp.optimizers import DPSGD
from tests.kinds import L, crossentropy

BUDGET = keras_dp.Budget(epsilon=8.0, delta=1e-3)
ACCURACY = {"accuracy": keras.metrics.sparse_categorical_accuracy}


def data(size=200):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32") + (x[:, 1] > 1)


def classifier(noise_multiplier=1.0, seed=None, clipping="flat", **compiling):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = keras_dp.DPModel(inputs, L.Dense(3)(inputs))
    optimizer = DPSGD(
        0.5, clip_norm=1.0, noise_multiplier=noise_multiplier, seed=seed, clipping=clipping
    )
    model.compile(optimizer, loss=crossentropy(), **compiling)
    return model


def fit(model, epochs=1, batch_size=40, **arguments):
    history = model.fit(*data(), batch_size=batch_size, epochs=epochs, verbose=0, **arguments)
    return history.history


def exact_means(model):
    """Loss and accuracy of each epoch of the same run with exact metrics."""
    return fit(model, epochs=2)


def test_with_little_noise_they_are_the_exact_means_of_a_full_batch():
    """Noise of the gradients off, so both runs make the same weights."""
    few = PrivateMetrics(metrics=ACCURACY, noise_stddev=1e-4)
    settings = {"noise_multiplier": 0.0, "sampling": "full_batch"}
    shown = fit(classifier(private_metrics=few, **settings), epochs=3, batch_size=200)
    exact = fit(classifier(metrics=["accuracy"], **settings), epochs=3, batch_size=200)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(shown[name], exact[name], atol=1e-4)


def test_the_weights_are_those_of_training_without_them():
    settings = {"noise_multiplier": 0.0, "seed": 3}
    one = classifier(private_metrics=PrivateMetrics(metrics=ACCURACY), **settings)
    other = classifier(metrics=["accuracy"], **settings)
    fit(one)
    fit(other)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_their_noise_has_the_stated_deviation():
    """Against the law of one update's noise, which rejects 2/3 and 3/2 of it."""
    metrics = {f"zero{i}": _half for i in range(300)}
    settings = PrivateMetrics(
        metrics=metrics, noise_stddev=20.0, bounds=dict.fromkeys(metrics, (-9, 10))
    )
    model = classifier(
        private_metrics=settings, noise_multiplier=0.5, sampling="full_batch", seed=1
    )
    shown = fit(model, batch_size=200)
    values = np.array([shown[name][0] for name in metrics])
    noise = (values - 0.5) / 19 * 200

    def rejected(deviation):
        tail = stats.chi2.sf(np.sum((noise / deviation) ** 2), len(noise))
        return not 1e-4 < tail < 1 - 1e-4

    assert not rejected(20.0)
    assert rejected(20.0 * 2 / 3)
    assert rejected(20.0 * 3 / 2)
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 4 / np.sqrt(len(noise))


def _half(y_true, y_pred):
    return 0.5 + 0 * keras.ops.cast(y_true, "float32")


@pytest.mark.parametrize("clipping", ["flat", "adaptive"])
def test_gradients_get_more_noise_so_that_both_cost_what_is_stated(clipping):
    """Squared inverse noise multipliers add up, as for any Gaussian mechanisms run together."""
    settings = PrivateMetrics(metrics=ACCURACY, noise_stddev=3.0)
    model = classifier(private_metrics=settings, noise_multiplier=1.5, clipping=clipping)
    run = _run_of(model)
    parts = [run.mechanism().noise_multiplier ** -2.0, 2 / (2 * 3.0) ** 2]
    if clipping == "adaptive":
        parts.append((2 * 40 / 20) ** -2.0)
    assert sum(parts) == pytest.approx(1.5**-2, rel=1e-5)
    plain = _run_of(classifier(noise_multiplier=1.5, clipping=clipping))
    assert run.mechanism().noise_multiplier > plain.mechanism().noise_multiplier


def _run_of(model):
    runs = []

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            runs.append(self.model.active_run)

    fit(model, callbacks=[Keep()])
    return runs[0]


def test_one_example_moves_the_sums_by_at_most_half_each():
    """Also one whose loss is infinite or not a number."""
    from keras_dp import backend

    settings = PrivateMetrics(metrics={"square": _square}, bounds={"square": (-3, 3)})
    model = classifier(private_metrics=settings)
    losses = np.array([0.1, 1e30, np.inf, np.nan, -5.0], "float32")
    results = {
        "losses": losses,
        "y": np.array([0.0, 50.0, np.inf, np.nan, -1.0], "float32"),
        "y_pred": np.ones((5, 1), "float32"),
    }
    for i in range(5):
        used = np.arange(5) == i
        assert np.abs(backend.observe(model, results, used)).max() <= 0.5
    np.testing.assert_array_equal(backend.observe(model, results, np.arange(5) == 3), [0, 0])
    np.testing.assert_allclose(backend.observe(model, results, np.arange(5) == 0), [-0.48, 0.0])


def _square(y_true, y_pred):
    return y_true * y_pred[:, 0]


def test_training_logs_hold_noised_metrics_only_and_evaluation_is_exact():
    model = classifier(
        private_metrics=PrivateMetrics(metrics=ACCURACY), metrics=["accuracy"], seed=1
    )
    x, y = data()
    seen = []

    class Batches(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(dict(logs))

    history = fit(model, epochs=2, validation_data=(x, y), callbacks=[Batches()])
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(set(logs) == {"loss", "accuracy"} for logs in seen)
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert accuracy == pytest.approx(np.mean(model.predict(x, verbose=0).argmax(-1) == y))
    assert history["val_loss"][-1] == pytest.approx(loss)
    assert history["accuracy"][-1] != pytest.approx(accuracy, abs=1e-6)


def test_means_begin_anew_with_every_epoch():
    settings = PrivateMetrics(noise_stddev=1e-4, bounds={"loss": (0, 20)})
    model = classifier(private_metrics=settings, noise_multiplier=0.0, sampling="full_batch")
    losses = fit(model, epochs=4, batch_size=200)["loss"]
    x, y = data()
    again = classifier(noise_multiplier=0.0, sampling="full_batch")
    for loss in losses:
        assert again.evaluate(x, y, verbose=0) == pytest.approx(loss, abs=1e-3)
        again.fit(x, y, verbose=0)


def test_they_are_charged_saved_and_stated(tmp_path):
    settings = PrivateMetrics(metrics=ACCURACY, bounds={"loss": (0, 2)}, noise_stddev=4.0)
    model = classifier(private_metrics=settings, budget=BUDGET)
    fit(model)
    statement = model.privacy_statement(group_sizes=())
    assert "The same noise multiplier covers 2 training metrics" in " ".join(str(statement).split())
    assert not any(
        "Metrics and losses shown" in item for item in statement.to_dict()["not_covered"]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.private_metrics.get_config() == settings.get_config()
    assert loaded.privacy_spent() == model.privacy_spent()
    assert set(fit(loaded)) == {"loss", "accuracy"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": {"loss": _half}}, "must not have the name 'loss'"),
        ({"metrics": {"accuracy": "accuracy"}}, "must be functions.*'accuracy'.*Pass a function"),
        ({"bounds": {"auc": (0, 1)}}, "`bounds` must be one of 'loss'. Received: 'auc'"),
        ({"bounds": {"loss": (2, 1)}}, r"finite and in order. Received for 'loss': \(2, 1\)"),
        ({"noise_stddev": 0.0}, "`noise_stddev` must be a finite number above 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PrivateMetrics(**settings)


def test_metrics_that_would_spend_the_budget_alone_are_refused_before_training():
    model = classifier(private_metrics=PrivateMetrics(noise_stddev=0.4), budget=BUDGET)
    with pytest.raises(ValueError, match="`noise_stddev` of the private metrics must be larger"):
        fit(model)
    assert model.ledger.updates == 0
    with pytest.raises(ValueError, match="`private_metrics` must be a"):
        classifier(private_metrics=["accuracy"])


def test_callbacks_that_act_on_private_data_are_named_in_the_statement(tmp_path):
    model = classifier(budget=BUDGET)
    fit(
        model,
        epochs=2,
        validation_split=0.2,
        callbacks=[
            keras.callbacks.EarlyStopping("loss"),
            keras.callbacks.ReduceLROnPlateau("val_loss"),
            keras.callbacks.ModelCheckpoint(tmp_path / "a.keras", "loss", save_best_only=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "b.keras", "loss"),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate),
            keras_dp.callbacks.PrivacyBudget(8.0, 1e-3),
        ],
    )
    expected = (
        "EarlyStopping acted on 'loss', an exact function of the training data.",
        "ReduceLROnPlateau acted on 'val_loss', an exact function of data split off from the "
        "training data.",
        "ModelCheckpoint acted on 'loss', an exact function of the training data.",
    )
    assert model.ledger.notes == expected
    stated = model.privacy_statement(group_sizes=()).to_dict()["not_covered"]
    assert set(expected) <= set(stated)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").ledger.notes == expected


def test_a_callback_that_acts_on_noised_metrics_needs_no_mention():
    model = classifier(private_metrics=PrivateMetrics())
    x, y = data()
    fit(model, callbacks=[keras.callbacks.EarlyStopping("loss")])
    assert model.ledger.notes == ()
    fit(model, validation_data=(x, y), callbacks=[keras.callbacks.EarlyStopping("val_loss")])
    assert model.ledger.notes == (
        "EarlyStopping acted on 'val_loss', an exact function of the validation data.",
    )


def test_that_metrics_are_exact_is_said_once_where_they_are_shown(monkeypatch):
    monkeypatch.setattr(watching, "_said", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(classifier(private_metrics=PrivateMetrics()))
        assert not [w for w in caught if "exact functions" in str(w.message)]
        for _ in range(2):
            fit(classifier())
    said = [str(w.message) for w in caught if "exact functions" in str(w.message)]
    assert said == [watching.NOTICE]


def test_a_privacy_card_lies_beside_the_saved_model(tmp_path):
    model = classifier(budget=BUDGET)
    model.save(tmp_path / "fresh.keras")
    assert not (tmp_path / "fresh.privacy.md").exists()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "during.keras")
    fit(model, callbacks=[checkpoint])
    assert not (tmp_path / "during.privacy.md").exists()
    model.save(tmp_path / "model.keras")
    card = (tmp_path / "model.privacy.md").read_text()
    assert card == model.privacy_statement().to_markdown()
    with pytest.raises(ValueError, match="`delta` must be given"):
        classifier().save_privacy_card(tmp_path / "card.md")
    model.save_privacy_card(tmp_path / "card.md", delta=1e-4)
    assert "delta = 0.0001" in (tmp_path / "card.md").read_text()
