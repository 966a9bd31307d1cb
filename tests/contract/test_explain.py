"""`explain` names every weight and costs nothing; the statement says what was promised."""

import json

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import clipping
from keras_dp.optimizers import DPSGD
from tests.contract import models
from tests.kinds import L, tiny, tiny_data


def quiet(text):
    del text


@pytest.mark.parametrize("name", ["convolutions", "shared", "frozen"])
def test_every_trained_weight_has_a_row_with_a_way_and_a_cost(name):
    case = models.make(name)
    models.full_batch(case.private, DPSGD(0.1, noise_multiplier=1.0), case.loss)
    before = [np.array(w) for w in case.private.get_weights()]
    report = clipping.explain(case.private, case.x, case.y, print_fn=quiet)
    found = {path for row in report.rows for path in row.weights}
    assert found == {variable.path for variable in case.private.trainable_variables}
    assert all(row.rule and row.operation and row.bytes >= 0 for row in report.rows)
    assert report.bytes_per_example > 0
    assert case.private.ledger.updates == 0
    for old, new in zip(before, case.private.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_weight_without_effect_is_named():
    inputs = keras.Input((4,))
    used, idle = L.Dense(2, name="used")(inputs), L.Dense(2, name="idle")(inputs)
    model = keras_dp.DPModel(inputs, [used, idle])
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss=["mse", None])
    y = [np.zeros((6, 2)), np.zeros((6, 2))]
    report = clipping.explain(model, np.zeros((6, 4)), y, print_fn=quiet)
    rules = {path: row.rule for row in report.rows for path in row.weights}
    assert rules["idle/kernel"] == rules["idle/bias"] == "no effect on the loss"
    assert rules["used/kernel"] != "no effect on the loss"


def test_the_table_and_the_settings_are_shown(capsys):
    model = tiny()
    report = clipping.explain(model, *tiny_data())
    shown = capsys.readouterr().out
    assert str(report) in shown
    for word in ("weights", "operation", "kernel", "total"):
        assert word in shown
    lines = []
    model.summary(clipping=True, print_fn=lambda line, **_: lines.append(line))
    assert str(report) in lines
    assert any("noise multiplier" in line for line in lines)


def test_the_statement_says_what_was_done_and_what_it_cost():
    optimizer = DPSGD(0.1, clip_norm=0.5, noise_multiplier=2.0, seed=3)
    model = tiny(optimizer=optimizer, budget=keras_dp.Budget(3.0, 1e-3))
    assert model.privacy_spent().epsilon == 0
    model.fit(*tiny_data(), batch_size=20, epochs=2, verbose=0)
    expected = keras_dp.accounting.epsilon(
        noise_multiplier=2.0, batch_size=20, dataset_size=100, updates=10, delta=1e-3
    )
    assert model.privacy_spent().epsilon == expected
    statement = model.privacy_statement()
    data = json.loads(json.dumps(statement.to_dict()))
    assert (data["epsilon"], data["updates"]) == (expected, 10)
    assert data["releases"][0]["noise_stddev"] == pytest.approx(2.0 * 0.5)
    words = " ".join(str(statement).split())
    for part in ("10 updates", "Clip norm 0.5, noise multiplier 2", "each of 100 examples"):
        assert part in words
    assert statement.seeded
