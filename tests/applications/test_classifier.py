"""A backbone with a new head: what an update does, what stays, what is refused."""

import warnings

import jax
import keras
import numpy as np
import pytest

import keras_dp
from keras_dp.applications import Classifier, Head
from tests.applications.backbones import (
    CLASSES,
    IMAGES,
    SIZE,
    TOKENS,
    Y,
    compiled,
    moved,
    nested,
    values,
    with_batch_norm,
)

pytestmark = pytest.mark.usefixtures("unoptimized")

L = keras.layers
CLIP_NORM = 0.3


def loop_over_examples(model, x, y, clip_norm):
    """Sum the clipped gradients of single examples, with respect to what is trained."""
    params = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]

    def loss(params, row, label):
        logits, _ = model.stateless_call(params, others, row[None], training=True)
        return -jax.nn.log_softmax(logits[0])[label]

    gradient = jax.jit(jax.grad(loss))
    total = [np.zeros(p.shape) for p in params]
    for row, label in zip(x, y, strict=True):
        grads = [np.asarray(g, np.float64) for g in gradient(params, row, label)]
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        total = [t + g * min(1, clip_norm / norm) for t, g in zip(total, grads, strict=True)]
    return total


@pytest.mark.parametrize("mode", ["head", "head+norm", "bias", "lora", "last_2", "all"])
def test_an_update_equals_the_loop_over_examples_and_nothing_frozen_moves(mode):
    model = compiled(Classifier(nested(), CLASSES, trainable=mode, head_init=0.5), CLIP_NORM)
    expected = loop_over_examples(model, TOKENS, Y, CLIP_NORM)
    trained = [(v.path, v.numpy()) for v in model.trainable_variables]
    before = values(model)
    model.fit(TOKENS, Y, epochs=1, verbose=0)
    after = values(model)
    for (path, old), total in zip(trained, expected, strict=True):
        np.testing.assert_allclose(
            (old - after[path]) * SIZE, total, rtol=1e-3, atol=2e-5, err_msg=path
        )
    still = {path for (path, _), total in zip(trained, expected, strict=True) if not np.any(total)}
    assert moved(model, before) == {path for path, _ in trained} - still
    assert still <= {path for path in before if path.endswith("lora_kernel_a")}  # b is zero yet


@pytest.mark.parametrize("mode", ["head", "bias"])
def test_statistics_of_batch_normalization_stay_through_training(mode):
    model = compiled(Classifier(with_batch_norm(), CLASSES, trainable=mode), noise_multiplier=1.0)
    before = values(model)
    model.fit(IMAGES, Y, epochs=2, verbose=0)
    changed = moved(model, before)
    assert not any("inner_bn" in path for path in changed)
    assert changed >= {"head/kernel", "head/bias"}
    assert ("stem/bias" in changed) == (mode == "bias")


def test_a_frozen_backbone_gives_the_features_of_inference():
    model = Classifier(with_batch_norm(), CLASSES, head_init=1.0)
    expected = np.mean(model.backbone.predict(IMAGES, verbose=0), axis=(1, 2))
    for training in (True, False, None):
        logits = model(IMAGES, training=training)
        np.testing.assert_allclose(logits, expected @ model.head.kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["head", "lora", "last_1"])
def test_a_classifier_is_saved_and_loaded_with_its_mode_and_goes_on(mode, tmp_path):
    settings = {"normalization": "layer", "loss": "sigmoid", "logit_bias": -1.0, "lora_rank": 2}
    model = Classifier(nested(), CLASSES, trainable=mode, pooling="max", **settings)
    compiled(model, noise_multiplier=0.5).fit(TOKENS, Y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(TOKENS, verbose=0), model.predict(TOKENS, verbose=0), atol=1e-6
    )
    assert loaded.trained_weights == model.trained_weights
    before = values(loaded)
    loaded.fit(TOKENS, Y, epochs=2, verbose=0)
    assert moved(loaded, before) == {v.path for v in loaded.trainable_variables}
    assert loaded.ledger.updates == 4


@pytest.mark.parametrize("knows_its_shape", [True, False])
def test_a_stack_of_layers_is_a_backbone_too(knows_its_shape, tmp_path):
    layers = [L.Dense(4, activation="tanh"), L.GlobalAveragePooling1D()]
    backbone = keras.Sequential([keras.Input((5, 4)), *layers] if knows_its_shape else layers)
    model = compiled(Classifier(backbone, CLASSES, trainable="last_1"), CLIP_NORM)
    model.fit(TOKENS, Y, epochs=1, verbose=0)
    assert len(model.trainable_variables) == 4
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(TOKENS), model(TOKENS), rtol=1e-6)


def test_a_configuration_is_not_changed_and_gives_the_same_classifier():
    model = Classifier(nested(), CLASSES, preprocessing=L.Rescaling(0.5), trainable="bias")
    config = model.get_config()
    copy = {**config}
    again = Classifier.from_config(config)
    assert config == copy
    assert again.get_config()["preprocessing"] == config["preprocessing"]
    assert (again.mode, again.num_classes, again.preprocessing.scale) == ("bias", CLASSES, 0.5)


def test_a_loaded_backbone_with_frozen_batch_normalization_is_frozen_again(tmp_path):
    """Libraries' configurations leave out the flags of inner layers."""
    backbone = with_batch_norm()
    backbone.get_layer("block").get_layer("inner_bn").trainable = False
    model = Classifier(backbone, CLASSES, trainable="all")
    config = model.get_config()
    config["backbone"] = keras.saving.serialize_keras_object(with_batch_norm())
    assert Classifier.from_config(config).trained_weights == model.trained_weights


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """A backbone that does not tell its shapes before it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer = L.Dense(6, activation="tanh")

    def call(self, x):
        return self.layer(x)


def test_a_subclassed_backbone_is_built_by_the_first_data(tmp_path):
    model = compiled(Classifier(Subclassed(), CLASSES, trainable="all"), noise_multiplier=1.0)
    with pytest.raises(ValueError, match="known once the model is built"):
        _ = model.trained_weights
    model.fit(TOKENS, Y, epochs=1, verbose=0)
    assert len(model.trained_weights.trained) == 2
    assert model.privacy_spent(delta=1e-3).updates == 1
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(TOKENS, verbose=0), model.predict(TOKENS, verbose=0), atol=1e-6
    )


def test_several_inputs_are_taken_by_name_and_padding_is_left_out():
    tokens = keras.Input((4,), dtype="int32", name="token_ids")
    mask = keras.Input((4,), dtype="int32", name="padding_mask")
    embedded = L.Embedding(9, 5)(tokens)
    backbone = keras.Model({"token_ids": tokens, "padding_mask": mask}, embedded)
    model = compiled(Classifier(backbone, CLASSES, head_init=1.0))
    x = {"token_ids": np.arange(8).reshape(2, 4), "padding_mask": np.array([[1, 1, 0, 0]] * 2)}
    table = backbone.layers[-1].embeddings.numpy()
    features = np.stack([table[:2].mean(0), table[4:6].mean(0)])
    np.testing.assert_allclose(
        model.predict(x, verbose=0), features @ model.head.kernel, rtol=1e-4, atol=1e-6
    )
    model.fit(x, Y[:2], verbose=0)
    assert model.ledger.updates == 1


def test_adopted_weights_bring_their_count():
    model = Classifier(nested(), CLASSES, normalization="unit")
    features = np.asarray(model.features(TOKENS))
    head = compiled(Head(CLASSES, normalization="unit"), noise_multiplier=1.0)
    head.fit(features, Y, epochs=3, verbose=0)
    model.adopt(head)
    np.testing.assert_allclose(
        model.predict(TOKENS, verbose=0), head.predict(features, verbose=0), atol=1e-6
    )
    assert model.ledger.updates == 3
    model.adopt(head)
    assert model.ledger.updates == 3


def test_a_head_that_does_not_fit_is_not_adopted():
    model = Classifier(nested(), CLASSES)
    for head, size, message in [
        (Head(CLASSES), 6, r"shape \(7, 3\).*Received one of shape \(6, 3\)"),
        (Head(4), 7, r"Received one of shape \(7, 4\)"),
        (Head(CLASSES, normalization="unit"), 7, "`normalization='unit'`"),
    ]:
        compiled(head).build((None, size))
        with pytest.raises(ValueError, match=message):
            model.adopt(head)
    with pytest.raises(ValueError, match="Received one of shape None"):
        model.adopt(Head(CLASSES))
    assert not np.any(model.head.kernel)


def test_the_count_follows_the_weights_of_the_backbone():
    backbone = nested()
    first = compiled(Classifier(backbone, CLASSES, trainable="bias"), noise_multiplier=1.0)
    first.fit(TOKENS, Y, epochs=2, verbose=0)
    assert Classifier(backbone, CLASSES).ledger.updates == 2
    second = Classifier(backbone, 5, trainable="all")
    assert second.ledger.updates == 2
    before = values(first)
    first.fit(TOKENS, Y, epochs=1, verbose=0)  # in its own mode, though the second one set another
    assert moved(first, before) == {v.path for v in first.trainable_variables}
    assert len(first.trained_weights.trained) == 4
    assert second.ledger.updates == keras_dp.make_private(backbone).ledger.updates == 3
    other = Classifier(nested(), CLASSES)
    assert other.ledger.updates == 0


WRONG_IMAGES = {
    "size": ((SIZE, 7, 6, 3), r"shape \(6, 6, 3\). Received: \(7, 6, 3\).*Resizing\(6, 6\)"),
    "grey": ((SIZE, 6, 6, 1), r"Received: \(6, 6, 1\).*np.repeat\(x, 3, axis=-1\)"),
    "no channels": ((SIZE, 6, 6), r"Received: \(6, 6\)"),
}


@pytest.mark.parametrize("wrong", WRONG_IMAGES)
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_images_of_the_wrong_shape_are_refused_with_both_shapes(method, wrong):
    shape, message = WRONG_IMAGES[wrong]
    model = compiled(Classifier(with_batch_norm(), CLASSES))
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(np.ones(shape, "float32"), Y, verbose=0)
    assert model.ledger.updates == 0


def test_preprocessing_may_change_the_size():
    small = Classifier(with_batch_norm(), CLASSES, preprocessing=L.Resizing(6, 6))
    assert small.predict(np.ones((2, 9, 9, 3)), verbose=0).shape == (2, CLASSES)
    small.check_inputs(np.ones((2, 9, 9, 3)))
    with pytest.raises(ValueError, match=r"Received: \(6, 6, 1\)"):
        small.check_inputs(np.ones((2, 9, 9, 1)))


def test_a_backbone_of_one_channel_takes_images_without_the_axis():
    inputs = keras.Input((6, 6, 1))
    model = Classifier(keras.Model(inputs, L.Conv2D(2, 3)(inputs)), CLASSES)
    model.check_inputs(np.ones((2, 6, 6)))
    assert model.predict(np.ones((2, 6, 6)), verbose=0).shape == (2, CLASSES)


def test_images_in_the_wrong_range_are_warned_of_at_fit():
    inputs = keras.Input((6, 6, 3))
    x = L.Rescaling(1 / 255)(inputs)
    model = compiled(Classifier(keras.Model(inputs, L.Flatten()(x)), CLASSES))
    with pytest.warns(UserWarning, match="from 0 to 255, and the first examples look like 0 to 1"):
        model.fit(IMAGES, Y, verbose=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The backbone expects")
        model.fit(255 * IMAGES, Y, verbose=0)


@pytest.mark.parametrize("backbone", [L.Dense(3), None, 7])
def test_what_is_no_model_is_refused(backbone):
    with pytest.raises(ValueError, match=r"`backbone` must be a keras.Model or the name of a"):
        Classifier(backbone, CLASSES)
