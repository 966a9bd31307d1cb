"""Training on a mesh is training: the same draw, noise, weights and logs on any devices."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import backend
from tests.mesh.placements import MESHES, data, distribution, model, on, trained


@pytest.fixture(scope="module")
def alone():
    """Weights and logs of one device without any distribution."""
    return trained(None)


def assert_equal(found, expected, atol=1e-5):
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(one, other, atol=atol)
    assert found[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-4)


@pytest.mark.parametrize("mesh", MESHES)
def test_twenty_updates_end_in_the_weights_and_logs_of_one_device(mesh, alone):
    assert_equal(trained(mesh), alone)


@pytest.mark.parametrize("mesh", ["8", "4x2"])
def test_the_loop_on_the_device_ends_there_too(mesh, alone, monkeypatch):
    monkeypatch.setattr(backend, "loops_on_device", lambda: True)
    assert_equal(trained(mesh), alone)


@pytest.mark.parametrize("mesh", ["8", "4x2"])
def test_batches_streamed_in_chunks_end_there_too(mesh, alone, monkeypatch):
    """Of 32 examples, 2 or 4 chunks of a batch."""
    monkeypatch.setattr(backend, "loops_on_device", lambda: True)
    monkeypatch.setattr(backend, "examples_memory", lambda: 8 * 2 * 4 * (6 * 6 * 2 + 1))
    assert_equal(trained(mesh, microbatch_size=8), alone)


@pytest.mark.parametrize("microbatch_size", [7, 101, 128])
def test_a_microbatch_that_no_number_of_devices_divides_is_padded(microbatch_size, alone):
    assert_equal(trained("4x2", microbatch_size=microbatch_size), alone)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": "discrete_gaussian"},
        {"clipping": "adaptive"},
        {"clipping": "per_layer"},
        {"dtype": "mixed_float16"},
        {"regularizer": "l2"},
        {"metrics": (), "private_metrics": keras_dp.PrivateMetrics(bounds={"loss": (0, 3)})},
    ],
    ids=str,
)
def test_other_mechanisms_are_the_same_on_a_mesh(settings):
    atol = 1e-5 if "dtype" not in settings else 1e-4  # XLA rounds float16 here and there
    assert_equal(trained("4x2", steps=5, **settings), trained(None, steps=5, **settings), atol)


@pytest.mark.parametrize("mesh", ["8", "4x2"])
def test_weights_and_optimizer_state_stay_where_the_layout_puts_them(mesh):
    with on(mesh):
        private = model()
        variables = [*private.variables, *private.optimizer.variables]
        before = [variable.value.sharding for variable in variables]
        private.fit(*data(), batch_size=101, steps_per_epoch=2, verbose=0)
        variables = [*private.variables, *private.optimizer.variables]
        for variable, sharding in zip(variables, before, strict=False):
            assert variable.value.sharding.is_equivalent_to(sharding, len(variable.shape))
        spread = [v.path for v in variables if "model" in str(v.value.sharding.spec)]
    kernels = {"dense_1/kernel", "dense_2/kernel", "conv/kernel"}
    assert (kernels <= set(spread)) == (mesh == "4x2")


def test_one_batch_of_the_callers_is_spread_too():
    x, y = (part[:13] for part in data())
    found = []
    for mesh in (None, "8"):
        with on(mesh):
            private = model()
            logs = private.train_on_batch(x, y, return_dict=True)
            found.append((private.get_weights(), {k: [v] for k, v in logs.items()}))
    assert_equal(*found)


@pytest.mark.parametrize("meshes", [("8", "2"), (None, "2x2"), ("4x2", None)], ids=str)
def test_a_saved_model_goes_on_on_other_devices(meshes, tmp_path):
    """Without dropout, for Keras does not save its seeds."""
    with on(meshes[0]):
        private = model(dropout=0.0)
        private.fit(*data(), batch_size=101, steps_per_epoch=3, verbose=0)
        private.save(tmp_path / "model.keras")
    with on(meshes[1]):
        again = keras.saving.load_model(tmp_path / "model.keras")
        assert again.ledger.updates == 3
        again.optimizer.seed = 0  # no file tells a seed
        again.fit(*data(), batch_size=101, steps_per_epoch=3, verbose=0)
        found = again.get_weights()
    expected, _ = trained(None, steps=3, epochs=2, dropout=0.0)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("meshes", [("8", "2"), ("4x2", None)], ids=str)
def test_an_interrupted_run_is_resumed_on_other_devices(meshes, tmp_path):
    """Backed up after two epochs, lost in the third, taken up on other devices."""

    class Lost(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("lost")

    settings = {"steps": 5, "epochs": 4, "dropout": 0.0}
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    with pytest.raises(RuntimeError, match="lost"):
        trained(meshes[0], callbacks=[backup, Lost()], **settings)
    spent = []
    count = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: spent.append(count.model.privacy_spent(delta=1e-5))
    )
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    found, _ = trained(meshes[1], callbacks=[backup, count], **settings)
    expected, _ = trained(None, callbacks=[count], **settings)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert spent[0] == spent[1]
    assert spent[0].updates == 20


class Latest(keras.metrics.Metric):
    """No sum over examples."""

    def __init__(self):
        super().__init__(name="latest")
        self.value = self.add_weight(shape=(), initializer="zeros", name="value")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(keras.ops.max(y_pred))

    def result(self):
        return 1.0 * self.value


def test_metrics_that_cannot_be_added_up_are_refused_by_name_on_a_mesh():
    with on("2"), pytest.raises(ValueError, match=r"sums over examples.*\['latest'\].*Wrapper"):
        model(metrics=(Latest(),)).fit(*data(), batch_size=101, verbose=0)
    assert "latest" in trained(None, steps=1, metrics=(Latest(),))[1]
    double = keras.metrics.MeanMetricWrapper(
        lambda y, y_pred: 2 * keras.ops.max(y_pred, -1), name="double"
    )
    found = trained("4x2", steps=2, metrics=(double,))
    assert_equal(found, trained(None, steps=2, metrics=(double,)))


@pytest.mark.parametrize(("made", "fitted"), [(None, "8"), ("8", None), ("2", "8")], ids=str)
def test_a_model_made_under_another_distribution_is_refused_with_what_to_do(made, fitted):
    with on(made):
        private = model()
    with (
        on(fitted),
        pytest.raises(ValueError, match=r"under the distribution.*conv/kernel.*load it again"),
    ):
        private.fit(*data(), batch_size=101, verbose=0)
    assert private.ledger.updates == 0


def test_placement_reads_only_own_rows_in_order():
    with on("8"):
        placed = backend.placement()
        assert (placed.shards, placed.padded(30), placed.padded(32)) == (8, 32, 32)
        read = []

        def take(indices):
            read.append(indices)
            return indices * 10

        rows = np.arange(16)[::-1]
        np.testing.assert_array_equal(placed.take(take, rows), rows * 10)
        (indices,) = read
        np.testing.assert_array_equal(indices, rows)
    assert backend.placement().shards == 1
    assert distribution("2x2").batch_dim_name == "batch"


@pytest.mark.parametrize("examples", [64, 50])
@pytest.mark.parametrize("mesh", ["8", "4x2"])
def test_evaluation_takes_any_number_of_examples(mesh, examples):
    """Keras itself refuses batches that cannot be spread evenly."""
    x, y = (part[:examples] for part in data())
    found = []
    for where in (None, mesh):
        with on(where):
            private = model()
            fit = {"batch_size": 101, "steps_per_epoch": 1, "verbose": 0}
            history = private.fit(*data(), validation_data=(x, y), **fit).history
            found.append(
                [
                    [history["val_loss"][0], history["val_accuracy"][0]],
                    private.evaluate(x, y, batch_size=12, verbose=0),
                    private.test_on_batch(x, y),
                    private.predict(x, batch_size=24, verbose=0),
                    private.predict_on_batch(x),
                ]
            )
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
