"""What a user states about a stream is checked where it can be."""

import numpy as np
import pytest

from keras_dp import sampling
from keras_dp.errors import NotPrivateError
from keras_dp.sampling.base import update_rng


@pytest.mark.parametrize(
    "sampler",
    [
        sampling.Stream(),
        sampling.Stream(dataset_size=100, updates_per_epoch=7),
        sampling.PoissonStream(batch_size=5, dataset_size=100),
    ],
    ids=repr,
)
def test_a_statement_is_rebuilt_from_its_configuration(sampler):
    again = sampling.resolve(sampler.get_config())
    assert type(again) is type(sampler)
    assert vars(again) == vars(sampler)
    assert eval(repr(sampler), {"keras_dp": __import__("keras_dp")}).__dict__ == vars(sampler)


def test_a_stream_has_a_name_but_poisson_samples_must_be_described():
    assert isinstance(sampling.resolve("stream"), sampling.Stream)
    with pytest.raises(ValueError, match=r"must be described.*PoissonStream\(batch_size=\.\.\."):
        sampling.resolve("poisson_stream")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sampling.Stream(dataset_size=0), "dataset_size.*at least 1.*0"),
        (lambda: sampling.Stream(updates_per_epoch=2.5), "updates_per_epoch.*2.5"),
        (lambda: sampling.PoissonStream(batch_size=0, dataset_size=3), "batch_size.*at least 1"),
        (lambda: sampling.PoissonStream(batch_size=4, dataset_size=3), "dataset_size=3.*size 4"),
    ],
)
def test_impossible_statements_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_batch_that_does_not_fit_the_statement_is_refused():
    with pytest.raises(ValueError, match="dataset_size=10, batch size 11"):
        sampling.Stream().check(11, 10)
    declared = sampling.PoissonStream(batch_size=5, dataset_size=10)
    declared.check(5, 10)
    with pytest.raises(ValueError, match=r"`batch_size` must be that of.*Received: batch_size=4"):
        declared.check(4, 10)


def test_a_stream_draws_nothing():
    with pytest.raises(NotPrivateError, match=r"draws nothing.*leave `sampling` out"):
        sampling.Stream(dataset_size=10).draw(update_rng(0, 0), 5, 10)


def batches(*sizes):
    """Batches of these lengths, with numbers from 0 on as rows."""
    ends = np.cumsum(sizes)
    return [
        (np.arange(end - size, end)[:, None] + 0.5, np.arange(end - size, end))
        for size, end in zip(sizes, ends, strict=True)
    ]


def stream(data, *, steps_per_epoch=None, transform=None, **stated):
    stated = {"dataset_size": 100, **stated}
    sampler = sampling.Stream(**stated)
    return sampling.StreamSource(
        data, sampler, steps_per_epoch=steps_per_epoch, transform=transform
    )


def rows_of(source, count):
    return [source.next_batch()[1].tolist() for _ in range(count)]


@pytest.mark.parametrize(
    "make", [lambda: batches(3, 3, 1), lambda: lambda: iter(batches(3, 3, 1))], ids=["list", "fn"]
)
def test_batches_come_in_their_order_and_begin_again_after_a_pass(make):
    source = stream(make(), updates_per_epoch=3)
    assert (source.size, source.batch_size, source.updates_per_epoch) == (100, 3, 3)
    assert rows_of(source, 7) == [[0, 1, 2], [3, 4, 5], [6]] * 2 + [[0, 1, 2]]


def test_a_pass_ends_where_it_is_stated_to_end():
    source = stream(batches(2, 2, 2, 2), updates_per_epoch=2)
    assert rows_of(source, 4) == [[0, 1], [2, 3]] * 2


def test_rows_are_read_from_the_batch_at_hand():
    source = stream(batches(3, 2), updates_per_epoch=2)
    source.next_batch()
    source.next_batch()
    x, y, weight = source.take(np.array([[1, 0], [0, 0]]))
    np.testing.assert_array_equal(x, [[[4.5], [3.5]], [[3.5], [3.5]]])
    assert (y.tolist(), weight, x.dtype) == ([[4, 3], [3, 3]], None, np.float32)
    assert source.first()[0].shape == (2, 1)


def test_an_empty_batch_is_a_batch_and_is_filled_up_with_zeros():
    source = sampling.StreamSource(
        batches(0, 3, 0), sampling.PoissonStream(batch_size=2, dataset_size=10)
    )
    assert (source.batch_size, source.updates_per_epoch) == (2, None)
    assert rows_of(source, 4) == [[], [0, 1, 2], [], []]
    assert source.take(np.zeros(4, np.int64))[0].tolist() == [[0.0]] * 4


@pytest.mark.parametrize(
    ("steps", "stated", "expected"),
    [(None, {}, 3), (2, {}, 2), (2, {"updates_per_epoch": 1}, 1)],
)
def test_a_pass_is_as_long_as_stated_else_as_the_epoch_else_as_the_stream(steps, stated, expected):
    assert stream(batches(3, 3, 1), steps_per_epoch=steps, **stated).updates_per_epoch == expected


def test_a_stream_without_a_length_needs_one_to_be_stated():
    with pytest.raises(ValueError, match=r"in how many updates.*updates_per_epoch=\.\.\..*steps"):
        stream(lambda: iter(batches(3)))


def test_a_loader_tells_its_size_and_other_streams_do_not():
    class Loader(list):
        dataset = range(7)

    assert stream(Loader(batches(3, 3, 1)), dataset_size=None).size == 7
    with pytest.raises(ValueError, match=r"number of examples must be known.*Stream\(dataset_size"):
        stream(batches(3), dataset_size=None)


def test_a_pass_with_more_examples_than_stated_is_refused_with_both_numbers():
    source = stream(batches(3, 3, 1), dataset_size=6)
    assert rows_of(source, 2) == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match=r"at least 7 in 3 batches.*dataset_size=6"):
        source.next_batch()


def test_poisson_samples_may_repeat_an_example_in_a_pass():
    source = sampling.StreamSource(
        batches(3, 3, 3), sampling.PoissonStream(batch_size=3, dataset_size=4)
    )
    assert len(rows_of(source, 9)) == 9


def test_a_pass_that_ends_before_its_stated_end_is_refused_with_both_numbers():
    source = stream(batches(3, 3), updates_per_epoch=5)
    rows_of(source, 2)
    with pytest.raises(ValueError, match=r"ended after 2 batches.*in 5 updates.*epoch` to 2"):
        source.next_batch()


def test_a_generator_object_cannot_begin_again_and_says_what_can():
    generator = (batch for batch in batches(3, 3))
    source = stream(generator, updates_per_epoch=2)
    source.open(2)
    with pytest.raises(ValueError, match=r"3 updates are planned.*generator.*a function"):
        source.open(3)
    rows_of(source, 2)
    with pytest.raises(ValueError, match=r"first pass has ended.*generator.*tf\.data\.Dataset"):
        source.next_batch()
    stream(batches(3, 3)).open(10)


@pytest.mark.parametrize("data", [[], lambda: iter(())], ids=["list", "function"])
def test_an_empty_stream_is_refused(data):
    with pytest.raises(ValueError, match=r"at least one example\. Received none"):
        stream(data, updates_per_epoch=1)


def test_a_stream_that_is_empty_the_second_time_is_refused():
    generator = iter(batches(3))
    source = stream(lambda: generator, updates_per_epoch=1)
    source.next_batch()
    with pytest.raises(ValueError, match=r"at least one example\. Received none"):
        source.next_batch()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((np.zeros(4), np.zeros(())), r"a row for each example.*\(4,\), \(\) in batch 1"),
        ((np.zeros((3, 2)), np.zeros(3, int)), r"A row of batch 1 of the stream must look like"),
        ({"x": 1}, "batch 1 of the stream, must be.*dict with 'x'"),
        (None, "batch 1 of the stream, must be.*None"),
    ],
)
def test_a_batch_unlike_the_first_is_refused_by_number(batch, message):
    source = stream([*batches(3), batch])
    source.next_batch()
    with pytest.raises(ValueError, match=message):
        source.next_batch()


def test_a_transform_is_applied_to_each_batch_once():
    calls = []

    def double(rows):
        calls.append(1)
        return rows[0] * 2, rows[1], None

    source = stream(batches(2, 2), transform=double)
    x, _, _ = source.next_batch()
    assert x.tolist() == [[1.0], [3.0]]
    source.next_batch()
    assert len(calls) == 2
