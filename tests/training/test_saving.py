"""Files, configurations and clones keep the settings and the count of updates."""

import errno

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.optimizers import DPSGD, DPAdam
from tests.kinds import L, make, tiny, tiny_data

BUDGET = keras_dp.Budget(epsilon=8.0, delta=1e-3)


def trained(updates=5, seed=None):
    model = tiny(
        optimizer=DPAdam(0.01, clip_norm=0.7, noise_multiplier=1.5, seed=seed),
        budget=BUDGET,
        metrics=["mae"],
        microbatch_size=8,
    )
    fit(model, updates)
    return model


def fit(model, updates):
    return model.fit(*tiny_data(), batch_size=20, steps_per_epoch=updates, verbose=0)


def assert_same_weights(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same_promise(loaded, model):
    assert loaded.privacy_spent() == model.privacy_spent()
    assert loaded.budget == model.budget
    assert loaded.sampler.name == model.sampler.name
    assert loaded.microbatch_size == model.microbatch_size
    assert loaded.optimizer.get_config() == model.optimizer.get_config()


def test_a_keras_file_goes_on_where_it_stood(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, keras_dp.DPModel)
    assert_same_weights(loaded, model)
    assert_same_promise(loaded, model)
    assert int(loaded.optimizer.updates) == int(loaded.optimizer.iterations) == 5
    for ours, theirs in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    fit(loaded, 3)
    fit(model, 3)
    assert loaded.ledger.updates == 8
    assert loaded.privacy_spent() == model.privacy_spent()


def test_a_seeded_run_that_is_saved_and_resumed_equals_the_uninterrupted_one(tmp_path):
    whole, half = (
        tiny(optimizer=DPAdam(0.01, noise_multiplier=1.5, seed=5), budget=BUDGET) for _ in "ab"
    )
    half.set_weights(whole.get_weights())
    fit(whole, 6)
    fit(half, 3)
    half.save(tmp_path / "half.keras")
    resumed = keras.saving.load_model(tmp_path / "half.keras")
    assert resumed.optimizer.seed is None  # a published file tells no seed
    resumed.optimizer.seed = 5
    fit(resumed, 3)
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("kind", ["sequential_mlp", "subclassed_with_added_loss"])
def test_other_kinds_of_model_are_saved_with_their_count(kind, tmp_path):
    case = make(kind)
    case.private.compile(DPSGD(0.1, noise_multiplier=1.0), loss=case.loss, budget=BUDGET)
    case.private.fit(case.x, case.y, batch_size=8, verbose=0)
    case.private.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(case.private)
    assert_same_weights(loaded, case.private)
    assert_same_promise(loaded, case.private)
    loaded.fit(case.x, case.y, batch_size=8, verbose=0)
    assert loaded.ledger.updates == 6


def test_a_wrapped_model_is_saved_with_its_count(tmp_path):
    case = make("subclassed_with_added_loss")
    model = keras_dp.make_private(case.plain)
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss=case.loss)
    model.fit(case.x, case.y, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_weights(loaded, model)
    assert loaded.ledger.updates == 3


def test_a_weights_file_carries_the_count(tmp_path):
    model = trained()
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = tiny(optimizer=DPAdam(0.01, clip_norm=0.7, noise_multiplier=1.5), budget=BUDGET)
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert_same_weights(fresh, model)
    assert fresh.privacy_spent() == model.privacy_spent()
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="after 5 made before"):
        fit(fresh, 100_000)


def test_loading_an_older_file_never_lowers_the_count(tmp_path):
    model = trained(3)
    model.save_weights(tmp_path / "early.weights.h5")
    fit(model, 4)
    model.load_weights(tmp_path / "early.weights.h5")
    assert model.ledger.updates == 7
    model.load_weights(tmp_path / "early.weights.h5")
    assert model.ledger.updates == 7


def test_weights_of_a_plain_model_load_and_leave_the_count(tmp_path):
    inputs = keras.Input((4,))
    plain = keras.Model(inputs, L.Dense(3)(inputs))
    plain.save_weights(tmp_path / "plain.weights.h5")
    model = trained()
    with pytest.warns(UserWarning, match="without a privacy ledger.*not counted.*at 5 updates"):
        model.load_weights(tmp_path / "plain.weights.h5")
    assert_same_weights(model, plain)
    assert model.ledger.updates == 5


def test_checkpoints_written_during_fit_hold_the_updates_made(tmp_path):
    model = tiny(budget=BUDGET, optimizer=DPSGD(0.1, noise_multiplier=2.0))
    path = tmp_path / "{epoch}.keras"
    model.fit(
        *tiny_data(),
        batch_size=20,
        epochs=3,
        verbose=0,
        callbacks=[keras.callbacks.ModelCheckpoint(path)],
    )
    counts = [
        keras.saving.load_model(tmp_path / f"{epoch}.keras").ledger.updates for epoch in (1, 2, 3)
    ]
    assert counts == [5, 10, 15]


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt("stopped by hand")


def test_a_run_restored_from_a_backup_counts_all_and_plans_the_rest(tmp_path):
    def start(callbacks):
        model = tiny(optimizer=DPSGD(0.1, clip_norm=1.0, noise_multiplier=None), budget=BUDGET)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        model.fit(*tiny_data(), batch_size=20, epochs=4, verbose=0, callbacks=[backup, *callbacks])
        return model

    with pytest.raises(KeyboardInterrupt, match="stopped by hand"):
        start([Interrupt()])
    model = start([])
    assert model.ledger.updates == 20
    assert 0.98 * BUDGET.epsilon < model.privacy_spent().epsilon <= BUDGET.epsilon


def test_a_clone_keeps_settings_and_count():
    for model in (trained(), _sequential()):
        clone = keras.models.clone_model(model)
        assert isinstance(clone, keras_dp.DPModel)
        assert type(clone) is type(model)
        assert_same_promise(clone, model)
        fit(clone, 2)
        assert clone.ledger.updates == 7
        assert model.ledger.updates == 5


def _sequential():
    model = keras_dp.DPSequential([keras.Input((4,)), L.Dense(3)])
    model.compile(DPSGD(0.1, noise_multiplier=1.5), loss="mse", budget=BUDGET)
    fit(model, 5)
    return model


def test_config_round_trips():
    model = trained()
    again = keras_dp.DPModel.from_config(model.get_config())
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    config = model.get_compile_config()
    again.compile_from_config(config)
    assert_same_promise(again, model)
    assert tiny_uncompiled().get_compile_config() == {}


def tiny_uncompiled():
    inputs = keras.Input((4,))
    return keras_dp.DPModel(inputs, L.Dense(3)(inputs))


def test_no_key_and_no_seed_is_in_a_published_file(tmp_path):
    import zipfile

    seed = 918273645
    model = trained(seed=seed)
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert str(seed).encode() not in content
            assert np.uint32(seed).tobytes() not in content


def test_merged_counts_of_a_clone_that_went_its_own_way_are_not_lost(tmp_path):
    model = trained(3)
    model.save(tmp_path / "model.keras")
    other = keras.saving.load_model(tmp_path / "model.keras")
    fit(model, 2)
    fit(other, 4)
    other.save_weights(tmp_path / "other.weights.h5")
    model.load_weights(tmp_path / "other.weights.h5")
    assert model.ledger.updates == 3 + 2 + 4


def test_sharded_weights_files_carry_the_count(tmp_path):
    model = trained()
    path = tmp_path / "model.weights.json"
    model.save_weights(path, max_shard_size=0.0001)
    fresh = tiny(optimizer=DPAdam(0.01, noise_multiplier=1.5))
    fresh.load_weights(path)
    assert_same_weights(fresh, model)
    assert fresh.ledger.updates == 5


def test_an_orbax_checkpoint_carries_the_count(tmp_path):
    model = named()
    callback = keras.callbacks.OrbaxCheckpoint(tmp_path, save_on_background=False)
    model.fit(*tiny_data(), batch_size=20, epochs=2, verbose=0, callbacks=[callback])
    loaded = keras.saving.load_model(tmp_path)
    assert_same_weights(loaded, model)
    assert_same_promise(loaded, model)
    fresh = named()
    fresh.load_weights(tmp_path)
    assert_same_weights(fresh, model)
    assert fresh.privacy_spent() == model.privacy_spent()


def test_an_orbax_checkpoint_of_weights_alone_says_that_it_has_no_count(tmp_path):
    model = named()
    callback = keras.callbacks.OrbaxCheckpoint(
        tmp_path, save_weights_only=True, save_on_background=False
    )
    model.fit(*tiny_data(), batch_size=20, verbose=0, callbacks=[callback])
    fresh = named()
    with pytest.warns(UserWarning, match="without a privacy ledger.*not counted.*at 0 updates"):
        fresh.load_weights(tmp_path)
    assert_same_weights(fresh, model)


def named():
    """A model whose layers have the names that they have in a new process."""
    inputs = keras.Input((4,), name="inputs")
    model = keras_dp.DPModel(inputs, L.Dense(3, name="head")(inputs))
    model.compile(DPAdam(0.01, noise_multiplier=1.5), loss="mse", budget=BUDGET)
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_disk_that_fills_up_leaves_the_earlier_file_whole(name, tmp_path, monkeypatch):
    def save(model):
        (model.save if name.endswith(".keras") else model.save_weights)(tmp_path / name)

    model = trained()
    save(model)
    before = (tmp_path / name).read_bytes()
    fit(model, 3)

    def full(self, store):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "save_own_variables", full)
        with pytest.raises(OSError, match="No space left") as raised:
            save(model)
    assert "as it was" in raised.value.__notes__[0]
    assert (tmp_path / name).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} - {"model.privacy.md"} == {name}
    assert model.ledger.updates == 8
    save(model)
    assert (tmp_path / name).read_bytes() != before


def test_a_run_is_not_resumed_on_data_of_another_size(tmp_path):
    def start(size, callbacks):
        model = tiny(optimizer=DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.0))
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        data = tiny_data(size)
        model.fit(*data, batch_size=20, epochs=4, verbose=0, callbacks=[backup, *callbacks])
        return model

    with pytest.raises(KeyboardInterrupt, match="stopped by hand"):
        start(100, [Interrupt()])
    with pytest.raises(ValueError, match="has 120 examples now and had 100 before"):
        start(120, [])
    assert start(100, []).ledger.updates == 20


def test_a_resumed_run_with_calibrated_noise_goes_on_with_the_same_noise(tmp_path):
    def start(folder, callbacks):
        model = tiny(optimizer=DPSGD(0.1, clip_norm=1.0, noise_multiplier=None), budget=BUDGET)
        backup = keras.callbacks.BackupAndRestore(tmp_path / folder)
        model.fit(*tiny_data(), batch_size=20, epochs=4, verbose=0, callbacks=[backup, *callbacks])
        return model

    with pytest.raises(KeyboardInterrupt, match="stopped by hand"):
        start("interrupted", [Interrupt()])
    resumed, whole = start("interrupted", []), start("whole", [])
    assert resumed.privacy_spent() == whole.privacy_spent()
    assert resumed.optimizer.noise_multiplier == whole.optimizer.noise_multiplier


def test_a_ledger_on_disk_counts_for_every_model_that_is_compiled_with_it(tmp_path):
    def compiled():
        return tiny(
            optimizer=DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.5),
            budget=BUDGET,
            ledger_file=tmp_path / "all.ledger",
        )

    first, second = compiled(), compiled()
    fit(first, 3)
    fit(second, 4)
    assert first.ledger.updates == second.ledger.updates == 7
    first.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.ledger.updates == 7
    fit(loaded, 2)
    loaded.keep_ledger_in(tmp_path / "all.ledger")
    assert second.ledger.updates == 9


def test_an_update_that_cannot_be_written_down_is_not_made(tmp_path, monkeypatch):
    model = tiny(
        optimizer=DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.5),
        ledger_file=tmp_path / "all.ledger",
    )
    fit(model, 2)
    weights = model.get_weights()

    def full(handle, line):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("keras_dp.accounting.ledger_file.os.write", full)
        with pytest.raises(keras_dp.errors.LedgerFileError, match="update was not made"):
            fit(model, 1)
    assert model.ledger.updates == 2
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    fit(model, 1)
    assert model.ledger.updates == 3
