"""Canaries go through the real clip, sampling, noise and `fit`; the user's model stays as it is."""

import jax
import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.auditing import canaries as planting
from keras_dp.auditing.audit import KINDS as KINDS_OF_CANARIES
from keras_dp.auditing.audit import _setup
from keras_dp.auditing.model import SCALE, AuditedModel, copy_of
from keras_dp.auditing.recording import RecordingOptimizer
from keras_dp.auditing.trials import gradient_trials, signal
from keras_dp.backend.jax import example
from keras_dp.clipping import clipped_sum
from keras_dp.optimizers import DPSGD, DPAdam
from keras_dp.run import PrivateRun
from keras_dp.sampling import ArraySource
from tests.kinds import KINDS, Case, L, crossentropy, make

pytestmark = pytest.mark.usefixtures("unoptimized")

CLIP = 0.5


def compiled(kind, **optimizing):
    case = make(kind)
    settings = {"clip_norm": CLIP, "noise_multiplier": 1.0, **optimizing}
    case.private.compile(DPSGD(0.1, **settings), loss=case.loss)
    return case


def loss_of(model):
    """Return the weights of a private model and its loss of one example."""
    values = [
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables, model.non_trainable_variables, model.metrics_variables
        )
    ]  # fmt: skip
    return values[0], example.example_loss(model, *values[1:])


def two(case):
    return *jax.tree.map(lambda a: a[:2], (case.x, case.y)), None


def audited(case):
    copy = copy_of(case.private, two(case))
    model = AuditedModel(copy, SCALE * CLIP)
    model.compile(DPSGD(0.1, clip_norm=CLIP, noise_multiplier=1.0))
    return model


def examples(case, kinds):
    x, y = (jax.tree.map(lambda a: np.asarray(a[: len(kinds)]), part) for part in (case.x, case.y))
    x = {"x": x, "canary": np.array(kinds, np.int32)}
    return {"x": x, "y": y, "sample_weight": None, "position": np.arange(len(kinds))}


def last_weights(params):
    """Return a canary on the last weight of each variable."""
    shapes = [planting.matrix_shape(np.shape(value)) for value in params]
    return [[number, rows - 1, columns - 1] for number, (rows, columns) in enumerate(shapes)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_canarys_clipped_gradient_is_the_clip_norm_on_its_weight(kind):
    """One on each variable; one that is left out adds nothing.

    The canaries' norms are far above the clip norm, so a missing clip shows.
    """
    case = compiled(kind)
    params, loss = loss_of(audited(case))
    canaries = [*last_weights(params), [planting.LEFT_OUT, 0, 0]]
    found = jax.jit(clipped_sum(loss, clip_norm=CLIP))(params, examples(case, canaries))
    expected_norms = [SCALE * CLIP] * len(params) + [0.0]
    np.testing.assert_allclose(found.norms, expected_norms, rtol=1e-5, atol=1e-6)
    for sums in found.grads:
        expected = np.zeros(sums.size, np.float32)
        expected[-1] = CLIP
        np.testing.assert_allclose(np.ravel(sums), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["subclassed_with_added_loss", "dict_inputs_two_outputs"])
def test_an_ordinary_example_has_the_gradient_that_it_has_in_the_users_model(kind):
    case = compiled(kind)
    params, loss = loss_of(audited(case))
    case.private.clipping_report(case.x, case.y)  # builds what the loss needs
    _, own = loss_of(case.private)
    batch = examples(case, [[planting.REAL, 0, 0]] * 4)
    found = jax.jit(clipped_sum(loss, clip_norm=CLIP))(params, batch)
    batch = {**batch, "x": batch["x"]["x"]}
    expected = jax.jit(clipped_sum(own, clip_norm=CLIP))(params, batch)
    for mine, theirs in zip(found.grads, expected.grads, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("kind", ["sequential_mlp", "recurrent_with_embedding"])
def test_no_gradient_of_a_matrix_is_written_out_for_the_canaries(kind):
    case = compiled(kind)
    batch = examples(case, [[0, 0, 0]] * 4)
    report = keras_dp.clipping.explain(
        audited(case), batch["x"], batch["y"], print_fn=lambda _: None
    )
    of_matrices = [row.rule for row in report.rows if len(row.shape) > 1 and 1 not in row.shape]
    assert of_matrices
    assert all(rule.startswith("outer") and "pulled" not in rule for rule in of_matrices)


def linear(sampling="poisson", noise=1.0, regularizer=None, optimizer=DPSGD, **settings):
    inputs = keras.Input((6,))
    outputs = L.Dense(4, kernel_regularizer=regularizer)(inputs)
    model = keras_dp.DPModel(inputs, outputs)
    model.compile(
        optimizer(0.3, clip_norm=CLIP, noise_multiplier=noise, **settings),
        loss=crossentropy(),
        sampling=sampling,
    )
    return model


def data(size=60):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 6)).astype("float32"), rng.integers(0, 4, size)


def tried(model, trials=gradient_trials, kind="gradient", **changes):
    settings = {
        "canaries": 28, "kind": kind, "batch_size": 22, "epochs": 3, "runs": 1, "seed": 0
    }  # fmt: skip
    source = ArraySource(*data())
    return trials(_setup(model, source, **{**settings, **changes}))


def test_without_noise_the_full_batch_shows_which_canaries_took_part():
    """What ordinary examples and regularizers add is known, and is subtracted, in every run."""
    model = linear("full_batch", noise=1e-6, regularizer=keras.regularizers.L2(0.5))
    outcome = tried(model, canaries=84, runs=3)
    assert outcome.included.shape == (84,)
    expected = np.tile(outcome.included.astype(float), (3, 1))
    np.testing.assert_allclose(outcome.seen.sums, expected, atol=1e-4)
    parts = outcome.included.reshape(3, 28)
    assert (parts[0] != parts[1]).any()
    assert outcome.seen.probability == 1
    assert outcome.updates == 3


@pytest.mark.parametrize("name", ["unit_norm", "per_layer", "automatic"])
def test_the_signal_is_what_a_canary_adds_under_other_clip_rules(name):
    norm = 1.0 if name == "automatic" else CLIP
    optimizer = DPSGD(0.1, clip_norm=norm, noise_multiplier=1.0, clipping=name)
    model = keras_dp.DPModel(inputs := keras.Input((6,)), L.Dense(4)(L.Dense(2)(inputs)))
    model.compile(optimizer, loss=crossentropy())
    case = Case(None, model, *data(), None)
    copy = audited(case)
    params, loss = loss_of(copy)
    rule = optimizer.clip_rule
    layers = [variable.path.rpartition("/")[0] for variable in copy.trainable_variables]
    clip = jax.jit(clipped_sum(loss, clip_norm=norm, clipping=rule, layers=layers))
    found = clip(params, examples(case, last_weights(params)))
    for sums in found.grads:
        expected = signal(rule, norm, copy.trainable_variables) * rule.sensitivity(norm)
        assert np.ravel(sums)[-1] == pytest.approx(expected, rel=1e-2)


def test_poisson_samples_show_canaries_as_often_as_the_plan_says():
    """2/3 or 3/2 of the rate would be seen."""
    outcome = tried(linear(noise=1e-3), epochs=20, canaries=24)
    rate = 22 / 84
    assert outcome.seen.probability == pytest.approx(rate)
    sums = outcome.seen.sums
    assert sums[:, outcome.included].mean() == pytest.approx(rate, abs=0.08)
    assert sums[:, ~outcome.included].mean() == pytest.approx(0, abs=0.08)


@pytest.mark.parametrize(
    ("kind", "optimizer"), [("gradient", DPAdam), ("input", DPSGD)], ids=["gradient", "input"]
)
def test_the_users_model_stays_as_it_is(kind, optimizer):
    model = linear(optimizer=optimizer)
    model.fit(*data(), batch_size=20, verbose=0)
    weights = model.get_weights()
    state = [variable.numpy() for variable in model.optimizer.variables]
    updates, function = model.ledger.updates, model.train_function
    tried(model, KINDS_OF_CANARIES[kind], kind, epochs=1)
    for new, old in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(new, old)
    for variable, old in zip(model.optimizer.variables, state, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)
    assert model.ledger.updates == updates
    assert model.train_function is function


def test_a_copy_has_weights_of_its_own_and_what_is_frozen_stays_frozen():
    case = compiled("functional_cnn")
    case.private.layers[1].trainable = False
    copy = copy_of(case.private, two(case))
    for own, theirs in zip(copy.variables, case.private.variables, strict=True):
        assert own is not theirs
        np.testing.assert_array_equal(own.numpy(), theirs.numpy())
    assert len(copy.trainable_variables) == len(case.private.trainable_variables)
    assert copy.ledger.updates == 0


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_loss_without_a_name_is_no_obstacle():
    model = linear()
    loss = lambda y, outputs: keras.ops.mean(keras.ops.square(outputs))  # noqa: E731
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss=loss)
    copy = copy_of(model, (*(part[:2] for part in data()), None))
    assert copy.loss is loss


class Doubled(L.Layer):
    def call(self, inputs):
        return 2 * inputs


def test_a_custom_layer_need_not_be_registered():
    model = keras_dp.DPModel(inputs := keras.Input((6,)), Doubled()(L.Dense(4)(inputs)))
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss=crossentropy())
    copy = copy_of(model, (*(part[:2] for part in data()), None))
    assert type(copy.layers[-1]) is Doubled


def test_training_that_diverges_gives_no_evidence_instead_of_an_error():
    model = linear("full_batch", noise=1e-6)
    model.optimizer.learning_rate = 1e30
    outcome = tried(model, epochs=4)
    assert np.isfinite(outcome.seen.sums).all()


def test_updates_that_are_not_counted_are_no_claim(monkeypatch):
    monkeypatch.setattr(PrivateRun, "admit", lambda self: None)
    with pytest.raises(keras_dp.NotPrivateError, match="no update to the ledger"):
        tried(linear(), epochs=1)


class NoConfig(keras_dp.DPModel):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs)


def test_a_class_that_cannot_be_rebuilt_is_refused_with_what_to_do():
    model = NoConfig(L.Dense(2))
    model.compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse")
    with pytest.raises(ValueError, match=r"`NoConfig` cannot be rebuilt.*Implement `get_config`"):
        copy_of(model, (np.ones((2, 3)), np.ones((2, 2)), None))


def test_the_recorder_moves_the_weights_as_the_optimizer_it_stands_for():
    model = linear(optimizer=DPAdam)
    recorder = RecordingOptimizer(model.optimizer, 5, [3, 2], None)
    assert type(recorder.inner_optimizer) is type(model.optimizer.inner_optimizer)
    assert recorder.inner_optimizer is not model.optimizer.inner_optimizer
    assert recorder.privacy_config() == model.optimizer.privacy_config()
    assert recorder.seed is None
