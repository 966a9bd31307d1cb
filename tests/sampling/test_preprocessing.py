"""Preprocessing cannot mix examples, whatever function is given."""

import warnings

import numpy as np
import pytest

from keras_dp.sampling import ArraySource, as_source
from keras_dp.sampling.poisson import Poisson
from keras_dp.sampling.preprocessing import Preprocessing, apply
from tests.standins import LENGTH, sentences, tokenize

X = np.arange(1.0, 25.0).reshape(12, 2)
Y = np.arange(12)


def rows(x=X, y=Y, weight=None):
    return ArraySource(x, y, weight, raw=True).take(np.arange(len(x)))


class Counting:
    """A function that remembers how many rows it was called with."""

    def __init__(self, function):
        self.function = function
        self.sizes = []

    def __call__(self, x, y, weight):
        self.sizes.append(len(x))
        return self.function(x), y


def same(x):
    return x * 2


def centred(x):
    return x - x.mean(0)


def mixed_up(x):
    return 0.9 * x + 0.1 * x[::-1]


class Augmented:
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, x):
        return x + self.rng.normal(size=x.shape)


def test_a_function_of_single_rows_is_called_for_many_at_once():
    function = Counting(same)
    preprocessing = Preprocessing(function)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preprocessing(rows())
    function.sizes.clear()
    x, y, weight = preprocessing(rows())
    np.testing.assert_array_equal(x, X * 2)
    np.testing.assert_array_equal(y, Y)
    assert (weight, function.sizes) == (None, [12])


@pytest.mark.parametrize("function", [centred, mixed_up, Augmented()])
def test_a_function_that_mixes_rows_or_is_random_is_called_for_one_at_a_time(function):
    function = Counting(function)
    preprocessing = Preprocessing(function)
    with pytest.warns(UserWarning, match="other values in a batch than alone") as warned:
        for _ in range(3):
            x, _, _ = preprocessing(rows())
    assert len(warned) == 1
    assert x.shape == X.shape
    function.sizes.clear()
    preprocessing(rows())
    assert set(function.sizes) == {1}


@pytest.mark.parametrize("function", [centred, mixed_up])
def test_another_example_changes_no_row(function):
    """The property itself: rows with and without a neighbour are the same."""
    changed = X.copy()
    changed[3] += 100
    results = []
    for x in (X, changed):
        with pytest.warns(UserWarning, match="one example at a time"):
            results.append(Preprocessing(Counting(function))(rows(x))[0])
    others = np.arange(12) != 3
    np.testing.assert_array_equal(results[0][others], results[1][others])
    assert (function(X)[others] != function(changed)[others]).any()


def test_a_function_whose_shapes_follow_the_batch_is_called_for_one_at_a_time():
    def against_all(x, y, weight):
        return x @ x.T, y

    with pytest.warns(UserWarning, match="one example at a time"):
        x, _, _ = Preprocessing(against_all)(rows())
    np.testing.assert_allclose(x[:, 0], (X**2).sum(1))


def test_padding_to_the_longest_of_a_batch_is_no_layout_for_single_examples():
    def pad(x, y, weight):
        longest = max(len(text.split()) for text in x)
        return np.array([[1] * len(t.split()) + [0] * (longest - len(t.split())) for t in x]), y

    texts = ["a", "a b c", "a b"] * 4
    message = r"preprocessed data must look like.*int64\[1\].*int64\[3\].*pad"
    with pytest.raises(ValueError, match=message):
        Preprocessing(pad)(rows(np.array(texts, object)))


def test_texts_arrive_as_python_strings_and_leave_as_arrays():
    texts, labels = sentences(9)
    expected = tokenize(texts)["token_ids"]
    for x in (texts, np.array(texts), np.array(texts, object), np.array(texts, "S")):
        source = as_source(x, labels, sampler=Poisson(), preprocess=tokenize)
        taken, y, _ = source.take(np.array([8, 0, 0]))
        np.testing.assert_array_equal(taken["token_ids"], expected[[8, 0, 0]])
        np.testing.assert_array_equal(y, labels[[8, 0, 0]])
        assert taken["padding_mask"].dtype == bool


def test_several_texts_of_an_example_arrive_as_a_tuple_or_dict_of_lists():
    seen = []

    def join(x, y, weight):
        seen.append(x)
        parts = x.values() if isinstance(x, dict) else x
        return tokenize([" ".join(pair) for pair in zip(*parts, strict=True)])["token_ids"], y

    for x in ((["the", "a"], ["fox", "dog"]), {"first": ["the", "a"], "second": ["fox", "dog"]}):
        source = as_source(x, [0, 1], sampler=None, preprocess=join)
        np.testing.assert_array_equal(
            source.take(np.array([1, 0]))[0], tokenize(["a dog", "the fox"])["token_ids"]
        )
    assert seen[0] == (["the"], ["fox"])
    assert seen[-1] == {"first": ["a", "the"], "second": ["dog", "fox"]}


def test_weights_of_classes_are_those_after_preprocessing():
    def shifted(x, y, weight):
        return x, y + 1

    source = as_source(X, Y % 2, class_weight={2: 5.0}, sampler=Poisson(), preprocess=shifted)
    assert source.take(np.array([0, 1, 3]))[2].tolist() == [1.0, 5.0, 5.0]


def test_an_empty_batch_and_a_single_example_are_preprocessed():
    preprocessing = Preprocessing(tokenize)
    texts, labels = sentences(5)
    raw = rows(np.array(texts, object), labels)
    x, y, _ = preprocessing(tuple(None if part is None else part[:1] for part in raw))
    assert (x["token_ids"].shape, y.shape) == ((1, LENGTH), (1,))
    x, y, _ = preprocessing(tuple(None if part is None else part[:0] for part in raw))
    assert (x["token_ids"].shape, y.shape) == ((0, LENGTH), (0,))
    x, y, _ = Preprocessing(tokenize)(tuple(None if part is None else part[:0] for part in raw))
    assert x["token_ids"].shape == (0, LENGTH)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, y, w: (x[:1], y), r"one row for each example.*\(1, 2\), \(12,\) for 12"),
        (lambda x, y, w: (x.sum(), y), r"one row for each example.*\(\), \(12,\) for 12"),
        (lambda x, y, w: (np.full(len(x), "text"), y), "preprocessed data must be numbers"),
    ],
)
def test_preprocessing_that_gives_something_else_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        apply(function, rows())
