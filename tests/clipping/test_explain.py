"""`explain`: the table names every weight, the way it is clipped, and what that costs."""

import jax
import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import backend, clipping
from keras_dp.backend.jax import example
from keras_dp.backend.jax.memory import Memory

pytestmark = pytest.mark.usefixtures("unoptimized")

L = keras.layers


def small_model(**compiling):
    inputs = keras.Input((8, 8, 3))
    hidden = L.Conv2D(4, 3, name="conv")(inputs)
    hidden = L.GroupNormalization(2, name="norm")(hidden)
    outputs = L.Dense(3, name="head")(L.Flatten()(hidden))
    model = keras_dp.DPModel(inputs, outputs)
    optimizer = keras_dp.optimizers.DPSGD(0.1, noise_multiplier=1.0)
    model.compile(optimizer, "mse", **compiling)
    return model, np.zeros((6, 8, 8, 3), "float32"), np.zeros((6, 3), "float32")


def test_every_weight_has_a_row_with_its_rule():
    model, x, y = small_model()
    report = clipping.explain(model, x, y, print_fn=lambda text: None)
    found = {path: row for row in report.rows for path in row.weights}
    assert set(found) == {variable.path for variable in model.trainable_variables}
    assert found["conv/kernel"].operation == "conv_general_dilated"
    assert found["conv/kernel"].rule == "convolution, full"
    assert found["conv/kernel"].bytes == 4 * 3 * 3 * 3 * 4
    assert found["head/kernel"].rule == "outer, product"
    assert found["head/kernel"].flops == 2 * (6 * 6 * 4 + 3)
    assert found["norm/gamma"].rule == "written out"


def test_the_estimated_memory_of_an_example_is_near_that_of_the_compiled_sum():
    model = keras_dp.applications.TanhCNN()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras_dp.optimizers.DPSGD(0.1, noise_multiplier=1.0), loss=loss)
    x, y = np.zeros((64, 28, 28, 1), "float32"), np.zeros(64, "int32")
    estimate = clipping.explain(model, x, y, print_fn=lambda text: None).bytes_per_example
    values = [variable.value for variable in model.trainable_variables]

    def loss_fn(params, example):
        image, label = example
        logits, _ = model.stateless_call(params, model.non_trainable_variables, image[None])
        return loss(label[None], logits)

    clipped = jax.jit(clipping.clipped_sum(loss_fn, clip_norm=1.0))
    few, many = (
        clipped.lower(values, (x[:n], y[:n])).compile().memory_analysis().temp_size_in_bytes
        for n in (16, 64)
    )
    assert estimate / 2 < (many - few) / 48 < 2 * estimate


def test_the_table_is_printed_once_with_totals():
    model, x, y = small_model()
    texts = []
    report = clipping.explain(model, x, y, print_fn=texts.append)
    assert texts == [str(report)]
    for word in ("weights", "operation", "FLOPs", "conv/kernel", "outer, product", "total"):
        assert word in texts[0]


def test_the_table_goes_to_standard_output_by_default(capsys):
    model, x, y = small_model()
    clipping.explain(model, x, y)
    assert "Per-example clipping" in capsys.readouterr().out


def test_weights_that_are_transformed_before_use_are_pulled_back():
    @keras.saving.register_keras_serializable("tests")
    class Standardised(L.Dense):
        def call(self, inputs):
            kernel = self.kernel - keras.ops.mean(self.kernel, 0)
            return keras.ops.matmul(inputs, kernel / (1e-3 + keras.ops.std(self.kernel, 0)))

    model = keras_dp.DPSequential([keras.Input((5, 4)), Standardised(3, use_bias=False)])
    model.compile(keras_dp.optimizers.DPSGD(0.1, noise_multiplier=1.0), "mse")
    report = clipping.explain(
        model, np.zeros((2, 5, 4)), np.zeros((2, 5, 3)), print_fn=lambda text: None
    )
    assert [row.rule for row in report.rows] == ["outer, gram, pulled back"]


def test_a_weight_without_effect_is_named():
    inputs = keras.Input((4,))
    used, idle = L.Dense(2, name="used")(inputs), L.Dense(2, name="idle")(inputs)
    model = keras_dp.DPModel(inputs, [used, idle])
    optimizer = keras_dp.optimizers.DPSGD(0.1, noise_multiplier=1.0)
    model.compile(optimizer, loss=["mse", None])
    report = clipping.explain(
        model, np.zeros((6, 4)), [np.zeros((6, 2)), np.zeros((6, 2))], print_fn=lambda text: None
    )
    rules = {path: row.rule for row in report.rows for path in row.weights}
    assert rules["idle/kernel"] == rules["idle/bias"] == "no effect on the loss"
    assert rules["used/kernel"] == "outer, product"


def test_explaining_costs_no_privacy_and_leaves_the_weights():
    model, x, y = small_model()
    before = model.get_weights()
    clipping.explain(model, x, y, print_fn=lambda text: None)
    assert model.ledger.updates == 0
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_summary_shows_the_table_on_request():
    model, x, y = small_model()
    with pytest.raises(ValueError, match=r"summary\(clipping=True\).*Call `fit` or"):
        model.summary(clipping=True, print_fn=lambda line, **_: None)
    model.fit(x, y, batch_size=3, verbose=0)
    lines = []
    model.summary(clipping=True, print_fn=lambda line, **_: lines.append(line))
    assert "outer, product" in "\n".join(lines)
    lines.clear()
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert "outer, product" not in "\n".join(lines)


def test_a_model_that_is_not_private_is_refused():
    with pytest.raises(ValueError, match=r"`model` must be a `keras_dp.DPModel`.*Sequential"):
        clipping.explain(keras.Sequential([L.Dense(2)]), np.zeros((2, 3)))


def test_a_model_that_stores_data_is_refused_by_the_layers_name():
    model = keras_dp.DPSequential(
        [keras.Input((4,)), L.BatchNormalization(name="leaky"), L.Dense(1)]
    )
    model.compile(keras_dp.optimizers.DPSGD(0.1, noise_multiplier=1.0), "mse")
    with pytest.raises(keras_dp.NotPrivateError, match="'leaky' \\(BatchNormalization\\)"):
        clipping.explain(model, np.zeros((2, 4)), np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("preferred", "limit", "expected"),
    [
        (100, 100, 64),  # the largest power of two that fits
        (5, 1000, 32),  # fewer than 32 only if they do not fit
        (5, 20, 16),
        (0, 0, 1),
        (10**9, 10**9, 512),  # no more than the batch
    ],
)
def test_microbatches_are_the_largest_that_fit(preferred, limit, expected, monkeypatch):
    model, x, y = small_model()
    report = clipping.explain(model, x, y, print_fn=lambda text: None)
    each = report.bytes_per_example
    monkeypatch.setattr(
        backend.jax.memory, "microbatch_memory", lambda: Memory(preferred * each, limit * each)
    )
    assert keras_dp.planning.microbatch_size(model, 512) == expected


def test_the_memory_of_an_example_is_estimated_within_a_factor():
    """Against what XLA says of the compiled step, per example."""
    model, x, y = small_model()
    report = clipping.explain(model, x, y, print_fn=lambda text: None)
    import jax

    frozen = [variable.value for variable in model.non_trainable_variables]
    loss_fn = example.example_loss(model, frozen, [v.value for v in model.metrics_variables])
    params = [variable.value for variable in model.trainable_variables]
    size = 256
    batch = {
        "x": np.zeros((size, 8, 8, 3), "float32"),
        "y": np.zeros((size, 3), "float32"),
        "sample_weight": None,
        "position": np.arange(size),
    }
    clip = clipping.clipped_sum(loss_fn, clip_norm=1.0)
    step = jax.jit(lambda p, b: clip(p, b)[:2]).lower(params, batch).compile()
    measured = step.memory_analysis().temp_size_in_bytes / size
    assert 0.25 < report.bytes_per_example / measured < 4
