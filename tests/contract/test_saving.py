"""Files and clones go on where the model stood, with its count, and tell no secret."""

import zipfile

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.optimizers import DPSGD
from tests.kinds import L, tiny, tiny_data

BUDGET = keras_dp.Budget(epsilon=8.0, delta=1e-3)
SEED = 918273645


def compiled(seed=None):
    settings = {"clip_norm": 2.0, "noise_multiplier": 1.5, "clipping": "adaptive", "seed": seed}
    optimizer = DPSGD(0.01, momentum=0.9, **settings)
    return tiny(optimizer=optimizer, budget=BUDGET, microbatch_size=8)


def fit(model, updates):
    model.fit(*tiny_data(), batch_size=40, steps_per_epoch=updates, verbose=0)
    return model


def assert_same(ours, theirs, atol=0.0):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=atol, rtol=0)


def state(model):
    return [variable.numpy() for variable in model.optimizer.variables]


def test_a_seeded_run_that_is_saved_and_resumed_equals_the_uninterrupted_one(tmp_path):
    """Weights, momentum, count of updates and adaptive clip norm; the file tells no seed."""
    model = fit(compiled(SEED), 3)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(SEED).encode() not in content
    assert np.uint32(SEED).tobytes() not in content
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(resumed, keras_dp.DPModel)
    assert resumed.optimizer.seed is None
    assert resumed.privacy_spent() == model.privacy_spent()
    assert (resumed.budget, resumed.microbatch_size) == (BUDGET, 8)
    assert_same(state(resumed), state(model))
    resumed.optimizer.seed = SEED
    for each in (model, resumed):
        fit(each, 3)
    assert_same(resumed.get_weights(), model.get_weights(), atol=1e-6)
    assert_same(state(resumed), state(model), atol=1e-5)
    assert resumed.privacy_spent() == model.privacy_spent()


def test_a_weights_file_carries_the_count_and_an_older_one_never_lowers_it(tmp_path):
    model = fit(compiled(), 2)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = compiled()
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert_same(fresh.get_weights(), model.get_weights())
    assert fresh.privacy_spent() == model.privacy_spent()
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="after 2 made before"):
        fit(fresh, 100_000)
    fit(model, 3)
    model.load_weights(tmp_path / "model.weights.h5")
    assert model.ledger.updates == 5


def test_weights_of_a_plain_model_load_with_a_warning_and_leave_the_count(tmp_path):
    plain = keras.Sequential([keras.Input((4,)), L.Dense(3)])
    plain.save_weights(tmp_path / "plain.weights.h5")
    model = keras_dp.DPSequential([keras.Input((4,)), L.Dense(3)])
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    model.ledger.record(fit(compiled(), 1).ledger.releases[0].plan)
    private = keras_dp.DPModel(plain.inputs, plain.outputs)
    private.share_ledger(model.ledger)
    with pytest.warns(UserWarning, match="without a privacy ledger.*not counted.*at 1 updates"):
        private.load_weights(tmp_path / "plain.weights.h5")


def test_a_clone_and_a_wrapped_sequential_keep_settings_and_count(tmp_path):
    inputs = [keras.Input((4,)), L.Dense(3)]
    sequential = keras_dp.DPSequential(inputs)
    sequential.compile(DPSGD(0.1, noise_multiplier=1.5), loss="mse", budget=BUDGET)
    for model in (fit(compiled(), 2), fit(sequential, 2)):
        clone = keras.models.clone_model(model)
        assert type(clone) is type(model)
        assert clone.optimizer.get_config() == model.optimizer.get_config()
        assert (clone.budget, clone.privacy_spent()) == (BUDGET, model.privacy_spent())
        assert fit(clone, 1).ledger.updates == 3
        assert model.ledger.updates == 2
    model.save(tmp_path / "sequential.keras")
    loaded = keras.saving.load_model(tmp_path / "sequential.keras")
    assert_same(loaded.get_weights(), model.get_weights())
    assert loaded.ledger.updates == 2


def test_checkpoints_and_backups_written_during_fit_hold_the_updates_made(tmp_path):
    model = compiled()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    model.fit(*tiny_data(), batch_size=50, epochs=2, verbose=0, callbacks=[checkpoint])
    paths = [tmp_path / f"{epoch}.keras" for epoch in (1, 2)]
    loaded = [keras.saving.load_model(path) for path in paths]
    assert [each.ledger.updates for each in loaded] == [2, 4]
    assert [int(each.optimizer.updates) for each in loaded] == [2, 4]
    assert_same(loaded[1].get_weights(), model.get_weights())
    assert np.abs(loaded[0].get_weights()[0] - model.get_weights()[0]).max() > 0
