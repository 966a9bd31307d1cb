"""A stream's batches are the updates, and they cost what the user states about them."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import accounting
from keras_dp.optimizers import DPSGD
from keras_dp.sampling import PoissonStream, Stream
from tests.standins import DataLoader, DatasetV2, Examples, Task, sentences, tokenize
from tests.trained import BATCH, BATCHES, SIZE, X, Y, assert_same_weights, compiled, model

STATED = Stream(dataset_size=SIZE)
DELTA = 1e-3
KINDS = {
    "tf.data": lambda: DatasetV2(BATCHES),
    "PyTorch DataLoader": lambda: DataLoader(Examples(X, Y), BATCH),
    "list of batches": lambda: lambda: iter(BATCHES),
}


def given_one_by_one(batches, **compiling):
    """The oracle: every batch handed over by the caller."""
    made = model(**compiling)
    for x, y in batches:
        made.train_on_batch(x, y)
    return made


def streamed(data, sampler=STATED, epochs=2, **fitting):
    made = model(sampler)
    made.fit(data, epochs=epochs, verbose=0, **fitting)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_is_one_update_in_its_order(kind):
    data = KINDS[kind]()
    steps = len(BATCHES) if kind == "list of batches" else None
    made = streamed(data, steps_per_epoch=steps)
    assert_same_weights(made, given_one_by_one(BATCHES * 2))
    (release,) = made.ledger.releases
    plan = release.plan
    assert (plan.sampling, plan.batch_size, plan.dataset_size) == ("stream", BATCH, SIZE)
    assert (plan.updates_per_epoch, release.updates) == (len(BATCHES), 2 * len(BATCHES))


def test_every_batch_is_one_update_with_the_loop_on_the_device_too(monkeypatch):
    expected = given_one_by_one(BATCHES)
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: True)
    assert_same_weights(streamed(DatasetV2(BATCHES), epochs=1), expected, atol=1e-5)


def epsilon_of_gaussians(count):
    return accounting.epsilon(
        noise_multiplier=0.5,
        batch_size=SIZE,
        dataset_size=SIZE,
        updates=count,
        delta=DELTA,
        sampling="full_batch",
    )


@pytest.mark.parametrize(("epochs", "steps", "passes"), [(3, None, 3), (3, 2, 3), (1, 5, 1)])
def test_a_pass_costs_one_gaussian_mechanism(epochs, steps, passes):
    made = streamed(DatasetV2(BATCHES), epochs=epochs, steps_per_epoch=steps)
    spent = made.privacy_spent(DELTA)
    assert spent.epsilon == pytest.approx(epsilon_of_gaussians(passes), rel=1e-3)
    assert spent.neighbouring_relation == "replace_special"
    statement = " ".join(str(made.privacy_statement(DELTA)).split())
    assert "as the user states, each of 40 examples took part in at most one of" in statement
    assert "no gain from sampling" in statement


def test_a_pass_that_is_broken_off_is_paid_for_as_a_whole_in_every_fit():
    """One pass and half of the next, twice: four passes were begun, not three."""
    made = model(Stream(dataset_size=SIZE, updates_per_epoch=4))
    for _ in range(2):
        made.fit(DatasetV2(BATCHES), steps_per_epoch=6, verbose=0)
    assert made.ledger.updates == 12
    expected = epsilon_of_gaussians(4)
    assert made.privacy_spent(DELTA).epsilon == pytest.approx(expected, rel=1e-3)
    batches = [BATCHES[i % 4] for i in [*range(6), *range(6)]]
    assert_same_weights(made, given_one_by_one(batches))


def test_poisson_batches_cost_what_poisson_sampling_costs():
    lengths = [5, 0, 9, 16]
    ends = np.cumsum(lengths)
    batches = [(X[e - n : e], Y[e - n : e]) for n, e in zip(lengths, ends, strict=True)]
    stated = PoissonStream(batch_size=4, dataset_size=SIZE)
    made = streamed(DatasetV2(batches), stated, epochs=1, steps_per_epoch=8)
    (release,) = made.ledger.releases
    assert (release.plan.sampling, release.plan.batch_size) == ("poisson_stream", 4)
    expected = accounting.epsilon(
        noise_multiplier=0.5, batch_size=4, dataset_size=SIZE, updates=8, delta=DELTA
    )
    assert made.privacy_spent(DELTA).epsilon == pytest.approx(expected, rel=1e-6)
    statement = " ".join(str(made.privacy_statement(DELTA)).split())
    assert "the user states to be Poisson samples" in statement
    assert "was not checked" in statement


class Weights(keras.callbacks.Callback):
    """Keeps the weights after every update."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.model.jax_state_sync()
        self.seen.append(self.model.get_weights()[0])


@pytest.mark.parametrize("on_device", [False, True])
def test_an_empty_batch_is_a_noisy_counted_update(on_device, monkeypatch):
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: on_device)
    empty = (X[:0], Y[:0])
    weights = Weights()
    made = streamed(
        DatasetV2([BATCHES[0], empty, empty]),
        PoissonStream(batch_size=4, dataset_size=SIZE),
        epochs=1,
        steps_per_epoch=6,
        callbacks=[weights],
    )
    assert made.ledger.updates == 6
    moved = [np.abs(b - a).min() for a, b in zip(weights.seen, weights.seen[1:], strict=False)]
    assert min(moved) > 0


def test_the_sum_is_divided_by_the_declared_batch_size_whatever_a_batch_holds():
    """One gradient of norm 1 for every example: the step length tells the divisor."""
    inputs = keras.Input((1,))
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    made = keras_dp.DPModel(inputs, layer(inputs))
    made.compile(
        DPSGD(1.0, clip_norm=1.0, noise_multiplier=0.0),
        loss=lambda y_true, y_pred: -y_pred,
        sampling=Stream(dataset_size=100),
    )
    steps = Weights()
    ones = [(np.ones((n, 1)), np.ones((n, 1))) for n in (10, 3, 10, 1)]
    for declared, divisor in ((None, 10), (20, 20)):
        layer.kernel.assign(np.zeros((1, 1)))
        steps.seen = [np.zeros((1, 1))]
        made.fit(DatasetV2(ones), batch_size=declared, callbacks=[steps], verbose=0)
        moved = np.diff(np.ravel(steps.seen)) * divisor
        np.testing.assert_allclose(moved, [10, 3, 10, 1], rtol=1e-5)


def test_a_budget_refuses_the_passes_that_do_not_fit_and_trains_those_that_do():
    three = epsilon_of_gaussians(3) * 1.001
    made = model(STATED, budget=keras_dp.Budget(three, DELTA))
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="15 more fit"):
        made.fit(DatasetV2(BATCHES), epochs=4, verbose=0)
    assert made.ledger.updates == 0
    made.fit(DatasetV2(BATCHES), epochs=3, verbose=0)
    with pytest.raises(keras_dp.PrivacyBudgetExceeded, match="no further update"):
        made.fit(DatasetV2(BATCHES), verbose=0)
    assert made.ledger.updates == 15


def test_noise_is_calibrated_for_the_passes_that_are_planned():
    optimizer = DPSGD(0.5, clip_norm=1.0, noise_multiplier=None, seed=7)
    made = model(STATED, optimizer=optimizer, budget=keras_dp.Budget(2.0, DELTA))
    made.fit(DatasetV2(BATCHES), epochs=3, verbose=0)
    assert 1.9 < made.privacy_spent().epsilon <= 2.0


def test_every_update_is_counted_before_its_batch_is_read():
    def broken():
        yield from BATCHES[:2]
        raise OSError("the disk went away")

    made = model(Stream(dataset_size=SIZE, updates_per_epoch=5))
    with pytest.raises(OSError, match="the disk went away"):
        made.fit(broken, verbose=0)
    assert made.ledger.updates == 3
    for ours, theirs in zip(
        made.get_weights(), given_one_by_one(BATCHES[:2]).get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "sampler", "fitting", "message"),
    [
        (lambda: iter(BATCHES), STATED, {"epochs": 2}, "in how many updates"),
        (DatasetV2(BATCHES, known_length=False), STATED, {}, "in how many updates"),
        (DatasetV2(BATCHES), Stream(), {}, r"number of examples must be known.*Stream\("),
        (
            (batch for batch in BATCHES),
            STATED,
            {"epochs": 2, "steps_per_epoch": 5},
            "must begin again.*10 updates are planned.*generator",
        ),
        (DatasetV2(BATCHES), Stream(dataset_size=5), {}, "dataset_size=5, batch size 8"),
        (
            DatasetV2(BATCHES),
            PoissonStream(batch_size=8, dataset_size=40),
            {"batch_size": 10},
            "`batch_size` must be that of",
        ),
        ([X, X], STATED, {"y": Y}, "leave `sampling` out"),
        (X, STATED, {"y": Y}, "leave `sampling` out"),
        (Examples(X, Y), STATED, {}, "leave `sampling` out"),
        (DatasetV2([(X[0], Y[0])]), STATED, {}, "a row for each example"),
        (DatasetV2([{"x": X[:8]}]), STATED, {}, "does not say which part is the target"),
        (DatasetV2([(X[:8],)]), STATED, {}, "compiled with a loss, which needs targets"),
        (DatasetV2([(X[:0], Y[:0])]), STATED, {"batch_size": 0}, "batch_size.*at least 1"),
        (DatasetV2([]), STATED, {}, "in how many updates"),
        (DatasetV2(BATCHES), STATED, {"validation_split": 0.5}, "works with arrays only"),
    ],
)
def test_what_cannot_be_streamed_is_refused_before_the_first_update(
    data, sampler, fitting, message
):
    made = model(sampler)
    before = made.get_weights()
    with pytest.raises(ValueError, match=message):
        made.fit(data, verbose=0, **fitting)
    for new, old in zip(made.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert made.ledger.updates == 0


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Stream(dataset_size=20), "at least 24 in 3 batches.*dataset_size=20"),
        (Stream(dataset_size=40, updates_per_epoch=7), "ended after 5 batches.*epoch` to 5"),
    ],
)
def test_a_stream_that_is_not_what_was_stated_ends_the_training(sampler, message):
    made = model(sampler)
    with pytest.raises(ValueError, match=message):
        made.fit(DatasetV2(BATCHES), epochs=2, verbose=0)
    # What was made before stays, and is counted, with the update that could not be made.
    updates = made.ledger.updates
    for ours, theirs in zip(
        made.get_weights(), given_one_by_one(BATCHES[: updates - 1]).get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("sampler", [STATED, PoissonStream(batch_size=8, dataset_size=SIZE)])
def test_a_saved_model_keeps_what_was_stated(sampler, tmp_path):
    made = model(sampler)
    made.fit(DatasetV2(BATCHES), verbose=0)
    made.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert vars(loaded.sampler) == vars(sampler)
    assert loaded.ledger.updates == made.ledger.updates == 5


def test_class_weight_works_for_streams():
    weights = {0: 3.0, 2: 0.1}
    made = model()
    for x, y in BATCHES:
        made.train_on_batch(x, y, class_weight=weights)
    assert_same_weights(streamed(DatasetV2(BATCHES), epochs=1, class_weight=weights), made)


def test_a_task_trains_on_a_stream_of_texts_as_on_one_of_tokens():
    texts, labels = sentences(24)
    parts = [slice(start, start + 8) for start in range(0, 24, 8)]
    raw = DatasetV2([(np.array(texts[part], object), labels[part]) for part in parts])
    tokens = DatasetV2([(tokenize(texts[part]), labels[part]) for part in parts])
    results = []
    for preprocess, data in ((tokenize, raw), (None, tokens)):
        keras.utils.set_random_seed(0)
        private = compiled(keras_dp.make_private(Task(preprocess)), Stream(dataset_size=24))
        private.fit(data, epochs=2, verbose=0)
        results.append(private)
    assert_same_weights(*results)
