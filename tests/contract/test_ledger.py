"""The ledger counts every update before it is made, and nothing makes it forget one."""

import os

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.accounting import LedgerFile
from keras_dp.optimizers import DPSGD
from tests import forked
from tests.kinds import tiny, tiny_data
from tests.standins import Examples


class Watched(Examples):
    """Reports every reading of all examples, which is an update's."""

    def __init__(self, report, size=40):
        super().__init__(*tiny_data(size))
        self.report = report

    def __getitems__(self, indices):
        if len(indices) == len(self):
            self.report()
        return [self[index] for index in indices]


def recorded(path=None, **compiling):
    """A model that takes all examples at a time, so that every update is one reading."""
    optimizer = DPSGD(0.1, clip_norm=1.0, noise_multiplier=1.0, seed=2)
    settings = {"sampling": "full_batch", "microbatch_size": 40, "ledger_file": path}
    made = tiny(optimizer=optimizer, **{**settings, **compiling})
    made.set_weights([np.ones((4, 3)), np.zeros(3)])
    return made


def test_updates_are_counted_whatever_their_microbatches_and_methods():
    model = tiny(microbatch_size=4)
    model.fit(*tiny_data(), batch_size=20, epochs=2, verbose=0)
    model.train_on_batch(*tiny_data(10))
    assert model.ledger.updates == int(model.optimizer.updates) == 11
    assert [release.updates for release in model.ledger.releases] == [10, 1]


def test_every_update_is_written_to_the_file_before_its_examples_are_read(tmp_path):
    path, written = tmp_path / "training.ledger", []
    data = Watched(lambda: written.append(LedgerFile.read(path).updates))
    recorded(path).fit(data, epochs=3, verbose=0)
    assert written == [1, 2, 3]
    assert LedgerFile.read(path).updates == 3


class Interrupting:
    """Fails at one reading of many."""

    def __init__(self, number, error):
        self.left, self.error = number, error

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_update_is_counted_and_leaves_the_weights_of_those_before(error, tmp_path):
    path = tmp_path / "training.ledger"
    model, whole = recorded(path), recorded()
    interrupting = Interrupting(10**9, error("stopped here"))
    data = Watched(interrupting)
    model.fit(data, epochs=2, verbose=0)
    interrupting.left = 1
    with pytest.raises(error, match="stopped here"):
        model.fit(data, epochs=3, verbose=0)
    assert model.ledger.updates == LedgerFile.read(path).updates == 3
    whole.fit(*tiny_data(40), epochs=2, verbose=0)
    for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    model.fit(data, epochs=1, verbose=0)
    assert model.ledger.updates == 4


def killed(path):
    """Train in a process that ends in the middle of its third update, without a word."""
    readings = iter(range(10**9))

    def end():
        if LedgerFile.read(path).updates == 3 and next(readings) == 0:
            os._exit(7)

    recorded(path).fit(Watched(end), epochs=5, verbose=0)


def test_a_killed_process_has_written_down_the_update_it_was_at(tmp_path):
    path = tmp_path / "training.ledger"
    assert forked.run(killed, str(path)).returncode == 7
    assert LedgerFile.read(path).updates == 3
    model = recorded(path)
    assert model.ledger.updates == 3
    model.fit(*tiny_data(40), verbose=0)
    assert LedgerFile.read(path).updates == 4


def test_models_with_one_ledger_file_share_their_count(tmp_path):
    path = tmp_path / "training.ledger"
    first, second = recorded(path), recorded(path)
    first.fit(*tiny_data(40), epochs=2, verbose=0)
    assert first.ledger.updates == second.ledger.updates == 2


def test_private_models_of_one_original_share_its_weights_and_its_count():
    original = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    before = original.get_weights()
    models = [keras_dp.make_private(original) for _ in range(2)]
    for model in models:
        model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    models[0].fit(*tiny_data(40), batch_size=20, verbose=0)
    assert models[1].ledger.updates == 2
    assert np.abs(original.get_weights()[0] - before[0]).max() > 0
