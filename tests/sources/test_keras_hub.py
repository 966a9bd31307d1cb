"""KerasHub tasks train on raw data as on what their preprocessor makes of them."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import keras_dp
from keras_dp import sampling
from tests.trained import assert_same_weights, compiled

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox", "jumps"]
LENGTH = 8
SIZE = 24
TOKENIZER = keras_hub.models.BertTokenizer(vocabulary=WORDS, lowercase=True)
rng = np.random.default_rng(0)
TEXTS = [" ".join(rng.choice(WORDS[5:], rng.integers(1, 9))) for _ in range(SIZE)]
LABELS = rng.integers(0, 2, SIZE)
PAIRS = list(zip(TEXTS, LABELS, strict=True))


def preprocessor(kind=keras_hub.models.BertTextClassifierPreprocessor, **kwargs):
    return kind(TOKENIZER, sequence_length=LENGTH, **kwargs)


TOKENS = {name: np.asarray(part) for name, part in preprocessor()(TEXTS).items()}


def backbone():
    return keras_hub.models.BertBackbone(
        vocabulary_size=len(WORDS),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=LENGTH,
    )


def classifier(with_preprocessor=True):
    keras.utils.set_random_seed(0)
    return keras_hub.models.BertTextClassifier(
        backbone=backbone(),
        num_classes=2,
        preprocessor=preprocessor() if with_preprocessor else None,
    )


def fitted(task, *data, **fitting):
    private = compiled(keras_dp.make_private(task), metrics=["accuracy"])
    private.fit(*data, batch_size=8, verbose=0, **fitting)
    return private


@pytest.fixture(scope="module")
def on_tokens():
    return fitted(classifier(with_preprocessor=False), TOKENS, LABELS)


@pytest.mark.parametrize(
    "data",
    [
        (TEXTS, LABELS.tolist()),
        (np.array(TEXTS), LABELS),
        (np.array(TEXTS, object), LABELS),
        (tf.constant(TEXTS), LABELS),
        (sampling.RandomAccess(PAIRS),),
    ],
    ids=["list", "array", "objects", "tensor", "examples"],
)
def test_texts_train_as_their_tokens(data, on_tokens):
    assert_same_weights(fitted(classifier(), *data), on_tokens)


def test_pairs_of_texts_train_as_their_tokens():
    both = (TEXTS, TEXTS[::-1])
    tokens = {name: np.asarray(part) for name, part in preprocessor()(both, LABELS)[0].items()}
    expected = fitted(classifier(with_preprocessor=False), tokens, LABELS)
    assert_same_weights(fitted(classifier(), both, LABELS), expected)


def test_a_stream_of_texts_trains_as_a_stream_of_tokens():
    results = []
    for with_preprocessor, x in ((True, TEXTS), (False, TOKENS)):
        private = compiled(
            keras_dp.make_private(classifier(with_preprocessor)),
            sampling.Stream(dataset_size=SIZE),
        )
        private.fit(tf.data.Dataset.from_tensor_slices((x, LABELS)).batch(8), verbose=0)
        results.append(private)
    assert_same_weights(*results)


def test_raw_data_are_evaluated_and_predicted_as_by_the_task(on_tokens):
    import grain

    task = classifier()
    private = compiled(keras_dp.make_private(task), metrics=["accuracy"])
    task.compile(
        "sgd",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    expected = task.evaluate(TEXTS, LABELS, verbose=0)
    batches = tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(7)
    for data in (
        (TEXTS, LABELS),
        (batches,),
        (sampling.RandomAccess(PAIRS),),
        (grain.MapDataset.source(PAIRS).batch(7),),
    ):
        np.testing.assert_allclose(private.evaluate(*data, verbose=0), expected, rtol=1e-5)
    predicted = task.predict(TEXTS, verbose=0)
    np.testing.assert_allclose(private.predict(TEXTS, verbose=0), predicted, atol=1e-6)
    np.testing.assert_allclose(private.predict_on_batch(TEXTS), predicted, atol=1e-6)
    only_texts = tf.data.Dataset.from_tensor_slices(TEXTS).batch(7)
    np.testing.assert_allclose(private.predict(only_texts, verbose=0), predicted, atol=1e-6)
    np.testing.assert_allclose(
        private.test_on_batch(TEXTS, LABELS), task.test_on_batch(TEXTS, LABELS), rtol=1e-5
    )


@pytest.mark.parametrize(
    "held_out",
    [
        {"validation_data": (TEXTS[16:], LABELS[16:])},
        {"validation_data": tf.data.Dataset.from_tensor_slices((TEXTS[16:], LABELS[16:])).batch(3)},
    ],
)
def test_texts_are_held_out_for_validation(held_out):
    private = fitted(classifier(), TEXTS[:16], LABELS[:16], epochs=2, **held_out)
    expected = private.evaluate(TEXTS[16:], LABELS[16:], verbose=0)
    np.testing.assert_allclose(private.history.history["val_loss"][-1], expected[0], rtol=1e-5)
    split = fitted(classifier(), TEXTS, LABELS, validation_split=1 / 3)
    assert split.ledger.releases[0].plan.dataset_size == 16


def test_random_masks_are_drawn_for_one_example_at_a_time():
    keras.utils.set_random_seed(0)
    masked = preprocessor(keras_hub.models.BertMaskedLMPreprocessor, mask_selection_length=3)
    task = keras_hub.models.BertMaskedLM(backbone=backbone(), preprocessor=masked)
    with pytest.warns(UserWarning, match="other values in a batch than alone"):
        private = fitted(task, TEXTS)
    assert private.ledger.updates == 3


def test_images_train_as_the_resized_ones():
    converter = keras_hub.layers.ImageConverter(image_size=(8, 8), scale=1 / 255.0)
    images = rng.integers(0, 255, (SIZE, 12, 12, 3)).astype("uint8")
    results = []
    for preprocess in (keras_hub.models.ViTImageClassifierPreprocessor(converter), None):
        keras.utils.set_random_seed(0)
        vit = keras_hub.models.ViTBackbone(
            image_shape=(8, 8, 3),
            patch_size=4,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            mlp_dim=16,
        )
        task = keras_hub.models.ViTImageClassifier(
            backbone=vit, num_classes=2, preprocessor=preprocess
        )
        x = images if preprocess else np.asarray(converter(images))
        results.append(fitted(task, x, LABELS))
    assert_same_weights(*results, atol=1e-5)
    np.testing.assert_allclose(
        results[0].predict(images, verbose=0), results[0].model.predict(images, verbose=0)
    )
