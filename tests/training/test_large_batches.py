"""Batches of any size in constant memory: in chunks, compiled once, with nothing left behind."""

import itertools
import logging

import jax
import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.backend.jax import memory
from keras_dp.executor import UpdateFunction
from keras_dp.optimizers import DPSGD
from tests.kinds import L

LOOPS = ("on the host", "on the device", "streamed")
SHAPE = (5, 7)
"""Of a kernel that nothing else has the shape of."""


@pytest.fixture
def loop(request, monkeypatch):
    """Choose where the microbatches are looped over; two of four rows are a chunk."""
    on_device = request.param != "on the host"
    monkeypatch.setattr(keras_dp.backend, "loops_on_device", lambda: on_device)
    if request.param == "streamed":
        each = 4 * (SHAPE[0] + SHAPE[1]) * 4
        monkeypatch.setattr(keras_dp.backend, "examples_memory", lambda: 2 * 2 * each)
    return request.param


def model_and_data(microbatch_size=4, **compiling):
    """A seeded model with dropout, so that it matters which place an example has in its batch."""
    inputs = keras.Input(SHAPE[:1])
    made = keras_dp.DPModel(inputs, L.Dense(SHAPE[1])(L.Dropout(0.5, seed=1)(inputs)))
    optimizer = DPSGD(0.1, noise_multiplier=0.5, clipping="adaptive", seed=3)
    made.compile(
        **{
            "optimizer": optimizer,
            "loss": "mse",
            "metrics": ["mae"],
            "microbatch_size": microbatch_size,
            **compiling,
        }
    )
    made.set_weights([np.ones(SHAPE), np.zeros(SHAPE[1]), *made.get_weights()[2:]])
    rng = np.random.default_rng(0)
    return made, *(rng.normal(size=(60, size)).astype("float32") for size in SHAPE)


def compilations(caplog, name=""):
    """Return the names of what was compiled."""
    messages = [record.getMessage() for record in caplog.records]
    return [m.split()[1] for m in messages if m.startswith("Compiling") and name in m]


def parts_read(made):
    """Record the number of examples of every read while the model trains."""
    sizes, run = [], made.active_run
    take = run.source.take
    run.source.take = lambda indices: sizes.append(indices.size) or take(indices)
    return sizes


@pytest.mark.parametrize("shown", [None, keras_dp.PrivateMetrics(noise_stddev=20.0)])
def test_weights_and_metrics_are_those_of_the_loop_on_the_host(shown, monkeypatch):
    """Batches of 0 to 20 examples, in chunks of eight or whole, or in microbatches of four."""
    found = {}
    for name in LOOPS:
        made, x, y = model_and_data(private_metrics=shown)
        with monkeypatch.context() as patch:
            patch.setattr(keras_dp.backend, "loops_on_device", lambda n=name: n != LOOPS[0])
            if name == "streamed":
                patch.setattr(keras_dp.backend, "examples_memory", lambda: 2 * 2 * 4 * 48)
            logs = made.fit(x, y, batch_size=6, epochs=2, verbose=0).history
        found[name] = [*made.get_weights(), *(np.array(values) for values in logs.values())]
    for name in LOOPS[1:]:
        for theirs, ours in zip(found[LOOPS[0]], found[name], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("loop", ["streamed"], indirect=True)
def test_a_batch_that_does_not_fit_the_device_is_read_in_chunks_that_do(loop):
    made, x, y = model_and_data(sampling="full_batch")
    sizes = []
    begin = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda *_, **__: sizes.append(parts_read(made))
    )
    made.fit(x, y, callbacks=[begin], verbose=0)
    assert [size for size in sizes[0] if size > 2] == [8] * 8  # 60 examples, the last padded


@pytest.mark.parametrize(("bytes_at_once", "reads"), [(1, 15), (400, 8), (10_000, 1)])
def test_small_microbatches_are_read_a_few_at_a_time(bytes_at_once, reads, monkeypatch):
    """Fifteen microbatches of four examples with 48 bytes each; the weights are the same."""
    found = []
    for at_once in (1, bytes_at_once):
        monkeypatch.setattr(keras_dp.run, "READ_AT_ONCE", at_once)
        made, x, y = model_and_data(sampling="full_batch")
        sizes = []
        begin = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda *_, n=sizes, m=made, **__: n.append(parts_read(m))
        )
        made.fit(x[:58], y[:58], callbacks=[begin], verbose=0)  # the last one padded
        found.append(made.get_weights())
    assert len([size for size in sizes[0] if size > 2]) == reads
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("loop", LOOPS, indirect=True)
def test_batches_of_varying_size_compile_each_program_once(loop, caplog):
    made, x, y = model_and_data()
    drawn = []
    draw = keras_dp.sampling.Poisson.draw

    class Recording(keras_dp.sampling.Poisson):
        def draw(self, *arguments):
            batches = draw(self, *arguments)
            drawn.extend(len(batch.indices) for batch in batches)
            return batches

    made.sampler = Recording()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        made.fit(x, y, batch_size=12, epochs=6, verbose=0)
        first = compilations(caplog)
        made.fit(x, y, batch_size=12, epochs=6, verbose=0)
    assert len(set(drawn)) > 5 and max(drawn) > 8
    steps = [name for name in first if "_step" in name]
    assert len(steps) == len(set(steps)) == (1 if loop == "on the device" else 2)
    assert compilations(caplog) == first, "the second fit compiled anew"


@pytest.mark.parametrize("loop", ["on the host", "streamed"], indirect=True)
def test_another_batch_size_compiles_nothing_anew(loop, caplog):
    made, x, y = model_and_data()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        made.fit(x, y, batch_size=40, verbose=0)
        first = compilations(caplog)
        made.fit(x, y, batch_size=57, epochs=2, verbose=0)
    assert first and compilations(caplog) == first


@pytest.mark.parametrize("loop", ["on the host", "streamed"], indirect=True)
def test_the_compiled_program_takes_the_same_memory_for_any_batch(loop, monkeypatch):
    """What XLA says of temporaries, arguments and results, at 1,024 and at 65,536 examples."""
    monkeypatch.setattr(memory, "CPU_PREFERRED", 2**15)
    rows = 200_000
    x = np.broadcast_to(np.zeros(SHAPE[0], "float32"), (rows, SHAPE[0]))
    y = np.broadcast_to(np.zeros(SHAPE[1], "float32"), (rows, SHAPE[1]))
    found = set()
    for batch_size in (1024, 65_536):
        made, _, _ = model_and_data(microbatch_size=None if loop == "on the host" else 4)
        source = keras_dp.sampling.ArraySource(x, y)
        made._prepare(source)
        run = keras_dp.planning.plan_run(made, source, made.sampler, batch_size, made._guard)
        lists = (made.trainable_variables, made.non_trainable_variables)
        state = [[v.value for v in vs] for vs in (*lists, made.optimizer.variables)]
        state.append([v.value for v in made.metrics_variables])
        program, *arguments = UpdateFunction(made)._program(run, state, run.mechanism())
        used = program.lower(*arguments).compile().memory_analysis()
        sizes = (used.temp_size_in_bytes, used.argument_size_in_bytes, used.output_size_in_bytes)
        found.add((run.microbatch_size, *sizes))
    assert len(found) == 1
    assert min(found.pop()) > 0


def test_a_size_that_was_chosen_too_large_is_corrected_by_one_more_compilation(monkeypatch, caplog):
    monkeypatch.setattr(keras_dp.planning, "microbatch_size", lambda model, batch_size: 4096)
    monkeypatch.setattr(memory, "CPU_PREFERRED", 2**15)
    made, x, y = model_and_data(microbatch_size=None)
    sizes = []
    end = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: sizes.append(made.active_run.microbatch_size)
    )
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        made.fit(x, y, batch_size=60, epochs=3, callbacks=[end], verbose=0)
        made.fit(x, y, batch_size=60, epochs=3, callbacks=[end], verbose=0)
    assert len(compilations(caplog, "_accumulate_step")) == 2
    assert len(set(sizes)) == 1 and memory.FEWEST_EXAMPLES <= sizes[0] < 4096


def test_a_size_that_fits_is_compiled_once_and_kept(caplog):
    made, x, y = model_and_data(microbatch_size=None)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        made.fit(x, y, batch_size=12, verbose=0)
    assert len(compilations(caplog, "_accumulate_step")) == 1


def test_one_piece_is_read_while_another_runs_and_none_before_it_is_admitted(monkeypatch):
    monkeypatch.setattr(keras_dp.run, "READ_AT_ONCE", 1)
    made, x, y = model_and_data(sampling="full_batch")
    made.fit(x, y, verbose=0)
    events, numbers = [], itertools.count()
    function = UpdateFunction(made)
    accumulate = function.accumulate

    def recorded(*arguments):
        *results, _ = accumulate(*arguments)
        events.append(("run", next(numbers)))
        return *results, events[-1][1]

    def take(self, indices, take=keras_dp.sampling.ArraySource.take):
        if indices.size > 2:  # not only the shapes
            events.append(("read", made.ledger.updates))
        return take(self, indices)

    monkeypatch.setattr(keras_dp.backend, "wait", lambda done: events.append(("wait for", done)))
    monkeypatch.setattr(keras_dp.sampling.ArraySource, "take", take)
    function.accumulate = recorded
    made.train_function = keras_dp.backend.train_function(function)
    made.fit(x, y, epochs=2, verbose=0)
    pieces = 2 * 15
    started = [number for what, number in events if what == "run"]
    assert started == list(range(pieces))
    for number in range(1, pieces):
        began = events.index(("run", number))
        assert events[began + 1] == ("wait for", number - 1)
        if number < pieces - 1:
            assert events[began + 2][0] == "read"
    reads = [updates for what, updates in events if what == "read"]
    assert reads == [2] * 15 + [3] * 15  # each after its update was written down


def assert_nothing_happened(made, before, others):
    """Check that the model is as it was, and that its are all arrays that did not exist before."""
    known = {id(array) for array in others}
    known |= {id(v.value) for v in (*made.variables, *made.optimizer.variables)}
    assert [a for a in jax.live_arrays() if a.shape == SHAPE and id(a) not in known] == []
    for ours, theirs in zip(made.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert made.ledger.updates == 2  # the second was written down before it was begun


@pytest.mark.parametrize("loop", ["on the host", "streamed"], indirect=True)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_update_leaves_no_sums_behind(loop, error, monkeypatch):
    """While the error is still there, and all that its traceback holds."""
    monkeypatch.setattr(keras_dp.run, "READ_AT_ONCE", 1)
    made, x, y = model_and_data(sampling="full_batch")
    made.fit(x, y, verbose=0)
    before, others, reads = made.get_weights(), jax.live_arrays(), itertools.count()

    def rows(self, indices, rows=keras_dp.sampling.ArraySource.rows):
        if indices.size > 2 and next(reads) == 3:
            raise error("stopped here")
        return rows(self, indices)

    monkeypatch.setattr(keras_dp.sampling.ArraySource, "rows", rows)
    with pytest.raises(error, match="stopped here") as caught:
        made.fit(x, y, verbose=0)
    assert caught.value.__traceback__ is not None
    assert_nothing_happened(made, before, others)


@pytest.mark.parametrize("loop", LOOPS, indirect=True)
def test_an_interrupted_eager_update_leaves_no_sums_behind(loop, monkeypatch):
    """Without compilation the sums pass through many frames; here up to the noise."""
    made, x, y = model_and_data(sampling="full_batch", run_eagerly=True, metrics=[])
    x, y = x[:8], y[:8]
    made.fit(x, y, verbose=0)
    before, others = made.get_weights(), jax.live_arrays()

    def stop(*arguments):
        del arguments
        raise KeyboardInterrupt("stopped here")

    monkeypatch.setattr(keras_dp.step, "privatize", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped here") as caught:
        made.fit(x, y, verbose=0)
    assert caught.value.__traceback__ is not None
    assert_nothing_happened(made, before, others)
