"""Data that are not what they seem end training with a clear error, and nothing is lost."""

import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import sampling
from keras_dp.optimizers import DPSGD
from tests.kinds import make
from tests.standins import Batches, Examples, Task, sentences
from tests.trained import X, Y, compiled, model


class Ragged(Examples):
    """One example is longer than the others."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return (np.append(x, 0.0) if index == 1 else x), y


class TooFew(Examples):
    """Loses examples when several are read."""

    def __getitems__(self, indices):
        return [self[index] for index in indices[1:]]


class Shrinking(Examples):
    """Loses examples while it is read."""

    def __init__(self, *arrays):
        super().__init__(*arrays)
        self.lengths = iter([40, 39])

    def __len__(self):
        return next(self.lengths, 39)


AT_ONCE = {
    "ragged examples": (Ragged(X, Y), r"Example 1 must look like the first.*\[4\].*\[5\].*pad"),
    "too few examples": (TooFew(X, Y), "one example for each position. Received 0 for 1"),
    "a size that changes": (Shrinking(X, Y), "was 40 and is 39 now"),
    "no examples": (Examples(X[:0], Y[:0]), r"at least one example\. Received none"),
    "no targets": (Examples(X), "compiled with a loss, which needs targets"),
    "arrays without targets": (X, "compiled with a loss, which needs targets"),
    "texts": (Examples(np.array(["a", "b"]), Y[:2]), "`x` of example 0 must be numbers"),
    "dicts": (sampling.RandomAccess([{"x": 1, "y": 2}]), r"RandomAccess\(data, transform="),
    "an unequal last batch": (
        Batches(X[:3], Y[:2], batch_size=8),
        r"a row for each example.*\(3, 4\), \(2,\) in batch 0",
    ),
    "a list of numbers": ([0.5, 1.5], "Turn lists of numbers into NumPy arrays"),
}


@pytest.mark.parametrize("train", ["fit", "train_on_batch"])
@pytest.mark.parametrize("name", AT_ONCE)
def test_bad_data_are_refused_before_the_first_update(name, train):
    data, message = AT_ONCE[name]
    if isinstance(data, Shrinking):
        data = Shrinking(X, Y)
    made = model()
    before = made.get_weights()
    with pytest.raises(ValueError, match=message):
        getattr(made, train)(data)
    for new, old in zip(made.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)
    assert made.ledger.updates == 0


class BreakingDown(Examples):
    """Is sound until its fifth reading."""

    def __init__(self, error, *arrays):
        super().__init__(*arrays)
        self.error, self.readings = error, 0

    def __getitems__(self, indices):
        self.readings += 1
        if self.readings > 4:
            raise self.error
        return [self[index] for index in indices]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (IndexError("gone"), ValueError, "below its length, 40.*IndexError.*agree"),
        (OSError("the disk went away"), OSError, "the disk went away"),
    ],
)
def test_data_that_break_down_later_leave_what_was_made_and_count_one_update_more(
    error, raised, message
):
    made = model("full_batch", microbatch_size=40)
    with pytest.raises(raised, match=message):
        made.fit(BreakingDown(error, X, Y), epochs=9, verbose=0)
    counted = made.ledger.updates
    assert 1 < counted < 5
    expected = model("full_batch", microbatch_size=40)
    expected.fit(X, Y, epochs=counted - 1, verbose=0)
    for ours, theirs in zip(made.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_model_with_a_loss_of_its_own_needs_no_targets():
    class Own(keras_dp.DPModel):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(y_pred**2)

    inputs = keras.Input((4,))
    made = compiled(Own(inputs, keras.layers.Dense(3)(inputs)), loss=None)
    made.fit(Examples(X), batch_size=8, verbose=0)
    assert made.ledger.updates == 5


def test_texts_for_a_model_without_preprocessing_are_refused():
    texts, labels = sentences(5)
    private = compiled(keras_dp.make_private(Task(None)))
    for x in (texts, np.array(texts)):
        with pytest.raises(ValueError, match=r"`x`|must be|shape|structure"):
            private.fit(x, labels, verbose=0)
    assert private.ledger.updates == 0


OUTPUT_WEIGHTS = np.linspace(0.5, 2, 24).astype("float32")


@pytest.mark.parametrize(
    "weights",
    [
        OUTPUT_WEIGHTS,
        OUTPUT_WEIGHTS[:, None],
        {"kind": OUTPUT_WEIGHTS, "size": OUTPUT_WEIGHTS[::-1].copy()},
        {"kind": None, "size": OUTPUT_WEIGHTS},
    ],
    ids=["one", "column", "each", "some"],
)
def test_weights_of_dict_outputs_give_the_update_that_keras_makes(weights):
    """Without clip and noise an update on all examples is an ordinary step on one batch."""
    case = make("dict_inputs_two_outputs")
    case.plain.compile(keras.optimizers.SGD(0.1), loss=case.loss)
    case.plain.fit(case.x, case.y, sample_weight=weights, batch_size=24, shuffle=False, verbose=0)
    for data in ((case.x, case.y, weights), _examples(case, weights)):
        again = make("dict_inputs_two_outputs").private
        again.compile(
            DPSGD(0.1, clip_norm=1e6, noise_multiplier=0.0), loss=case.loss, sampling="full_batch"
        )
        x, *rest = data
        again.fit(x, *rest[:1], sample_weight=rest[1] if rest else None, verbose=0)
        for ours, theirs in zip(again.get_weights(), case.plain.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def _examples(case, weights):
    """The same data, an example at a time."""

    def at(part, index):
        return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[index], part)

    examples = [(at(case.x, i), at(case.y, i), at(weights, i)) for i in range(24)]
    return (sampling.RandomAccess(examples),)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"kind": OUTPUT_WEIGHTS}, "structure of `y`"),
        (np.ones((24, 2)), "one number for each example"),
    ],
)
def test_weights_that_fit_no_output_are_refused_before_the_first_update(weights, message):
    case = make("dict_inputs_two_outputs")
    private = compiled(case.private, loss=case.loss)
    with pytest.raises(ValueError, match=message):
        private.fit(case.x, case.y, sample_weight=weights, verbose=0)
    assert private.ledger.updates == 0
