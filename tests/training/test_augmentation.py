"""Augmentation multiplicity: the mean loss of several views, one clipped gradient."""

import jax
import keras
import numpy as np
import pytest

import keras_dp
from keras_dp import NotPrivateError, backend, keys
from keras_dp.applications import ReflectPadCrop
from keras_dp.optimizers import DPSGD
from tests.kinds import crossentropy
from tests.mesh.placements import on

pytestmark = pytest.mark.usefixtures("unoptimized")

L = keras.layers
SIZE, SEED = 10, 3
X = np.random.default_rng(0).normal(size=(SIZE, 6, 6, 2)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, SIZE)


@keras.saving.register_keras_serializable("tests")
def jitter(x, seed):
    """A view by a function."""
    return x + 0.3 * keras.random.normal(x.shape, seed=seed)


def crop_and_flip():
    return L.Pipeline([ReflectPadCrop(2), L.RandomFlip("horizontal")])


def classifier(convolution=False):
    """A small model with known weights."""
    inputs = keras.Input((6, 6, 2))
    hidden = L.Conv2D(4, 3, activation="tanh", name="conv")(inputs) if convolution else inputs
    model = keras_dp.DPModel(inputs, L.Dense(3, name="logits")(L.Flatten()(hidden)))
    draw = np.random.default_rng(5)
    model.set_weights([draw.normal(scale=0.5, size=w.shape) for w in model.get_weights()])
    return model


def compiled(model=None, augmentation=None, views=4, noise=0.0, rate=1.0, **settings):
    model = classifier() if model is None else model
    optimizer = DPSGD(rate, clip_norm=0.5, noise_multiplier=noise, seed=SEED)
    model.compile(
        optimizer,
        **{
            "loss": crossentropy(),
            "sampling": "full_batch",
            "augmentation": augmentation or L.RandomFlip("horizontal"),
            "augmentations": views,
            "microbatch_size": 4,
            **settings,
        },
    )
    return model


def update(model, x=X, y=Y, updates=1):
    """Return the weights after some updates on all examples."""
    model.fit(x, y, epochs=updates, verbose=0)
    return [np.asarray(w) for w in model.get_weights()]


def views_of(model, update=1, x=X):
    """The views of an update, as the step makes them."""
    key = np.frombuffer(keys.update_key(SEED, "views", update, 8), np.uint32)
    return np.asarray(backend.make_views(model.view_maker, x, np.arange(len(x)), key))


def explicit(start, model, views, labels, clip_norm=0.5):
    """One update by the definition: loops over examples and views, and no engine."""
    loss_fn = crossentropy()

    def loss(weights, view, label):
        logits, _ = model.stateless_call(weights, [], view[None])
        return loss_fn(label[None], logits)

    gradient = jax.jit(jax.grad(loss))
    total = [np.zeros(w.shape) for w in start]
    for of_one, label in zip(views, labels, strict=True):
        each = [gradient(start, view, label) for view in of_one]
        mean = [np.mean([np.asarray(g[i], float) for g in each], 0) for i in range(len(start))]
        norm = np.sqrt(sum(np.sum(g**2) for g in mean))
        factor = min(1, clip_norm / norm)
        total = [t + factor * g for t, g in zip(total, mean, strict=True)]
    return [w - t / len(labels) for w, t in zip(start, total, strict=True)]


def assert_equal(ours, theirs, atol=1e-6):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.mark.parametrize("augmentation", [crop_and_flip(), jitter], ids=["layers", "function"])
def test_an_update_equals_the_explicit_average(augmentation):
    model = compiled(classifier(convolution=augmentation is not jitter), augmentation)
    start = model.get_weights()
    ended = update(model)
    views = views_of(model)
    assert views.shape == (SIZE, 4, 6, 6, 2)
    assert_equal(ended, explicit(start, model, views, Y))
    assert max(np.abs(a - b).max() for a, b in zip(ended, start, strict=True)) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_one_example_moves_the_sum_by_the_clip_norm_whatever_its_views(dtype):
    """The worst: a loss that grows without bound, where the norm of other views is far smaller.

    In float16 gradients overflow, so that the engine computes them again with another scale.
    """

    def spread(x, seed):
        return x * keras.ops.exp(2 * keras.random.normal((), seed=seed))

    inputs = keras.Input((5,))
    dense = L.Dense(1, use_bias=False, dtype=dtype)
    model = keras_dp.DPModel(inputs, dense(inputs))
    optimizer = DPSGD(1.0, clip_norm=0.5, noise_multiplier=0.0, seed=1)
    model.compile(optimizer, loss="mae", augmentation=spread, augmentations=8)
    moved = []
    for _ in range(8):
        before = model.get_weights()[0]
        model.train_on_batch(np.full((1, 5), 3.0, "float32"), np.full((1, 1), -1e4, "float32"))
        moved.append(np.linalg.norm(model.get_weights()[0] - before))
    assert max(moved) <= 0.5 * (1 + 1e-5)  # of which float32 weights round 1e-6
    assert max(moved) > 0.49


def test_the_loop_on_the_device_makes_the_same_views(monkeypatch):
    expected = update(compiled())
    monkeypatch.setattr(backend, "loops_on_device", lambda: True)
    monkeypatch.setattr(backend, "examples_memory", lambda: 8 * 6 * 6 * 2 * 4)  # in two chunks
    assert_equal(update(compiled()), expected)


def test_a_mesh_makes_the_same_views():
    expected = update(compiled())
    with on("4x2"):
        assert_equal(update(compiled()), expected, 1e-5)


def test_views_are_of_their_own_example_view_and_update():
    model = compiled(augmentation=L.GaussianNoise(1.0))
    made = np.concatenate([views_of(model, update).reshape(SIZE * 4, -1) for update in (1, 2)])
    np.testing.assert_array_equal(views_of(model), views_of(model))
    noise = made - np.tile(np.repeat(X.reshape(SIZE, -1), 4, axis=0), (2, 1))
    assert np.abs(np.corrcoef(noise) - np.eye(len(noise))).max() < 0.65  # of 72 numbers each
    other = X.copy()
    other[1:] += 1.0
    np.testing.assert_array_equal(views_of(model, x=other)[0], views_of(model)[0])


def test_dropout_masks_differ_between_views():
    """With one mask for all views, an entry is kept by all of them or by none."""
    inputs = keras.Input((400,))
    model = keras_dp.DPModel(inputs, L.Dense(1)(L.Dropout(0.5)(inputs)))
    compiled(model, augmentation=L.GaussianNoise(0.0), views=8, loss="mae")
    model.set_weights([np.zeros((400, 1)), *model.get_weights()[1:]])
    update(model, np.ones((1, 400), "float32"), np.full((1, 1), 1e6, "float32"))
    kept = model.get_weights()[0] / np.abs(model.get_weights()[0]).max()
    assert len(np.unique(kept.round(3))) > 5


def test_a_saved_model_goes_on_with_the_same_views(tmp_path):
    whole, parted = compiled(noise=0.5), compiled(noise=0.5)
    expected = update(whole, updates=4)
    update(parted, updates=2)
    parted.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.view_maker.count == 4
    again.optimizer.seed = SEED
    assert_equal(update(again, updates=2), expected)


def test_a_registered_function_is_saved_and_another_left_out(tmp_path):
    compiled(augmentation=jitter).save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").view_maker.function is jitter
    hidden = compiled(augmentation=lambda x, seed: x)
    with pytest.warns(UserWarning, match=r"`augmentation` is not saved.*register"):
        hidden.save(tmp_path / "other.keras")
    assert keras.models.load_model(tmp_path / "other.keras").view_maker is None


def test_the_layer_is_no_part_of_the_model_and_evaluation_does_not_augment():
    model = compiled()
    plain = keras.Model(model.inputs, model.outputs)
    plain.compile(loss=crossentropy())
    assert [v.path for v in model.variables] == [v.path for v in plain.variables]
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(plain.evaluate(X, Y, verbose=0))
    np.testing.assert_allclose(model.predict(X, verbose=0), plain.predict(X, verbose=0), rtol=1e-5)


def test_logs_show_the_mean_loss_of_the_views_and_metrics_of_the_first():
    model = compiled(rate=0.0, metrics=["accuracy"])
    logs = model.fit(X, Y, verbose=0).history
    views = views_of(model)
    logits = np.asarray(model(views.reshape(-1, 6, 6, 2)))
    losses = crossentropy()(np.repeat(Y, 4), logits)
    assert logs["loss"] == pytest.approx([float(losses)], rel=1e-5)
    first = logits.reshape(SIZE, 4, 3)[:, 0].argmax(axis=1)
    assert logs["accuracy"] == pytest.approx([np.mean(first == Y)])


def test_private_metrics_and_streams_take_views_too():
    shown = keras_dp.PrivateMetrics(bounds={"loss": (0.0, 5.0)})
    model = compiled(private_metrics=shown, noise=0.5)
    assert 0 <= model.fit(X, Y, verbose=0).history["loss"][0] <= 10
    stream = keras_dp.sampling.Stream(dataset_size=SIZE, updates_per_epoch=1)
    streaming = compiled(sampling=stream)
    streaming.fit(lambda: iter([(X, Y)]), batch_size=SIZE, verbose=0)
    assert_equal(streaming.get_weights(), update(compiled()))


def test_views_of_another_shape_are_what_the_model_takes():
    """Larger images than the model's, of whole numbers."""

    def middle(x, seed):
        start = keras.random.randint((), 0, 3, seed=seed)
        return keras.ops.cast(jax.lax.dynamic_slice_in_dim(x, start, 6, axis=1), "float32") / 255

    images = np.random.default_rng(0).integers(0, 255, (SIZE, 8, 6, 2)).astype("uint8")
    model = compiled(augmentation=middle)
    start = model.get_weights()
    ended = update(model, images)
    views = views_of(model, x=images)
    assert views.shape == (SIZE, 4, 6, 6, 2)
    assert_equal(ended, explicit(start, model, views, Y))


def test_what_cannot_be_compiled_is_made_on_the_host_from_each_example_alone():
    larger = np.random.default_rng(0).normal(size=(SIZE, 8, 8, 2)).astype("float32")
    with pytest.warns(UserWarning, match="'crop' cannot be compiled for JAX.*ReflectPadCrop"):
        model = compiled(augmentation=L.RandomCrop(6, 6, name="crop"))
        start = model.get_weights()
        ended = update(model, larger)
    key = np.frombuffer(keys.update_key(SEED, "views", 1, 8), np.uint32)
    views = backend.views_on_host(model.view_maker, larger, np.arange(SIZE), key)
    assert views.shape == (SIZE, 4, 6, 6, 2)
    assert_equal(ended, explicit(start, model, views, Y))
    other = larger.copy()
    other[1:] += 1.0
    again = backend.views_on_host(model.view_maker, other, np.arange(SIZE), key)
    np.testing.assert_array_equal(again[0], views[0])
    assert any(not np.array_equal(of_one[0], of_one[1]) for of_one in views)


def test_memory_of_all_views_is_reckoned_with():
    one, many = compiled(views=1), compiled(views=16)
    reports = [m.clipping_report(X, Y) for m in (one, many)]
    assert reports[1].bytes_per_example > 8 * reports[0].bytes_per_example


@pytest.mark.parametrize("layer", [L.MixUp(), L.Pipeline([L.RandomFlip(), L.CutMix()])], ids=type)
def test_layers_that_mix_examples_are_refused_by_name(layer):
    message = r"must not mix examples.*'(mix_up|cut_mix)\w*' \((MixUp|CutMix)\)"
    with pytest.raises(NotPrivateError, match=message):
        compiled(augmentation=layer)


def test_a_layer_that_stores_data_or_is_trained_is_refused():
    with pytest.raises(NotPrivateError, match=r"no weights to train.*\(Dense\)"):
        compiled(augmentation=trained_dense())
    norm = L.BatchNormalization(center=False, scale=False, name="norm")
    norm.build((1, 6, 6, 2))
    model = compiled(augmentation=norm)
    with pytest.raises(NotPrivateError, match=r"must not store.*'norm' \(BatchNormalization\)"):
        update(model)


def trained_dense():
    layer = L.Dense(2)
    layer.build((1, 6, 6, 2))
    return layer


FLIP = L.RandomFlip()


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (lambda x, seed: (x, x), r"must return the inputs `x` in the structure"),
        (lambda x, seed: x[0], r"return a batch of one.*\(1, 6, 6, 2\), returned \(6, 6, 2\)"),
        (lambda x, seed: keras.ops.cast(x, "int32"), "floating-point.*float32, returned int32"),
        (lambda x, seed: FLIP(x, training=True), "random numbers that are not its own.*Pipeline"),
    ],
    ids=["labels", "shape", "dtype", "hidden layer"],
)
def test_views_that_cannot_be_trained_on_are_refused(augmentation, message):
    model = compiled(augmentation=augmentation)
    with pytest.raises(ValueError, match=message):
        update(model)
    assert model.ledger.updates == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augmentations": 0}, "`augmentations` must be a whole number of at least 1.*0"),
        ({"augmentations": 1.5}, "`augmentations` must be a whole number.*1.5"),
        ({"augmentations": True}, "`augmentations` must be a whole number.*True"),
        ({"augmentation": None}, "there is none. Pass `augmentation=` a layer.*4"),
        ({"augmentation": "flip"}, "must be a Keras layer, or a function.*'flip'"),
        ({"augmentation": L.RandomFlip}, "must be a Keras layer, or a function"),
        ({"augmentation": lambda x: x}, r"or a function `augmentation\(x, seed\)`"),
    ],
    ids=["none", "a fraction", "true", "no layer", "a name", "a class", "no seed"],
)
def test_bad_settings_are_refused_at_once(settings, message):
    arguments = {"augmentation": FLIP, "augmentations": 4, **settings}
    with pytest.raises(ValueError, match=message):
        classifier().compile(DPSGD(0.1, noise_multiplier=1.0), loss="mse", **arguments)


def test_one_view_is_the_default():
    assert compiled(views=None).view_maker.count == 1
