"""What the trace of one example tells: state, writes, the report."""

import keras
import pytest
import tensorflow as tf

from keras_dp import backend
from keras_dp.backend.tensorflow.clipping import bookkeeping
from keras_dp.errors import NotPrivateError
from tests.backend.tensorflow.models import MODELS, draw
from tests.backend.tensorflow.oracle import build, private, values

L = keras.layers


class Writes(L.Layer):
    """Stores what it saw in a TensorFlow variable that Keras does not know."""

    def build(self, shape):
        self.seen = [tf.Variable(tf.zeros(shape[-1:]), trainable=False)]

    def call(self, inputs):
        self.seen[0].assign(tf.reduce_mean(inputs, 0))
        return inputs


class Counts(L.Layer):
    """Counts its calls, which depends on no data."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, inputs):
        self.count.assign(self.count + 2.0)
        return inputs


def test_a_model_that_writes_to_a_variable_of_tensorflow_is_refused():
    model = private(keras.Sequential([keras.Input((3,)), Writes(), L.Dense(1)]), "mse")
    with pytest.raises(NotPrivateError, match=r"must not write to TensorFlow variables.*writes"):
        build(model, (draw(3), draw(1), None))


def test_state_that_depends_on_no_data_moves_on_as_keras_moves_it():
    model = keras.Sequential([keras.Input((3,)), Counts(), L.Dropout(0.5, seed=3), L.Dense(1)])
    model = private(model, "mse")
    traced = build(model, (draw(3), draw(1), None))
    assert traced.data_dependent == ()
    params, state, _ = values(model)
    x = draw(3)[:1]
    _, expected = model.stateless_call(params, state, x, training=True)
    for advance in (traced.advance, tf.function(traced.advance)):
        for new, other in zip(advance(params, state), expected, strict=True):
            assert tf.reduce_all(new == other)


def test_a_weight_whose_gradient_no_site_accounts_for_is_refused(monkeypatch):
    found = bookkeeping.find_uses
    monkeypatch.setattr(bookkeeping, "find_uses", lambda *arguments: found(*arguments)[1:])
    model, loss, rows = MODELS["mlp"]()
    with pytest.raises(NotPrivateError, match=r"Every gradient .* must be clipped.*kernel"):
        build(private(model, loss), rows)


def _rules(name):
    model, loss, rows = MODELS[name]()
    report = build(private(model, loss), rows).report
    return [(row.operation, row.rule) for row in report.rows]


def test_the_report_says_how_each_weight_is_clipped():
    assert _rules("mlp")[:2] == [("MatMul", "outer, product"), ("BiasAdd", "written out")]
    assert ("Conv2D", "convolution, written out") in _rules("conv many channels")
    assert ("DepthwiseConv2dNative", "depthwise, written out") in _rules("depthwise")
    assert ("GatherV2", "embedding, product") in _rules("tied")
    assert ("ConcatV2", "generic, pulled back") in _rules("odd")


def test_the_report_has_a_row_for_a_weight_without_effect():
    inputs = keras.Input((3,))
    hidden = L.Dense(2, name="idle")(inputs)
    model = private(
        keras.Model(inputs, L.Dense(1)(inputs) + 0 * keras.ops.stop_gradient(hidden)), "mse"
    )
    report = build(model, (draw(3), draw(1), None)).report
    rows = {row.weights: row.rule for row in report.rows}
    assert rows["idle/kernel",] == "no effect on the loss"
    assert report.bytes_per_example > 0


def test_an_estimate_of_memory_grows_with_the_views():
    model, loss, (x, y, _) = MODELS["conv same"]()
    reports = []
    for count in (1, 8):
        own = private(model, loss, augmentation=L.RandomFlip(seed=1), augmentations=count)
        own._symbolic_build(data_batch=(x[:2], y[:2], None))
        views = x[:, None].repeat(count, 1)
        reports.append(backend.trace_example(own, (views, y, None)).report)
    assert reports[1].bytes_per_example > 6 * reports[0].bytes_per_example
