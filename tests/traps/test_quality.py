"""Traps 25 to 30: private, and yet not what users were promised."""

import warnings

import jax
import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import clipping, watching
from keras_dp.optimizers import DPSGD
from tests.traps.common import DELTA, L, data, private, released


def test_25_dropout_masks_differ_between_examples_and_between_updates():
    x, y = np.ones((40, 4), "float32"), np.ones((40, 2), "float32")
    first = L.Dropout(0.5, seed=1)
    layers = [first, L.Dense(2, kernel_initializer="ones", use_bias=False)]
    model = private(layers=layers, sampling="full_batch", clip_norm=1e6)
    gradients = []
    for _ in range(3):
        weights = model.get_weights()
        gradients.append(released(model, x, y))
        model.set_weights(weights)
    one_mask = gradients[0].reshape(4, 2)[:, 0]
    assert np.all(one_mask != 0)  # one mask for all would drop some input everywhere
    assert not np.allclose(gradients[0], gradients[1])


def test_26_dicts_weights_and_partial_batches_are_taken():
    inputs = {"a": keras.Input((4,)), "b": keras.Input((2,))}
    joined = L.Concatenate()([inputs["a"], inputs["b"]])
    outputs = {"one": L.Dense(2, name="one")(joined), "two": L.Dense(1, name="two")(joined)}
    model = keras_dp.DPModel(inputs, outputs)
    model.compile(DPSGD(0.1, noise_multiplier=1.0), {"one": "mse", "two": "mse"})
    x, y = data(37)
    rows = {"a": x, "b": y}
    targets = {"one": y, "two": y[:, :1]}
    weights = {"one": np.ones(37, "float32"), "two": np.zeros(37, "float32")}
    model.fit(rows, targets, sample_weight=weights, batch_size=10, epochs=2, verbose=0)
    assert model.ledger.updates == 8
    classes = private(outputs=3, noise_multiplier=1.0, loss="sparse_categorical_crossentropy")
    labels = np.arange(37) % 3
    classes.fit(x, labels, batch_size=10, class_weight={0: 2.0, 1: 1.0, 2: 0.5}, verbose=0)
    assert classes.ledger.updates == 4


def test_27_every_trained_parameter_is_in_the_table_and_slow_places_are_named():
    class Odd(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(4,), name="scale")

        def call(self, x):
            return keras.ops.sin(x * keras.ops.cumsum(self.scale))

    model = private(layers=[Odd(), L.Dense(2)], noise_multiplier=1.0)
    report = clipping.explain(model, *data())
    text = str(report)
    assert all(variable.path in text for variable in model.trainable_variables)
    before = [w.copy() for w in model.get_weights()]
    model.fit(*data(), batch_size=10, verbose=0)
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))


def test_28_exact_metrics_are_said_once_and_what_acted_on_them_is_stated(monkeypatch):
    monkeypatch.setattr(watching, "_said", set())
    model = private(noise_multiplier=1.0)
    stop = keras.callbacks.EarlyStopping("loss")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            model.fit(*data(), batch_size=10, verbose=0, callbacks=[stop])
    assert len([w for w in caught if "exact functions of the private data" in str(w.message)]) == 1
    stated = model.privacy_statement(delta=DELTA, group_sizes=()).to_dict()["not_covered"]
    assert any("EarlyStopping acted on 'loss'" in item for item in stated)
    assert any("Metrics and losses shown during training" in item for item in stated)


def test_29_a_saved_model_loads_with_all_its_private_settings(tmp_path, capsys):
    budget = keras_dp.Budget(9.0, DELTA)
    model = private(
        noise_multiplier=1.3,
        clip_norm=0.7,
        budget=budget,
        sampling=keras_dp.sampling.TruncatedPoisson(30),
        microbatch_size=8,
    )
    model.fit(*data(), batch_size=10, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    settings = (loaded.optimizer.clip_norm, loaded.optimizer.noise_multiplier, loaded.budget)
    assert settings == (0.7, 1.3, budget)
    assert loaded.sampler.get_config() == model.sampler.get_config()
    assert loaded.microbatch_size == 8
    assert loaded.privacy_spent() == model.privacy_spent()
    loaded.summary()
    shown = capsys.readouterr().out
    for part in ("clip norm 0.7", "noise multiplier 1.3", "truncated_poisson", "4 updates so far"):
        assert part in shown


def test_30_a_sharding_constraint_on_the_batch_axis_does_not_break_clipping():
    """The constraint sees a batch of one example, and under `vmap` an axis too many."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))

    def loss(params, example):
        row = jax.lax.with_sharding_constraint(example[None], sharding)
        return jax.numpy.sum((row @ params) ** 2)

    rng = np.random.default_rng(0)
    params, rows = (rng.normal(size=s).astype("float32") for s in ((4, 2), (6, 4)))
    clipped = [
        jax.jit(clipping.clipped_sum(loss, clip_norm=1.0, method=method))(params, rows)
        for method in ("auto", "vmap")
    ]
    np.testing.assert_allclose(clipped[0].grads, clipped[1].grads, rtol=1e-5)
    np.testing.assert_allclose(clipped[0].norms, clipped[1].norms, rtol=1e-5)


@pytest.mark.parametrize("number", range(1, 31))
def test_every_trap_has_a_test_that_is_named_after_it(number):
    from pathlib import Path

    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert f"def test_{number:02}_" in text
